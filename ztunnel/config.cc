// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace qanat::ztunnel {
namespace {

using std::chrono::milliseconds;

class Reader {
 public:
  explicit Reader(const std::function<const char*(const char*)>& get) : get_(get) {}

  void Text(const char* name, std::string& out) {
    if (const char* value = get_(name)) out = value;
  }
  void Bool(const char* name, bool& out) {
    const char* value = get_(name);
    if (value == nullptr || *value == '\0') return;
    const std::string_view text = value;
    if (text == "true" || text == "1") {
      out = true;
    } else if (text == "false" || text == "0") {
      out = false;
    } else {
      Bad(name, text, "true or false");
    }
  }
  template <typename T>
  void Number(const char* name, T& out) {
    const char* value = get_(name);
    if (value == nullptr || *value == '\0') return;
    const std::string_view text = value;
    T parsed{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
    if (error != std::errc() || end != text.data() + text.size()) {
      return Bad(name, text, "a number");
    }
    out = parsed;
  }
  template <typename D>
  void Duration(const char* name, D& out) {
    const char* value = get_(name);
    if (value == nullptr || *value == '\0') return;
    if (auto parsed = ParseDuration(value)) {
      out = std::chrono::duration_cast<D>(*parsed);
    } else {
      Bad(name, value, "a duration as 30s or 5m");
    }
  }
  void Bad(const char* name, std::string_view value, std::string_view wanted) {
    if (error_.empty()) error_ = fmt::format("{}=\"{}\": expected {}", name, value, wanted);
  }
  const std::string& error() const { return error_; }

 private:
  const std::function<const char*(const char*)>& get_;
  std::string error_;
};

// Stock: https:// is added when there is no scheme.
void AddScheme(std::string& address) {
  if (!address.empty() && address.find("://") == std::string::npos) {
    address = "https://" + address;
  }
}

void ReadTermination(Reader& reader, const std::function<const char*(const char*)>& get,
                     Config& config) {
  // Stock: the grace period less 5 s (less 1 s when it is short), unless given directly.
  if (get("TERMINATION_GRACE_PERIOD_SECONDS") != nullptr) {
    int grace = 0;
    reader.Number("TERMINATION_GRACE_PERIOD_SECONDS", grace);
    config.termination_deadline =
        std::chrono::seconds(std::max(1, grace > 10 ? grace - 5 : grace - 1));
  }
  reader.Duration("CONNECTION_TERMINATION_DEADLINE", config.termination_deadline);
}

void ReadWorkers(Reader& reader, const std::function<const char*(const char*)>& get, unsigned cores,
                 Config& config) {
  cores = std::max(1u, cores);
  config.workers = std::clamp((cores + 3) / 4, 2u, std::min(16u, std::max(2u, cores)));
  const char* value = get("ZTUNNEL_WORKER_THREADS");
  if (value == nullptr || *value == '\0' || std::string_view(value) == "auto") return;
  std::string_view text = value;
  const bool percent = text.back() == '%';
  if (percent) text.remove_suffix(1);
  unsigned n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size()) {
    return reader.Bad("ZTUNNEL_WORKER_THREADS", value, "a number, a percentage or auto");
  }
  if (percent) n = std::max(1u, (cores * n + 99) / 100);
  if (n == 0) n = cores;
  config.workers = std::min(n, 16u);  // the listener map of the node agent has a slot per worker
}

}  // namespace

Result<milliseconds> ParseDuration(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<size_t>(text.data() + text.size() - end));
  double factor = 0;
  if (unit.empty() || unit == "s") factor = 1000;
  if (unit == "ms") factor = 1;
  if (unit == "m") factor = 60'000;
  if (unit == "h") factor = 3'600'000;
  if (error != std::errc() || factor == 0 || !(value >= 0 && value * factor <= 1e12)) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not a duration", text));
  }
  return milliseconds(static_cast<int64_t>(std::llround(value * factor)));
}

