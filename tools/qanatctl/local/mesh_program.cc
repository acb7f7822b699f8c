// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/mesh_program.h"

#include <fmt/format.h>

#include <cstdlib>

#include "common/base/log.h"
#include "tools/qanatctl/local/ipam.h"

namespace qanat::local {
namespace {

constexpr std::chrono::milliseconds kCheckSoon{50};
constexpr std::chrono::milliseconds kCheckLater{2000};
constexpr char kSystemNamespace[] = "qanat-system";

net::SocketAddress Loopback(uint16_t port) {
  return net::SocketAddress(net::IpAddress::V4(0x7f000001), port);
}

std::vector<std::string> BaseEnv() {
  std::vector<std::string> env = {
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"};
  for (const char* name :
       {"RUST_LOG", "LOG_FORMAT", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "TSAN_OPTIONS",
        "SECRET_TTL", "ZTUNNEL_WORKER_THREADS", "QANAT_MAX_CONNECTIONS_PER_POD",
        "QANAT_HALF_CLOSED_TIMEOUT", "QANAT_IDLE_TUNNEL_TIMEOUT", "QANAT_MAX_STALE",
        "QANAT_MEMORY_BUDGET", "QANAT_MAX_MEMORY_PER_POD", "POOL_UNUSED_RELEASE_TIMEOUT",
        "POOL_MAX_STREAMS_PER_CONNECTION", "QANAT_TELEMETRY", "QANAT_SAME_NODE"}) {
    if (const char* value = getenv(name)) env.push_back(fmt::format("{}={}", name, value));
  }
  return env;
}

ProgramConfig Base(const ProgramPaths& paths, const std::string& name, const std::string& node,
                   const std::string& cgroup) {
  ProgramConfig out;
  out.name = name;
  out.node = node;
  out.spec.env = BaseEnv();
  out.spec.netns =
      Names::NetnsPath(node.empty() ? paths.names.FabricNetns() : paths.names.NodeNetns(node));
  out.spec.cgroup =
      fmt::format("{}/{}/{}", paths.cgroup_root, node.empty() ? "fabric" : node, cgroup);
  out.spec.log = fmt::format("{}/{}.log", paths.names.LogsDir(), name);
  return out;
}

std::string Cgroup2Of(const std::string& cgroup_root) {
  return cgroup_root.substr(0, cgroup_root.rfind('/'));
}

std::string ControlPlaneAddress() {
  return fmt::format("https://{}:15012", UnderlayV4(kFabricHost).ToString());
}

// How a node's program hears of the mesh, and as which pod.
void AddMeshSettings(const ProgramPaths& paths, const NodePlan& node, const std::string& program,
                     std::vector<std::string>& env) {
  const Names& names = paths.names;
  for (const std::string& setting :
       {"XDS_ADDRESS=" + ControlPlaneAddress(), "XDS_ROOT_CA=" + names.CaDir() + "/root-cert.pem",
        fmt::format("AUTH_TOKEN={}/{}-token", names.NodeDir(node.name), program),
        "NODE_NAME=" + node.name, fmt::format("POD_NAME={}-{}", program, node.name),
        std::string("POD_NAMESPACE=") + kSystemNamespace,
        "INSTANCE_IP=" + UnderlayV4(node.index).ToString(), std::string("CLUSTER_ID=Kubernetes"),
        std::string("NETWORK=")}) {
    env.push_back(setting);
  }
}

}  // namespace

ProgramConfig ControlPlaneConfig(const ProgramPaths& paths) {
  const Names& names = paths.names;
  ProgramConfig out = Base(paths, "controlplane", "", "controlplane");
  out.spec.argv = {paths.bin_dir + "/qanat-controlplane",
                   "--source",
                   "folder:" + paths.folder,
                   "--overlay",
                   names.OverlayDir(),
                   "--ca-dir",
                   names.CaDir(),
                   "--token-jwks",
                   names.TokensDir() + "/jwks.json",
                   "--trust-domain",
                   "cluster.local",
                   "--listen",
                   "[::]:15012",
                   "--http",
                   "[::]:8080",
                   "--metrics",
                   "[::]:15014",
                   "--san",
                   UnderlayV4(kFabricHost).ToString(),
                   "--san",
                   UnderlayV6(kFabricHost).ToString()};
  out.check = ReadyCheck{Loopback(8080), "/ready"};
  return out;
}

ProgramConfig AgentConfig(const ProgramPaths& paths, const NodePlan& node) {
  const Names& names = paths.names;
  ProgramConfig out = Base(paths, "agent-" + node.name, node.name, "agent");
  out.spec.argv = {paths.bin_dir + "/qanat-agent",
                   "--node-name",
                   node.name,
                   "--pod-source",
                   "folder:" + names.NodePods(node.name),
                   "--status-dir",
                   names.NodeStatus(node.name),
                   "--zds-socket",
                   names.ZdsSocket(node.name),
                   "--cni-socket",
                   names.CniSocket(node.name),
                   "--hold-socket",
                   names.HoldSocket(node.name),
                   "--bpf-dir",
                   names.BpfDir(node.name),
                   "--cgroup-root",
                   Cgroup2Of(paths.cgroup_root),
                   "--cluster-dns",
                   DnsV4().ToString(),
                   "--resolv-conf",
                   names.NodeDir(node.name) + "/resolv.conf",
                   "--admin",
                   "127.0.0.1:15030"};
  out.check = ReadyCheck{Loopback(15030), "/healthz/ready"};
  out.hold_socket = names.AgentHoldSocket(node.name);
  out.spec.env.push_back("NOTIFY_SOCKET=" + out.hold_socket);
  AddMeshSettings(paths, node, "agent", out.spec.env);
  return out;
}

ProgramConfig ZtunnelConfig(const ProgramPaths& paths, const NodePlan& node) {
  const Names& names = paths.names;
  ProgramConfig out = Base(paths, "ztunnel-" + node.name, node.name, "ztunnel");
  out.spec.argv = {paths.bin_dir + "/qanat-ztunnel"};
  AddMeshSettings(paths, node, "ztunnel", out.spec.env);
  for (const std::string& setting :
       {"CA_ADDRESS=" + ControlPlaneAddress(), "CA_ROOT_CA=" + names.CaDir() + "/root-cert.pem",
        "INPOD_UDS=" + names.ZdsSocket(node.name),
        // No SERVICE_ACCOUNT: the proxy is no pod here, so nobody may call it as one.
        std::string("TRUST_DOMAIN=cluster.local"), "NOTIFY_SOCKET=" + names.HoldSocket(node.name),
        "QANAT_STATE_DIR=" + names.ZtunnelState(node.name),
        "QANAT_TAKEOVER_SOCKET=" + names.ZtunnelState(node.name) + "/takeover.sock"}) {
    out.spec.env.push_back(setting);
  }
  out.check = ReadyCheck{Loopback(15021), "/healthz/ready"};
  return out;
}

ProgramConfig DnsConfig(const ProgramPaths& paths, const NodePlan& node) {
  ProgramConfig out = Base(paths, "dns-" + node.name, node.name, "dns");
  out.spec.argv = {"dnsmasq", "--keep-in-foreground",
                   "--conf-file=" + paths.names.NodeDir(node.name) + "/dnsmasq.conf",
                   "--pid-file="};
  return out;
}

MeshProgram::MeshProgram(event::EventLoop& loop, ProgramConfig config, netns::NetNs netns,
                         std::function<void()> on_change)
    : loop_(loop),
      config_(std::move(config)),
      netns_(std::move(netns)),
      on_change_(std::move(on_change)),
      program_(
          loop, config_.name, Backoff{},
          [this]() -> Result<SpawnSpec> {
            SpawnSpec spec = config_.spec;
            if (holder_) spec.passed = holder_->Kept();
            return spec;
          },
          [this] { OnChange(); }),
      timer_(loop, [this] { Check(); }) {}

void MeshProgram::Start() {
  if (!config_.hold_socket.empty() && !holder_) {
    holder_ = std::make_unique<takeover::Holder>(
        loop_, takeover::HolderOptions{.may = [this](const ucred& who) { return MayHold(who); },
                                       .fits = {},
                                       .on_kept = {},
                                       .on_forgotten = {}});
    if (const Status listens = holder_->Listen(config_.hold_socket); !listens) {
      LOG_WARN("program", "{}: nothing is kept across its death: {}", config_.name,
               listens.error().message);
      holder_.reset();
    }
  }
  program_.Start();
}

Status MeshProgram::MayHold(const ucred& who) const {
  if (who.pid == program_.pid()) return {};
  return Fail(Code::kPermissionDenied, fmt::format("process {} is not {}", who.pid, config_.name));
}

void MeshProgram::OnChange() {
  const pid_t pid = program_.pid();
  if (pid != checked_pid_) {
    checked_pid_ = pid;
    call_.reset();
    ready_ = false;
    if (pid == 0) {
      timer_.Stop();
      why_ = program_.last_end().empty() ? "not started" : program_.last_end();
    } else if (config_.check) {
      why_ = "starting";
      timer_.Start(kCheckSoon);
    } else {
      ready_ = true;
    }
  } else if (pid == 0) {
    why_ = program_.last_end();
  }
  on_change_();
}

void MeshProgram::Check() {
  ctl::HttpTarget target;
  target.address = config_.check->address;
  target.netns = &netns_;
  ctl::HttpRequest request;
  request.path = config_.check->path;
  call_ = std::make_unique<ctl::HttpCall>(
      loop_, target, request, std::chrono::seconds(2), [this](Result<ctl::HttpResponse> answer) {
        if (!answer) return Set(false, answer.error().message);
        std::string text = answer->body.substr(0, 200);
        while (!text.empty() && text.back() == '\n') text.pop_back();
        Set(answer->status == 200, fmt::format("HTTP {} {}", answer->status, text));
      });
}

void MeshProgram::Set(bool ready, std::string why) {
  timer_.Start(ready ? kCheckLater : kCheckSoon);
  const bool changed = ready != ready_ || (!ready && why != why_);
  ready_ = ready;
  why_ = ready ? "" : std::move(why);
  if (changed) on_change_();
}

}  // namespace qanat::local
