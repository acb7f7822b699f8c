// SPDX-License-Identifier: Apache-2.0
// Istio's ProxyConfig as far as ztunnel reads it: the environment variable PROXY_CONFIG (YAML), and
// `defaultConfig` of the mesh file, which it overrides field by field. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::ztunnel {

struct ProxyConfig {
  std::optional<std::string> discovery_address;
  std::optional<uint16_t> admin_port, stats_port;
  std::optional<uint16_t> concurrency;          // 0: all cores
  std::map<std::string, std::string> metadata;  // proxyMetadata, ISTIO_META_ cut off the names
};

// Either text may be empty. Unknown fields are passed over, as stock does: the mesh file is shared
// with other proxies. An error names the source and the line.
Result<ProxyConfig> ParseProxyConfig(std::string_view mesh_file, std::string_view variable);

}  // namespace qanat::ztunnel
