// SPDX-License-Identifier: Apache-2.0
// Completion scripts for shells, made from the shape of the command line. Pure.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace qanat::ctl {

// What stands in a place: "files"; "list:a,b,c"; a kind of `qanatctl words` (pods, targets, nodes,
// namespaces, services, meshes), asked when the key is pressed; "?" for anything.
using WordKind = std::string;

struct CommandShape {
  struct Option {
    std::vector<std::string> names;  // "-o", "--output"
    std::string help;
    bool takes_value = false;
    WordKind value;
  };
  std::string path;                                              // "local up"; "" for the program
  std::vector<std::pair<std::string, std::string>> subcommands;  // name, help
  std::vector<Option> options;
  std::vector<WordKind> arguments;
};

// `shell` is bash, zsh or fish; "" for another.
std::string CompletionScript(const std::string& shell, const std::vector<CommandShape>& commands);

}  // namespace qanat::ctl
