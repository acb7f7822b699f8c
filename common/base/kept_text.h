// SPDX-License-Identifier: Apache-2.0
// Text that is kept by several: eight bytes for each who has it, one piece of memory with the
// count of them, the length and the characters. Immutable. A resource's name is known to the xDS
// client and is the uid in the mesh state; both have the same piece. Copying counts; any thread.
#pragma once

#include <fmt/core.h>

#include <atomic>
#include <compare>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <utility>

namespace qanat {

class KeptText;
template <typename T>
concept TextNotKept = std::convertible_to<const T&, std::string_view> && !std::same_as<T, KeptText>;

class KeptText {
 public:
  KeptText() = default;
  KeptText(std::string_view text) : piece_(Make(text)) {}
  KeptText(const std::string& text) : KeptText(std::string_view(text)) {}
  KeptText(const char* text) : KeptText(std::string_view(text)) {}
  KeptText(const KeptText& other) : piece_(other.piece_) {
    if (piece_ != nullptr) piece_->owners.fetch_add(1, std::memory_order_relaxed);
  }
  KeptText(KeptText&& other) noexcept : piece_(std::exchange(other.piece_, nullptr)) {}
  KeptText& operator=(KeptText other) noexcept {
    std::swap(piece_, other.piece_);
    return *this;
  }
  ~KeptText() {
    if (piece_ == nullptr) return;
    if (piece_->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) ::operator delete(piece_);
  }

  std::string_view view() const {
    if (piece_ == nullptr) return {};
    return {reinterpret_cast<const char*>(piece_ + 1), piece_->size};
  }
  operator std::string_view() const { return view(); }
  std::string str() const { return std::string(view()); }
  bool empty() const { return piece_ == nullptr; }
  size_t size() const { return view().size(); }

  bool operator==(const KeptText& other) const {
    return piece_ == other.piece_ || view() == other.view();
  }
  std::strong_ordering operator<=>(const KeptText& other) const { return view() <=> other.view(); }
  template <TextNotKept T>
  friend bool operator==(const KeptText& a, const T& b) {
    return a.view() == std::string_view(b);
  }
  template <TextNotKept T>
  friend std::strong_ordering operator<=>(const KeptText& a, const T& b) {
    return a.view() <=> std::string_view(b);
  }

 private:
  struct Piece {  // and its characters
    std::atomic<uint32_t> owners{1};
    uint32_t size;
  };
  static Piece* Make(std::string_view text) {
    if (text.empty()) return nullptr;
    auto* piece = new (::operator new(sizeof(Piece) + text.size())) Piece;
    piece->size = static_cast<uint32_t>(text.size());
    std::memcpy(reinterpret_cast<char*>(piece + 1), text.data(), text.size());
    return piece;
  }

  Piece* piece_ = nullptr;  // null: ""
};

}  // namespace qanat

template <>
struct fmt::formatter<qanat::KeptText> : fmt::formatter<std::string_view> {
  template <typename Context>
  auto format(const qanat::KeptText& text, Context& context) const {
    return fmt::formatter<std::string_view>::format(text.view(), context);
  }
};
