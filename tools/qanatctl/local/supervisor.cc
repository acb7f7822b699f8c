// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/supervisor.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/inotify.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/log.h"
#include "tools/qanatctl/local/cgroup.h"
#include "tools/qanatctl/local/dns.h"
#include "tools/qanatctl/local/files.h"

namespace qanat::local {
namespace {

constexpr std::chrono::milliseconds kSettle{30};     // file events come in bursts
constexpr std::chrono::milliseconds kRoundDelay{2};  // coalesces what one event touches
constexpr std::chrono::minutes kTokenRefresh{40};    // of kTokenLifetime

}  // namespace

Supervisor::Supervisor(event::EventLoop& loop, SupervisorOptions options)
    : loop_(loop),
      options_(std::move(options)),
      network_(options_.names, options_.mtu),
      folder_(options_.folder),
      reload_timer_(loop, [this] { Reload(); }),
      status_timer_(loop, [this] { ReadStatusFiles(); }),
      round_timer_(loop, [this] { Round(); }),
      token_timer_(loop, [this] {
        (void)WriteNodeTokens();
        for (auto& [key, pod] : pods_) pod->RefreshTokens();
        token_timer_.Start(kTokenRefresh);
      }) {}

Supervisor::~Supervisor() = default;

Status Supervisor::MakeDirectories() {
  const Names& names = options_.names;
  QANAT_RETURN_IF_ERROR(MakeDirs(names.RunDir()));
  QANAT_RETURN_IF_ERROR(MakeDirs(names.CaDir(), 0755));
  QANAT_RETURN_IF_ERROR(MakeDirs(names.OverlayDir()));
  QANAT_RETURN_IF_ERROR(MakeDirs(names.LogsDir()));
  QANAT_RETURN_IF_ERROR(MakeDirs(names.RunDir() + "/pods", 0700));
  return MakeCgroup(cgroup_root_);
}

Status Supervisor::Start() {
  started_ = event::Clock::now();
  QANAT_ASSIGN_OR_RETURN(const std::string cgroup2, FindCgroup2());
  cgroup_root_ = cgroup2 + "/" + options_.names.CgroupRoot();
  QANAT_RETURN_IF_ERROR(MakeDirectories());
  QANAT_RETURN_IF_ERROR(folder_.Reload());
  plan_ = MakePlan(folder_.Objects(), {options_.nodes, options_.mesh});
  if (options_.mesh) {
    QANAT_ASSIGN_OR_RETURN(auto issuer, TokenIssuer::Create(options_.names));
    issuer_ = std::move(issuer);
  }
  world_.reset(new PodWorld{
      loop_, options_.names, network_, pod_addresses_, cgroup_root_, options_.bin_dir,
      options_.mesh, getenv("LOG_FORMAT") != nullptr && std::string(getenv("LOG_FORMAT")) == "json",
      issuer_ ? &*issuer_ : nullptr, &plan_, [this](Pod&) { Soon(); }, [this] { Publish(); }});
  QANAT_RETURN_IF_ERROR(MakeNodes());
  QANAT_RETURN_IF_ERROR(WriteNodeTokens());
  token_timer_.Start(kTokenRefresh);

  inotify_.Reset(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify_)
    return FailErrno(
        "inotify_init1 (all instances in use? sysctl -w fs.inotify.max_user_instances=8192)");
  inotify_watch_ = std::make_unique<event::IoWatch>(loop_, inotify_.get(), EPOLLIN,
                                                    [this](uint32_t) { OnFiles(); });
  Watch(options_.folder);
  for (const auto& [name, node] : nodes_) Watch(options_.names.NodeStatus(name));
  Publish();
  StartMeshPrograms();
  Soon();
  return {};
}

Status Supervisor::MakeNodes() {
  QANAT_RETURN_IF_ERROR(network_.MakeFabric());
  for (const NodePlan& plan : plan_.nodes) {
    auto node = std::make_unique<NodeRuntime>();
    node->plan = plan;
    node->ztunnel_uid = RandomUid();
    node->agent_uid = RandomUid();
    QANAT_RETURN_IF_ERROR(network_.AddNode(plan, plan_.nodes));
    QANAT_RETURN_IF_ERROR(MakeDirs(options_.names.NodePods(plan.name)));
    QANAT_RETURN_IF_ERROR(MakeDirs(options_.names.NodeStatus(plan.name)));
    for (const char* group : {"agent", "ztunnel", "dns", "pods"}) {
      QANAT_RETURN_IF_ERROR(MakeCgroup(fmt::format("{}/{}/{}", cgroup_root_, plan.name, group)));
    }
    const std::string hosts = options_.names.NodeDir(plan.name) + "/hosts";
    QANAT_RETURN_IF_ERROR(WriteFile(hosts, ""));
    QANAT_RETURN_IF_ERROR(WriteFile(options_.names.NodeDir(plan.name) + "/dnsmasq.conf",
                                    RenderDnsmasqConfig({DnsV4(), DnsV6()}, hosts)));
    QANAT_RETURN_IF_ERROR(WriteFile(options_.names.NodeDir(plan.name) + "/resolv.conf",
                                    kube::FormatResolvConf(LocalNodeDns().node)));
    nodes_[plan.name] = std::move(node);
  }
  return MakeCgroup(cgroup_root_ + "/fabric/controlplane");
}

Status Supervisor::WriteNodeTokens() {
  if (!issuer_) return {};
  for (const auto& [name, node] : nodes_) {
    const std::string dir = options_.names.NodeDir(name);
    const TokenSubject proxy{"qanat-system", "ztunnel", "ztunnel-" + name, node->ztunnel_uid, name};
    const TokenSubject agent{"qanat-system", "qanat-agent", "agent-" + name, node->agent_uid, name};
    for (const auto& [subject, file] :
         {std::pair{&proxy, "/ztunnel-token"}, std::pair{&agent, "/agent-token"}}) {
      QANAT_ASSIGN_OR_RETURN(const std::string token, issuer_->Issue(*subject, kMeshAudience));
      QANAT_RETURN_IF_ERROR(WriteFile(dir + file, token, 0600));
    }
  }
  return {};
}

void Supervisor::StartMeshPrograms() {
  const ProgramPaths paths{options_.names, options_.bin_dir, cgroup_root_, options_.folder};
  for (const auto& [name, node] : nodes_) {
    auto netns = network_.OpenNode(name);
    if (!netns) continue;  // made a moment ago
    node->dns = std::make_unique<MeshProgram>(loop_, DnsConfig(paths, node->plan),
                                              std::move(*netns), [this] { Soon(); });
    node->dns->Start();
  }
  if (!options_.mesh) return;
  if (auto fabric = network_.OpenFabric()) {
    control_plane_ = std::make_unique<MeshProgram>(loop_, ControlPlaneConfig(paths),
                                                   std::move(*fabric), [this] { Soon(); });
    control_plane_->Start();
  }
  for (const auto& [name, node] : nodes_) {
    auto a = network_.OpenNode(name);
    auto z = network_.OpenNode(name);
    if (!a || !z) continue;
    node->agent = std::make_unique<MeshProgram>(loop_, AgentConfig(paths, node->plan),
                                                std::move(*a), [this] { Soon(); });
    node->ztunnel = std::make_unique<MeshProgram>(loop_, ZtunnelConfig(paths, node->plan),
                                                  std::move(*z), [this] { Soon(); });
    node->agent->Start();  // the node proxies wait for the CA's root certificate
  }
}

void Supervisor::Watch(const std::string& path) {
  constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                               IN_CREATE | IN_DELETE_SELF | IN_ONLYDIR;
  std::error_code error;
  if (std::filesystem::is_regular_file(path, error)) {
    // Editors replace files: the folder tells, the file's own watch would be lost.
    Watch(std::filesystem::path(path).parent_path().string());
    return;
  }
  if (!watched_.insert(path).second) return;
  inotify_add_watch(inotify_.get(), path.c_str(), kEvents);
  for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
    if (entry.is_directory(error) && !entry.path().filename().string().starts_with('.')) {
      Watch(entry.path().string());
    }
  }
}

