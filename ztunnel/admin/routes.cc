// SPDX-License-Identifier: Apache-2.0
// The admin and metrics servers of the proxy: App's part that speaks HTTP. Main thread.
#include <fmt/format.h>

#include <charconv>

#include "common/base/log.h"
#include "ztunnel/admin/json.h"
#include "ztunnel/admin/why.h"
#include "ztunnel/app.h"

namespace qanat::ztunnel {
namespace {

constexpr std::string_view kIndex =
    "qanat-ztunnel admin\n"
    "  GET  /config_dump                 workloads, services, policies, certificates, connections\n"
    "  GET  /debug/connections           what goes on now, with both identities\n"
    "  GET  /debug/dns                   name servers and search list of each pod\n"
    "  GET  /debug/why/outbound          ?src=<pod uid or ns/name>&dst=<ip:port or host:port>\n"
    "  GET  /debug/why/inbound           ?dst=<ip>&port=<port>&src_identity=<spiffe>&src_ip=<ip>\n"
    "  GET  /debug/pprof/profile         ?seconds=10&frequency=100; CPU, for go tool pprof\n"
    "  GET  /debug/pprof/heap            live memory by stack; /debug/pprof/allocs: all there was\n"
    "  POST /debug/pprof/heap/profiling  ?activate=true|false\n"
    "  POST /logging                     ?level=info,zds=debug; ?reset\n"
    "  POST /quitquitquit                drain and exit\n";

admin::Response Answer(Result<std::string> result) {
  if (result) return admin::Json(200, std::move(*result));
  const int status = result.error().code == Code::kNotFound ? 404 : 400;
  return admin::Json(status,
                     fmt::format("{{\"error\": {}}}\n", log::JsonQuote(result.error().message)));
}

net::ListenOptions ListenAt(const net::SocketAddress& address) {
  net::ListenOptions options;
  options.address = address;
  options.dual_stack = address.ip().is_v6() && address.ip().is_unspecified();
  return options;
}

// The texts of stock ztunnel: istioctl ztunnel-config log shows them as they are.
constexpr std::string_view kLoggingHelp =
    "usage: POST /logging                          the present level\n"
    "usage: POST /logging?level=<level>            for all: off, error, warn, info, debug, trace\n"
    "usage: POST /logging?level=<scope>:<level>    for one scope; several with commas\n"
    "usage: POST /logging?reset                    as at the start\n";

admin::Response Logging(const admin::Request& request, const std::string& initial) {
  const bool reset = request.Parameter("reset").has_value();
  const std::string level = request.Parameter("level").value_or("");
  if (reset || !level.empty()) {
    // What is given goes on top of the present levels, or of the first ones.
    std::string wanted = reset ? initial : log::Levels();
    if (!level.empty()) wanted += "," + level;
    if (!log::SetLevels(wanted)) {
      return admin::Text(400, fmt::format("Invalid level provided: {}\n{}", level, kLoggingHelp));
    }
  }
  return admin::Text(200, fmt::format("current log level is {}\n", log::Levels()));
}

}  // namespace

Status App::StartAdmin() {
  QANAT_ASSIGN_OR_RETURN(const auto address,
                         net::SocketAddress::Parse(environment_.config.admin_address));
  admin_ = std::make_unique<admin::Server>(loop_);
  AddAdminRoutes();
  QANAT_ASSIGN_OR_RETURN(admin_address_, admin_->Listen(ListenAt(address)));
  if (address.ip().is_loopback() && environment_.config.ipv6) {
    // Stock: localhost of both families. A host without ::1 does without.
    const auto v6 =
        admin_->Listen(ListenAt({*net::IpAddress::Parse("::1"), admin_address_.port()}));
    if (!v6) LOG_DEBUG("admin", "{}", v6.error().message);
  }
  QANAT_ASSIGN_OR_RETURN(const auto metrics_at,
                         net::SocketAddress::Parse(environment_.config.metrics_address));
  metrics_server_ = std::make_unique<admin::Server>(loop_);
  metrics_server_->AddMetricsRoutes(registry_);
  QANAT_ASSIGN_OR_RETURN(metrics_address_, metrics_server_->Listen(ListenAt(metrics_at)));
  return {};
}

void App::AddAdminRoutes() {
  admin_->Route("GET", "/",
                [](const admin::Request&) { return admin::Text(200, std::string(kIndex)); });
  admin_->Route("POST", "/logging", [this](const admin::Request& request) {
    return Logging(request, environment_.config.log_levels);
  });
  admin_->Route("GET", "/logging", [](const admin::Request&) {
    auto response = admin::Text(405, fmt::format("Invalid HTTP method\n {}", kLoggingHelp));
    response.headers.Set("allow", "POST");
    return response;
  });
  admin_->Route("POST", "/quitquitquit", [this](const admin::Request&) {
    environment_.post_main([this] { Drain(); });
    return admin::Text(200, "shutdown now\n");
  });
  const auto gather = [this](auto answer) {
    return [this, answer](const admin::Request&, admin::Responder responder) {
      Gather<std::vector<ConnectionInfo>>(
          [](Worker& worker) { return worker.Describe(); },
          [answer, responder](std::vector<std::vector<ConnectionInfo>> parts) mutable {
            std::vector<ConnectionInfo> all;
            for (auto& part : parts) {
              for (auto& info : part) all.push_back(std::move(info));
            }
            responder.Send(admin::Json(200, answer(std::move(all))));
          });
    };
  };
  admin_->RouteDeferred("GET", "/debug/connections",
                        gather([](const std::vector<ConnectionInfo>& connections) {
                          return ConnectionsJson(connections);
                        }));
  admin_->RouteDeferred("GET", "/config_dump",
                        gather([this](std::vector<ConnectionInfo> connections) {
                          return ConfigDumpJson({*snapshot_, environment_.config, pods_->entries(),
                                                 secrets_->Dump(), std::move(connections)});
                        }));
  admin_->Route("GET", "/debug/dns", [this](const admin::Request&) {
    // Read as the workers read it: each of them looks every few seconds.
    const Config& config = environment_.config;
    std::vector<std::pair<PodPtr, dns::PodDns>> pods;
    for (const auto& [uid, entry] : pods_->entries()) {
      dns::PodDnsSettings settings(dns::PodFilePath(config.inpod_uds, uid), config.resolv_conf,
                                   entry.pod->ns, config.cluster_domain);
      pods.emplace_back(entry.pod, settings.Get(loop_.now()));
    }
    return admin::Json(200, DnsJson(pods));
  });
  AddProfileRoute();
  AddHeapRoutes();
  const auto context = [this] {
    const bool live = snapshot_->freshness() == state::Freshness::kLive;
    return WhyContext{*snapshot_,
                      environment_.mesh,
                      *pods_,
                      environment_.config.one_pass && live,
                      environment_.config.enforce_waypoint,
                      environment_.config.socks5,
                      [this](const Pod& pod) { return memory_->Full(pod); }};
  };
  admin_->Route("GET", "/debug/why/outbound", [context](const admin::Request& request) {
    return Answer(WhyOutboundAnswer(context(), request.Parameter("src").value_or(""),
                                    request.Parameter("dst").value_or("")));
  });
  admin_->Route("GET", "/debug/why/inbound", [context](const admin::Request& request) {
    return Answer(WhyInboundAnswer(
        context(), request.Parameter("dst").value_or(""), request.Parameter("port").value_or(""),
        request.Parameter("src_identity").value_or(""), request.Parameter("src_ip").value_or("")));
  });
}

void App::AddProfileRoute() {
  admin_->RouteDeferred(
      "GET", "/debug/pprof/profile", [this](const admin::Request& request, admin::Responder to) {
        const auto number = [&](const char* name, unsigned otherwise, unsigned most) {
          const auto text = request.Parameter(name);
          if (!text) return otherwise;
          unsigned value = 0;
          const char* end = text->data() + text->size();
          const auto [stop, error] = std::from_chars(text->data(), end, value);
          return error == std::errc() && stop == end && value >= 1 && value <= most ? value : 0;
        };
        const unsigned seconds = number("seconds", 10, 300);
        const unsigned frequency = number("frequency", 100, 1000);
        if (seconds == 0 || frequency == 0) {
          return to.Send(admin::Text(400, "seconds: 1 to 300; frequency: 1 to 1000\n"));
        }
        const Status status = profiler_->Start(
            std::chrono::seconds(seconds), frequency, [to](std::string profile) mutable {
              admin::Response response = admin::Text(200, std::move(profile));
              response.content_type = "application/octet-stream";
              response.headers.Set("content-disposition", "attachment; filename=\"profile\"");
              to.Send(std::move(response));
            });
        if (!status) to.Send(admin::Text(409, status.error().message + "\n"));
      });
}

}  // namespace qanat::ztunnel
