// SPDX-License-Identifier: Apache-2.0
// operator new and delete of the program: malloc and free, and the heap profile is told. What the
// standard library defines beside these (arrays, nothrow) comes here as well. Sanitizers have
// operators of their own, and hooks that heap.cc uses.
#include <cstdlib>
#include <new>

#include "ztunnel/profile/heap.h"

#if !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)

namespace {

using qanat::ztunnel::profile::NoteAllocation;
using qanat::ztunnel::profile::NoteFree;

// As the standard has it: ask the handler for memory as long as there is one, then throw.
template <typename Allocate>
inline void* Get(Allocate allocate) {
  while (true) {
    if (void* memory = allocate()) return memory;
    const std::new_handler handler = std::get_new_handler();
    if (handler == nullptr) throw std::bad_alloc();
    handler();
  }
}

}  // namespace

void* operator new(std::size_t size) {
  void* memory = Get([size] { return std::malloc(size == 0 ? 1 : size); });
  NoteAllocation(memory, size, __builtin_return_address(0));
  return memory;
}

void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  // aligned_alloc wants whole multiples.
  const std::size_t whole = (size == 0 ? align : size + align - 1) / align * align;
  void* memory = Get([=] { return std::aligned_alloc(align, whole); });
  NoteAllocation(memory, size, __builtin_return_address(0));
  return memory;
}

void operator delete(void* memory) noexcept {
  NoteFree(memory);
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { operator delete(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  operator delete(memory);
}

#endif
