// SPDX-License-Identifier: Apache-2.0
// qanat-agent: flags, log, signals. What it does: agent/README.md; how it is wired: app.cc.
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "agent/app.h"
#include "agent/node_features.h"
#include "agent/sandbox/sandbox.h"
#include "agent/uninstall.h"
#include "common/base/log.h"
#include "common/base/program.h"

namespace {

// Capture does not hang on it: what cannot be read is said, and the agent does without the mesh.
void ReadMesh(qanat::agent::Config& config) {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) entries.emplace_back(*entry);
  auto mesh = qanat::agent::ReadMeshOptions([](const char* name) { return std::getenv(name); },
                                            std::move(entries));
  if (!mesh) {
    LOG_ERROR("mesh", "{}; the agent hears nothing of the mesh", mesh.error().message);
    return;
  }
  config.mesh = std::move(*mesh);
  // Flags come first.
  config.mesh.node.node_name = config.node_name;
  config.mesh.node.pod_namespace = config.ns;
}

constexpr char kNotStarted[] =
    "not started: {}; until it is, nobody is enrolled on this node, new pods of the mesh wait, and "
    "what is enrolled stays as it is";

}  // namespace

int main(int argc, char** argv) {
  using namespace qanat;
  agent::Config config;
  std::string log_format = "text", log_level = "info";
  bool uninstall = false;

  CLI::App flags("Node agent: enrols pods into the mesh and owns their capture.", "qanat-agent");
  flags.set_version_flag("--version", "qanat-agent " QANAT_VERSION);
  flags.add_option("--node-name", config.node_name, "name of this node")->envname("NODE_NAME");
  flags
      .add_option("--pod-source", config.pod_source,
                  "where pods come from: folder:DIR or kubernetes")
      ->required();
  flags.add_option("--status-dir", config.status_dir, "status files, one per pod")->required();
  flags.add_option("--state-dir", config.state_dir,
                   "own state (default: agent-state beside --status-dir)");
  flags.add_option("--zds-socket", config.zds_socket, "seqpacket socket for the proxy")->required();
  flags.add_option(
      "--zds-group", config.proxy.group,
      "id of the group that may connect to it too: that of a proxy that is not root's");
  flags.add_option("--zds-uid", config.proxy.user,
                   "of that group only this user (default: every one)");
  flags.add_option("--zds-cgroup", config.proxy.cgroup,
                   "and only in this cgroup or below it, as in /proc/PID/cgroup (default: in a "
                   "cluster, and with --zds-uid, that of all pods)");
  flags.add_option("--hold-socket", config.hold_socket,
                   "datagram socket (the proxy's NOTIFY_SOCKET): listeners of pods that the proxy "
                   "gives are kept across its death (default: none)");
  flags.add_option("--cni-socket", config.cni_socket, "HTTP socket for CNI ADD (default: none)");
  flags.add_option("--bpf-dir", config.bpf_dir, "pins, on a bpffs; names without dots")
      ->capture_default_str();
  flags.add_option("--cgroup-root", config.cgroup_root,
                   "mount point of cgroup2 (default: from mountinfo)");
  flags.add_option(
      "--pods-cgroup", config.pods_cgroups,
      "cgroup directory below which pods live (repeatable; default: ../pods of our own "
      "cgroup, or the kubelet's)");
  flags.add_option("--kubeconfig", config.kubeconfig,
                   "way to the API server (default: that of a pod)");
  flags.add_option("--namespace", config.ns, "our own namespace")
      ->envname("POD_NAMESPACE")
      ->capture_default_str();
  flags
      .add_option("--exclude-namespace", config.exclude_namespaces,
                  "pods of this namespace are never in the mesh and start without asking us "
                  "(repeatable; in place of the default; our own always is one)")
      ->capture_default_str();
  flags
      .add_option("--daemonset", config.daemonset,
                  "our own DaemonSet: when it is deleted, SIGTERM gives the node back as it was; "
                  "\"\" for never")
      ->capture_default_str();
  flags.add_option("--lib-dir", config.lib_dir, "what the CNI plugin reads while we are away")
      ->capture_default_str();
  flags.add_option("--cni-plugin", config.cni_plugin,
                   "qanat-cni's binary, installed on the node (default: none is)");
  flags.add_option("--cni-conf-dir", config.cni_conf_dir, "the node's CNI configuration")
      ->capture_default_str();
  flags.add_option("--cni-bin-dir", config.cni_bin_dir, "the node's CNI plugins")
      ->capture_default_str();
  flags
      .add_option("--cni-own-list", config.cni_own_list,
                  "our plugin's entry is in a list of our own, which comes first and is kept as "
                  "the network plugin's; false: in the network plugin's own file")
      ->capture_default_str();
  flags.add_option("--probe-service", config.probe_service,
                   "IP:port of a Service, to find out who rewrites connect() (default: "
                   "KUBERNETES_SERVICE_HOST)");
  flags.add_option("--cluster-dns", config.cluster_dns,
                   "address of the cluster's name server, the kubelet's clusterDNS (repeatable; "
                   "default: the proxy's own are)");
  flags.add_option("--cluster-domain", config.cluster_domain, "the cluster's DNS domain")
      ->capture_default_str();
  flags
      .add_option("--resolv-conf", config.resolv_conf,
                  "what pods with dnsPolicy Default get: the kubelet's resolvConf")
      ->capture_default_str();
  flags
      .add_option(
          "--dns-capture", config.dns_capture,
          "DNS of pods goes to the proxy, where it listens for it (pods may say otherwise by "
          "the annotation ambient.istio.io/dns-capture)")
      ->envname("AMBIENT_DNS_CAPTURE")
      ->capture_default_str();
  flags
      .add_option("--same-node", config.same_node,
                  "how connections between pods of this node go that neither pod nor namespace "
                  "say (qanat.io/same-node): direct, by the kernel where policies allow it; proxy, "
                  "through the node proxy; encrypt, through its tunnel too")
      ->envname("QANAT_SAME_NODE")
      ->check(CLI::IsMember({"direct", "proxy", "encrypt"}))
      ->capture_default_str();
  flags
      .add_option("--telemetry", config.telemetry,
                  "each connection of a captured pod's application is recorded by the kernel when "
                  "it closes: qanat_tcp_* metrics, /debug/health, and what is told of direct ones")
      ->envname("QANAT_TELEMETRY")
      ->capture_default_str();
  flags.add_option("--admin", config.admin, "admin HTTP address; \"\" for none")
      ->capture_default_str();
  flags.add_option("--reconcile-ms", config.reconcile_ms, "how often everything is looked at")
      ->check(CLI::Range(20, 600000))
      ->capture_default_str();
  flags
      .add_option("--reprove-ms", config.reprove_ms, "how often each pod's capture is proven again")
      ->check(CLI::Range(100, 3600000))
      ->capture_default_str();
  flags.add_option("--cni-timeout-ms", config.cni_timeout_ms, "how long CNI ADD may wait")
      ->check(CLI::Range(100, 600000))
      ->capture_default_str();
  flags
      .add_option("--drain-ms", config.drain_ms,
                  "how long connections of a pod that leaves the mesh may go on through the proxy")
      ->check(CLI::Range(0, 86400000))
      ->capture_default_str();
  flags.add_option("--log-format", log_format, "text or json")
      ->check(CLI::IsMember({"text", "json"}));
  flags.add_option("--log-level", log_level, "as RUST_LOG: info, or info,zds=debug")
      ->envname("RUST_LOG");
  flags.add_flag("--uninstall,--cleanup", uninstall,
                 "restore plain networking for every pod of this instance, remove all that it left "
                 "on the node (pins, state, sockets, the CNI plugin and its entry), exit");
  flags.add_flag_callback(
      "--features", [] { throw CLI::RuntimeError(agent::PrintFeatures()); },
      "say what this node's kernel has, what serves instead of the rest, and exit: 1 where the "
      "agent would not start");
  CLI11_PARSE(flags, argc, argv);

  log::Init("qanat-agent", log_format == "json" ? log::Format::kJson : log::Format::kText);
  if (Status levels = log::SetLevels(log_level); !levels) {
    std::fprintf(stderr, "qanat-agent: --log-level: %s\n", levels.error().message.c_str());
    return 2;
  }
  if (uninstall) {
    Status done = agent::Uninstall(config);
    if (!done) LOG_ERROR("agent", "{}", done.error().ToString());
    return done ? 0 : 1;
  }
  ReadMesh(config);
  const auto get = [](const char* name) { return std::getenv(name); };
  const Result<bool> confined = agent::sandbox::IsOn(get);
  if (!confined) {
    std::fprintf(stderr, "qanat-agent: %s\n", confined.error().message.c_str());
    return 2;
  }
  // Two links a pod are held open, and a proof of every pod at once takes six sockets each.
  RaiseFileLimit();
  auto features = agent::PrepareProcess(config);
  Status may_start = features ? Status() : tl::unexpected(features.error());
  if (may_start && *confined)
    may_start = agent::sandbox::Enter(config.proxy.group, log::CurrentFormat());
  if (!may_start) {
    LOG_ERROR("agent", kNotStarted, may_start.error().ToString());
    return 1;
  }
  if (*confined)
    LOG_INFO("sandbox", "{}", agent::sandbox::Describe());
  else
    LOG_WARN("sandbox",
             "off (QANAT_SANDBOX): all rights and system calls that it was started with");

  event::EventLoop loop;
  Result<std::unique_ptr<agent::App>> app = Fail(Code::kUnavailable, "not built yet");
  bool leaving = false;
  // Everything stays enforced, for the pins outlive us, unless this is an uninstallation.
  event::SignalWatch signals(loop, {SIGTERM, SIGINT}, [&](int number) {
    LOG_INFO("agent", "signal {}: leaving{}", number, leaving ? " at once" : "");
    if (std::exchange(leaving, true)) return loop.Stop();
    (*app)->Leave([&loop] { loop.Stop(); });
  });
  app = agent::App::Build(loop, config, std::move(*features));
  if (!app) {
    LOG_ERROR("agent", kNotStarted, app.error().ToString());
    return 1;
  }
  loop.Run();
  return 0;
}
