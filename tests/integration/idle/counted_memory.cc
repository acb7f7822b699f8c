// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/idle/counted_memory.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace {

using qanat::test::LiveMemory;

std::atomic<int64_t> bytes{0};
std::array<std::atomic<int64_t>, LiveMemory::kSizes> chunks;

// A sanitizer's malloc says what was asked for, glibc's what the chunk has: both come to the chunk.
void Count(void* memory, int64_t sign) {
  const size_t chunk = std::max<size_t>(32, (malloc_usable_size(memory) + 8 + 15) / 16 * 16);
  bytes.fetch_add(sign * static_cast<int64_t>(chunk), std::memory_order_relaxed);
  chunks[std::min(chunk / 16, LiveMemory::kSizes - 1)].fetch_add(sign, std::memory_order_relaxed);
}

void* Counted(void* memory) {
  if (memory == nullptr) std::abort();
  Count(memory, 1);
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return Counted(std::malloc(size == 0 ? 1 : size)); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  const auto align = static_cast<std::size_t>(alignment);
  return Counted(std::aligned_alloc(align, (size + align - 1) / align * align));
}
void operator delete(void* memory) noexcept {
  if (memory != nullptr) Count(memory, -1);
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { operator delete(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  operator delete(memory);
}
// A sanitizer has these itself, and what it gives there is not ours to free.
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return operator new(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return operator new(size);
}
void operator delete[](void* memory) noexcept { operator delete(memory); }
void operator delete[](void* memory, std::size_t) noexcept { operator delete(memory); }

namespace qanat::test {

LiveMemory LiveMemory::Now() {
  LiveMemory out;
  out.bytes = ::bytes.load(std::memory_order_relaxed);
  for (size_t i = 0; i < kSizes; ++i) out.chunks[i] = ::chunks[i].load(std::memory_order_relaxed);
  return out;
}

LiveMemory LiveMemory::operator-(const LiveMemory& before) const {
  LiveMemory out;
  out.bytes = bytes - before.bytes;
  for (size_t i = 0; i < kSizes; ++i) out.chunks[i] = chunks[i] - before.chunks[i];
  return out;
}

std::string LiveMemory::Table(size_t count) const {
  std::string out;
  for (size_t i = 0; i < kSizes; ++i) {
    const double each = static_cast<double>(chunks[i]) / static_cast<double>(count);
    if (each < 0.01 && each > -0.01) continue;
    char line[64];
    std::snprintf(line, sizeof line, "  %5.2f of %zu%s\n", each, i * 16,
                  i + 1 == kSizes ? " and more" : "");
    out += line;
  }
  return out;
}

}  // namespace qanat::test
