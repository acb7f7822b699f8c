// SPDX-License-Identifier: Apache-2.0
// Values that are rarely there, or that many have alike: a pointer where the value would be, and
// copies share it. Immutable but as a whole.
#pragma once

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace qanat::model {

// As std::optional.
template <typename T>
class SharedValue {
 public:
  SharedValue() = default;
  SharedValue(T value) : value_(std::make_shared<const T>(std::move(value))) {}
  explicit operator bool() const { return value_ != nullptr; }
  bool has_value() const { return value_ != nullptr; }
  const T& operator*() const { return *value_; }
  const T* operator->() const { return value_.get(); }
  void reset() { value_.reset(); }
  bool operator==(const SharedValue& other) const {
    return value_ == other.value_ || (value_ && other.value_ && *value_ == *other.value_);
  }

 private:
  std::shared_ptr<const T> value_;
};

// As std::vector.
template <typename T>
class SharedList {
 public:
  SharedList() = default;
  SharedList(std::vector<T> list) {
    if (list.empty()) return;
    list.shrink_to_fit();
    list_ = std::make_shared<const std::vector<T>>(std::move(list));
  }
  SharedList(std::initializer_list<T> list) : SharedList(std::vector<T>(list)) {}
  auto begin() const { return whole().begin(); }
  auto end() const { return whole().end(); }
  bool empty() const { return list_ == nullptr; }
  size_t size() const { return whole().size(); }
  const T& operator[](size_t index) const { return whole()[index]; }
  bool operator==(const SharedList& other) const {
    return list_ == other.list_ || whole() == other.whole();
  }

 private:
  const std::vector<T>& whole() const {
    static const std::vector<T>& none = *new std::vector<T>;
    return list_ == nullptr ? none : *list_;
  }
  std::shared_ptr<const std::vector<T>> list_;
};

}  // namespace qanat::model
