// SPDX-License-Identifier: Apache-2.0
#include "agent/app.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "agent/admin_routes.h"
#include "agent/cni/cni.h"
#include "agent/enrol/enroller.h"
#include "agent/pods/folder_source.h"
#include "agent/redirect/hooks.h"
#include "agent/redirect/pod_network.h"
#include "agent/zds/server.h"
#include "bpf/user/features.h"
#include "bpf/user/mounts.h"
#include "common/admin/server.h"
#include "common/base/log.h"
#include "common/metrics/registry.h"

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

// Where pods live: given, or beside us (the local mode's NODE/agent and NODE/pods), or where a
// kubelet puts them.
std::vector<std::string> PodRoots(const Config& config, const std::string& cgroup_root) {
  if (!config.pods_cgroups.empty()) return config.pods_cgroups;
  auto own = bpf::CgroupOfProcess(static_cast<int>(::getpid()));
  if (own && own->size() > 6 && own->substr(own->size() - 6) == "/agent")
    return {cgroup_root + own->substr(0, own->size() - 6) + "/pods"};
  std::vector<std::string> roots;
  for (const char* name : {"/kubepods.slice", "/kubepods"})
    if (::access((cgroup_root + name).c_str(), F_OK) == 0) roots.push_back(cgroup_root + name);
  return roots;
}

Result<std::unique_ptr<PodSource>> MakeSource(event::EventLoop& loop, const std::string& spec) {
  constexpr std::string_view kFolder = "folder:";
  if (spec.rfind(kFolder, 0) == 0 && spec.size() > kFolder.size())
    return std::make_unique<FolderSource>(loop, spec.substr(kFolder.size()));
  return Fail(Code::kInvalidArgument, "--pod-source " + spec + ": expected folder:DIR");
}

}  // namespace

// Declared in the order of construction; destroyed in the opposite one.
struct App::Parts {
  std::vector<bpf::Feature> features;
  std::unique_ptr<Hooks> hooks;
  std::unique_ptr<Enroller> enroller;
  std::unique_ptr<zds::Server> zds;
  std::unique_ptr<PodSource> source;
  metrics::Registry registry;
  std::unique_ptr<admin::Server> cni;
  std::unique_ptr<admin::Server> admin;
};

App::App(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
App::~App() = default;

Result<std::unique_ptr<App>> App::Build(event::EventLoop& loop, const Config& config) {
  auto parts = std::make_unique<Parts>();
  Parts& p = *parts;

  p.features = bpf::ProbeFeatures();
  QANAT_RETURN_IF_ERROR(bpf::CheckRequired(p.features));
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
  options.reconcile_every = std::chrono::milliseconds(config.reconcile_ms);
  options.reprove_every = std::chrono::milliseconds(config.reprove_ms);
  options.cni_timeout = std::chrono::milliseconds(config.cni_timeout_ms);
  if (options.pod_roots.empty())
    LOG_WARN("agent",
             "no cgroup of pods is known: the node's own probes are not told from pods' "
             "connections and get no grants (--pods-cgroup)");
  QANAT_ASSIGN_OR_RETURN(p.enroller, Enroller::Create(loop, *p.hooks, std::move(options)));
  QANAT_RETURN_IF_ERROR(p.enroller->Adopt());

  // Every pod must be known before the first proxy gets its snapshot: it drops what is not in it.
  QANAT_ASSIGN_OR_RETURN(p.source, MakeSource(loop, config.pod_source));
  p.zds = std::make_unique<zds::Server>(loop, p.enroller.get());
  p.enroller->SetZds(p.zds.get());
  QANAT_RETURN_IF_ERROR(p.source->Start(p.enroller.get()));
  p.enroller->Start();
  QANAT_RETURN_IF_ERROR(p.zds->Listen(config.zds_socket));

  if (!config.cni_socket.empty()) {
    p.cni = std::make_unique<admin::Server>(loop);
    cni::AddRoutes(*p.cni, *p.enroller);
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(config.cni_socket).parent_path(),
                                        ignored);
    ::unlink(config.cni_socket.c_str());
    QANAT_RETURN_IF_ERROR(p.cni->ListenUnix(config.cni_socket));
  }
  if (!config.admin.empty()) {
    p.registry.AddProcessMetrics();
    AddMetrics(p.registry, {p.hooks.get(), p.enroller.get(), p.zds.get(), p.source.get()});
    p.admin = std::make_unique<admin::Server>(loop);
    p.admin->AddMetricsRoutes(p.registry);
    AddAdminRoutes(*p.admin, config.node_name, p.features,
                   {p.hooks.get(), p.enroller.get(), p.zds.get(), p.source.get()});
    net::ListenOptions listen;
    QANAT_ASSIGN_OR_RETURN(listen.address, net::SocketAddress::Parse(config.admin));
    auto bound = p.admin->Listen(listen);
    if (!bound) return Fail(bound.error().Annotate("--admin " + config.admin));
  }
  LOG_INFO("agent", "node {} ready: pins in {}, cgroup2 at {}", config.node_name, config.bpf_dir,
           cgroup_root);
  return std::unique_ptr<App>(new App(std::move(parts)));
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
  QANAT_RETURN_IF_ERROR(Hooks::RemovePins(config.bpf_dir));
  LOG_INFO("agent", "cleaned up: {} pods, pins below {}", saved_pods.size(), config.bpf_dir);
  return {};
}

}  // namespace qanat::agent
