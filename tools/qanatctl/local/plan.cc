// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "tools/qanatctl/json_util.h"

namespace qanat::local {
namespace {

using ctl::Get;

StringMap Labels(const Object& object, const char* what) {
  StringMap out;
  const Json& map = Get(Get(*object.body, "metadata"), what);
  if (map.is_object()) {
    for (auto& [key, value] : map.items()) {
      out[key] = value.is_string() ? value.get<std::string>() : value.dump();
    }
  }
  return out;
}

StringMap Data(const Object& object) {
  StringMap out;
  for (const char* field : {"data", "stringData"}) {
    const Json& map = Get(*object.body, field);
    if (!map.is_object()) continue;
    for (auto& [key, value] : map.items()) {
      if (value.is_string()) out[key] = value.get<std::string>();
    }
  }
  return out;
}

std::string Decode64(const std::string& text) {
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    int v = -1;
    if (c >= 'A' && c <= 'Z') v = c - 'A';
    if (c >= 'a' && c <= 'z') v = c - 'a' + 26;
    if (c >= '0' && c <= '9') v = c - '0' + 52;
    if (c == '+') v = 62;
    if (c == '/') v = 63;
    if (v < 0) continue;
    bits = bits << 6 | static_cast<uint32_t>(v);
    count += 6;
    if (count >= 8) {
      count -= 8;
      out += static_cast<char>(bits >> count & 0xff);
    }
  }
  return out;
}

StringMap SecretData(const Object& object) {
  StringMap out;
  const Json& data = Get(*object.body, "data");
  if (data.is_object()) {
    for (auto& [key, value] : data.items()) {
      if (value.is_string()) out[key] = Decode64(value.get<std::string>());
    }
  }
  const Json& plain = Get(*object.body, "stringData");
  if (plain.is_object()) {
    for (auto& [key, value] : plain.items()) {
      if (value.is_string()) out[key] = value.get<std::string>();
    }
  }
  return out;
}

std::string Describe(const Object& object) {
  return object.kind + " " + (object.ns.empty() ? "" : object.ns + "/") + object.name;
}

void NoteProblems(const Object& object, const std::vector<std::string>& messages, Plan& plan) {
  for (const std::string& message : messages) {
    plan.problems.push_back({object.file, object.line, Describe(object), message, ""});
  }
}

void PlanDeployment(const Object& object, Plan& plan) {
  const Json& spec = Get(*object.body, "spec");
  const Json& pod_template = Get(spec, "template");
  const int replicas =
      Get(spec, "replicas").is_number_integer() ? Get(spec, "replicas").get<int>() : 1;
  const std::string hash = SafeHash(pod_template.dump(), 10);
  const std::string replica_set = object.name + "-" + hash;
  std::vector<std::string> problems;
  PodTemplate parsed =
      ReadPodTemplate(Get(pod_template, "metadata"), Get(pod_template, "spec"), problems);
  NoteProblems(object, problems, plan);
  parsed.labels["pod-template-hash"] = hash;
  for (int i = 0; i < std::clamp(replicas, 0, 200); ++i) {
    PodPlan pod;
    pod.ns = object.ns;
    pod.name = replica_set + "-" + SafeHash(fmt::format("{}/{}#{}", object.ns, replica_set, i), 5);
    pod.owner = {"apps/v1", "ReplicaSet", replica_set};
    pod.set = "Deployment/" + object.name;
    pod.spec = parsed;
    pod.spec_hash = hash;
    pod.problems = problems;
    plan.pods.push_back(std::move(pod));
  }
}

void PlanStatefulSet(const Object& object, Plan& plan) {
  const Json& spec = Get(*object.body, "spec");
  const Json& pod_template = Get(spec, "template");
  const int replicas =
      Get(spec, "replicas").is_number_integer() ? Get(spec, "replicas").get<int>() : 1;
  const std::string hash = SafeHash(pod_template.dump(), 10);
  std::vector<std::string> problems;
  const PodTemplate parsed =
      ReadPodTemplate(Get(pod_template, "metadata"), Get(pod_template, "spec"), problems);
  NoteProblems(object, problems, plan);
  for (int i = 0; i < std::clamp(replicas, 0, 200); ++i) {
    PodPlan pod;
    pod.ns = object.ns;
    pod.name = fmt::format("{}-{}", object.name, i);
    pod.owner = {"apps/v1", "StatefulSet", object.name};
    pod.set = "StatefulSet/" + object.name;
    pod.spec = parsed;
    pod.spec.labels["statefulset.kubernetes.io/pod-name"] = pod.name;
    pod.spec.labels["controller-revision-hash"] = object.name + "-" + hash;
    pod.spec.hostname = pod.name;
    const Json& service = Get(spec, "serviceName");
    if (service.is_string()) pod.spec.subdomain = service.get<std::string>();
    pod.spec_hash = hash;
    pod.problems = problems;
    plan.pods.push_back(std::move(pod));
  }
}

void PlanDaemonSet(const Object& object, Plan& plan) {
  const Json& pod_template = Get(Get(*object.body, "spec"), "template");
  const std::string hash = SafeHash(pod_template.dump(), 10);
  std::vector<std::string> problems;
  const PodTemplate parsed =
      ReadPodTemplate(Get(pod_template, "metadata"), Get(pod_template, "spec"), problems);
  NoteProblems(object, problems, plan);
  for (const NodePlan& node : plan.nodes) {
    if (!SelectorMatches(parsed.node_selector, node.labels)) continue;
    PodPlan pod;
    pod.ns = object.ns;
    pod.name = object.name + "-" + SafeHash(object.ns + object.name + node.name + hash, 5);
    pod.owner = {"apps/v1", "DaemonSet", object.name};
    pod.set = "DaemonSet/" + object.name;
    pod.spec = parsed;
    pod.spec.node_name = node.name;
    pod.spec.labels["controller-revision-hash"] = hash;
    pod.spec_hash = hash;
    pod.problems = problems;
    plan.pods.push_back(std::move(pod));
  }
}

void PlanPod(const Object& object, Plan& plan) {
  PodPlan pod;
  pod.ns = object.ns;
  pod.name = object.name;
  pod.set = "Pod/" + object.name;
  pod.spec =
      ReadPodTemplate(Get(*object.body, "metadata"), Get(*object.body, "spec"), pod.problems);
  NoteProblems(object, pod.problems, plan);
  // Labels and annotations of a running pod may change; anything else is another pod.
  pod.spec_hash = SafeHash(Get(*object.body, "spec").dump() + pod.spec.fixed_ip, 10);
  plan.pods.push_back(std::move(pod));
}

bool IsWaypointClass(const std::string& name) {
  return name == "istio-waypoint" || name == "qanat-waypoint";
}

// What the control plane's Gateway controller would create in a cluster: a Deployment's pod, a
// ServiceAccount and a Service of the Gateway's name (reference: the stock waypoint template).
void PlanGateway(const Object& object, const PlanOptions& options, Plan& plan) {
  const Json& spec = Get(*object.body, "spec");
  const Json& class_name = Get(spec, "gatewayClassName");
  if (!class_name.is_string() || !IsWaypointClass(class_name.get<std::string>())) return;
  plan.gateways.push_back({object.ns, object.name, object.body});

  Json service = {
      {"apiVersion", "v1"},
      {"kind", "Service"},
      {"metadata",
       {{"name", object.name},
        {"namespace", object.ns},
        {"labels",
         {{"gateway.networking.k8s.io/gateway-name", object.name},
          {"gateway.istio.io/managed", "istio.io-mesh-controller"},
          {"istio.io/dataplane-mode", "none"}}}}},
      {"spec",
       {{"type", "ClusterIP"},
        {"ipFamilyPolicy", "PreferDualStack"},
        {"selector", {{"gateway.networking.k8s.io/gateway-name", object.name}}},
        {"ports",
         {{{"name", "status-port"}, {"port", 15021}, {"targetPort", 15021}, {"protocol", "TCP"}},
          {{"name", "mesh"},
           {"port", 15008},
           {"targetPort", 15008},
           {"protocol", "TCP"},
           {"appProtocol", "hbone"}}}}}}};
  Object service_object{"v1",
                        "Service",
                        object.ns,
                        object.name,
                        object.file,
                        object.line,
                        std::make_shared<const Json>(std::move(service))};
  plan.services.push_back(ReadService(service_object));

  if (!options.waypoints) return;
  PodPlan pod;
  pod.ns = object.ns;
  const std::string hash = SafeHash(object.ns + "/" + object.name, 10);
  const std::string replica_set = object.name + "-" + hash;
  pod.name = object.name;  // there is one a Gateway here, so it needs no suffix
  pod.owner = {"apps/v1", "ReplicaSet", replica_set};
  pod.set = "Deployment/" + object.name;
  pod.gateway = object.name;
  pod.spec_hash = hash;
  pod.spec.service_account = object.name;
  pod.spec.labels = {
      {"gateway.networking.k8s.io/gateway-name", object.name},
      {"gateway.networking.k8s.io/gateway-class-name", class_name.get<std::string>()},
      {"gateway.istio.io/managed", "istio.io-mesh-controller"},
      {"service.istio.io/canonical-name", object.name},
      {"service.istio.io/canonical-revision", "latest"},
      {"istio.io/dataplane-mode", "none"},
      {"sidecar.istio.io/inject", "false"},
      {"pod-template-hash", hash}};
  ContainerSpec container;
  container.name = "waypoint";
  container.ports = {{"mesh", 15008, "TCP"}, {"status-port", 15021, "TCP"}};
  ProbeSpec probe;
  probe.port = 15021;
  probe.path = "/healthz/ready";
  container.readiness = probe;
  pod.spec.containers.push_back(container);
  pod.spec.spec = std::make_shared<const Json>(
      Json{{"serviceAccountName", object.name},
           {"containers",
            {{{"name", "waypoint"},
              {"ports",
               {{{"name", "mesh"}, {"containerPort", 15008}, {"protocol", "TCP"}},
                {{"name", "status-port"}, {"containerPort", 15021}, {"protocol", "TCP"}}}}}}}});
  plan.pods.push_back(std::move(pod));
}

void PlanNodes(const std::vector<Object>& objects, const PlanOptions& options, Plan& plan) {
  for (const Object& object : objects) {
    if (object.kind != "Node") continue;
    NodePlan node;
    node.name = object.name;
    node.labels = Labels(object, "labels");
    node.annotations = Labels(object, "annotations");
    plan.nodes.push_back(std::move(node));
  }
  for (int i = 1; plan.nodes.empty() || (plan.nodes.size() < static_cast<size_t>(options.nodes) &&
                                         plan.nodes.back().name == fmt::format("node{}", i - 1));
       ++i) {
    plan.nodes.push_back({fmt::format("node{}", i), 0, {}, {}});
  }
  int index = 0;
  for (NodePlan& node : plan.nodes) {
    node.index = ++index;
    node.labels.emplace("kubernetes.io/hostname", node.name);
    node.labels.emplace("kubernetes.io/os", "linux");
  }
}

}  // namespace

