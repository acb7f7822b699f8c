// SPDX-License-Identifier: Apache-2.0
// The program's configuration, read once from the environment under the names that stock proxies
// use; names that are not known here are ignored.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "waypoint/proxy/settings.h"

namespace qanat::waypoint {

struct Settings {
  std::string trust_domain = "cluster.local";
  std::string cluster_id = "Kubernetes";
  std::string network;
  std::string node_name, pod_name, pod_namespace, service_account, gateway_name;
  std::string instance_ip = "1.1.1.1";
  std::string domain = "cluster.local";
  std::string xds_address = "https://istiod.istio-system.svc:15012";
  std::string ca_address = "https://istiod.istio-system.svc:15012";
  std::string xds_root_ca = "./var/run/secrets/istio/root-cert.pem";
  std::string ca_root_ca = "./var/run/secrets/istio/root-cert.pem";
  std::string alt_xds_hostname, alt_ca_hostname;
  std::string auth_token = "./var/run/secrets/tokens/istio-token";
  int64_t secret_ttl_seconds = 86400;
  std::string admin_address = "127.0.0.1:15000";  // QANAT_ADMIN_ADDR
  std::string metrics_address = "[::]:15020";     // QANAT_METRICS_ADDR
  std::string readiness_address = "[::]:15021";   // QANAT_READINESS_ADDR
  std::string hbone_address;                      // QANAT_HBONE_ADDR; empty: INSTANCE_IP's family
  std::string log_levels = "info";
  bool log_json = false;
  ProxySettings proxy;
  std::vector<std::string> environment;  // ISTIO_META_*, ISTIO_METAJSON_* for the xDS node
};

// `get` returns a variable's value or nullptr.
Result<Settings> SettingsFromEnvironment(const std::function<const char*(const char*)>& get,
                                         unsigned cores);

}  // namespace qanat::waypoint
