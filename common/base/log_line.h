// SPDX-License-Identifier: Apache-2.0
// What stands behind log.h for those who carry lines: how a line looks, and where the lines of a
// thread go that must not wait for stderr.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "common/base/log.h"

namespace qanat::log {

// In the present format, without newline.
std::string FormatLine(std::string_view scope, Level level, std::string_view message);

// Lines that this thread logs go there from now on and not to stderr; none: to stderr again.
// LineWriter::Source is meant.
void SendThisThreadTo(std::function<void(std::string_view line)> sink);

}  // namespace qanat::log
