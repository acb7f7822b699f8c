// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tools/qanatctl/local/overlay.h"

namespace qanat::local {
namespace {

using ::testing::HasSubstr;

Plan PlanOf(const std::string& yaml, int nodes = 2) {
  FileObjects file = ParseObjects(yaml, "test.yaml");
  EXPECT_TRUE(file.parsed);
  return MakePlan(file.objects, {nodes, true});
}

constexpr char kWeb[] = R"(
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      containers:
      - name: web
        command: [serve]
        args: ["--port", "80"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /ok, port: http}, periodSeconds: 3}
)";

TEST(Plan, ADeploymentBecomesPodsWithStableNames) {
  const Plan plan = PlanOf(kWeb);
  ASSERT_EQ(plan.pods.size(), 3u);
  std::set<std::string> names;
  for (const PodPlan& pod : plan.pods) {
    names.insert(pod.name);
    EXPECT_EQ(pod.ns, "shop");
    EXPECT_EQ(pod.spec.service_account, "web");
    EXPECT_EQ(pod.owner.kind, "ReplicaSet");
    EXPECT_THAT(pod.name, ::testing::StartsWith(pod.owner.name + "-"));
    EXPECT_EQ(pod.spec.labels.at("pod-template-hash"), pod.spec_hash);
    EXPECT_EQ(pod.spec.containers[0].argv, (std::vector<std::string>{"serve", "--port", "80"}));
    ASSERT_TRUE(pod.spec.containers[0].readiness);
    EXPECT_EQ(pod.spec.containers[0].readiness->port, 8080);  // by name
    EXPECT_TRUE(pod.problems.empty());
  }
  EXPECT_EQ(names.size(), 3u);
  const Plan again = PlanOf(kWeb);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(plan.pods[i].name, again.pods[i].name);
  std::string changed = kWeb;
  changed.replace(changed.find("/ok"), 3, "/up");
  EXPECT_FALSE(names.contains(PlanOf(changed).pods[0].name));
}

TEST(Plan, APodsLabelsAreNotPartOfItsHash) {
  const std::string pod =
      "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {a: LABEL}}\n"
      "spec: {containers: [{name: c, command: [x]}]}\n";
  std::string other = pod;
  other.replace(other.find("LABEL"), 5, "other");
  const Plan a = PlanOf(pod);
  const Plan b = PlanOf(other);
  EXPECT_EQ(a.pods[0].spec_hash, b.pods[0].spec_hash);
  EXPECT_EQ(b.pods[0].spec.labels.at("a"), "other");
  EXPECT_EQ(a.pods[0].ns, "default");
}

TEST(Plan, AStatefulSetNumbersItsPods) {
  const Plan plan = PlanOf(R"(
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: data}
spec:
  replicas: 2
  serviceName: dbs
  template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, command: [x]}]}}
)");
  ASSERT_EQ(plan.pods.size(), 2u);
  EXPECT_EQ(plan.pods[0].name, "db-0");
  EXPECT_EQ(plan.pods[1].spec.hostname, "db-1");
  EXPECT_EQ(plan.pods[1].spec.subdomain, "dbs");
}

TEST(Plan, AWaypointGatewayBringsAPodAServiceAndNothingForOtherClasses) {
  const std::string gateway =
      "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n"
      "metadata: {name: way, namespace: shop}\n"
      "spec: {gatewayClassName: CLASS, listeners: []}\n";
  for (const char* name : {"istio-waypoint", "qanat-waypoint"}) {
    std::string text = gateway;
    text.replace(text.find("CLASS"), 5, name);
    const Plan plan = PlanOf(text);
    ASSERT_EQ(plan.pods.size(), 1u);
    EXPECT_EQ(plan.pods[0].gateway, "way");
    EXPECT_EQ(plan.pods[0].spec.service_account, "way");
    EXPECT_EQ(plan.pods[0].spec.labels.at("istio.io/dataplane-mode"), "none");
    ASSERT_EQ(plan.services.size(), 1u);
    EXPECT_TRUE(SelectorMatches(plan.services[0].selector, plan.pods[0].spec.labels));
    EXPECT_EQ(plan.services[0].ports.back().port, 15008);
  }
  std::string other = gateway;
  other.replace(other.find("CLASS"), 5, "nginx");
  EXPECT_TRUE(PlanOf(other).pods.empty());
}

