// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/manifest.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tools/qanatctl/install/health.h"
#include "tools/qanatctl/install/prerequisites.h"
#include "tools/qanatctl/install/versions.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(Manifest, TheCommittedFileIsWhatTheSourceGives) {
  std::ifstream file(QANAT_SOURCE_DIR "/deploy/qanat.yaml");
  std::stringstream committed;
  committed << file.rdbuf();
  auto text = RenderText({}, true);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_TRUE(committed.str() == *text) << "make it anew: qanatctl manifests > deploy/qanat.yaml";
}

TEST(Manifest, ValuesReachEveryPlace) {
  InstallValues values{"mesh", "root", "example.org", "reg.example:5000/q", "9.9.9", "false"};
  auto text = RenderText(values, false);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_THAT(*text, Not(HasSubstr("qanat-system")));
  EXPECT_THAT(*text, Not(HasSubstr("${")));
  EXPECT_THAT(*text, Not(HasSubstr("CustomResourceDefinition")));
  for (const char* image : {"controlplane", "agent", "ztunnel"}) {
    EXPECT_THAT(*text, HasSubstr("image: reg.example:5000/q/" + std::string(image) + ":9.9.9"));
  }
  EXPECT_THAT(*text, HasSubstr("--trust-domain=example.org"));
  EXPECT_THAT(*text, HasSubstr("--root-namespace=root"));
  EXPECT_THAT(*text, HasSubstr("--cni-own-list=false"));
}

TEST(Manifest, BadValuesAreRefused) {
  for (const InstallValues& bad :
       {InstallValues{.ns = "a: b"}, InstallValues{.ns = ""}, InstallValues{.image_tag = "latest"},
        InstallValues{.image_prefix = "x\ny"}, InstallValues{.trust_domain = "${NAMESPACE}"},
        InstallValues{.cni_own_list = "yes"}}) {
    EXPECT_FALSE(RenderText(bad, true));
  }
  EXPECT_FALSE(FillIn("${NOBODY}", {}));
  EXPECT_FALSE(FillIn("${NAMESPACE", {}));
}

// What holds for each object and each pod of ours.
TEST(Manifest, Rules) {
  auto objects = RenderObjects({});
  ASSERT_TRUE(objects) << objects.error().message;
  std::set<std::string> names;
  int namespaces = 0;
  for (const KubeObject& object : *objects) {
    SCOPED_TRACE(object.Title());
    const Json json = Json::parse(object.json);
    EXPECT_TRUE(IsOurs(json));
    EXPECT_EQ(object.resource.namespaced, !object.ns.empty());
    EXPECT_TRUE(names.insert(object.Title()).second);
    for (const Json& rule : Items(json, "rules")) {
      EXPECT_THAT(rule.dump(), Not(HasSubstr("*"))) << "no wildcard in RBAC";
    }
    if (object.resource.kind == "Namespace") {
      // Where the cluster enforces "baseline", agents and proxies would not be let in.
      for (const char* what : {"enforce", "audit", "warn"}) {
        EXPECT_EQ(Str(Get(Get(json, "metadata"), "labels"),
                      (std::string("pod-security.kubernetes.io/") + what).c_str()),
                  "privileged");
      }
      ++namespaces;
    }
    const Json& pod = Get(Get(json, "spec"), "template");
    if (!pod.is_object()) continue;
    EXPECT_EQ(Str(Get(Get(pod, "metadata"), "labels"), "istio.io/dataplane-mode"), "none");
    EXPECT_FALSE(Str(Get(pod, "spec"), "priorityClassName").empty());
    for (const Json& container : Items(Get(pod, "spec"), "containers")) {
      const Json& security = Get(container, "securityContext");
      EXPECT_FALSE(Bool(security, "privileged"));
      EXPECT_TRUE(Bool(security, "readOnlyRootFilesystem"));
      EXPECT_EQ(Get(Get(security, "capabilities"), "drop"), Json::array({"ALL"}));
      EXPECT_EQ(Str(container, "imagePullPolicy"), "IfNotPresent");
      EXPECT_TRUE(Get(container, "readinessProbe").is_object());
      EXPECT_TRUE(Get(Get(container, "resources"), "requests").is_object());
      EXPECT_TRUE(Get(Get(Get(container, "resources"), "limits"), "cpu").is_null());
    }
  }
  EXPECT_EQ(namespaces, 1);
}

