// SPDX-License-Identifier: Apache-2.0
#include "waypoint/settings.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "common/model/identity.h"

namespace qanat::waypoint {
namespace {

class Reader {
 public:
  explicit Reader(const std::function<const char*(const char*)>& get) : get_(get) {}

  void Text(const char* name, std::string& out) {
    if (const char* value = get_(name)) out = value;
  }
  template <typename T>
  void Number(const char* name, T& out, T least, T most) {
    const char* value = get_(name);
    if (value == nullptr || *value == '\0') return;
    const std::string_view text = value;
    T parsed{};
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
    if (error != std::errc() || end != text.data() + text.size() || parsed < least ||
        parsed > most) {
      if (error_.empty()) {
        error_ = fmt::format("{}=\"{}\": expected a number from {} to {}", name, text, least, most);
      }
      return;
    }
    out = parsed;
  }
  // "30s", "250ms", "5m"; a bare number is seconds.
  void Duration(const char* name, std::chrono::milliseconds& out) {
    const char* value = get_(name);
    if (value == nullptr || *value == '\0') return;
    const std::string_view text = value;
    int64_t n = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
    int64_t factor = unit.empty() || unit == "s" ? 1000
                     : unit == "ms"              ? 1
                     : unit == "m"               ? 60000
                                                 : 0;
    if (error != std::errc() || factor == 0 || n < 0 || n > 1000000) {
      if (error_.empty()) {
        error_ = fmt::format("{}=\"{}\": expected a duration as 30s or 5m", name, text);
      }
      return;
    }
    out = std::chrono::milliseconds(n * factor);
  }
  const std::string& error() const { return error_; }

 private:
  const std::function<const char*(const char*)>& get_;
  std::string error_;
};

void AddScheme(std::string& address) {
  if (!address.empty() && address.find("://") == std::string::npos) address = "https://" + address;
}

}  // namespace

Result<Settings> SettingsFromEnvironment(const std::function<const char*(const char*)>& get,
                                         unsigned cores) {
  Settings s;
  Reader r(get);
  r.Text("TRUST_DOMAIN", s.trust_domain);
  r.Text("CLUSTER_ID", s.cluster_id);
  r.Text("ISTIO_META_CLUSTER_ID", s.cluster_id);
  r.Text("NETWORK", s.network);
  r.Text("ISTIO_META_NETWORK", s.network);
  r.Text("NODE_NAME", s.node_name);
  r.Text("POD_NAME", s.pod_name);
  r.Text("POD_NAMESPACE", s.pod_namespace);
  r.Text("SERVICE_ACCOUNT", s.service_account);
  r.Text("GATEWAY_NAME", s.gateway_name);
  r.Text("INSTANCE_IP", s.instance_ip);
  r.Text("CLUSTER_DOMAIN", s.domain);
  r.Text("XDS_ADDRESS", s.xds_address);
  r.Text("CA_ADDRESS", s.ca_address);
  AddScheme(s.xds_address);
  AddScheme(s.ca_address);
  r.Text("XDS_ROOT_CA", s.xds_root_ca);
  r.Text("CA_ROOT_CA", s.ca_root_ca);
  r.Text("ALT_XDS_HOSTNAME", s.alt_xds_hostname);
  r.Text("ALT_CA_HOSTNAME", s.alt_ca_hostname);
  r.Text("AUTH_TOKEN", s.auth_token);
  std::chrono::milliseconds ttl{86400000};
  r.Duration("SECRET_TTL", ttl);
  s.secret_ttl_seconds = ttl.count() / 1000;
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
  if (!r.error().empty()) return Fail(Code::kInvalidArgument, r.error());

  if (s.pod_namespace.empty() || s.service_account.empty()) {
    return Fail(Code::kInvalidArgument,
                "POD_NAMESPACE and SERVICE_ACCOUNT must be set: they are the waypoint's identity");
  }
  s.proxy.identity = model::Identity{s.trust_domain, s.pod_namespace, s.service_account}.ToString();
  s.proxy.workload_name = s.gateway_name.empty() ? s.service_account : s.gateway_name;
  s.proxy.workload_namespace = s.pod_namespace;
  s.proxy.cluster_id = s.cluster_id;
  const std::string hbone = s.hbone_address.empty() ? "[::]:15008" : s.hbone_address;
  QANAT_ASSIGN_OR_RETURN(s.proxy.listen, net::SocketAddress::Parse(hbone));
  return s;
}

}  // namespace qanat::waypoint
