// SPDX-License-Identifier: Apache-2.0
// Values that are rarely there, or that many have alike: a pointer where the value would be, and
// copies share it. Immutable but as a whole.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace qanat::model {

// As std::shared_ptr<const T>, in 8 bytes and 8 for the count, which stands before the value.
template <typename T>
class Shared {
 public:
  Shared() = default;
  Shared(std::nullptr_t) {}
  explicit Shared(T value) : piece_(new Piece{{1}, std::move(value)}) {}
  Shared(const Shared& other) : piece_(other.piece_) {
    if (piece_ != nullptr) piece_->owners.fetch_add(1, std::memory_order_relaxed);
  }
  Shared(Shared&& other) noexcept : piece_(std::exchange(other.piece_, nullptr)) {}
  Shared& operator=(Shared other) noexcept {
    std::swap(piece_, other.piece_);
    return *this;
  }
  ~Shared() {
    if (piece_ == nullptr) return;
    if (piece_->owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete piece_;
  }

  explicit operator bool() const { return piece_ != nullptr; }
  const T* get() const { return piece_ == nullptr ? nullptr : &piece_->value; }
  const T& operator*() const { return piece_->value; }
  const T* operator->() const { return &piece_->value; }
  void reset() { *this = Shared(); }
  uint32_t use_count() const {
    return piece_ == nullptr ? 0 : piece_->owners.load(std::memory_order_relaxed);
  }
  bool operator==(const Shared&) const = default;  // the same, not equal
  bool operator==(std::nullptr_t) const { return piece_ == nullptr; }

 private:
  struct Piece {
    std::atomic<uint32_t> owners;
    T value;
  };
  Piece* piece_ = nullptr;
};

// As std::optional.
template <typename T>
class SharedValue {
 public:
  SharedValue() = default;
  SharedValue(T value) : value_(std::move(value)) {}
  explicit operator bool() const { return value_ != nullptr; }
  bool has_value() const { return value_ != nullptr; }
  const T& operator*() const { return *value_; }
  const T* operator->() const { return value_.get(); }
  void reset() { value_.reset(); }
  bool operator==(const SharedValue& other) const {
    return value_ == other.value_ || (value_ && other.value_ && *value_ == *other.value_);
  }

 private:
  Shared<T> value_;
};

// As std::vector.
template <typename T>
class SharedList {
 public:
  SharedList() = default;
  SharedList(std::vector<T> list) {
    if (list.empty()) return;
    list.shrink_to_fit();
    list_ = Shared<std::vector<T>>(std::move(list));
  }
  SharedList(std::initializer_list<T> list) : SharedList(std::vector<T>(list)) {}
  auto begin() const { return whole().begin(); }
  auto end() const { return whole().end(); }
  bool empty() const { return list_ == nullptr; }
  size_t size() const { return whole().size(); }
  const T& operator[](size_t index) const { return whole()[index]; }
  const T& front() const { return whole().front(); }
  const std::vector<T>& whole() const {
    static const std::vector<T>& none = *new std::vector<T>;
    return list_ == nullptr ? none : *list_;
  }
  bool operator==(const SharedList& other) const {
    return list_ == other.list_ || whole() == other.whole();
  }

 private:
  Shared<std::vector<T>> list_;
};

}  // namespace qanat::model