// A node proxy of which a thread is stuck is started anew; one that is not ready is left alone.
TEST(Manifest, TheKubeletAsksTheNodeProxyWhetherItIsStuck) {
  auto objects = RenderObjects({});
  ASSERT_TRUE(objects) << objects.error().message;
  int found = 0;
  for (const KubeObject& object : *objects) {
    if (object.Title() != "DaemonSet ztunnel") continue;
    const Json json = Json::parse(object.json);
    const Json& pod = Get(Get(Get(json, "spec"), "template"), "spec");
    for (const Json& container : Items(pod, "containers")) {
      const Json& probe = Get(container, "livenessProbe");
      EXPECT_EQ(Str(Get(probe, "httpGet"), "path"), "/healthz/live");
      EXPECT_EQ(Get(probe, "httpGet")["port"], Get(container, "readinessProbe")["httpGet"]["port"]);
      EXPECT_GE(probe.value("periodSeconds", 0) * probe.value("failureThreshold", 0), 30);
      EXPECT_GE(probe.value("timeoutSeconds", 0), 5);
      ++found;
    }
  }
  EXPECT_EQ(found, 1);
}

// Whoever takes a node over gets what its agent may do: on that node, and no more.
TEST(Manifest, AnAgentsRightToPatchPodsIsNarrowed) {
  auto objects = RenderObjects({.ns = "mesh"});
  ASSERT_TRUE(objects) << objects.error().message;
  std::set<std::string> resources;
  bool bound = false;
  for (const KubeObject& object : *objects) {
    const Json json = Json::parse(object.json);
    if (object.Title() == "ClusterRole qanat-agent") {
      for (const Json& rule : Items(json, "rules")) {
        for (const std::string& verb : Strings(rule, "verbs")) {
          if (verb == "get" || verb == "list" || verb == "watch") continue;
          for (const std::string& what : Strings(rule, "resources")) resources.insert(what);
        }
      }
    }
    if (object.Title() == "ValidatingAdmissionPolicy qanat-agent") {
      EXPECT_THAT(object.json, HasSubstr("system:serviceaccount:mesh:qanat-agent"));
      EXPECT_EQ(Str(Get(json, "spec"), "failurePolicy"), "Fail");
    }
    bound = bound || object.Title() == "ValidatingAdmissionPolicyBinding qanat-agent";
  }
  EXPECT_THAT(resources, ::testing::ElementsAre("events", "pods/status"));
  EXPECT_TRUE(bound);
}

// An unknown field that the API server prunes could widen what a policy allows.
void ExpectOpen(const Json& schema, const std::string& path) {
  if (Get(schema, "properties").is_object()) {
    EXPECT_TRUE(Bool(schema, "x-kubernetes-preserve-unknown-fields")) << path;
    for (const auto& [name, child] : Get(schema, "properties").items()) {
      ExpectOpen(child, fmt::format("{}.{}", path, name));
    }
  }
  for (const char* below : {"items", "additionalProperties"}) {
    if (Get(schema, below).is_object()) ExpectOpen(Get(schema, below), path + "[]");
  }
}

