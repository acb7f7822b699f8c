// SPDX-License-Identifier: Apache-2.0
// The program's configuration, read once from the environment under the names that stock proxies
// use; names that are not known here are ignored.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/base/environment.h"
#include "common/base/result.h"
#include "common/grpc/control_plane.h"
#include "waypoint/proxy/settings.h"

namespace qanat::waypoint {

struct Settings {
  std::string trust_domain = "cluster.local";
  std::string network;
  std::string node_name, pod_name, pod_namespace, service_account, gateway_name;
  std::string instance_ip = "1.1.1.1";
  std::string domain = "cluster.local";
  grpc::ControlPlane control_plane;
  std::chrono::seconds secret_ttl{86400};
  std::string admin_address = "127.0.0.1:15000";  // QANAT_ADMIN_ADDR
  std::string metrics_address = "[::]:15020";     // QANAT_METRICS_ADDR
  std::string readiness_address = "[::]:15021";   // QANAT_READINESS_ADDR
  std::string hbone_address;                      // QANAT_HBONE_ADDR; empty: INSTANCE_IP's family
  std::string log_levels = "info";
  bool log_json = false;
  ProxySettings proxy;
  std::vector<std::string> environment;  // ISTIO_META_*, ISTIO_METAJSON_* for the xDS node
};

// `cores` is the default number of workers.
Result<Settings> SettingsFromEnvironment(const GetEnvironment& get, unsigned cores);

}  // namespace qanat::waypoint
