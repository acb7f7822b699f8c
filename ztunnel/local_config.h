// SPDX-License-Identifier: Apache-2.0
// LOCAL_XDS_PATH: workloads, services and policies from a YAML file, in the field names of stock
// ztunnel's local configuration, which are those of /config_dump. Turned into the wire messages of
// workload xDS, so that nothing of it goes around the decoder that the control plane's go through.
// Pure. Strict: an unknown field is an error with its line, since a misspelt policy protects
// nobody.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::ztunnel {

struct LocalResources {
  std::map<std::string, std::string> addresses;  // xDS name (uid, or ns/hostname) -> Address
  std::map<std::string, std::string> policies;   // "ns/name" -> Authorization
  bool operator==(const LocalResources&) const = default;
};

Result<LocalResources> ParseLocalConfig(std::string_view yaml);

}  // namespace qanat::ztunnel
