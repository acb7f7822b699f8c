// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/kube/cluster_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "common/kube/sidecar.h"
#include "tools/qanatctl/install/health.h"
#include "tools/qanatctl/install/versions.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

constexpr char kGatewayName[] = "gateway.networking.k8s.io/gateway-name";
constexpr char kManaged[] = "gateway.istio.io/managed";
constexpr char kRedirection[] = "ambient.istio.io/redirection";
constexpr uint16_t kAgentPort = 15030;

std::string Label(const Json& object, const char* name) {
  return Str(Get(Get(object, "metadata"), "labels"), name);
}

// "Deployment/frontend" from the pod's owner; the ReplicaSet's hash is cut off.
std::string WorkloadOf(const Json& pod) {
  for (const Json& owner : Items(Get(pod, "metadata"), "ownerReferences")) {
    const std::string kind = Str(owner, "kind");
    const std::string name = Str(owner, "name");
    if (kind != "ReplicaSet") return kind + "/" + name;
    return "Deployment/" + name.substr(0, name.rfind('-'));
  }
  return {};
}

bool ConditionTrue(const Json& pod, const char* type) {
  for (const Json& condition : Items(Get(pod, "status"), "conditions")) {
    if (Str(condition, "type") == type) return Str(condition, "status") == "True";
  }
  return false;
}

// Why a pod is not ready, in the kubelet's words or in those with which its program ended.
std::string ReasonOf(const Json& pod) {
  for (const char* list : {"initContainerStatuses", "containerStatuses"}) {
    for (const Json& container : Items(Get(pod, "status"), list)) {
      const Json& waiting = Get(Get(container, "state"), "waiting");
      const std::string why = Str(waiting, "reason");
      const bool ended = Get(Get(container, "state"), "terminated").is_object() ||
                         Get(Get(container, "lastState"), "terminated").is_object();
      // Its last words say more than that it is to be started again.
      if (!Bool(container, "ready") && ended && (why.empty() || why == "CrashLoopBackOff")) {
        return PodProblem(pod, {});
      }
      if (!waiting.is_object() || why == "PodInitializing") continue;
      const std::string message = Str(waiting, "message");
      return why + (message.empty() ? "" : ": " + message);
    }
  }
  for (const Json& condition : Items(Get(pod, "status"), "conditions")) {
    if (Str(condition, "status") == "False" && !Str(condition, "message").empty()) {
      return Str(condition, "message");
    }
  }
  return Str(Get(pod, "status"), "phase");
}

int RestartsOf(const Json& pod) {
  int out = 0;
  for (const Json& container : Items(Get(pod, "status"), "containerStatuses")) {
    out += static_cast<int>(Int(container, "restartCount"));
  }
  return out;
}

PodRef ReadPod(const Json& pod) {
  const Json& metadata = Get(pod, "metadata");
  const Json& spec = Get(pod, "spec");
  PodRef out;
  out.ns = Str(metadata, "namespace");
  out.name = Str(metadata, "name");
  out.uid = Str(metadata, "uid");
  out.node = Str(spec, "nodeName");
  out.service_account = Str(spec, "serviceAccountName");
  out.workload = WorkloadOf(pod);
  if (!Label(pod, kManaged).empty()) out.gateway = Label(pod, kGatewayName);
  out.netns = "pod:" + out.ns + "/" + out.name;
  for (const Json& ip : Items(Get(pod, "status"), "podIPs")) out.ips.push_back(Str(ip, "ip"));
  for (const Json& container : Items(spec, "containers")) {
    out.containers.push_back({Str(container, "name"), 0, false, ""});
  }
  out.ready = ConditionTrue(pod, "Ready");
  out.redirection = Str(Get(metadata, "annotations"), kRedirection);
  out.mesh = out.redirection == "enabled";
  out.phase = Str(Get(pod, "status"), "phase");
  out.restarts = RestartsOf(pod);
  out.terminating = !Str(metadata, "deletionTimestamp").empty();
  return out;
}

// The parts of the mesh that the cluster runs, as `status` lists them.
struct Part {
  const char* app;
  const char* name;
};
constexpr Part kParts[] = {
    {"qanat-controlplane", "controlplane"}, {"qanat-agent", "agent"}, {"ztunnel", "ztunnel"}};

Json ProgramOf(const Json& pod, const std::string& name) {
  const bool ready = ConditionTrue(pod, "Ready");
  return {{"name", name},
          {"node", Str(Get(pod, "spec"), "nodeName")},
          {"pod", Str(Get(pod, "metadata"), "namespace") + "/" + Str(Get(pod, "metadata"), "name")},
          {"version", VersionOfPod(pod)},
          {"ready", ready},
          {"state", ready ? "ready" : Str(Get(pod, "status"), "phase")},
          {"reason", ready ? "" : ReasonOf(pod)},
          {"restarts", RestartsOf(pod)}};
}

// Pods that ask for the mesh and have a sidecar: their node's agent says of them "pending".
Json SidecarFindings(const std::vector<Json>& pods) {
  Json out = Json::array();
  for (const Json& pod : pods) {
    const Json& metadata = Get(pod, "metadata");
    const std::string sidecar = kube::SidecarOf(pod);
    if (sidecar.empty() || Str(Get(metadata, "annotations"), kRedirection) != "pending") continue;
    out.push_back(fmt::format("{}/{} is not in the mesh: {}", Str(metadata, "namespace"),
                              Str(metadata, "name"), kube::SidecarProblem(sidecar)));
  }
  return out;
}

