// SPDX-License-Identifier: Apache-2.0
// qanat-ztunnel: flags, signals, limits. Everything else is wired in app.cc.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <thread>

#include "common/base/log.h"
#include "common/base/program.h"
#include "common/event/event_loop.h"
#include "ztunnel/app.h"
#include "ztunnel/config.h"
#include "ztunnel/rights.h"
#include "ztunnel/sandbox/sandbox.h"

namespace {

constexpr const char* kUsage =
    "usage: qanat-ztunnel [proxy ztunnel] | --version | --help\n"
    "The L4 proxy of a node: mTLS tunnels and policy for the pods that the node agent hands over.\n"
    "Configured by the environment, with the names of the stock proxy: XDS_ADDRESS, CA_ADDRESS,\n"
    "XDS_ROOT_CA, CA_ROOT_CA, AUTH_TOKEN, INPOD_UDS, NODE_NAME, POD_NAME, POD_NAMESPACE,\n"
    "INSTANCE_IP, CLUSTER_ID, NETWORK, ZTUNNEL_WORKER_THREADS, LOG_FORMAT, RUST_LOG and others;\n"
    "PROXY_CONFIG (YAML) and ./etc/istio/config/mesh below it. Ours (QANAT_*): ztunnel/README.md.\n"
    "QANAT_RUN_AS=UID:GID: the user to become; QANAT_SANDBOX=off: keeps all rights "
    "(ztunnel/sandbox).\n"
    "Admin on 127.0.0.1:15000, metrics on :15020/metrics, readiness on :15021/healthz/ready.\n"
    "SIGTERM drains; a second one ends at once.\n";

qanat::Result<qanat::ztunnel::Config> Load() {
  using namespace qanat;
  ztunnel::ConfigSources sources;
  sources.get = [](const char* name) { return std::getenv(name); };
  sources.entries = EnvironmentEntries();
  sources.cores = std::thread::hardware_concurrency();
  std::ifstream file(ztunnel::kMeshConfigPath, std::ios::binary);
  if (file) {
    std::ostringstream text;
    text << file.rdbuf();
    sources.mesh_config = text.str();
  } else if (errno != ENOENT && errno != ENOTDIR) {
    return Fail(Code::kIo, std::string(ztunnel::kMeshConfigPath) + ": " + std::strerror(errno));
  }
  return ztunnel::LoadConfig(sources);
}

// Of the state and of the socket where the next process meets this one.
std::vector<std::string> WritableFolders(const qanat::ztunnel::Config& config) {
  std::vector<std::string> out;
  if (!config.state_dir.empty()) out.push_back(config.state_dir);
  if (!config.takeover_socket.empty()) {
    out.push_back(std::filesystem::path(config.takeover_socket).parent_path());
  }
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace qanat;
  if (const auto code =
          HandleArguments(argc, argv, "qanat-ztunnel", kUsage, {"proxy", "ztunnel"})) {
    return *code;
  }
  auto config = Load();
  if (!config) {
    std::fprintf(stderr, "qanat-ztunnel: %s\n", config.error().message.c_str());
    return 2;
  }
  auto sandbox = ztunnel::sandbox::ReadOptions([](const char* name) { return std::getenv(name); });
  if (!sandbox) {
    std::fprintf(stderr, "qanat-ztunnel: %s\n", sandbox.error().message.c_str());
    return 2;
  }
  log::Init("ztunnel", config->log_json ? log::Format::kJson : log::Format::kText);
  if (const Status status = log::SetLevels(config->log_levels); !status) {
    LOG_WARN("app", "RUST_LOG: {}; levels stay as they are", status.error().message);
  }
  for (const std::string& warning : config->warnings) LOG_WARN("config", "{}", warning);
  sandbox->folders = WritableFolders(*config);
  std::signal(SIGPIPE, SIG_IGN);  // splice() into a closed socket raises it
  RaiseFileLimit();
  if (const Status status = ztunnel::sandbox::Start(*sandbox, log::CurrentFormat()); !status) {
    LOG_ERROR("sandbox", "cannot start: {}", status.error().message);
    return 1;
  }

  if (const Status status = ztunnel::CheckRights(*config); !status) {
    LOG_ERROR("app", "cannot start: {}", status.error().message);
    return 1;
  }

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
