// SPDX-License-Identifier: Apache-2.0
// What HTTP says about names.
#pragma once

#include <string>
#include <string_view>

namespace qanat::controlplane {

// A token of RFC 9110: anything else as a header's name would make a proxy refuse the whole
// configuration.
bool IsHeaderName(std::string_view name);
std::string Lower(std::string_view text);

}  // namespace qanat::controlplane