TEST(Plan, ProblemsNameFileLineObjectAndCause) {
  const Plan plan = PlanOf(R"(
apiVersion: v1
kind: Pod
metadata: {name: image-only}
spec: {containers: [{name: c, image: nginx}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bad-probe}
spec: {containers: [{name: c, command: [x], readinessProbe: {httpGet: {port: nope}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: image-only}
spec: {containers: [{name: c, command: [x]}]}
)");
  ASSERT_EQ(plan.problems.size(), 3u);
  std::string all;
  for (const FileProblem& problem : plan.problems) all += problem.ToString() + "\n";
  EXPECT_THAT(all, HasSubstr("test.yaml:2: Pod default/image-only: container c: no 'command'"));
  EXPECT_THAT(all, HasSubstr("readinessProbe names port 'nope'"));
  EXPECT_THAT(all, HasSubstr("is already defined at test.yaml:2"));
  EXPECT_FALSE(plan.pods[0].problems.empty());
}

TEST(Plan, NodesComeFromTheYamlElseFromTheNumberAskedFor) {
  EXPECT_EQ(PlanOf(kWeb, 3).nodes.size(), 3u);
  EXPECT_EQ(PlanOf(kWeb, 3).nodes[2].name, "node3");
  const Plan plan = PlanOf(
      "apiVersion: v1\nkind: Node\nmetadata: {name: east}\n---\n"
      "apiVersion: v1\nkind: Node\nmetadata: {name: west}\n",
      5);
  ASSERT_EQ(plan.nodes.size(), 2u);
  EXPECT_EQ(plan.nodes[1].name, "west");
  EXPECT_EQ(plan.nodes[1].index, 2);
  EXPECT_EQ(plan.nodes[1].labels.at("kubernetes.io/hostname"), "west");
}

TEST(Schedule, SpreadsAWorkloadAndKeepsWhatIsPlaced) {
  const Plan plan = PlanOf(kWeb);
  auto where = Schedule(plan, {});
  std::map<std::string, int> count;
  for (const auto& [pod, node] : where) ++count[node];
  EXPECT_EQ(count["node1"], 2);
  EXPECT_EQ(count["node2"], 1);
  // Whatever the first two pods are placed on, the third goes to the other node.
  where = Schedule(plan, {{plan.pods[0].Key(), "node2"}, {plan.pods[1].Key(), "node2"}});
  EXPECT_EQ(where[plan.pods[0].Key()], "node2");
  EXPECT_EQ(where[plan.pods[2].Key()], "node1");
}

TEST(Schedule, HonoursNodeNameSelectorAndSpreadConstraint) {
  const std::string text = R"(
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {nodeName: node2, containers: [{name: c, command: [x]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec: {nodeSelector: {kubernetes.io/hostname: node2}, containers: [{name: c, command: [x]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c}
spec: {nodeSelector: {disk: fast}, containers: [{name: c, command: [x]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: d, labels: {app: d}}
spec:
  nodeName: node1
  containers: [{name: c, command: [x]}]
---
apiVersion: v1
kind: Pod
metadata: {name: e, labels: {app: d}}
spec:
  topologySpreadConstraints:
  - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: d}}}
  containers: [{name: c, command: [x]}]
)";
  const auto where = Schedule(PlanOf(text), {});
  EXPECT_EQ(where.at("default/a"), "node2");
  EXPECT_EQ(where.at("default/b"), "node2");
  EXPECT_EQ(where.at("default/c"), "");
  EXPECT_EQ(where.at("default/d"), "node1");
  EXPECT_EQ(where.at("default/e"), "node2") << "although node2 has more pods";
}

TEST(Objects, ListsAreTakenApartAndBadDocumentsReported) {
  FileObjects file = ParseObjects(
      "apiVersion: v1\nkind: List\nitems:\n- {kind: Pod, metadata: {name: x}}\n"
      "- {kind: Pod, metadata: {name: y, namespace: n}}\n---\n- just\n- a list\n---\n"
      "kind: Pod\n",
      "f.yaml");
  ASSERT_EQ(file.objects.size(), 2u);
  EXPECT_EQ(file.objects[0].ns, "default");
  EXPECT_EQ(file.objects[1].ns, "n");
  ASSERT_EQ(file.problems.size(), 2u);
  EXPECT_EQ(file.problems[0].line, 7);
  EXPECT_EQ(file.problems[1].line, 10);
}

TEST(Overlay, APodSaysWhatTheKubeletWould) {
  PodStatus pod;
  pod.facts = {
      "shop",           "web-1", "uid-1", "node1", "web", "10.90.0.1", {"10.91.1.2", "fd91:1::2"},
      {{"app", "web"}}, {}};
  pod.owner = {"apps/v1", "ReplicaSet", "web-abc"};
  pod.containers = {{"c", {{"http", 8080, "TCP"}}}};
  pod.phase = "Running";
  pod.ready = true;
  pod.redirection = "enabled";
  const Json json = Json::parse(RenderPodOverlay(pod));
  EXPECT_EQ(json["metadata"]["annotations"]["ambient.istio.io/redirection"], "enabled");
  EXPECT_EQ(json["metadata"]["ownerReferences"][0]["name"], "web-abc");
  EXPECT_EQ(json["status"]["podIPs"][1]["ip"], "fd91:1::2");
  EXPECT_EQ(json["spec"]["containers"][0]["ports"][0]["containerPort"], 8080);
  EXPECT_EQ(json["status"]["conditions"][3]["type"], "Ready");
  EXPECT_EQ(json["status"]["conditions"][3]["status"], "True");
}

TEST(Overlay, MeshMembershipFollowsTheLabels) {
  const StringMap ambient = {{"istio.io/dataplane-mode", "ambient"}};
  const StringMap none = {{"istio.io/dataplane-mode", "none"}};
  EXPECT_TRUE(WantsMesh({}, ambient));
  EXPECT_TRUE(WantsMesh(ambient, {}));
  EXPECT_FALSE(WantsMesh(none, ambient));
  EXPECT_FALSE(WantsMesh({}, {}));
}

}  // namespace
}  // namespace qanat::local
