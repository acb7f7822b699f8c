// SPDX-License-Identifier: Apache-2.0
#include "agent/app.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "agent/admin_routes.h"
#include "agent/cluster/cluster.h"
#include "agent/cluster/process.h"
#include "agent/cni/cni.h"
#include "agent/detect/other_meshes.h"
#include "agent/enrol/enroller.h"
#include "agent/hold/listener_hold.h"
#include "agent/pods/dns_files.h"
#include "agent/pods/folder_source.h"
#include "agent/pods/pod_cgroup.h"
#include "agent/redirect/hooks.h"
#include "agent/redirect/pod_network.h"
#include "agent/zds/server.h"
#include "bpf/user/features.h"
#include "bpf/user/mounts.h"
#include "common/admin/server.h"
#include "common/base/log.h"
#include "common/metrics/registry.h"
#include "common/takeover/supervisor.h"

namespace qanat::agent {
namespace {

std::string StateDir(const Config& config) {
  if (!config.state_dir.empty()) return config.state_dir;
  return (std::filesystem::path(config.status_dir).parent_path() / "agent-state").string();
}

Result<std::string> CgroupRoot(const Config& config) {
  if (!config.cgroup_root.empty()) return config.cgroup_root;
  return bpf::FindCgroup2();
}

// Where pods live: given, or beside us (the local mode's NODE/agent and NODE/pods), or where the
// kubelet put us, or puts pods. Pods of the node's network live there too: they are no probes.
std::vector<std::string> PodRoots(const Config& config, const std::string& cgroup_root) {
  if (!config.pods_cgroups.empty()) return config.pods_cgroups;
  auto own = bpf::CgroupOfProcess(static_cast<int>(::getpid()));
  if (own && own->size() > 6 && own->substr(own->size() - 6) == "/agent")
    return {cgroup_root + own->substr(0, own->size() - 6) + "/pods"};
  if (own)
    if (const std::string kubepods = KubepodsOfCgroupPath(*own); !kubepods.empty())
      return {cgroup_root + kubepods};
  std::vector<std::string> roots;
  for (const char* name : {"/kubepods.slice", "/kubepods", "/kubelet/kubepods",
                           "/kubelet.slice/kubelet-kubepods.slice"})
    if (::access((cgroup_root + name).c_str(), F_OK) == 0) roots.push_back(cgroup_root + name);
  return roots;
}

bool InCluster(const Config& config) { return config.pod_source == "kubernetes"; }

Result<std::unique_ptr<PodSource>> MakeFolderSource(event::EventLoop& loop,
                                                    const std::string& spec) {
  constexpr std::string_view kFolder = "folder:";
  if (spec.rfind(kFolder, 0) == 0 && spec.size() > kFolder.size())
    return std::make_unique<FolderSource>(loop, spec.substr(kFolder.size()));
  return Fail(Code::kInvalidArgument,
              "--pod-source " + spec + ": expected folder:DIR or kubernetes");
}

Result<std::unique_ptr<Cluster>> MakeCluster(event::EventLoop& loop, const Config& config) {
  ClusterOptions options;
  options.kubeconfig = config.kubeconfig;
  options.node_name = config.node_name;
  options.ns = config.ns;
  options.daemonset = config.daemonset;
  options.lib_dir = config.lib_dir;
  options.run_dir = std::filesystem::path(config.cni_socket).parent_path().string();
  options.zds_socket = config.zds_socket;
  options.cni_socket = config.cni_socket;
  options.hold_socket = config.hold_socket;
  options.status_dir = config.status_dir;
  options.state_dir = StateDir(config);
  options.excluded_namespaces = {"kube-system", config.ns};
  if (!config.cni_plugin.empty()) {
    options.install.conf_dir = config.cni_conf_dir;
    options.install.bin_dir = config.cni_bin_dir;
    options.install.plugin = config.cni_plugin;
    options.install.settings.agent_socket = config.cni_socket;
    options.install.settings.kubeconfig = config.lib_dir + "/cni-kubeconfig";
    options.install.settings.cache = config.lib_dir + "/pods-cache";
    options.install.settings.log_file = options.run_dir + "/cni.log";
    options.install.settings.exclude_namespaces = options.excluded_namespaces;
  }
  return Cluster::Create(loop, std::move(options));
}

// The address of a Service, to find out whether connect() to one is rewritten in pods.
Result<net::SocketAddress> ProbeService(const Config& config) {
  if (!config.probe_service.empty()) return net::SocketAddress::Parse(config.probe_service);
  const char* host = std::getenv("KUBERNETES_SERVICE_HOST");
  const char* port = std::getenv("KUBERNETES_SERVICE_PORT");
  if (!host || !port) return net::SocketAddress();
  QANAT_ASSIGN_OR_RETURN(const net::IpAddress ip, net::IpAddress::Parse(host));
  return net::SocketAddress(ip, static_cast<uint16_t>(std::strtoul(port, nullptr, 10)));
}

std::string DnsDir(const Config& config) {
  return (std::filesystem::path(config.zds_socket).parent_path() / "dns").string();
}

// Hands the source's words on to the enroller and tells when it is synced. What the proxy reads
// about a pod is there before the pod is handed to it, and as long as it may look.
class Gate final : public PodListener {
 public:
  Gate(Enroller& enroller, const Config& config, std::function<void()> on_synced)
      : enroller_(enroller),
        dns_({DnsDir(config), config.cluster_dns, config.cluster_domain, config.resolv_conf}),
        on_synced_(std::move(on_synced)) {}
  void OnPod(const Pod& pod) override {
    const bool in_mesh = DecideMembership(pod).in_mesh;
    if (in_mesh) dns_.Put(pod);
    enroller_.OnPod(pod);
    if (!in_mesh) dns_.Remove(pod.uid);
  }
  void OnPodGone(const std::string& uid) override {
    enroller_.OnPodGone(uid);
    dns_.Remove(uid);
  }
  void OnSynced() override {
    enroller_.OnSynced();
    dns_.OnSynced();
    on_synced_();
  }