std::string SafeHash(std::string_view text, size_t length) {
  static constexpr char kAlphabet[] = "bcdfghjklmnpqrstvwxz2456789";
  uint64_t hash = 14695981039346656037ULL;  // FNV-1a
  std::string out;
  for (unsigned char c : text) hash = (hash ^ c) * 1099511628211ULL;
  for (size_t i = 0; i < length; ++i) {
    out += kAlphabet[hash % 27];
    hash = hash / 27 + (i % 5 == 4 ? hash * 0x9E3779B97F4A7C15ULL : 0);
  }
  return out;
}

bool SelectorMatches(const StringMap& selector, const StringMap& labels) {
  return std::all_of(selector.begin(), selector.end(), [&](const auto& wanted) {
    auto it = labels.find(wanted.first);
    return it != labels.end() && it->second == wanted.second;
  });
}

Plan MakePlan(const std::vector<Object>& objects, const PlanOptions& options) {
  Plan plan;
  std::vector<Object> unique;
  std::map<std::string, const Object*> seen;
  for (const Object& object : objects) {
    const std::string key = object.kind + "/" + object.ns + "/" + object.name;
    auto [it, fresh] = seen.emplace(key, &object);
    if (!fresh) {
      plan.problems.push_back({object.file, object.line, Describe(object),
                               fmt::format("is already defined at {}:{}; this one is ignored",
                                           it->second->file, it->second->line),
                               "keep one of the two"});
      continue;
    }
    unique.push_back(object);
  }
  PlanNodes(unique, options, plan);
  if (plan.nodes.size() > 200) {
    plan.problems.push_back({"", 0, "Node", "more than 200 nodes: the rest is ignored", ""});
    plan.nodes.resize(200);
  }
  plan.namespaces["default"] = {};
  for (const Object& object : unique) {
    if (!object.ns.empty()) plan.namespaces[object.ns];
  }
  for (const Object& object : unique) {
    const std::string key = object.ns + "/" + object.name;
    if (object.kind == "Namespace") plan.namespaces[object.name] = Labels(object, "labels");
    if (object.kind == "ConfigMap") plan.config_maps[key] = Data(object);
    if (object.kind == "Secret") plan.secrets[key] = SecretData(object);
    if (object.kind == "Deployment") PlanDeployment(object, plan);
    if (object.kind == "StatefulSet") PlanStatefulSet(object, plan);
    if (object.kind == "DaemonSet") PlanDaemonSet(object, plan);
    if (object.kind == "Pod") PlanPod(object, plan);
    if (object.kind == "Service" && object.api_version == "v1") {
      plan.services.push_back(ReadService(object));
    }
    if (object.kind == "Gateway" && object.api_version.starts_with("gateway.networking.k8s.io/")) {
      PlanGateway(object, options, plan);
    }
  }
  for (auto& [name, labels] : plan.namespaces) {
    labels.emplace("kubernetes.io/metadata.name", name);
  }
  std::sort(plan.pods.begin(), plan.pods.end(), [](const PodPlan& a, const PodPlan& b) {
    return std::tie(a.ns, a.name) < std::tie(b.ns, b.name);
  });
  return plan;
}