// "IP NAME" for the ready endpoints of every service, as a headless name resolves.
std::string HostsOf(const std::vector<Json>& slices) {
  std::string out;
  for (const Json& slice : slices) {
    const std::string service = Label(slice, "kubernetes.io/service-name");
    if (service.empty()) continue;
    for (const Json& endpoint : Items(slice, "endpoints")) {
      if (!Bool(Get(endpoint, "conditions"), "ready")) continue;
      for (const std::string& ip : Strings(endpoint, "addresses")) {
        out += fmt::format("{} {}.{}.svc.cluster.local\n", ip, service,
                           Str(Get(slice, "metadata"), "namespace"));
      }
    }
  }
  return out;
}

}  // namespace

Result<MeshView> ViewOfCluster(const std::string& name, const ClusterObjects& objects,
                               MeshView::Reach reach) {
  MeshView::Parts parts;
  parts.name = name;
  Json programs = Json::array();
  Json waiting = Json::array();
  std::map<std::string, std::string> proxies;  // node -> pod
  std::map<std::string, std::string> agents;
  std::vector<PodRef> control_planes;
  for (const Json& pod : objects.pods) {
    const std::string phase = Str(Get(pod, "status"), "phase");
    if (phase == "Succeeded" || phase == "Failed") continue;
    PodRef ref = ReadPod(pod);
    const std::string app = Label(pod, "app");
    const bool ours = Label(pod, "app.kubernetes.io/part-of") == "qanat";
    for (const Part& part : kParts) {
      // A stock ztunnel in our place has no label of ours.
      if (app != part.app || (!ours && app != "ztunnel")) continue;
      programs.push_back(ProgramOf(pod, std::string(part.name) + "-" + ref.node));
      if (!ref.ready) waiting.push_back(ref.ns + "/" + ref.name + ": " + ReasonOf(pod));
      if (ref.terminating) break;
      // Anybody may label a pod so: ours is asked where it is there.
      if (app == "ztunnel" && (ours || !proxies.contains(ref.node))) proxies[ref.node] = ref.netns;
      if (app == "qanat-agent") agents[ref.node] = ref.netns;
      if (app == "qanat-controlplane") control_planes.push_back(ref);
    }
    if (!ref.gateway.empty()) {
      programs.push_back(ProgramOf(pod, "waypoint " + ref.ns + "/" + ref.gateway));
      if (!ref.ready) waiting.push_back(ref.ns + "/" + ref.name + ": " + ReasonOf(pod));
    }
    if (Bool(Get(pod, "spec"), "hostNetwork")) ref.reason = "host network";
    parts.pods.push_back(std::move(ref));
  }
  if (programs.empty()) {
    return Fail(
        Code::kNotFound,
        fmt::format("no mesh runs in the cluster of {}; install it: qanatctl install", name));
  }
  std::sort(control_planes.begin(), control_planes.end(), [](const PodRef& a, const PodRef& b) {
    return std::make_pair(!a.ready, a.name) < std::make_pair(!b.ready, b.name);
  });
  for (const PodRef& pod : control_planes) parts.control_planes.push_back(pod.netns);
  for (const auto& [node, pod] : proxies) parts.nodes.push_back({node, "node:" + node});
  for (const auto& [node, pod] : agents) {
    if (!proxies.contains(node)) parts.nodes.push_back({node, "node:" + node});
  }
  for (const Json& service : objects.services) {
    ServiceRef ref{Str(Get(service, "metadata"), "namespace"),
                   Str(Get(service, "metadata"), "name"),
                   Strings(Get(service, "spec"), "clusterIPs")};
    std::erase(ref.cluster_ips, "None");
    parts.services.push_back(std::move(ref));
  }
  parts.hosts = HostsOf(objects.endpoint_slices);
  Json findings = SidecarFindings(objects.pods);
  for (const std::string& text :
       {SeveralControlPlanes(objects.pods), OtherNodeVersions(objects.pods)}) {
    if (!text.empty()) findings.push_back(text);
  }
  parts.raw = std::make_shared<const Json>(Json{{"mesh", true},
                                                {"settled", waiting.empty()},
                                                {"waiting", waiting},
                                                {"programs", programs},
                                                {"findings", findings},
                                                {"problems", Json::array()}});
  parts.reach = [reach = std::move(reach), proxies, agents](
                    const std::string& where, uint16_t port,
                    const HttpRequest& request) -> Result<HttpResponse> {
    if (!where.starts_with("node:")) return reach(where, port, request);
    const std::string node = where.substr(5);
    const auto& map = port == kAgentPort ? agents : proxies;
    const auto it = map.find(node);
    if (it == map.end()) {
      return Fail(Code::kUnavailable, fmt::format("no {} runs on node {}; see: qanatctl status",
                                                  port == kAgentPort ? "agent" : "ztunnel", node));
    }
    return reach(it->second, port, request);
  };
  return MeshView::Make(std::move(parts));
}

}  // namespace qanat::ctl
