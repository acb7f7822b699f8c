// SPDX-License-Identifier: Apache-2.0
// A string that leaves nothing behind: the memory that it gave up, by growing too, is overwritten
// first. For what may hold keys on its way. (A few bytes inside of the object itself are not.)
#pragma once

#include <string.h>  // explicit_bzero

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace qanat {

template <typename T>
struct WipingAllocator {
  using value_type = T;
  WipingAllocator() = default;
  template <typename U>
  WipingAllocator(const WipingAllocator<U>&) {}  // NOLINT: allocators convert
  T* allocate(size_t count) { return std::allocator<T>().allocate(count); }
  void deallocate(T* at, size_t count) {
    explicit_bzero(at, count * sizeof(T));
    std::allocator<T>().deallocate(at, count);
  }
  bool operator==(const WipingAllocator&) const = default;
};

class WipedString : public std::basic_string<char, std::char_traits<char>, WipingAllocator<char>> {
 public:
  using Base = std::basic_string<char, std::char_traits<char>, WipingAllocator<char>>;
  using Base::Base;
  WipedString() = default;
  WipedString(std::string_view text) : Base(text) {}    // NOLINT: as from a literal
  WipedString(const std::string& text) : Base(text) {}  // NOLINT
  friend bool operator==(const WipedString& a, std::string_view b) {
    return std::string_view(a) == b;
  }
};

}  // namespace qanat
