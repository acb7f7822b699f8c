// SPDX-License-Identifier: Apache-2.0
// Whether bytes are text. Pure.
#pragma once

#include <cstddef>
#include <string_view>

namespace qanat {

// The offset of the first byte that is not part of well-formed UTF-8 (no surrogates, nothing longer
// than it needs to be); npos when all of it is.
size_t FirstNotUtf8(std::string_view text);

}  // namespace qanat
