// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/mesh_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/netns/netns.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/local/files.h"
#include "tools/qanatctl/local/teardown.h"

namespace qanat::ctl {
namespace {

// A killed process that nobody has waited for yet is gone, although it still has its number.
bool IsAlive(int64_t pid) {
  if (pid <= 0) return false;
  const std::string stat = local::ReadFile(fmt::format("/proc/{}/stat", pid)).value_or("");
  const size_t name_end = stat.rfind(") ");
  return name_end != std::string::npos && name_end + 2 < stat.size() && stat[name_end + 2] != 'Z' &&
         stat[name_end + 2] != 'X';
}

PodRef ReadPod(const Json& json) {
  PodRef pod;
  pod.ns = Str(json, "namespace");
  pod.name = Str(json, "name");
  pod.uid = Str(json, "uid");
  pod.node = Str(json, "node");
  pod.service_account = Str(json, "serviceAccount");
  pod.workload = Str(json, "workload");
  pod.gateway = Str(json, "gateway");
  pod.netns = Str(json, "netns");
  pod.cgroup = Str(json, "cgroup");
  pod.ips = Strings(json, "ips");
  pod.ready = Bool(json, "ready");
  pod.mesh = Bool(json, "mesh");
  pod.redirection = Str(json, "redirection");
  pod.reason = Str(json, "reason");
  pod.phase = Str(json, "phase");
  pod.restarts = static_cast<int>(Int(json, "restarts"));
  pod.terminating = Bool(json, "terminating");
  for (const Json& c : Items(json, "containers")) {
    pod.containers.push_back(
        {Str(c, "name"), static_cast<int>(Int(c, "pid")), Bool(c, "init"), Str(c, "log")});
  }
  return pod;
}

Result<HttpResponse> ThroughNamespace(const std::string& where, uint16_t port,
                                      const HttpRequest& request) {
  QANAT_ASSIGN_OR_RETURN(auto ns, netns::NetNs::Open(where));
  HttpTarget target;
  target.address = net::SocketAddress(net::IpAddress::V4(0x7f000001), port);
  target.netns = &ns;
  return HttpDo(target, request, std::chrono::seconds(10));
}

}  // namespace

Result<MeshView> MeshView::Load(const std::string& mesh) {
  QANAT_RETURN_IF_ERROR(local::CheckMeshName(mesh));
  local::Names names{mesh};
  auto text = local::ReadFile(names.MeshJson());
  if (!text) {
    std::string known;
    for (const std::string& name : local::KnownMeshes()) known += " " + name;
    return Fail(Code::kNotFound,
                fmt::format("no mesh '{}' runs on this machine{}; start one: qanatctl local up "
                            "FOLDER{}",
                            mesh, known.empty() ? "" : " (there is:" + known + ")",
                            mesh == "local" ? "" : " --name " + mesh));
  }
  auto parsed = std::make_shared<Json>(Json::parse(*text, nullptr, false));
  if (!parsed->is_object()) return Fail(Code::kInternal, names.MeshJson() + " is damaged");
  MeshView view;
  const Json& json = *parsed;
  view.supervisor_alive_ = IsAlive(Int(Get(json, "supervisor"), "pid"));
  view.control_planes_ = {local::Names::NetnsPath(names.FabricNetns())};
  view.name_ = mesh;
  view.local_ = true;
  view.reach_ = ThroughNamespace;
  for (const Json& node : Items(json, "nodes")) {
    view.nodes_.push_back({Str(node, "name"), Str(node, "netns")});
  }
  for (const Json& pod : Items(json, "pods")) view.pods_.push_back(ReadPod(pod));
  for (const Json& service : Items(json, "services")) {
    view.services_.push_back(
        {Str(service, "namespace"), Str(service, "name"), Strings(service, "clusterIPs")});
  }
  view.json_ = std::move(parsed);
  return view;
}

Result<const PodRef*> ResolvePod(const std::vector<PodRef>& pods, const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    size_t end = text.find('/', begin);
    if (end == std::string::npos) end = text.size();
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  std::string ns;
  std::string kind;
  std::string name = parts.back();
  const auto is_kind = [](const std::string& s) {
    return s == "deploy" || s == "deployment" || s == "sts" || s == "statefulset" || s == "pod" ||
           s == "ds" || s == "daemonset";
  };
  if (parts.size() == 3) {
    ns = parts[0];
    kind = parts[1];
  } else if (parts.size() == 2) {
    (is_kind(parts[0]) ? kind : ns) = parts[0];
  } else if (parts.size() > 3) {
    return Fail(Code::kInvalidArgument, text + ": use NS/POD or NS/deploy/NAME");
  }
  if (ns.empty()) {
    if (const size_t dot = name.find('.'); dot != std::string::npos) {
      ns = name.substr(dot + 1);
      name = name.substr(0, dot);
    }
  }
  std::vector<const PodRef*> exact;
  std::vector<const PodRef*> workload;
  std::vector<const PodRef*> prefix;
  for (const PodRef& pod : pods) {
    if (!ns.empty() && pod.ns != ns) continue;
    const bool by_workload = pod.workload.substr(pod.workload.find('/') + 1) == name;
    if (pod.name == name && (kind.empty() || kind == "pod")) exact.push_back(&pod);
    if (by_workload && kind != "pod") workload.push_back(&pod);
    if (kind.empty() && pod.name.starts_with(name)) prefix.push_back(&pod);
  }
  const auto best = [](const std::vector<const PodRef*>& found) {
    return *std::min_element(found.begin(), found.end(), [](const PodRef* a, const PodRef* b) {
      return std::make_pair(a->terminating, !a->ready) < std::make_pair(b->terminating, !b->ready);
    });
  };
  if (exact.size() == 1) return exact.front();
  // Any pod of a workload will do; a workload of that name in one namespace only.
  if (!workload.empty() && std::all_of(workload.begin(), workload.end(), [&](const PodRef* p) {
        return p->ns == workload.front()->ns;
      })) {
    return best(workload);
  }
  if (exact.empty() && workload.empty() && !prefix.empty()) {
    const bool one_workload = std::all_of(prefix.begin(), prefix.end(), [&](const PodRef* p) {
      return p->ns == prefix.front()->ns && p->workload == prefix.front()->workload;
    });
    if (one_workload) return best(prefix);
  }
  std::string candidates;
  for (const auto* list : {&exact, &workload, &prefix}) {
    for (const PodRef* pod : *list) candidates += " " + pod->ns + "/" + pod->name;
    if (!candidates.empty()) break;
  }
  if (candidates.empty()) {
    return Fail(Code::kNotFound,
                fmt::format("no pod is called '{}'; see: qanatctl workloads", text));
  }
  return Fail(Code::kInvalidArgument, fmt::format("'{}' could be:{}", text, candidates));
}

Result<const PodRef*> MeshView::FindPod(const std::string& text) const {
  return ResolvePod(pods_, text);
}

Result<std::vector<NodeRef>> MeshView::SelectNodes(const std::string& wanted) const {
  if (wanted.empty()) return nodes_;
  std::string known;
  for (const NodeRef& node : nodes_) {
    if (node.name == wanted) return std::vector<NodeRef>{node};
    known += " " + node.name;
  }
  return Fail(Code::kNotFound, fmt::format("no node '{}'; there is:{}", wanted, known));
}

MeshView MeshView::Make(Parts parts) {
  MeshView view;
  view.name_ = std::move(parts.name);
  view.json_ = std::move(parts.raw);
  view.supervisor_alive_ = true;  // the cluster itself
  view.nodes_ = std::move(parts.nodes);
  view.pods_ = std::move(parts.pods);
  view.services_ = std::move(parts.services);
  view.control_planes_ = std::move(parts.control_planes);
  view.hosts_ = std::move(parts.hosts);
  view.reach_ = std::move(parts.reach);
  return view;
}

std::string MeshView::Hosts(const std::string& node) const {
  if (!local_) return hosts_;
  return local::ReadFile(local::Names{name_}.NodeDir(node) + "/hosts").value_or("");
}

Result<std::string> MeshView::Fetch(const std::string& where, uint16_t port,
                                    const std::string& path, const std::string& method) const {
  HttpRequest request;
  request.method = method;
  request.path = path;
  QANAT_ASSIGN_OR_RETURN(auto answer, reach_(where, port, request));
  if (answer.status != 200) {
    return Fail(Code::kUnavailable, fmt::format("{} {}: HTTP {} {}", method, path, answer.status,
                                                answer.body.substr(0, 300)));
  }
  return std::move(answer.body);
}

}  // namespace qanat::ctl
