// SPDX-License-Identifier: Apache-2.0
// The command line of qanatctl: names, help texts with examples, completion.
#pragma once

#include <string>

#include "tools/qanatctl/options.h"

namespace qanat::ctl {

// Returns -1 when `options` is filled; else the process's exit code (help or an error has been
// printed).
int ParseCommandLine(int argc, char** argv, Options& options);

// bash, zsh or fish; "" for another shell. Made from the same table as the commands.
std::string CompletionScript(const std::string& shell);

}  // namespace qanat::ctl
