// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/pod.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/base/log.h"
#include "tools/qanatctl/local/cgroup.h"
#include "tools/qanatctl/local/dns.h"
#include "tools/qanatctl/local/files.h"

namespace qanat::local {

struct Pod::Container {
  Container(ContainerSpec s, bool is_init) : spec(std::move(s)), init(is_init) {}
  ContainerSpec spec;
  bool init;
  std::string log;
  std::vector<std::string> env;  // of the last start, for commands run inside
  std::unique_ptr<Program> program;
  pid_t probed_pid = 0;
  std::unique_ptr<Probe> readiness;
  std::unique_ptr<Probe> liveness;
  std::unique_ptr<Probe> startup;
  bool probe_ok = false;
  bool started_ok = false;
  bool ready() const {
    return program->state() == Program::State::kRunning && (!spec.readiness || probe_ok) &&
           (!spec.startup || started_ok);
  }
};

namespace {

constexpr char kAccountDir[] = "/var/run/secrets/kubernetes.io/serviceaccount";
constexpr std::chrono::milliseconds kEnrolTimeout{30000};
// Between a pod's removal from the Services and its SIGTERM: kube-proxy and the mesh hear of it
// first, so that a rolling update loses no connection.
constexpr std::chrono::milliseconds kHeadStart{250};

std::string Now() { return log::Timestamp().substr(0, 19) + "Z"; }

}  // namespace

Pod::Pod(PodWorld& world, PodPlan plan, const NodePlan& node)
    : world_(world),
      plan_(std::move(plan)),
      node_(node),
      retry_(world.loop, [this] { Start(); }),
      end_timer_(world.loop, [this] { Cleanup(); }),
      stop_timer_(world.loop, [this] { StopContainers(); }) {
  PodFacts& facts = status_.facts;
  facts.ns = plan_.ns;
  facts.name = plan_.name;
  facts.uid = RandomUid();
  facts.node = node_.name;
  facts.service_account = plan_.spec.service_account;
  facts.host_ip = UnderlayV4(node_.index).ToString();
  facts.labels = plan_.spec.labels;
  facts.annotations = plan_.spec.annotations;
  status_.owner = plan_.owner;
  status_.hostname = plan_.spec.hostname;
  status_.subdomain = plan_.spec.subdomain;
  status_.created = Now();
  for (const ContainerSpec& spec : plan_.spec.init_containers) {
    containers_.push_back(std::make_unique<Container>(spec, true));
  }
  for (const ContainerSpec& spec : plan_.spec.containers) {
    status_.containers.emplace_back(spec.name, spec.ports);
    containers_.push_back(std::make_unique<Container>(spec, false));
  }
  for (const auto& container : containers_) {
    container->log = fmt::format("{}/pod-{}-{}-{}.log", world_.names.LogsDir(), plan_.ns,
                                 plan_.name, container->spec.name);
    Container* c = container.get();
    const std::string name = plan_.gateway.empty()
                                 ? fmt::format("{}/{}/{}", plan_.ns, plan_.name, c->spec.name)
                                 : fmt::format("waypoint-{}-{}", plan_.ns, plan_.gateway);
    c->program = std::make_unique<Program>(
        world_.loop, name,
        Backoff{std::chrono::milliseconds(500), std::chrono::milliseconds(30000),
                std::chrono::milliseconds(10000)},
        [this, c] { return ContainerSpawn(*c); }, [this, c] { OnContainer(*c); });
    const std::string& policy = plan_.spec.restart_policy;
    c->program->set_restart(!c->init && policy == "Always", policy != "Never");
  }
}

Pod::~Pod() = default;

std::string Pod::Dir() const { return world_.names.PodDir(uid()); }
std::string Pod::Cgroup() const {
  return fmt::format("{}/{}/pods/{}", world_.cgroup_root, node_.name, uid());
}
std::string Pod::netns_path() const {
  return Names::NetnsPath(world_.names.PodNetns(plan_.ns, plan_.name));
}

bool Pod::wants_mesh() const {
  if (!world_.mesh) return false;
  auto it = world_.plan->namespaces.find(plan_.ns);
  static const StringMap none;
  return WantsMesh(status_.facts.labels, it == world_.plan->namespaces.end() ? none : it->second);
}

bool Pod::settled() const {
  if (status_.phase == "Succeeded") return true;
  return ready_ && (!wants_mesh() || status_.redirection == "enabled");
}

std::vector<net::IpAddress> Pod::ips() const {
  if (!network_) return {};
  return {PodV4(node_.index, network_->host), PodV6(node_.index, network_->host)};
}

int Pod::restarts() const {
  int out = 0;
  for (const auto& container : containers_) out += container->program->restarts();
  return out;
}

std::vector<Pod::ContainerView> Pod::containers() const {
  std::vector<ContainerView> out;
  for (const auto& c : containers_) {
    out.push_back({c->spec.name, c->program.get(), c->init, c->ready(), c->log});
  }
  return out;
}

void Pod::Fail(const std::string& why, std::chrono::milliseconds retry) {
  if (problem_ != why) LOG_WARN("pod", "{}: {}", plan_.Key(), why);
  problem_ = why;
  status_.reason = why;
  retry_.Start(retry);
  world_.changed(*this);
}

void Pod::Start() {
  retry_.Stop();
  if (state_ == State::kEnding || state_ == State::kGone) return;
  if (!plan_.problems.empty()) {
    problem_ = plan_.problems.front();
    status_.reason = problem_;
    status_.phase = "Failed";
    world_.changed(*this);
    return;
  }
  if (state_ == State::kCreating) {
    if (Status made = MakeSandbox(); !made) {
      if (network_) {
        (void)world_.network.RemovePod(*network_, node_.name);
        network_.reset();
      }
      return Fail(made.error().message, std::chrono::seconds(1));
    }
    state_ = State::kEnrolling;
  }
  world_.publish_now();
  if (world_.mesh) {
    Enrol();
  } else {
    StartContainers();
  }
}

Status Pod::MakeSandbox() {
  if (!host_) {
    QANAT_ASSIGN_OR_RETURN(host_, world_.addresses.Take(node_.index, plan_.spec.fixed_ip));
  }
  QANAT_ASSIGN_OR_RETURN(auto node_netns, world_.network.OpenNode(node_.name));
  node_netns_ = std::move(node_netns);
  // A pod of this name may have been killed together with its supervisor's knowledge of it.
  QANAT_RETURN_IF_ERROR(RemoveNamedNetns(world_.names.PodNetns(plan_.ns, plan_.name)));
  QANAT_ASSIGN_OR_RETURN(network_, world_.network.AddPod(plan_.ns, plan_.name, uid(), node_.name,
                                                         node_.index, *host_));
  status_.facts.pod_ips.clear();
  for (const net::IpAddress& ip : ips()) status_.facts.pod_ips.push_back(ip.ToString());
  QANAT_RETURN_IF_ERROR(MakeDirs(Dir(), 0700));
  for (const auto& container : containers_) {
    QANAT_RETURN_IF_ERROR(MakeDirs(Dir() + "/root-" + container->spec.name));
    QANAT_RETURN_IF_ERROR(MakeCgroup(Cgroup() + "/" + container->spec.name));
  }
  QANAT_RETURN_IF_ERROR(WriteFile(Dir() + "/resolv.conf", RenderResolvConf(plan_.ns)));
  QANAT_RETURN_IF_ERROR(WriteTokens());
  return WriteVolumes();
}

Status Pod::WriteTokens() {
  const std::string account = Dir() + "/serviceaccount";
  QANAT_RETURN_IF_ERROR(MakeDirs(account));
  QANAT_RETURN_IF_ERROR(WriteFile(account + "/namespace", plan_.ns));
  if (world_.issuer == nullptr) return {};
  const TokenSubject subject{plan_.ns, plan_.spec.service_account, plan_.name, uid(), node_.name};
  QANAT_ASSIGN_OR_RETURN(const std::string api, world_.issuer->Issue(subject, kApiAudience));
  QANAT_RETURN_IF_ERROR(WriteFile(account + "/token", api));
  QANAT_ASSIGN_OR_RETURN(const std::string mesh, world_.issuer->Issue(subject, kMeshAudience));
  QANAT_RETURN_IF_ERROR(WriteFile(Dir() + "/token", mesh, 0600));
  if (auto root = ReadFile(world_.names.CaDir() + "/root-cert.pem")) {
    QANAT_RETURN_IF_ERROR(WriteFile(account + "/ca.crt", *root));
  }
  return {};
}

void Pod::RefreshTokens() {
  if (!network_ || state_ == State::kEnding || state_ == State::kGone) return;
  if (Status done = WriteTokens(); !done) {
    LOG_WARN("pod", "{}: tokens not renewed: {}", plan_.Key(), done.error().message);
  }
}

Status Pod::WriteVolumes() {
  for (const Volume& volume : plan_.spec.volumes) {
    const std::string folder = Dir() + "/volumes/" + volume.name;
    QANAT_RETURN_IF_ERROR(MakeDirs(folder, 0777));
    if (volume.kind != Volume::Kind::kConfigMap && volume.kind != Volume::Kind::kSecret) continue;
    const bool config = volume.kind == Volume::Kind::kConfigMap;
    const NamedMaps& maps = config ? world_.plan->config_maps : world_.plan->secrets;
    auto it = maps.find(plan_.ns + "/" + volume.source);
    if (it == maps.end()) {
      return qanat::Fail(Code::kNotFound,
                         fmt::format("volume {}: {} {} does not exist", volume.name,
                                     config ? "ConfigMap" : "Secret", volume.source));
    }
    for (const auto& [key, content] : it->second) {
      std::string file = key;
      if (!volume.items.empty()) {
        auto item = volume.items.find(key);
        if (item == volume.items.end()) continue;
        file = item->second;
      }
      if (file.find("..") != std::string::npos) continue;
      if (const size_t slash = file.rfind('/'); slash != std::string::npos) {
        QANAT_RETURN_IF_ERROR(MakeDirs(folder + "/" + file.substr(0, slash)));
      }
      QANAT_RETURN_IF_ERROR(WriteFile(folder + "/" + file, content, 0755));
    }
  }
  return {};
}

void Pod::Enrol() {
  nlohmann::json ips = nlohmann::json::array();
  for (const net::IpAddress& ip : this->ips()) ips.push_back({{"IP", ip.ToString()}});
  ctl::HttpRequest request;
  request.method = "POST";
  request.path = "/cmdadd";
  request.headers = {{"Content-Type", "application/json"}};
  request.body = nlohmann::json({{"Netns", netns_path()},
                                 {"PodName", plan_.name},
                                 {"PodNamespace", plan_.ns},
                                 {"IPs", std::move(ips)}})
                     .dump();
  ctl::HttpTarget target;
  target.unix_path = world_.names.CniSocket(node_.name);
  enrol_call_ = std::make_unique<ctl::HttpCall>(
      world_.loop, target, request, kEnrolTimeout, [this](Result<ctl::HttpResponse> answer) {
        if (state_ != State::kEnrolling) return;
        if (answer && answer->status == 200) {
          problem_.clear();
          StartContainers();
          return;
        }
        // As with CNI ADD: the pod does not start, and is tried again.
        const std::string why =
            answer ? fmt::format("the agent could not enrol it: {}", answer->body)
                   : fmt::format("the node's agent does not answer: {}", answer.error().message);
        Fail(why, enrol_delay_);
        enrol_delay_ = std::min(enrol_delay_ * 2, std::chrono::milliseconds(5000));
      });
}

void Pod::StartContainers() {
  state_ = State::kStarting;
  CheckInit();
  world_.changed(*this);
}

void Pod::CheckInit() {
  if (state_ != State::kStarting) return;
  for (const auto& c : containers_) {
    if (!c->init ||
        (c->program->state() == Program::State::kCompleted && c->program->completed_ok())) {
      continue;
    }
    if (c->program->state() == Program::State::kCompleted) {
      problem_ =
          fmt::format("init container {} ended with {}", c->spec.name, c->program->last_end());
      status_.reason = problem_;
      status_.phase = "Failed";
    } else if (c->program->state() == Program::State::kStopped) {
      c->program->Start();
    }
    return;  // one after the other
  }
  state_ = State::kRunning;
  status_.initialized = true;
  status_.phase = "Running";
  for (const auto& c : containers_) {
    if (!c->init) c->program->Start();
  }
  Evaluate();
}

Result<SpawnSpec> Pod::ContainerSpawn(Container& container) {
  if (!plan_.gateway.empty()) return WaypointSpawn();
  const std::string hostname = plan_.spec.hostname.empty() ? plan_.name : plan_.spec.hostname;
  Command command = MakeCommand(container.spec, status_.facts, hostname, world_.plan->config_maps,
                                world_.plan->secrets);
  if (!command.problems.empty()) {
    return qanat::Fail(Code::kInvalidArgument, command.problems.front());
  }
  container.env = command.env;
  SpawnSpec spec;
  spec.argv = std::move(command.argv);
  spec.env = std::move(command.env);
  spec.netns = netns_path();
  spec.cgroup = Cgroup() + "/" + container.spec.name;
  spec.log = container.log;
  Sandbox sandbox;
  sandbox.scratch = Dir() + "/root-" + container.spec.name;
  sandbox.hostname = hostname;
  sandbox.working_dir = container.spec.working_dir;
  sandbox.uid = container.spec.run_as_user;
  sandbox.gid = container.spec.run_as_group;
  sandbox.capabilities = container.spec.capabilities;
  sandbox.mounts.push_back({Dir() + "/serviceaccount", kAccountDir, true});
  for (const VolumeMount& mount : container.spec.mounts) {
    std::string source = Dir() + "/volumes/" + mount.volume;
    for (const Volume& volume : plan_.spec.volumes) {
      if (volume.name == mount.volume && volume.kind == Volume::Kind::kHostPath) {
        source = volume.source;
      }
    }
    if (!mount.sub_path.empty()) source += "/" + mount.sub_path;
    sandbox.mounts.push_back({source, mount.path, mount.read_only});
  }
  const std::string fqdn =
      plan_.spec.subdomain.empty()
          ? ""
          : fmt::format("{}.{}.{}.svc.cluster.local", hostname, plan_.spec.subdomain, plan_.ns);
  sandbox.files.push_back({"/etc/resolv.conf", RenderResolvConf(plan_.ns)});
  sandbox.files.push_back({"/etc/hosts", RenderPodHosts(hostname, fqdn, ips())});
  sandbox.files.push_back({"/etc/hostname", hostname + "\n"});
  spec.sandbox = std::move(sandbox);
  return spec;
}

// Waypoints run outside a sandbox: they are the mesh's own program and read the CA's root and their
// token below the run directory.
Result<SpawnSpec> Pod::WaypointSpawn() {
  const std::string root = world_.names.CaDir() + "/root-cert.pem";
  const std::string control = fmt::format("https://{}:15012", UnderlayV4(kFabricHost).ToString());
  SpawnSpec spec;
  spec.argv = {world_.bin_dir + "/qanat-waypoint"};
  spec.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
              "POD_NAME=" + plan_.name,
              "POD_NAMESPACE=" + plan_.ns,
              "POD_UID=" + uid(),
              "SERVICE_ACCOUNT=" + plan_.spec.service_account,
              "INSTANCE_IP=" + status_.facts.pod_ips.front(),
              "NODE_NAME=" + node_.name,
              "GATEWAY_NAME=" + plan_.gateway,
              "XDS_ADDRESS=" + control,
              "CA_ADDRESS=" + control,
              "XDS_ROOT_CA=" + root,
              "CA_ROOT_CA=" + root,
              "AUTH_TOKEN=" + Dir() + "/token",
              "TRUST_DOMAIN=cluster.local",
              "CLUSTER_ID=Kubernetes",
              "NETWORK=",
              std::string("LOG_FORMAT=") + (world_.json_logs ? "json" : "plain")};
  for (const char* name : {"RUST_LOG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS",
                           "TSAN_OPTIONS", "SECRET_TTL"}) {
    if (const char* value = getenv(name)) spec.env.push_back(fmt::format("{}={}", name, value));
  }
  spec.netns = netns_path();
  spec.cgroup = Cgroup() + "/waypoint";
  spec.log = fmt::format("{}/waypoint-{}-{}.log", world_.names.LogsDir(), plan_.ns, plan_.gateway);
  containers_.front()->log = spec.log;
  return spec;
}