TEST(Crds, KeepUnknownFieldsAndServeWhatUsersWrite) {
  auto crds = CrdObjects();
  ASSERT_TRUE(crds) << crds.error().message;
  std::set<std::string> served;
  for (const KubeObject& crd : *crds) {
    const Json json = Json::parse(crd.json);
    EXPECT_TRUE(IsOurs(json));
    const Json& spec = Get(json, "spec");
    EXPECT_EQ(crd.name, Str(Get(spec, "names"), "plural") + "." + Str(spec, "group"));
    int stored = 0;
    for (const Json& version : Items(spec, "versions")) {
      served.insert(Str(Get(spec, "names"), "kind") + " " + Str(version, "name"));
      stored += Bool(version, "storage") ? 1 : 0;
      EXPECT_TRUE(Get(Get(version, "subresources"), "status").is_object());
      const Json& schema = Get(Get(version, "schema"), "openAPIV3Schema");
      for (const char* part : {"spec", "status"}) {
        ExpectOpen(Get(Get(schema, "properties"), part), crd.name + ":" + part);
      }
    }
    EXPECT_EQ(stored, 1);
  }
  EXPECT_EQ(served, (std::set<std::string>{
                        "AuthorizationPolicy v1", "AuthorizationPolicy v1beta1",
                        "DestinationRule v1", "DestinationRule v1alpha3", "DestinationRule v1beta1",
                        "PeerAuthentication v1", "PeerAuthentication v1beta1",
                        "RequestAuthentication v1", "RequestAuthentication v1beta1",
                        "ServiceEntry v1", "ServiceEntry v1alpha3", "ServiceEntry v1beta1",
                        "VirtualService v1", "VirtualService v1alpha3", "VirtualService v1beta1"}));
}

TEST(Health, Workloads) {
  Json deployment = {{"metadata", {{"generation", 2}}},
                     {"spec", {{"replicas", 2}}},
                     {"status",
                      {{"observedGeneration", 2},
                       {"replicas", 2},
                       {"updatedReplicas", 2},
                       {"availableReplicas", 2}}}};
  EXPECT_TRUE(DeploymentHealth(deployment).ready);
  deployment["metadata"]["generation"] = 3;  // the controller has not looked yet
  EXPECT_FALSE(DeploymentHealth(deployment).ready);
  deployment["metadata"]["generation"] = 2;
  deployment["status"]["replicas"] = 3;  // an old one still runs
  EXPECT_FALSE(DeploymentHealth(deployment).ready);
  EXPECT_FALSE(DeploymentHealth(Json::object()).ready);
  EXPECT_FALSE(DaemonSetHealth(Json::object()).ready);  // no node
  // No count is a fraction, and none is beyond every integer.
  for (const double count : {2.5, 3.4e27, -3.4e27}) {
    deployment["status"]["replicas"] = deployment["status"]["availableReplicas"] = count;
    EXPECT_FALSE(DeploymentHealth(deployment).ready) << count;
  }
}

TEST(Versions, TagsOfImages) {
  EXPECT_EQ(ImageTag("localhost/qanat/agent:0.1.0"), "0.1.0");
  EXPECT_EQ(ImageTag("registry:5000/qanat/agent:0.1.0@sha256:ab"), "0.1.0");
  EXPECT_EQ(ImageTag("registry:5000/qanat/agent"), "");
}

TEST(Versions, SeveralAreNamedWithTheirPods) {
  const auto pod = [](const char* app, const char* name, const std::string& tag) {
    return Json{{"metadata",
                 {{"namespace", "qs"},
                  {"name", name},
                  {"labels", {{"app", app}, {"app.kubernetes.io/part-of", "qanat"}}}}},
                {"spec", {{"containers", {{{"image", "r/x:" + tag}}}}}}};
  };
  std::vector<Json> pods = {pod("qanat-controlplane", "cp-a", "0.1.0"),
                            pod("ztunnel", "z", "0.1.0"), pod("else", "e", "7")};
  EXPECT_EQ(SeveralControlPlanes(pods), "");
  EXPECT_EQ(OtherNodeVersions(pods), "");
  pods.push_back(pod("qanat-agent", "ag", "0.2.0"));
  EXPECT_THAT(OtherNodeVersions(pods), HasSubstr("others run: 0.2.0 (qs/ag)"));
  pods.push_back(pod("qanat-controlplane", "cp-b", "0.2.0"));
  EXPECT_THAT(
      SeveralControlPlanes(pods),
      AllOf(HasSubstr("2 versions of the control plane run: 0.1.0 (qs/cp-a), 0.2.0 (qs/cp-b)"),
            HasSubstr("qanatctl install --image-tag")));
  EXPECT_EQ(OtherNodeVersions(pods), "") << "one thing at a time";
}

