// SPDX-License-Identifier: Apache-2.0
// mesh.json: the state of a local mesh as other commands read it, and what is not settled yet.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "tools/qanatctl/local/supervisor.h"

namespace qanat::local {
namespace {

const char* StateName(Program::State state) {
  switch (state) {
    case Program::State::kStopped: return "stopped";
    case Program::State::kRunning: return "running";
    case Program::State::kWaiting: return "waiting";
    case Program::State::kCompleted: return "completed";
  }
  return "unknown";
}

nlohmann::json ProgramJson(const Program& program, const std::string& node, bool ready,
                           const std::string& why, const std::string& log) {
  nlohmann::json out = {{"name", program.name()},
                        {"node", node},
                        {"pid", program.pid()},
                        {"state", StateName(program.state())},
                        {"ready", ready},
                        {"restarts", program.restarts()},
                        {"lastEnd", program.last_end()},
                        {"log", log}};
  if (!ready) out["reason"] = why;
  return out;
}

}  // namespace

std::vector<std::string> Supervisor::Waiting() const {
  std::vector<std::string> out;
  if (control_plane_ && !control_plane_->ready()) {
    out.push_back("controlplane: " + control_plane_->why());
  }
  for (const auto& [name, node] : nodes_) {
    for (const MeshProgram* program : {node->dns.get(), node->agent.get(), node->ztunnel.get()}) {
      if (program != nullptr && !program->ready()) {
        out.push_back(program->config().name + ": " + program->why());
      }
    }
    if (!node->nft_error.empty()) out.push_back("services on " + name + ": " + node->nft_error);
  }
  for (const PodPlan& plan : plan_.pods) {
    auto it = pods_.find(plan.Key());
    if (it == pods_.end()) {
      out.push_back("pod " + plan.Key() +
                    (PodsMayStart(plan_.nodes.front().name)
                         ? ": no node matches its nodeName or nodeSelector"
                         : ": waits for its node"));
    } else if (!it->second->settled()) {
      const Pod& pod = *it->second;
      std::string why = pod.problem();
      if (pod.ready()) {
        why = pod.redirection_reason().empty() ? "not enrolled yet"
                                               : "not enrolled: " + pod.redirection_reason();
      }
      out.push_back("pod " + plan.Key() + ": " + (why.empty() ? "starting" : why));
    }
  }
  return out;
}

std::string Supervisor::MeshState() const {
  using nlohmann::json;
  json nodes = json::array();
  for (const NodePlan& node : plan_.nodes) {
    nodes.push_back(
        {{"name", node.name},
         {"netns", Names::NetnsPath(options_.names.NodeNetns(node.name))},
         {"ips", {UnderlayV4(node.index).ToString(), UnderlayV6(node.index).ToString()}},
         {"podCIDRs", {PodBlockV4(node.index).ToString(), PodBlockV6(node.index).ToString()}}});
  }
  json programs = json::array();
  const auto add = [&](const MeshProgram* program) {
    if (program == nullptr) return;
    programs.push_back(ProgramJson(program->program(), program->config().node, program->ready(),
                                   program->why(), program->config().spec.log));
  };
  add(control_plane_.get());
  for (const auto& [name, node] : nodes_) {
    add(node->agent.get());
    add(node->ztunnel.get());
    add(node->dns.get());
  }
  json pods = json::array();
  for (const auto& [key, pod] : pods_) {
    const PodStatus& status = pod->status();
    json containers = json::array();
    for (const Pod::ContainerView& c : pod->containers()) {
      containers.push_back({{"name", c.name},
                            {"pid", c.program->pid()},
                            {"state", StateName(c.program->state())},
                            {"init", c.init},
                            {"ready", c.ready},
                            {"restarts", c.program->restarts()},
                            {"log", c.log}});
      if (!pod->plan().gateway.empty()) {
        programs.push_back(
            ProgramJson(*c.program, status.facts.node, pod->ready(), pod->problem(), c.log));
      }
    }
    pods.push_back({{"namespace", status.facts.ns},
                    {"name", status.facts.name},
                    {"uid", status.facts.uid},
                    {"node", status.facts.node},
                    {"serviceAccount", status.facts.service_account},
                    {"ip", status.facts.pod_ips.empty() ? "" : status.facts.pod_ips.front()},
                    {"ips", status.facts.pod_ips},
                    {"labels", status.facts.labels},
                    {"workload", pod->plan().set},
                    {"gateway", pod->plan().gateway},
                    {"phase", status.phase},
                    {"ready", pod->ready()},
                    {"terminating", status.terminating},
                    {"restarts", pod->restarts()},
                    {"mesh", pod->wants_mesh()},
                    {"redirection", pod->redirection()},
                    {"reason", pod->problem().empty() ? pod->redirection_reason() : pod->problem()},
                    {"netns", pod->netns_path()},
                    {"cgroup", fmt::format("{}/{}/pods/{}", cgroup_root_, status.facts.node,
                                           status.facts.uid)},
                    {"containers", std::move(containers)}});
  }
  json services = json::array();
  for (const ServiceSpec& service : plan_.services) {
    json ips = json::array();
    for (const net::IpAddress& ip : ServiceIps(service)) ips.push_back(ip.ToString());
    json ports = json::array();
    for (const ServicePort& port : service.ports) {
      ports.push_back({{"name", port.name}, {"port", port.port}, {"protocol", port.protocol}});
    }
    services.push_back({{"namespace", service.ns},
                        {"name", service.name},
                        {"clusterIPs", std::move(ips)},
                        {"ports", std::move(ports)}});
  }
  json problems = json::array();
  const auto add_problem = [&](const FileProblem& p) {
    problems.push_back({{"file", p.file},
                        {"line", p.line},
                        {"object", p.object},
                        {"message", p.message},
                        {"remedy", p.remedy}});
  };
  for (const FileProblem& p : folder_.Problems()) add_problem(p);
  for (const FileProblem& p : plan_.problems) add_problem(p);
  const std::vector<std::string> waiting = Waiting();
  const json out = {{"name", options_.names.mesh},
                    {"version", QANAT_VERSION},
                    {"folder", options_.folder},
                    {"binDir", options_.bin_dir},
                    {"mesh", options_.mesh},
                    {"supervisor", {{"pid", getpid()}}},
                    {"cgroup", cgroup_root_},
                    {"controlPlane",
                     {{"netns", Names::NetnsPath(options_.names.FabricNetns())},
                      {"address", UnderlayV4(kFabricHost).ToString() + ":15012"}}},
                    {"wantedPods", plan_.pods.size()},
                    {"settled", waiting.empty()},
                    {"waiting", waiting},
                    {"nodes", std::move(nodes)},
                    {"programs", std::move(programs)},
                    {"pods", std::move(pods)},
                    {"services", std::move(services)},
                    {"problems", std::move(problems)}};
  return out.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace qanat::local