Result<Config> ConfigFromEnvironment(const std::function<const char*(const char*)>& get,
                                     unsigned cores) {
  Config config;
  Reader reader(get);
  reader.Text("NETWORK", config.network);
  reader.Text("NODE_NAME", config.node_name);
  reader.Text("CLUSTER_ID", config.cluster_id);
  reader.Text("ISTIO_META_CLUSTER_ID", config.cluster_id);
  reader.Text("POD_NAME", config.pod_name);
  reader.Text("POD_NAMESPACE", config.pod_namespace);
  reader.Text("INSTANCE_IP", config.instance_ip);
  reader.Text("XDS_ADDRESS", config.xds_address);
  reader.Text("CA_ADDRESS", config.ca_address);
  AddScheme(config.xds_address);
  AddScheme(config.ca_address);
  reader.Text("XDS_ROOT_CA", config.xds_root_ca);
  reader.Text("CA_ROOT_CA", config.ca_root_ca);
  reader.Text("ALT_XDS_HOSTNAME", config.alt_xds_hostname);
  reader.Text("ALT_CA_HOSTNAME", config.alt_ca_hostname);
  reader.Text("AUTH_TOKEN", config.auth_token);
  reader.Text("INPOD_UDS", config.inpod_uds);
  reader.Duration("SECRET_TTL", config.secret_ttl);
  reader.Number("PACKET_MARK", config.packet_mark);
  reader.Bool("QANAT_ONE_PASS", config.one_pass);
  reader.Bool("IPV6_ENABLED", config.ipv6);
  reader.Bool("INPOD_PORT_REUSE", config.reuse_port);
  if (const char* value = get("ENABLE_ORIG_SRC"); value != nullptr && *value != '\0') {
    bool on = true;
    reader.Bool("ENABLE_ORIG_SRC", on);
    config.orig_src = on;
  }
  reader.Bool("TLS12_ENABLED", config.tls12);
  reader.Bool("ENABLE_RESPONSE_BAGGAGE", config.response_baggage);
  reader.Number("HTTP2_STREAM_WINDOW_SIZE", config.stream_window);
  reader.Number("HTTP2_CONNECTION_WINDOW_SIZE", config.connection_window);
  reader.Number("HTTP2_FRAME_SIZE", config.frame_size);
  reader.Number("POOL_MAX_STREAMS_PER_CONNECTION", config.pool_max_streams);
  reader.Duration("POOL_UNUSED_RELEASE_TIMEOUT", config.pool_idle);
  ReadTermination(reader, get, config);
  ReadWorkers(reader, get, cores, config);
  if (!config.ipv6) {
    config.metrics_address = "0.0.0.0:15020";
    config.readiness_address = "0.0.0.0:15021";
  }
  reader.Text("QANAT_ADMIN_ADDR", config.admin_address);
  reader.Text("QANAT_METRICS_ADDR", config.metrics_address);
  reader.Text("QANAT_READINESS_ADDR", config.readiness_address);
  reader.Text("RUST_LOG", config.log_levels);
  if (config.log_levels.empty()) config.log_levels = "info";
  std::string format;
  reader.Text("LOG_FORMAT", format);
  config.log_json = format == "json";
  if (!reader.error().empty()) return Fail(Code::kInvalidArgument, reader.error());
  constexpr uint32_t kMaxWindow = 0x7fffffff;
  if (config.stream_window > kMaxWindow || config.connection_window > kMaxWindow ||
      config.frame_size < 16384 || config.frame_size > 0xffffff || config.pool_max_streams == 0) {
    return Fail(Code::kInvalidArgument,
                "HTTP2_* windows go up to 2147483647, HTTP2_FRAME_SIZE from 16384 to 16777215, and "
                "POOL_MAX_STREAMS_PER_CONNECTION from 1");
  }
  return config;
}

}  // namespace qanat::ztunnel