TEST(Health, AProgramsLastLineSaysWhyItEnded) {
  const Json pod = Json::parse(R"({"status":{"containerStatuses":[{"name":"agent","ready":false,
      "state":{"waiting":{"reason":"CrashLoopBackOff"}},
      "lastState":{"terminated":{"exitCode":1,"reason":"Error","message":"warn a\nerror: no cgroup2\n"}}}]}})");
  EXPECT_THAT(PodProblem(pod, {}), HasSubstr("(Error): error: no cgroup2: see its log"));
}

TEST(Health, PodProblems) {
  const auto problem = [](const char* status, const std::vector<Json>& events = {}) {
    return PodProblem({{"metadata", {{"uid", "u"}}}, {"status", Json::parse(status)}}, events);
  };
  EXPECT_THAT(problem(R"({"conditions":[{"type":"PodScheduled","status":"False",
      "reason":"Unschedulable","message":"0/2 nodes are available"}]})"),
              HasSubstr("Unschedulable: 0/2 nodes are available - make room"));
  EXPECT_THAT(problem(R"({"containerStatuses":[{"name":"agent","ready":false,
      "state":{"waiting":{"reason":"CrashLoopBackOff"}},
      "lastState":{"terminated":{"exitCode":2,"reason":"Error"}}}]})"),
              HasSubstr("container agent ended with exit code 2 (Error): see its log"));
  const Json mount = {{"type", "Warning"},
                      {"reason", "FailedMount"},
                      {"message", "configmap \"istio-ca-root-cert\" not found"},
                      {"involvedObject", {{"uid", "u"}}}};
  EXPECT_THAT(problem(R"({"phase":"Pending","containerStatuses":[{"name":"a",
      "state":{"waiting":{"reason":"ContainerCreating"}}}]})",
                      {mount}),
              HasSubstr("FailedMount: configmap \"istio-ca-root-cert\" not found - the control"));
  EXPECT_EQ(problem(R"({"conditions":[{"type":"Ready","status":"True"}]})", {mount}), "");
  EXPECT_EQ(problem("[]"), "is starting");
}

// Which image is missing is said once, whether the runtime says it or not.
TEST(Health, TheImageThatIsMissing) {
  const auto problem = [](const Json& waiting) {
    const Json container = {
        {"name", "agent"}, {"image", "local/agent:9"}, {"state", {{"waiting", waiting}}}};
    return PodProblem({{"status", {{"containerStatuses", Json::array({container})}}}}, {});
  };
  EXPECT_THAT(problem({{"reason", "ErrImagePull"}}),
              StartsWith("ErrImagePull: local/agent:9 - the node has no such image: load"));
  EXPECT_THAT(problem({{"reason", "ErrImagePull"}, {"message", "not found"}}),
              StartsWith("ErrImagePull: local/agent:9: not found - the node has no such image"));
  EXPECT_THAT(problem({{"reason", "ErrImagePull"}, {"message", "pull of local/agent:9: no"}}),
              StartsWith("ErrImagePull: pull of local/agent:9: no - the node has no such image"));
}

TEST(Prerequisites, Network) {
  EXPECT_TRUE(CheckCilium(Json::parse(R"({"data":{"bpf-lb-sock":"true",
      "bpf-lb-sock-hostns-only":"true","cni-exclusive":"false"}})"))
                  .empty());
  EXPECT_EQ(CheckCilium(Json::parse(R"({"data":{"bpf-lb-sock":"true"}})")).size(), 2u);
  EXPECT_TRUE(CheckCalico(Json::parse(R"({"spec":{"bpfEnabled":false}})")).empty());
  EXPECT_TRUE(
      CheckCalico(
          Json::parse(R"({"spec":{"bpfEnabled":true,"bpfConnectTimeLoadBalancing":"Disabled"}})"))
          .empty());
  EXPECT_EQ(CheckCalico(Json::parse(R"({"spec":{"bpfEnabled":true}})")).size(), 1u);
  EXPECT_EQ(CheckVersion(Json::parse(R"({"major":"1","minor":"27+"})")).level,
            Finding::Level::kBlocks);
  EXPECT_EQ(CheckVersion(Json::parse(R"({"major":"1","minor":"31+"})")).level,
            Finding::Level::kFine);
}

}  // namespace
}  // namespace qanat::ctl
