// SPDX-License-Identifier: Apache-2.0
#include "agent/app.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "agent/admin_routes.h"
#include "agent/cluster/cluster.h"
#include "agent/cluster/process.h"
#include "agent/cni/cni.h"
#include "agent/detect/other_meshes.h"
#include "agent/direct/pages.h"
#include "agent/direct/service.h"
#include "agent/enrol/enroller.h"
#include "agent/files/kept_sockets.h"
#include "agent/gate.h"
#include "agent/hold/listener_hold.h"
#include "agent/mesh/mesh_client.h"
#include "agent/mesh/mesh_pages.h"
#include "agent/mesh/snapshot_holder.h"
#include "agent/pods/pod_cgroup.h"
#include "agent/redirect/hooks.h"
#include "agent/redirect/pod_network.h"
#include "agent/settings.h"
#include "agent/telemetry/telemetry.h"
#include "agent/zds/server.h"
#include "bpf/user/features.h"
#include "bpf/user/mounts.h"
#include "common/admin/server.h"
#include "common/base/log.h"
#include "common/metrics/registry.h"
#include "common/takeover/supervisor.h"

namespace qanat::agent {
namespace {

// An API server that is away: what is enrolled is known from our own state, and proxies wait.
constexpr auto kSyncAtMost = std::chrono::seconds(5);
// The direct path follows the control plane this closely.
constexpr auto kFresh = std::chrono::seconds(5);

std::string StalenessOf(const MeshClient* client) {
  if (client == nullptr) return "the mesh is not known yet";
  const auto age = client->age();
  if (!age) return "the control plane is away, or has not told all since it came back";
  if (*age <= kFresh) return {};
  return "the control plane has not answered for " +
         std::to_string(std::chrono::duration_cast<std::chrono::seconds>(*age).count()) + " s";
}

}  // namespace

// Declared in the order of construction; destroyed in the opposite one.
struct App::Parts {
  Config config;
  std::vector<bpf::Feature> features;
  std::unique_ptr<Hooks> hooks;
  std::unique_ptr<Enroller> enroller;
  std::unique_ptr<direct::Service> direct;  // none: XDS_ADDRESS is empty
  std::unique_ptr<KeptSockets> sockets;     // of what follows
  std::unique_ptr<zds::Server> zds;
  std::unique_ptr<ListenerHold> hold;
  std::unique_ptr<Gate> gate;
  std::unique_ptr<Cluster> cluster;   // kubernetes
  std::unique_ptr<PodSource> folder;  // folder:DIR
  PodSource* source = nullptr;        // one of the two
  std::unique_ptr<event::Timer> sync_limit;
  metrics::Registry registry;
  SnapshotHolder mesh;
  std::unique_ptr<telemetry::Telemetry> telemetry;  // none: --telemetry=false
  std::unique_ptr<MeshClient> mesh_client;          // none: XDS_ADDRESS is empty
  std::unique_ptr<admin::Server> cni;
  std::unique_ptr<admin::Server> admin;
};

// Before the pods of an earlier agent are taken over: what they have of connections is judged.
Status App::StartDirect(event::EventLoop& loop, Parts& p) {
  if (!p.config.mesh.enabled()) return {};
  const xds::NodeProxy& node = p.config.mesh.node;
  direct::World world{[&p](uint32_t serial, uint32_t flags, uint32_t floor) {
                        return p.enroller->SetDirect(serial, flags, floor);
                      },
                      [&p](uint32_t serial) { return p.enroller->NamespaceOf(serial); },
                      [&p] { return StalenessOf(p.mesh_client.get()); }};
  QANAT_ASSIGN_OR_RETURN(p.direct,
                         direct::Service::Open(loop, p.hooks->maps(), p.hooks->maps_dir(),
                                               {node.network, node.cluster_id}, std::move(world)));
  direct::Enforcer& enforcer = p.direct->enforcer();
  p.enroller->SetDirectPath(
      {[&enforcer](uint32_t serial, uint32_t id, uint64_t cookie, direct::Member member) {
         enforcer.PutPod(serial, id, cookie, std::move(member));
       },
       [&enforcer](uint32_t serial) { enforcer.RemovePod(serial); }});
  p.mesh.Listen(
      [&enforcer](const state::SnapshotPtr& snapshot) { enforcer.SetSnapshot(snapshot); });
  p.direct->Start();
  return {};
}

Status App::StartTelemetry(event::EventLoop& loop, Parts& p) {
  if (!p.config.telemetry) return {};
  telemetry::World world;
  world.pod = [&p](uint32_t serial) { return p.enroller->PodOf(serial); };
  world.snapshot = [&p] { return p.mesh.snapshot(); };
  world.network = p.config.mesh.node.network;
  world.lost = [&p] { return telemetry::RecordsLost(p.hooks->maps()); };
  world.flows = [&p] { return telemetry::LiveFlows(p.hooks->maps()); };
  world.sockets = [&p](uint32_t serial) { return p.enroller->SocketsOf(serial); };
  QANAT_ASSIGN_OR_RETURN(p.telemetry, telemetry::Telemetry::Open(loop, p.hooks->maps_dir(),
                                                                 std::move(world), p.registry));
  p.telemetry->Start();
  return {};
}

// After the pods of an earlier agent are known.
Status App::StartHold(event::EventLoop& loop, Parts& p) {
  if (p.config.hold_socket.empty()) return {};
  HoldOptions options;
  options.user = p.config.proxy;
  if (const char* above = std::getenv("NOTIFY_SOCKET")) options.notify_socket = above;
  p.hold = std::make_unique<ListenerHold>(
      loop,
      HoldWorld{[&p](const std::string& uid) { return p.enroller->CookieOf(uid); },
                [&p] { return p.zds->Pids(); }},
      options);
  p.hold->Adopt(takeover::ReadPassedFds([](const char* name) { return std::getenv(name); }));
  p.enroller->SetOnReleased([&p](const std::string& uid) { p.hold->Forget(uid); });
  return p.sockets->Keep(p.config.hold_socket,
                         [&p] { return p.hold->Listen(p.config.hold_socket); });
}

Result<std::vector<bpf::Feature>> PrepareProcess(const Config& config) {
  if (InCluster(config)) {
    QANAT_RETURN_IF_ERROR(EnterNodesCgroupNamespace());
    QANAT_RETURN_IF_ERROR(MakeProcSysWritable());
    QANAT_RETURN_IF_ERROR(CheckNetworkRights());
    if (config.bpf_dir.rfind("/sys/fs/bpf/", 0) == 0) QANAT_RETURN_IF_ERROR(CheckBpfFs());
  } else {
    QANAT_RETURN_IF_ERROR(bpf::EnsureBpfDir(config.bpf_dir));  // mounts one if there is none
  }
  std::vector<bpf::Feature> features = bpf::ProbeFeatures();
  QANAT_RETURN_IF_ERROR(bpf::CheckRequired(features, bpf::KernelRelease()));
  return features;
}

App::App(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
App::~App() = default;

Result<std::unique_ptr<App>> App::Build(event::EventLoop& loop, const Config& config,
                                        std::vector<bpf::Feature> features) {
  auto parts = std::make_unique<Parts>();
  Parts& p = *parts;
  p.config = config;

  p.features = std::move(features);
  const Guard guard = bpf::Has(p.features, "tcx")      ? Guard::kTcx
                      : bpf::Has(p.features, "clsact") ? Guard::kClsact
                                                       : Guard::kNone;
  for (const auto& feature : p.features)
    if (!feature.present)
      LOG_INFO("agent", "this kernel lacks {}, which {}; instead: {}", feature.name, feature.why,
               feature.instead);
  if (guard == Guard::kNone)
    LOG_WARN("agent", "this kernel has neither tcx nor clsact: pods get no second guard");
  QANAT_ASSIGN_OR_RETURN(const std::string cgroup_root, CgroupRoot(config));
  QANAT_ASSIGN_OR_RETURN(p.hooks,
                         Hooks::Open(config.bpf_dir, cgroup_root, guard, config.telemetry));

  EnrollerOptions options;
  options.status_dir = config.status_dir;
  options.state_dir = StateDir(config);
  options.cgroup_root = cgroup_root;
  options.pod_roots = PodRoots(config, cgroup_root);
  options.dns_capture = config.dns_capture;
  options.same_node = direct::ParseWish(config.same_node);
  options.reconcile_every = std::chrono::milliseconds(config.reconcile_ms);
  options.reprove_every = std::chrono::milliseconds(config.reprove_ms);
  options.cni_timeout = std::chrono::milliseconds(config.cni_timeout_ms);
  options.drain_at_most = std::chrono::milliseconds(config.drain_ms);
  if (options.pod_roots.empty())
    LOG_WARN("agent",
             "no cgroup of pods is known: the node's own probes are not told from pods' "
             "connections and get no grants (--pods-cgroup)");
  if (InCluster(config) || !config.probe_service.empty()) {
    NodeFacts node{cgroup_root, options.pod_roots, {}};
    QANAT_ASSIGN_OR_RETURN(node.service, ProbeService(config));
    options.check_pod = [node](const netns::NetNs& ns) { return CheckPod(ns, node); };
    options.connect_programs = [node] { return ForeignProgramIds(node); };
  }
  QANAT_ASSIGN_OR_RETURN(p.enroller, Enroller::Create(loop, *p.hooks, std::move(options)));
  QANAT_RETURN_IF_ERROR(StartDirect(loop, p));
  QANAT_RETURN_IF_ERROR(p.enroller->Adopt());

  // Every pod must be known before the first proxy gets its snapshot: it drops what is not in it.
  p.sockets = std::make_unique<KeptSockets>(loop);
  p.zds = std::make_unique<zds::Server>(loop, p.enroller.get());
  p.enroller->SetZds(p.zds.get());
  if (p.config.proxy.user && p.config.proxy.cgroup.empty() && InCluster(config)) {
    auto own = bpf::CgroupOfProcess(static_cast<int>(::getpid()));
    if (own) p.config.proxy.cgroup = KubepodsOfCgroupPath(*own);
  }
  if (Status closed = zds::CloseSocketFolder(
          std::filesystem::path(config.zds_socket).parent_path().string(), config.proxy.group);
      !closed)
    LOG_WARN("zds", "{}", closed.error().message);
  // First: a proxy that has connected gives its listeners and asks for those of one before it.
  QANAT_RETURN_IF_ERROR(StartHold(loop, p));
  QANAT_RETURN_IF_ERROR(p.sockets->Keep(
      config.zds_socket, [&p] { return p.zds->Listen(p.config.zds_socket, p.config.proxy); }));
  p.gate = std::make_unique<Gate>(*p.enroller,
                                  DnsFilesOptions{DnsDir(config), config.cluster_dns,
                                                  config.cluster_domain, config.resolv_conf},
                                  [&p] {
                                    p.sync_limit->Stop();
                                    p.zds->StartAccepting();
                                  });
  p.sockets->SetOnLook([&p] { p.gate->RestoreFiles(); });
  p.sync_limit = std::make_unique<event::Timer>(loop, [&p] {
    LOG_WARN("agent", "the source of pods does not answer: going on with what was enrolled before");
    p.zds->StartAccepting();
  });
  if (InCluster(config)) {
    QANAT_ASSIGN_OR_RETURN(p.cluster, MakeCluster(loop, config));
    p.cluster->Observe(*p.enroller);
    p.source = &p.cluster->source();
  } else {
    QANAT_ASSIGN_OR_RETURN(p.folder, MakeFolderSource(loop, config));
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
    ::unlink(config.cni_socket.c_str());
    QANAT_RETURN_IF_ERROR(p.sockets->Keep(config.cni_socket,
                                          [&p] { return p.cni->ListenUnix(p.config.cni_socket); }));
    if (p.cluster) QANAT_RETURN_IF_ERROR(p.cluster->InstallPlugin());
  }
  if (config.mesh.enabled()) {
    p.mesh_client = std::make_unique<MeshClient>(loop, config.mesh, p.mesh, p.registry);
    p.mesh_client->SetMayAcknowledge([&p] { return !p.direct->enforcer().behind(); });
    p.direct->SetOnEnforced([&p] { p.mesh_client->Acknowledge(); });
    p.mesh_client->Start();
  }
  QANAT_RETURN_IF_ERROR(StartTelemetry(loop, p));
  if (!config.admin.empty()) {
    const Shown shown{p.hooks.get(), p.enroller.get(), p.zds.get(),
                      p.source,      p.cluster.get(),  p.hold.get()};
    p.registry.AddProcessMetrics();
    AddMetrics(p.registry, shown);
    if (p.telemetry) telemetry::AddMetrics(p.registry, *p.telemetry);
    if (p.mesh_client) AddMeshMetrics(p.registry, *p.mesh_client);
    if (p.direct) direct::AddMetrics(p.registry, *p.direct);
    p.admin = std::make_unique<admin::Server>(loop);
    p.admin->AddMetricsRoutes(p.registry);
    AddAdminRoutes(*p.admin, config.node_name, p.features, shown);
    if (p.telemetry) telemetry::AddRoutes(*p.admin, *p.telemetry);
    AddMeshRoutes(*p.admin, p.mesh_client.get(), p.mesh);
    direct::AddRoutes(*p.admin, p.direct.get());
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
  Hooks::RemoveFilters();
  std::error_code ignored;
  if (!config.zds_socket.empty()) std::filesystem::remove_all(DnsDir(config), ignored);
  QANAT_RETURN_IF_ERROR(Hooks::RemovePins(config.bpf_dir));
  LOG_INFO("agent", "cleaned up: {} pods, pins below {}", saved_pods.size(), config.bpf_dir);
  return {};
}

}  // namespace qanat::agent
