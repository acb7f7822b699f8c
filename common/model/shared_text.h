// SPDX-License-Identifier: Apache-2.0
// Text that is kept once, however many have it: namespaces, nodes, accounts, names of applications
// are the same for thousands of workloads. Eight bytes for each who has it; immutable. Made from
// a string it looks for an equal one (a lock: for decoders, not for the data path); copying counts.
// Any thread.
#pragma once

#include <fmt/core.h>

#include <compare>
#include <concepts>
#include <string>
#include <string_view>
#include <utility>

namespace qanat::model {

class SharedText;
template <typename T>
concept OtherText = std::convertible_to<const T&, std::string_view> && !std::same_as<T, SharedText>;

class SharedText {
 public:
  SharedText() = default;
  SharedText(std::string_view text) : node_(Find(text)) {}
  SharedText(const std::string& text) : SharedText(std::string_view(text)) {}
  SharedText(const char* text) : SharedText(std::string_view(text)) {}
  SharedText(const SharedText& other) : node_(other.node_) { Keep(); }
  SharedText(SharedText&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  SharedText& operator=(SharedText other) noexcept {
    std::swap(node_, other.node_);
    return *this;
  }
  ~SharedText() {
    if (node_ != nullptr) Release(node_);
  }

  const std::string& str() const;
  operator const std::string&() const { return str(); }
  operator std::string_view() const { return str(); }
  bool empty() const { return node_ == nullptr; }
  size_t size() const { return str().size(); }
  void clear() { *this = SharedText(); }

  // Equal ones are the same one.
  bool operator==(const SharedText& other) const { return node_ == other.node_; }
  std::strong_ordering operator<=>(const SharedText& other) const { return str() <=> other.str(); }

  template <OtherText T>
  friend bool operator==(const SharedText& a, const T& b) {
    return std::string_view(a) == std::string_view(b);
  }
  template <OtherText T>
  friend std::strong_ordering operator<=>(const SharedText& a, const T& b) {
    return std::string_view(a) <=> std::string_view(b);
  }
  friend std::string operator+(const SharedText& a, std::string_view b) {
    return std::string(a.str()).append(b);
  }
  template <OtherText T>
  friend std::string operator+(const T& a, const SharedText& b) {
    return std::string(std::string_view(a)).append(b.str());
  }

 private:
  struct Node;
  static Node* Find(std::string_view text);
  static void Release(Node* node);
  void Keep() const;

  Node* node_ = nullptr;  // null: ""
};

}  // namespace qanat::model

template <>
struct fmt::formatter<qanat::model::SharedText> : fmt::formatter<std::string_view> {
  template <typename Context>
  auto format(const qanat::model::SharedText& text, Context& context) const {
    return fmt::formatter<std::string_view>::format(text.str(), context);
  }
};