void Supervisor::OnFiles() {
  alignas(8) char buffer[16384];
  while (read(inotify_.get(), buffer, sizeof buffer) > 0) {
  }
  // Which file it was does not matter: both are re-read whole, and they are small.
  if (!reload_timer_.armed()) reload_timer_.Start(kSettle);
  if (!status_timer_.armed()) status_timer_.Start(std::chrono::milliseconds(1));
}

void Supervisor::Reload() {
  Watch(options_.folder);
  if (Status read = folder_.Reload(); !read) {
    LOG_WARN("folder", "{}", read.error().message);
    return;
  }
  Plan next = MakePlan(folder_.Objects(), {options_.nodes, options_.mesh});
  if (next.nodes.size() != plan_.nodes.size() ||
      !std::equal(next.nodes.begin(), next.nodes.end(), plan_.nodes.begin(),
                  [](const NodePlan& a, const NodePlan& b) { return a.name == b.name; })) {
    next.problems.push_back({options_.folder, 0, "Node",
                             "the set of nodes cannot change while the "
                             "mesh runs",
                             "run: qanatctl local down, then up"});
    next.nodes = plan_.nodes;
  }
  for (const FileProblem& problem : folder_.Problems()) {
    LOG_WARN("folder", "{}", problem.ToString());
  }
  plan_ = std::move(next);
  Soon();
}