SpawnSpec Pod::InsideSpec(pid_t pid, const std::vector<std::string>& argv,
                          const std::vector<std::string>& env, const std::string& cgroup) {
  SpawnSpec spec;
  // -r: the container's root is a chroot of its mount namespace.
  spec.argv = {"/usr/bin/nsenter", "-t", std::to_string(pid), "-m", "-u", "-n", "-r", "-w", "--"};
  spec.argv.insert(spec.argv.end(), argv.begin(), argv.end());
  spec.env = env;
  spec.cgroup = cgroup;
  return spec;
}

void Pod::StartProbes(Container& c) {
  const pid_t pid = c.program->pid();
  if (pid == c.probed_pid) return;
  c.probed_pid = pid;
  c.readiness.reset();
  c.liveness.reset();
  c.startup.reset();
  c.probe_ok = c.started_ok = false;
  if (pid == 0) return;
  ProbeTarget target;
  target.node = &*node_netns_;
  target.pod_ip = PodV4(node_.index, network_->host);
  target.inside = [this, pid, &c](const std::vector<std::string>& argv) {
    return InsideSpec(pid, argv, c.env, Cgroup() + "/" + c.spec.name);
  };
  if (c.spec.readiness) {
    c.readiness = std::make_unique<Probe>(world_.loop, *c.spec.readiness, target,
                                          [this, &c](bool ok, const std::string&) {
                                            c.probe_ok = ok;
                                            Evaluate();
                                          });
  }
  if (c.spec.startup) {
    c.startup = std::make_unique<Probe>(
        world_.loop, *c.spec.startup, target, [this, &c](bool ok, const std::string& why) {
          c.started_ok = ok;
          if (!ok) {
            LOG_WARN("pod", "{}: startup probe failed: {}", plan_.Key(), why);
            c.program->Signal(SIGTERM);
          }
          Evaluate();
        });
  }
  if (c.spec.liveness) {
    c.liveness = std::make_unique<Probe>(
        world_.loop, *c.spec.liveness, target, [this, &c](bool ok, const std::string& why) {
          if (ok) return;
          LOG_WARN("pod", "{}: liveness probe failed: {}", plan_.Key(), why);
          c.program->Restart();
        });
  }
}

