// SPDX-License-Identifier: Apache-2.0
#include "waypoint/settings.h"

#include <algorithm>

#include "common/model/identity.h"

namespace qanat::waypoint {

Result<Settings> SettingsFromEnvironment(const GetEnvironment& get, unsigned cores) {
  Settings s;
  EnvironmentReader r(get);
  s.control_plane.Read(r);
  r.Text("TRUST_DOMAIN", s.trust_domain);
  r.Text("NETWORK", s.network);
  r.Text("ISTIO_META_NETWORK", s.network);
  r.Text("NODE_NAME", s.node_name);
  r.Text("POD_NAME", s.pod_name);
  r.Text("POD_NAMESPACE", s.pod_namespace);
  r.Text("SERVICE_ACCOUNT", s.service_account);
  r.Text("GATEWAY_NAME", s.gateway_name);
  r.Text("INSTANCE_IP", s.instance_ip);
  r.Text("CLUSTER_DOMAIN", s.domain);
  r.Duration("SECRET_TTL", s.secret_ttl);
  r.Text("QANAT_ADMIN_ADDR", s.admin_address);
  r.Text("QANAT_METRICS_ADDR", s.metrics_address);
  r.Text("QANAT_READINESS_ADDR", s.readiness_address);
  r.Text("QANAT_HBONE_ADDR", s.hbone_address);
  r.Text("RUST_LOG", s.log_levels);
  r.Text("QANAT_LOG", s.log_levels);
  std::string format;
  r.Text("LOG_FORMAT", format);
  s.log_json = format == "json";
  s.proxy.access_log_json = s.log_json;
  std::string access = "true";
  r.Text("QANAT_ACCESS_LOG", access);
  s.proxy.access_log = access != "false";

  // Stock waypoints: --concurrency, by default as many as the CPU limit; here two or the cores.
  int workers = static_cast<int>(std::clamp(cores, 1u, 64u));
  r.Number("QANAT_WORKER_THREADS", workers, 1, 256);
  s.proxy.workers = workers;
  r.Duration("TERMINATION_DRAIN_DURATION", s.proxy.drain_timeout);
  int drain_seconds = 0;
  r.Number("TERMINATION_DRAIN_DURATION_SECONDS", drain_seconds, 0, 3600);
  if (drain_seconds > 0) s.proxy.drain_timeout = std::chrono::seconds(drain_seconds);
  QANAT_RETURN_IF_ERROR(r.status());

  if (s.pod_namespace.empty() || s.service_account.empty()) {
    return Fail(Code::kInvalidArgument,
                "POD_NAMESPACE and SERVICE_ACCOUNT must be set: they are the waypoint's identity");
  }
  s.proxy.identity = model::Identity{s.trust_domain, s.pod_namespace, s.service_account}.ToString();
  s.proxy.workload_name = s.gateway_name.empty() ? s.service_account : s.gateway_name;
  s.proxy.workload_namespace = s.pod_namespace;
  s.proxy.cluster_id = s.control_plane.cluster_id;
  const std::string hbone = s.hbone_address.empty() ? "[::]:15008" : s.hbone_address;
  QANAT_ASSIGN_OR_RETURN(s.proxy.listen, net::SocketAddress::Parse(hbone));
  return s;
}

}  // namespace qanat::waypoint
