// SPDX-License-Identifier: Apache-2.0
// The proxy's configuration, read once from the environment under the names that stock ztunnel
// uses (so that charts and manifests fit); names that are not known here are ignored.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/environment.h"
#include "common/base/result.h"
#include "common/grpc/control_plane.h"

namespace qanat::ztunnel {

struct Config {
  std::string network;
  std::string node_name;
  std::string pod_name, pod_namespace;
  std::string instance_ip = "1.1.1.1";
  grpc::ControlPlane control_plane;
  std::string inpod_uds = "/var/run/ztunnel/ztunnel.sock";
  std::chrono::seconds secret_ttl{86400};
  uint32_t packet_mark = 1337;
  uint32_t one_pass_mark = 0x53c;  // asks the node agent for a grant; QANAT_ONE_PASS=false: off
  bool one_pass = true;
  bool ipv6 = true;
  bool reuse_port = true;
  std::optional<bool> orig_src;  // ENABLE_ORIG_SRC; unset: where transparency works
  bool tls12 = false;
  bool response_baggage = true;
  uint32_t stream_window = 4u << 20;
  uint32_t connection_window = 16u << 20;
  uint32_t frame_size = 1u << 20;
  uint32_t pool_max_streams = 100;
  std::chrono::milliseconds pool_idle{300000};
  std::chrono::milliseconds termination_deadline{5000};
  unsigned workers = 2;
  std::string admin_address = "127.0.0.1:15000";  // QANAT_ADMIN_ADDR
  std::string metrics_address = "[::]:15020";     // QANAT_METRICS_ADDR
  std::string readiness_address = "[::]:15021";   // QANAT_READINESS_ADDR
  std::string log_levels = "info";
  bool log_json = false;
  std::vector<std::string> environment;  // ISTIO_META_*, ISTIO_METAJSON_* for the xDS node
};

// `cores` is what ZTUNNEL_WORKER_THREADS=auto counts.
Result<Config> ConfigFromEnvironment(const GetEnvironment& get, unsigned cores);

}  // namespace qanat::ztunnel