 private:
  Enroller& enroller_;
  DnsFiles dns_;
  std::function<void()> on_synced_;
};

// An API server that is away: what is enrolled is known from our own state, and proxies wait.
constexpr auto kSyncAtMost = std::chrono::seconds(5);

}  // namespace

// Declared in the order of construction; destroyed in the opposite one.
struct App::Parts {
  Config config;
  std::vector<bpf::Feature> features;
  std::unique_ptr<Hooks> hooks;
  std::unique_ptr<Enroller> enroller;
  std::unique_ptr<zds::Server> zds;
  std::unique_ptr<ListenerHold> hold;
  std::unique_ptr<Gate> gate;
  std::unique_ptr<Cluster> cluster;   // kubernetes
  std::unique_ptr<PodSource> folder;  // folder:DIR
  PodSource* source = nullptr;        // one of the two
  std::unique_ptr<event::Timer> sync_limit;
  metrics::Registry registry;
  std::unique_ptr<admin::Server> cni;
  std::unique_ptr<admin::Server> admin;
};

// After the pods of an earlier agent are known.
Status App::StartHold(event::EventLoop& loop, Parts& p) {
  if (p.config.hold_socket.empty()) return {};
  HoldOptions options;
  options.group = p.config.zds_group;
  if (const char* above = std::getenv("NOTIFY_SOCKET")) options.notify_socket = above;
  p.hold = std::make_unique<ListenerHold>(
      loop,
      HoldWorld{[&p](const std::string& uid) { return p.enroller->CookieOf(uid); },
                [&p] { return p.zds->Pids(); }},
      options);
  p.hold->Adopt(takeover::ReadPassedFds([](const char* name) { return std::getenv(name); }));
  p.enroller->SetOnReleased([&p](const std::string& uid) { p.hold->Forget(uid); });
  return p.hold->Listen(p.config.hold_socket);
}

App::App(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
App::~App() = default;

Result<std::unique_ptr<App>> App::Build(event::EventLoop& loop, const Config& config) {
  auto parts = std::make_unique<Parts>();
  Parts& p = *parts;
  p.config = config;

  if (InCluster(config)) {
    QANAT_RETURN_IF_ERROR(EnterNodesCgroupNamespace());
    QANAT_RETURN_IF_ERROR(MakeProcSysWritable());
    QANAT_RETURN_IF_ERROR(CheckNetworkRights());
    if (config.bpf_dir.rfind("/sys/fs/bpf/", 0) == 0) QANAT_RETURN_IF_ERROR(CheckBpfFs());
  }
  p.features = bpf::ProbeFeatures();
  QANAT_RETURN_IF_ERROR(bpf::CheckRequired(p.features, bpf::KernelRelease()));
  bool guard = false;
  for (const auto& feature : p.features) {
    if (feature.name == "tcx") guard = feature.present;
    if (!feature.present) LOG_WARN("agent", "this kernel lacks {}: {}", feature.name, feature.why);
  }
  QANAT_ASSIGN_OR_RETURN(const std::string cgroup_root, CgroupRoot(config));
  QANAT_ASSIGN_OR_RETURN(p.hooks, Hooks::Open(config.bpf_dir, cgroup_root, guard));

  EnrollerOptions options;
  options.status_dir = config.status_dir;
  options.state_dir = StateDir(config);
  options.cgroup_root = cgroup_root;
  options.pod_roots = PodRoots(config, cgroup_root);
  options.dns_capture = config.dns_capture;
  options.reconcile_every = std::chrono::milliseconds(config.reconcile_ms);
  options.reprove_every = std::chrono::milliseconds(config.reprove_ms);
  options.cni_timeout = std::chrono::milliseconds(config.cni_timeout_ms);
  if (options.pod_roots.empty())
    LOG_WARN("agent",
             "no cgroup of pods is known: the node's own probes are not told from pods' "
             "connections and get no grants (--pods-cgroup)");
  if (InCluster(config)) {
    NodeFacts node{cgroup_root, options.pod_roots, {}};
    QANAT_ASSIGN_OR_RETURN(node.service, ProbeService(config));
    options.check_pod = [node](const netns::NetNs& ns) { return CheckPod(ns, node); };
  }
  QANAT_ASSIGN_OR_RETURN(p.enroller, Enroller::Create(loop, *p.hooks, std::move(options)));
  QANAT_RETURN_IF_ERROR(p.enroller->Adopt());

  // Every pod must be known before the first proxy gets its snapshot: it drops what is not in it.
  p.zds = std::make_unique<zds::Server>(loop, p.enroller.get());
  p.enroller->SetZds(p.zds.get());
  // First: a proxy that has connected gives its listeners and asks for those of one before it.
  QANAT_RETURN_IF_ERROR(StartHold(loop, p));
  QANAT_RETURN_IF_ERROR(p.zds->Listen(config.zds_socket, config.zds_group));
  p.gate = std::make_unique<Gate>(*p.enroller, config, [&p] {
    p.sync_limit->Stop();
    p.zds->StartAccepting();
  });
  p.sync_limit = std::make_unique<event::Timer>(loop, [&p] {
    LOG_WARN("agent", "the source of pods does not answer: going on with what was enrolled before");
    p.zds->StartAccepting();
  });
  if (InCluster(config)) {
    QANAT_ASSIGN_OR_RETURN(p.cluster, MakeCluster(loop, config));
    p.cluster->Observe(*p.enroller);
    p.source = &p.cluster->source();
  } else {
    QANAT_ASSIGN_OR_RETURN(p.folder, MakeFolderSource(loop, config.pod_source));
    p.source = p.folder.get();
  }
  p.sync_limit->Start(kSyncAtMost);
  QANAT_RETURN_IF_ERROR(p.source->Start(p.gate.get()));
  p.enroller->Start();

  if (!config.cni_socket.empty()) {
    p.cni = std::make_unique<admin::Server>(loop);
    cni::AddRoutes(*p.cni, *p.enroller, [&p](const cni::AddRequest& request) {
      if (!p.cluster) return;
      CniPod pod{request.pod_namespace, request.pod_name, request.pod_uid, request.netns, {}};
      for (const std::string& text : request.ips)
        if (auto ip = net::IpAddress::Parse(text)) pod.ips.push_back(*ip);
      p.cluster->OnCniAdd(pod);
    });
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(config.cni_socket).parent_path(),
                                        ignored);
    ::unlink(config.cni_socket.c_str());
    QANAT_RETURN_IF_ERROR(p.cni->ListenUnix(config.cni_socket));
    if (p.cluster) QANAT_RETURN_IF_ERROR(p.cluster->InstallPlugin());
  }
  if (!config.admin.empty()) {
    const Shown shown{p.hooks.get(), p.enroller.get(), p.zds.get(),
                      p.source,      p.cluster.get(),  p.hold.get()};
    p.registry.AddProcessMetrics();
    AddMetrics(p.registry, shown);
    p.admin = std::make_unique<admin::Server>(loop);
    p.admin->AddMetricsRoutes(p.registry);
    AddAdminRoutes(*p.admin, config.node_name, p.features, shown);
    net::ListenOptions listen;
    QANAT_ASSIGN_OR_RETURN(listen.address, net::SocketAddress::Parse(config.admin));
    auto bound = p.admin->Listen(listen);
    if (!bound) return Fail(bound.error().Annotate("--admin " + config.admin));
  }
  LOG_INFO("agent", "node {} ready: pins in {}, cgroup2 at {}", config.node_name, config.bpf_dir,
           cgroup_root);
  return std::unique_ptr<App>(new App(std::move(parts)));
}

void App::Leave(std::function<void()> done) {
  Parts& p = *parts_;
  if (!p.cluster) return done();
  p.cluster->Leave(*p.enroller, [this, done = std::move(done)](bool released) {
    if (released) {
      if (Status clean = Cleanup(parts_->config); !clean)
        LOG_ERROR("agent", "{}", clean.error().message);
      parts_->cluster->RemoveTraces();
      // The folder above ours, when nobody else has pins in it.
      ::rmdir(std::filesystem::path(parts_->config.bpf_dir).parent_path().c_str());
    }
    done();
  });
}

Status Cleanup(const Config& config) {
  StateStore store(StateDir(config));
  QANAT_ASSIGN_OR_RETURN(auto saved_pods, store.Load());
  auto maps = bpf::NodeMaps::Open(config.bpf_dir + "/maps");
  for (const SavedPod& saved : saved_pods) {
    if (maps) (void)maps->pod_state.Update(saved.id, qanat_pod_state{});
    // A namespace that is gone needs nothing; another one at that path is not ours to touch.
    auto ns = netns::NetNs::Open(saved.pod.netns);
    if (ns) {
      auto cookie = ns->Cookie();
      if (cookie && *cookie == saved.cookie)
        if (Status restored = RestorePodNetwork(*ns, saved.sysctls); !restored)
          LOG_WARN("agent", "{}: {}", saved.pod.FullName(), restored.error().message);
    }
    store.Remove(saved.pod.uid);
    ::unlink((config.status_dir + "/" + saved.pod.uid + ".json").c_str());
  }
  std::error_code ignored;
  if (!config.zds_socket.empty()) std::filesystem::remove_all(DnsDir(config), ignored);
  QANAT_RETURN_IF_ERROR(Hooks::RemovePins(config.bpf_dir));
  LOG_INFO("agent", "cleaned up: {} pods, pins below {}", saved_pods.size(), config.bpf_dir);
  return {};
}

}  // namespace qanat::agent