void Pod::OnContainer(Container& c) {
  if (state_ == State::kEnding) {
    if (stop_timer_.armed()) return;
    const bool all_down = std::all_of(containers_.begin(), containers_.end(),
                                      [](const auto& x) { return x->program->pid() == 0; });
    if (all_down) end_timer_.Start(std::chrono::milliseconds(0));
    return;
  }
  if (state_ == State::kGone) return;
  if (!c.init) StartProbes(c);
  if (c.init) {
    CheckInit();
    world_.changed(*this);
    return;
  }
  Evaluate();
}

void Pod::Evaluate() {
  if (state_ != State::kRunning) return;
  bool all_ready = true;
  bool all_done = true;
  bool all_ok = true;
  std::string why;
  for (const auto& c : containers_) {
    if (c->init) continue;
    const bool completed = c->program->state() == Program::State::kCompleted;
    if (!completed) all_done = false;
    if (completed && !c->program->completed_ok()) all_ok = false;
    if (c->ready()) continue;
    all_ready = false;
    if (!why.empty()) continue;
    if (c->program->state() == Program::State::kWaiting) {
      why = fmt::format("container {}: {} (restart {} waits; log: {})", c->spec.name,
                        c->program->last_end(), c->program->restarts() + 1, c->log);
    } else if (c->readiness && !c->readiness->last_failure().empty()) {
      why = fmt::format("container {}: readiness probe: {}", c->spec.name,
                        c->readiness->last_failure());
    } else {
      why = fmt::format("container {}: waiting for its readiness probe", c->spec.name);
    }
  }
  const bool was = ready_;
  ready_ = all_ready && !all_done;
  if (all_done) {
    status_.phase = all_ok ? "Succeeded" : "Failed";
    why = all_ok ? "" : "a container failed";
  }
  problem_ = ready_ ? "" : why;
  status_.ready = ready_;
  status_.reason = problem_;
  if (was != ready_) LOG_INFO("pod", "{}: {}", plan_.Key(), ready_ ? "ready" : "not ready: " + why);
  world_.changed(*this);
}

