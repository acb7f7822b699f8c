// SPDX-License-Identifier: Apache-2.0
// The command line of qanatctl: names, help texts with examples.
#pragma once

#include <vector>

#include "tools/qanatctl/completion.h"
#include "tools/qanatctl/options.h"

namespace qanat::ctl {

// Returns -1 when `options` is filled; else the process's exit code (help or an error has been
// printed).
int ParseCommandLine(int argc, char** argv, Options& options);

// Every command that is not hidden, the program itself first: what completion is made from.
std::vector<CommandShape> CommandShapes();

}  // namespace qanat::ctl