void Supervisor::ReadStatusFiles() {
  for (auto& [key, pod] : pods_) {
    const std::string path =
        options_.names.NodeStatus(pod->status().facts.node) + "/" + pod->uid() + ".json";
    auto text = ReadFile(path);
    if (!text) {
      if (!pod->redirection().empty()) pod->SetRedirection("", "");
      continue;
    }
    const auto status = nlohmann::json::parse(*text, nullptr, false);
    if (!status.is_object()) continue;
    const auto field = [&](const char* name) {
      auto it = status.find(name);
      return it != status.end() && it->is_string() ? it->get<std::string>() : std::string();
    };
    pod->SetRedirection(field("redirection"), field("reason"));
  }
}

void Supervisor::Soon() {
  if (!round_timer_.armed()) round_timer_.Start(kRoundDelay);
}

void Supervisor::Round() {
  if (options_.mesh && !node_programs_started_ && control_plane_ && control_plane_->ready()) {
    node_programs_started_ = true;
    for (auto& [name, node] : nodes_) {
      if (node->ztunnel) node->ztunnel->Start();
    }
  }
  ReconcilePods();
  Publish();
}

bool Supervisor::PodsMayStart(const std::string& name) const {
  if (!options_.mesh) return true;
  auto it = nodes_.find(name);
  return it != nodes_.end() && it->second->agent && it->second->agent->program().pid() != 0 &&
         (it->second->agent->ready() || it->second->agent->program().restarts() > 0) &&
         node_programs_started_;
}

void Supervisor::ReconcilePods() {
  std::map<std::string, const PodPlan*> desired;
  for (const PodPlan& pod : plan_.pods) desired[pod.Key()] = &pod;
  // A new generation of a workload replaces the old one only when all of it is ready.
  std::map<std::string, std::string> generation;  // "ns/set" -> hash that is wanted
  std::map<std::string, bool> generation_ready;
  for (const PodPlan& pod : plan_.pods) {
    const std::string set = pod.ns + "/" + pod.set;
    generation[set] = pod.spec_hash;
    auto it = pods_.find(pod.Key());
    const bool up = it != pods_.end() && it->second->settled();
    generation_ready.try_emplace(set, true).first->second &= up;
  }
  for (auto it = pods_.begin(); it != pods_.end();) {
    Pod& pod = *it->second;
    if (pod.state() == Pod::State::kGone) {
      it = pods_.erase(it);
      continue;
    }
    auto wanted = desired.find(it->first);
    if (wanted != desired.end()) {
      const PodPlan& plan = *wanted->second;
      const bool same = plan.spec_hash == pod.plan().spec_hash &&
                        plan.spec.service_account == pod.plan().spec.service_account;
      if (same) {
        pod.UpdateLabels(plan.spec.labels, plan.spec.annotations);
      } else {
        pod.End();
      }
    } else {
      const std::string set = pod.plan().ns + "/" + pod.plan().set;
      auto newer = generation.find(set);
      const bool rolling = newer != generation.end() && newer->second != pod.plan().spec_hash &&
                           !generation_ready[set];
      if (!rolling) pod.End();
    }
    ++it;
  }
  std::map<std::string, std::string> placed;
  for (const auto& [key, pod] : pods_) placed[key] = pod->status().facts.node;
  const auto where = Schedule(plan_, placed);
  for (const PodPlan& plan : plan_.pods) {
    if (pods_.contains(plan.Key())) continue;
    const std::string& node_name = where.at(plan.Key());
    if (node_name.empty() || !PodsMayStart(node_name)) continue;
    NodeRuntime* node = FindNode(node_name);
    if (node == nullptr) continue;
    auto pod = std::make_unique<Pod>(*world_, plan, node->plan);
    Pod* started = pod.get();
    pods_[plan.Key()] = std::move(pod);
    started->Start();
  }
}

Supervisor::NodeRuntime* Supervisor::FindNode(const std::string& name) {
  auto it = nodes_.find(name);
  return it == nodes_.end() ? nullptr : it->second.get();
}

int RunSupervisor(const SupervisorOptions& options) {
  log::Init("qanatctl-local", log::Format::kText);
  event::EventLoop loop;
  bool asked = false;
  event::SignalWatch signals(loop, {SIGTERM, SIGINT, SIGHUP}, [&](int signal) {
    if (signal == SIGHUP) return;  // the terminal went; the mesh stays
    asked = true;
    loop.Stop();
  });
  signal(SIGPIPE, SIG_IGN);
  Supervisor supervisor(loop, options);
  if (Status started = supervisor.Start(); !started) {
    LOG_ERROR("local", "{}", started.error().message);
    (void)WriteFile(options.names.RunDir() + "/failed", started.error().message);
    return 1;
  }
  LOG_INFO("local", "mesh '{}' is coming up from {}", options.names.mesh, options.folder);
  loop.Run();
  LOG_INFO("local", "asked to end; `qanatctl local down` removes what is left");
  return asked ? 0 : 1;
}

}  // namespace qanat::local