void Pod::UpdateLabels(const StringMap& labels, const StringMap& annotations) {
  if (labels == status_.facts.labels && annotations == status_.facts.annotations) return;
  status_.facts.labels = labels;
  status_.facts.annotations = annotations;
  world_.changed(*this);
}

void Pod::SetRedirection(const std::string& redirection, const std::string& reason) {
  if (redirection == status_.redirection && reason == redirection_reason_) return;
  LOG_INFO("pod", "{}: redirection {}{}", plan_.Key(), redirection,
           reason.empty() ? "" : " (" + reason + ")");
  status_.redirection = redirection;
  redirection_reason_ = reason;
  world_.changed(*this);
}

void Pod::End() {
  if (state_ == State::kEnding || state_ == State::kGone) return;
  state_ = State::kEnding;
  retry_.Stop();
  enrol_call_.reset();
  ready_ = status_.ready = false;
  status_.terminating = true;
  bool running = false;
  for (const auto& c : containers_) {
    c->readiness.reset();
    c->liveness.reset();
    c->startup.reset();
    running = running || c->program->pid() != 0;
  }
  stop_timer_.Start(running ? kHeadStart : std::chrono::milliseconds(0));
  world_.changed(*this);
}

void Pod::StopContainers() {
  const std::chrono::milliseconds grace(std::clamp(plan_.spec.grace_s, 0, 30) * 1000);
  bool running = false;
  for (const auto& c : containers_) {
    running = running || c->program->pid() != 0;
    c->program->Stop(grace);
  }
  end_timer_.Start(running ? grace + std::chrono::milliseconds(500) : std::chrono::milliseconds(0));
}

void Pod::Cleanup() {
  state_ = State::kGone;
  KillCgroup(Cgroup());
  // The agent hears of the end by this file; only then does the namespace go.
  (void)RemoveFile(world_.names.NodePods(node_.name) + "/" + uid() + ".json");
  if (network_) {
    if (Status removed = world_.network.RemovePod(*network_, node_.name); !removed) {
      LOG_WARN("pod", "{}: {}", plan_.Key(), removed.error().message);
    }
    network_.reset();
  }
  if (host_) world_.addresses.Release(node_.index, *host_);
  host_.reset();
  if (Status removed = RemoveCgroup(Cgroup(), 200); !removed) {
    LOG_WARN("pod", "{}: {}", plan_.Key(), removed.error().message);
  }
  (void)RemoveTree(Dir());
  world_.changed(*this);
}

}  // namespace qanat::local
