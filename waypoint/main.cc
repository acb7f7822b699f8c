// SPDX-License-Identifier: Apache-2.0
// qanat-waypoint: flags, signals, limits. Everything else is wired in app.cc.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "common/base/log.h"
#include "common/base/program.h"
#include "common/event/event_loop.h"
#include "waypoint/app.h"

namespace {

constexpr const char* kUsage =
    "usage: qanat-waypoint [proxy waypoint] | --version | --help\n"
    "The L7 proxy of a service or namespace: HTTP routing, retries and policy between two "
    "tunnels.\n"
    "Takes Envoy's xDS (LDS, RDS, CDS, EDS) from the control plane.\n"
    "Configured by the environment: POD_NAME, POD_NAMESPACE, SERVICE_ACCOUNT, GATEWAY_NAME,\n"
    "INSTANCE_IP, NODE_NAME, CLUSTER_ID, NETWORK, TRUST_DOMAIN, XDS_ADDRESS, CA_ADDRESS,\n"
    "XDS_ROOT_CA, CA_ROOT_CA, AUTH_TOKEN, QANAT_WORKER_THREADS, LOG_FORMAT, RUST_LOG.\n"
    "Tunnels on :15008, admin on 127.0.0.1:15000, metrics on :15020/stats/prometheus, readiness "
    "on\n"
    ":15021/healthz/ready. SIGTERM drains; a second one ends at once.\n";

}  // namespace

int main(int argc, char** argv) {
  using namespace qanat;
  if (const auto code =
          HandleArguments(argc, argv, "qanat-waypoint", kUsage, {"proxy", "waypoint"})) {
    return *code;
  }
  auto settings = waypoint::SettingsFromEnvironment(
      [](const char* name) { return std::getenv(name); }, std::thread::hardware_concurrency());
  if (!settings) {
    std::fprintf(stderr, "qanat-waypoint: %s\n", settings.error().message.c_str());
    return 2;
  }
  settings->environment = EnvironmentEntries();
  log::Init("waypoint", settings->log_json ? log::Format::kJson : log::Format::kText);
  if (const Status status = log::SetLevels(settings->log_levels); !status) {
    LOG_WARN("app", "RUST_LOG: {}; levels stay as they are", status.error().message);
  }
  std::signal(SIGPIPE, SIG_IGN);
  RaiseFileLimit();

  event::EventLoop loop;
  std::unique_ptr<waypoint::App> app;
  event::SignalWatch signals(loop, {SIGTERM, SIGINT}, [&app](int) {
    if (app) app->Drain();
  });
  app = std::make_unique<waypoint::App>(loop, std::move(*settings), [&loop] { loop.Stop(); });
  if (const Status status = app->Start(); !status) {
    LOG_ERROR("app", "cannot start: {}", status.error().message);
    return 1;
  }
  loop.Run();
  app.reset();
  LOG_INFO("app", "ended");
  return 0;
}
