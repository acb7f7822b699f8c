// SPDX-License-Identifier: Apache-2.0
// How much memory is live in this process by operator new, as glibc's malloc would count it (its
// header and its rounding included), whoever the allocator is: the figure is the same with and
// without a sanitizer. What libraries in C take by malloc is not in it. Any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace qanat::test {

struct LiveMemory {
  static constexpr size_t kSizes = 128;  // of chunks, in steps of 16; the last one: and larger
  int64_t bytes = 0;
  std::array<int64_t, kSizes> chunks{};

  static LiveMemory Now();
  LiveMemory operator-(const LiveMemory& before) const;
  // How many chunks of which size there are for each of `count` things.
  std::string Table(size_t count) const;
};

}  // namespace qanat::test
