// SPDX-License-Identifier: Apache-2.0
// qanat-ztunnel: flags, signals, limits. Everything else is wired in app.cc.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>

#include "common/base/log.h"
#include "common/base/program.h"
#include "common/event/event_loop.h"
#include "ztunnel/app.h"
#include "ztunnel/config.h"

namespace {

constexpr const char* kUsage =
    "usage: qanat-ztunnel [proxy ztunnel] | --version | --help\n"
    "The L4 proxy of a node: mTLS tunnels and policy for the pods that the node agent hands over.\n"
    "Configured by the environment, with the names of the stock proxy: XDS_ADDRESS, CA_ADDRESS,\n"
    "XDS_ROOT_CA, CA_ROOT_CA, AUTH_TOKEN, INPOD_UDS, NODE_NAME, POD_NAME, POD_NAMESPACE,\n"
    "INSTANCE_IP, CLUSTER_ID, NETWORK, ZTUNNEL_WORKER_THREADS, LOG_FORMAT, RUST_LOG and others.\n"
    "Admin on 127.0.0.1:15000, metrics on :15020/metrics, readiness on :15021/healthz/ready.\n"
    "SIGTERM drains; a second one ends at once.\n";

}  // namespace

int main(int argc, char** argv) {
  using namespace qanat;
  if (const auto code =
          HandleArguments(argc, argv, "qanat-ztunnel", kUsage, {"proxy", "ztunnel"})) {
    return *code;
  }
  auto config = ztunnel::ConfigFromEnvironment([](const char* name) { return std::getenv(name); },
                                               std::thread::hardware_concurrency());
  if (!config) {
    std::fprintf(stderr, "qanat-ztunnel: %s\n", config.error().message.c_str());
    return 2;
  }
  config->environment = EnvironmentEntries();
  log::Init("ztunnel", config->log_json ? log::Format::kJson : log::Format::kText);
  if (const Status status = log::SetLevels(config->log_levels); !status) {
    LOG_WARN("app", "RUST_LOG: {}; levels stay as they are", status.error().message);
  }
  std::signal(SIGPIPE, SIG_IGN);  // splice() into a closed socket raises it
  RaiseFileLimit();

  event::EventLoop loop;
  std::unique_ptr<ztunnel::App> app;
  event::SignalWatch signals(loop, {SIGTERM, SIGINT}, [&app](int) {
    if (app) app->Drain();
  });
  app = std::make_unique<ztunnel::App>(loop, std::move(*config), [&loop] { loop.Stop(); });
  if (const Status status = app->Start(); !status) {
    LOG_ERROR("app", "cannot start: {}", status.error().message);
    return 1;
  }
  loop.Run();
  app.reset();
  LOG_INFO("app", "ended");
  return 0;
}
