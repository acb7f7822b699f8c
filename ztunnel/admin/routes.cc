// SPDX-License-Identifier: Apache-2.0
// The admin and metrics servers of the proxy: App's part that speaks HTTP. Main thread.
#include <fmt/format.h>

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
    "  GET  /debug/why/outbound          ?src=<pod uid or ns/name>&dst=<ip:port or host:port>\n"
    "  GET  /debug/why/inbound           ?dst=<ip>&port=<port>&src_identity=<spiffe>&src_ip=<ip>\n"
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

admin::Response Logging(const admin::Request& request, const std::string& initial) {
  if (request.Parameter("reset")) {
    if (const Status status = log::SetLevels(initial); !status) {
      return admin::Text(400, status.error().message + "\n");
    }
  } else if (const auto level = request.Parameter("level")) {
    if (const Status status = log::SetLevels(*level); !status) {
      return admin::Text(400, status.error().message + "\n");
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
  admin_->Route("POST", "/quitquitquit", [this](const admin::Request&) {
    environment_.post_main([this] { Drain(); });
    return admin::Text(200, "shutdown\n");
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
  const auto context = [this] {
    return WhyContext{*snapshot_, environment_.mesh, *pods_, environment_.config.one_pass};
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

}  // namespace qanat::ztunnel
