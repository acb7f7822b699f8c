// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/config.h"

#include <algorithm>
#include <charconv>

namespace qanat::ztunnel {
namespace {

void ReadTermination(EnvironmentReader& reader, Config& config) {
  // Stock: the grace period less 5 s (less 1 s when it is short), unless given directly.
  if (reader.Value("TERMINATION_GRACE_PERIOD_SECONDS") != nullptr) {
    int grace = 0;
    reader.Number("TERMINATION_GRACE_PERIOD_SECONDS", grace);
    config.termination_deadline =
        std::chrono::seconds(std::max(1, grace > 10 ? grace - 5 : grace - 1));
  }
  reader.Duration("CONNECTION_TERMINATION_DEADLINE", config.termination_deadline);
}

void ReadWorkers(EnvironmentReader& reader, unsigned cores, Config& config) {
  cores = std::max(1u, cores);
  config.workers = std::clamp((cores + 3) / 4, 2u, std::min(16u, std::max(2u, cores)));
  const char* value = reader.Value("ZTUNNEL_WORKER_THREADS");
  if (value == nullptr || std::string_view(value) == "auto") return;
  std::string_view text = value;
  const bool percent = text.back() == '%';
  if (percent) text.remove_suffix(1);
  unsigned n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size()) {
    return reader.Bad("ZTUNNEL_WORKER_THREADS", "a number, a percentage or auto");
  }
  if (percent) n = std::max(1u, (cores * n + 99) / 100);
  if (n == 0) n = cores;
  config.workers = std::min(n, 16u);  // the listener map of the node agent has a slot per worker
}

}  // namespace

Result<Config> ConfigFromEnvironment(const GetEnvironment& get, unsigned cores) {
  Config config;
  EnvironmentReader reader(get);
  config.control_plane.Read(reader);
  reader.Text("NETWORK", config.network);
  reader.Text("NODE_NAME", config.node_name);
  reader.Text("POD_NAME", config.pod_name);
  reader.Text("POD_NAMESPACE", config.pod_namespace);
  reader.Text("INSTANCE_IP", config.instance_ip);
  reader.Text("INPOD_UDS", config.inpod_uds);
  reader.Duration("SECRET_TTL", config.secret_ttl);
  reader.Number("PACKET_MARK", config.packet_mark);
  reader.Bool("QANAT_ONE_PASS", config.one_pass);
  reader.Bool("IPV6_ENABLED", config.ipv6);
  reader.Bool("INPOD_PORT_REUSE", config.reuse_port);
  if (reader.Value("ENABLE_ORIG_SRC") != nullptr) {
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
  ReadTermination(reader, config);
  ReadWorkers(reader, cores, config);
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
  QANAT_RETURN_IF_ERROR(reader.status());
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
