// SPDX-License-Identifier: Apache-2.0
// A whole file as text: configuration, tokens, certificates. Any thread; waits for the disk.
#pragma once

#include <cstddef>
#include <string>

#include "common/base/result.h"

namespace qanat {

enum class FileKind : unsigned char {
  kAny,      // a pipe too, up to its end (a shell's <(...)); the caller may wait for it
  kRegular,  // nothing that one could wait for
};

// The error names the path and says why; one that is too large is kInvalidArgument.
Result<std::string> ReadFile(const std::string& path, size_t max_bytes = 1 << 20,
                             FileKind kind = FileKind::kAny);

}  // namespace qanat
