// SPDX-License-Identifier: Apache-2.0
// Text that is kept once, however many have it: namespaces, nodes, accounts, names of applications
// are the same for thousands of workloads. Four bytes for each who has it, the number under which
// it is kept; immutable. Made from a string it looks for an equal one (a lock: for decoders, not
// for the data path); copying counts. Any thread.
#pragma once

#include <fmt/core.h>

#include <compare>
#include <concepts>
#include <cstdint>
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
  SharedText(std::string_view text) : number_(Find(text)) {}
  SharedText(const std::string& text) : SharedText(std::string_view(text)) {}
  SharedText(const char* text) : SharedText(std::string_view(text)) {}
  SharedText(const SharedText& other) : number_(other.number_) {
    if (number_ != 0) Keep(number_);
  }
  SharedText(SharedText&& other) noexcept : number_(std::exchange(other.number_, 0)) {}
  SharedText& operator=(SharedText other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~SharedText() {
    if (number_ != 0) Release(number_);
  }

  const std::string& str() const;
  operator const std::string&() const { return str(); }
  operator std::string_view() const { return str(); }
  bool empty() const { return number_ == 0; }
  size_t size() const { return str().size(); }
  void clear() { *this = SharedText(); }

  // Equal ones are the same one.
  struct Hash {
    size_t operator()(const SharedText& text) const { return text.number_; }
  };
  bool operator==(const SharedText& other) const { return number_ == other.number_; }
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
  struct Table;
  static uint32_t Find(std::string_view text);
  static void Keep(uint32_t number);
  static void Release(uint32_t number);

  uint32_t number_ = 0;  // 0: ""
};

}  // namespace qanat::model

template <>
struct fmt::formatter<qanat::model::SharedText> : fmt::formatter<std::string_view> {
  template <typename Context>
  auto format(const qanat::model::SharedText& text, Context& context) const {
    return fmt::formatter<std::string_view>::format(text.str(), context);
  }
};
