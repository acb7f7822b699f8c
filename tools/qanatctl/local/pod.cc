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
#include "tools/qanatctl/local/pod_files.h"
#include "tools/qanatctl/local/pod_spawn.h"

namespace qanat::local {

namespace {

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
  places_ = {world_.names.PodDir(uid()),
             fmt::format("{}/{}/pods/{}", world_.cgroup_root, node_.name, uid()),
             Names::NetnsPath(world_.names.PodNetns(plan_.ns, plan_.name))};
  for (const ContainerSpec& spec : plan_.spec.init_containers) AddContainer(spec, true);
  for (const ContainerSpec& spec : plan_.spec.containers) {
    status_.containers.emplace_back(spec.name, spec.ports);
    AddContainer(spec, false);
  }
}

Pod::~Pod() = default;

void Pod::AddContainer(const ContainerSpec& spec, bool init) {
  const bool waypoint = !plan_.gateway.empty();
  const std::string program = fmt::format("waypoint-{}-{}", plan_.ns, plan_.gateway);
  const std::string log =
      waypoint ? program : fmt::format("pod-{}-{}-{}", plan_.ns, plan_.name, spec.name);
  containers_.push_back(
      std::make_unique<Container>(plan_.Key(), spec, init, places_.cgroup + "/" + spec.name,
                                  fmt::format("{}/{}.log", world_.names.LogsDir(), log)));
  Container* c = containers_.back().get();
  c->program = std::make_unique<Program>(
      world_.loop, waypoint ? program : fmt::format("{}/{}", plan_.Key(), spec.name),
      Backoff{std::chrono::milliseconds(500), std::chrono::milliseconds(30000),
              std::chrono::milliseconds(10000)},
      [this, c, waypoint]() -> Result<SpawnSpec> {
        if (waypoint) return WaypointSpawn(world_, plan_, status_.facts, places_, *c);
        return ContainerSpawn(world_, plan_, status_.facts, ips(), places_, *c);
      },
      [this, c] { OnContainer(*c); });
  const std::string& policy = plan_.spec.restart_policy;
  c->program->set_restart(!init && policy == "Always", policy != "Never");
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
  QANAT_RETURN_IF_ERROR(MakeDirs(places_.dir, 0700));
  for (const auto& container : containers_) {
    QANAT_RETURN_IF_ERROR(MakeDirs(places_.dir + "/root-" + container->spec.name));
    QANAT_RETURN_IF_ERROR(MakeCgroup(container->cgroup));
  }
  QANAT_RETURN_IF_ERROR(
      WriteFile(places_.dir + "/resolv.conf", RenderResolvConf(plan_.spec.dns, plan_.ns)));
  QANAT_RETURN_IF_ERROR(WriteTokens(world_, status_.facts, places_.dir));
  return WriteVolumes(*world_.plan, plan_, places_.dir);
}

void Pod::RefreshTokens() {
  if (!network_ || state_ == State::kEnding || state_ == State::kGone) return;
  if (Status done = WriteTokens(world_, status_.facts, places_.dir); !done) {
    LOG_WARN("pod", "{}: tokens not renewed: {}", plan_.Key(), done.error().message);
  }
}

void Pod::Enrol() {
  nlohmann::json ips = nlohmann::json::array();
  for (const net::IpAddress& ip : this->ips()) ips.push_back({{"IP", ip.ToString()}});
  ctl::HttpRequest request;
  request.method = "POST";
  request.path = "/cmdadd";
  request.headers = {{"Content-Type", "application/json"}};
  request.body = nlohmann::json({{"Netns", places_.netns},
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
    if (!c->init || c->completed_ok()) continue;
    if (c->completed()) {
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

void Pod::OnContainer(Container& c) {
  if (state_ == State::kEnding) {
    if (stop_timer_.armed()) return;
    const bool all_down = std::all_of(containers_.begin(), containers_.end(),
                                      [](const auto& x) { return x->program->pid() == 0; });
    if (all_down) end_timer_.Start(std::chrono::milliseconds(0));
    return;
  }
  if (state_ == State::kGone) return;
  if (c.init) {
    CheckInit();
    world_.changed(*this);
    return;
  }
  c.StartProbes(world_.loop, *node_netns_, PodV4(node_.index, network_->host),
                [this] { Evaluate(); });
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
    if (!c->completed()) all_done = false;
    if (c->completed() && !c->completed_ok()) all_ok = false;
    if (c->ready()) continue;
    all_ready = false;
    if (why.empty()) why = c->WhyNotReady();
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
    c->StopProbes();
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
  KillCgroup(places_.cgroup);
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
  if (Status removed = RemoveCgroup(places_.cgroup, 200); !removed) {
    LOG_WARN("pod", "{}: {}", plan_.Key(), removed.error().message);
  }
  (void)RemoveTree(places_.dir);
  world_.changed(*this);
}

}  // namespace qanat::local
