// SPDX-License-Identifier: Apache-2.0
// CRC-32C (Castagnoli, RFC 3720 appendix B.4). Pure.
#pragma once

#include <cstdint>
#include <string_view>

namespace qanat::state {

// Of `before` followed by `bytes`, given that of `before`: Crc32c("ab") == Crc32c("b",
// Crc32c("a")).
uint32_t Crc32c(std::string_view bytes, uint32_t before = 0);

}  // namespace qanat::state
