// SPDX-License-Identifier: Apache-2.0
// A container's environment and command line as a kubelet would make them: field references,
// ConfigMap keys, and $(VAR) references (with $$ as the escape). Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tools/qanatctl/local/spec.h"

namespace qanat::local {

struct PodFacts {
  std::string ns;
  std::string name;
  std::string uid;
  std::string node;
  std::string service_account;
  std::string host_ip;
  std::vector<std::string> pod_ips;
  StringMap labels;
  StringMap annotations;
};

using NamedMaps = std::map<std::string, StringMap>;  // "ns/name" -> data

struct Command {
  std::vector<std::string> argv;
  std::vector<std::string> env;  // NAME=value
  std::vector<std::string> problems;
};

Command MakeCommand(const ContainerSpec& container, const PodFacts& facts,
                    const std::string& hostname, const NamedMaps& config_maps,
                    const NamedMaps& secrets);

// "$(NAME)" from `env`; unknown names stay as they are, as in Kubernetes; "$$" is "$".
std::string ExpandVariables(const std::string& text, const StringMap& env);

// metadata.name, metadata.labels['x'], status.podIP, ...; false when the path is not known.
bool FieldValue(const PodFacts& facts, const std::string& path, std::string& value);

}  // namespace qanat::local