std::map<std::string, std::string> Schedule(const Plan& plan,
                                            const std::map<std::string, std::string>& placed) {
  std::map<std::string, std::string> out;
  std::map<std::string, int> load;                            // node -> pods
  std::map<std::pair<std::string, std::string>, int> of_set;  // (set, node) -> pods
  std::vector<std::pair<const PodPlan*, std::string>> put_on;
  auto put = [&](const PodPlan& pod, const std::string& node) {
    out[pod.Key()] = node;
    put_on.emplace_back(&pod, node);
    ++load[node];
    ++of_set[{pod.ns + "/" + pod.set, node}];
  };
  for (const PodPlan& pod : plan.pods) {
    auto it = placed.find(pod.Key());
    if (it != placed.end()) put(pod, it->second);
  }
  for (const PodPlan& pod : plan.pods) {
    if (out.contains(pod.Key())) continue;
    const NodePlan* best = nullptr;
    for (const NodePlan& node : plan.nodes) {
      if (!pod.spec.node_name.empty() && pod.spec.node_name != node.name) continue;
      if (!SelectorMatches(pod.spec.node_selector, node.labels)) continue;
      // What the pod asks to be spread over, then its workload, then the nodes' load, then order.
      const auto rank = [&](const NodePlan& n) {
        int like = 0;
        for (const auto& [other, where] : put_on) {
          like += !pod.spec.spread.empty() && where == n.name && other->ns == pod.ns &&
                  SelectorMatches(pod.spec.spread, other->spec.labels);
        }
        return std::make_tuple(like, of_set[{pod.ns + "/" + pod.set, n.name}], load[n.name]);
      };
      if (best == nullptr || rank(node) < rank(*best)) best = &node;
    }
    if (best != nullptr) {
      put(pod, best->name);
    } else {
      out[pod.Key()] = "";
    }
  }
  return out;
}

}  // namespace qanat::local
