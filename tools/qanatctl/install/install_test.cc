// SPDX-License-Identifier: Apache-2.0
// install, uninstall and verify against a fake API server; the controllers that a cluster would
// have run each time the code under test sleeps.
#include "tools/qanatctl/install/install.h"

#include <gmock/gmock.h>

#include <map>
#include <nlohmann/json.hpp>

#include "common/kube/client.h"
#include "tests/support/kube/fake_api_server.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kNs[] = "/api/v1/namespaces/qanat-system";
constexpr char kAgents[] = "/apis/apps/v1/namespaces/qanat-system/daemonsets/qanat-agent";
constexpr char kZtunnels[] = "/apis/apps/v1/namespaces/qanat-system/daemonsets/ztunnel";
constexpr char kControl[] = "/apis/apps/v1/namespaces/qanat-system/deployments/qanat-controlplane";
constexpr char kRoot[] = "/api/v1/namespaces/istio-system";
constexpr char kCrds[] = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

class InstallTest : public ::testing::Test {
 protected:
  InstallTest() {
    server_.Put("/api/v1/namespaces/default", "{}");
    server_.Put("/api/v1/nodes/n1", "{}");
    pace_.now = [this] { return now_; };
    pace_.sleep = [this](std::chrono::milliseconds time) {
      now_ += time;
      Controllers();
    };
    pace_.say = [this](const std::string& line) { said_ += line + "\n"; };
  }

  // What the fake server has no notion of: versions, discovery, access reviews.
  Result<kube::CallResponse> Answer(kube::CallRequest request) {
    asked_.push_back(request.method + " " + request.path);
    if (request.path == "/version") {
      return kube::CallResponse{200, R"({"major":"1","minor":"34","gitVersion":"v1.34.4"})"};
    }
    if (request.path == "/apis/gateway.networking.k8s.io/v1") {
      if (!gateway_api_) return Fail(Code::kNotFound, "no such group");
      return kube::CallResponse{200, R"({"resources":[{"name":"gatewayclasses"},
          {"name":"gateways"},{"name":"httproutes"}]})"};
    }
    if (request.path == "/apis") {
      if (!discovery_) return Fail(Code::kUnavailable, "no answer");
      return kube::CallResponse{200,
                                R"({"groups":[{"preferredVersion":{"groupVersion":"a.b/v2"}}]})"};
    }
    if (request.path == "/api/v1") {
      return kube::CallResponse{200, R"({"resources":[
          {"name":"namespaces","kind":"Namespace","namespaced":false,"verbs":["list"]},
          {"name":"pods/exec","kind":"PodExecOptions","namespaced":true,"verbs":["list"]},
          {"name":"bindings","kind":"Binding","namespaced":true,"verbs":["create"]},
          {"name":"configmaps","kind":"ConfigMap","namespaced":true,"verbs":["get","list"]},
          {"name":"events","kind":"Event","namespaced":true,"verbs":["list"]}]})"};
    }
    if (request.path == "/apis/a.b/v2") {
      return kube::CallResponse{200, R"({"resources":[
          {"name":"toys","kind":"Toy","namespaced":true,"verbs":["list"]}]})"};
    }
    if (request.path.ends_with("/selfsubjectaccessreviews")) {
      const Json review = Json::parse(request.body);
      const Json& wanted = Get(Get(review, "spec"), "resourceAttributes");
      return kube::CallResponse{
          201, Json{{"status", {{"allowed", Str(wanted, "resource") != forbidden_}}}}.dump()};
    }
    return kube::CallBlocking(server_.Config(), std::move(request));
  }

  void Patch(const std::string& path, const Json& patch) {
    const std::string text = server_.Get(path);
    if (text.empty()) return;
    Json object = Json::parse(text);
    object.merge_patch(patch);
    server_.Put(path, object.dump());
  }

  void Controllers() {
    for (const std::string& text : server_.List(kCrds)) {
      Patch(std::string(kCrds) + "/" + Str(Get(Json::parse(text), "metadata"), "name"),
            {{"status",
              {{"conditions",
                {{{"type", "Established"}, {"status", "True"}},
                 {{"type", "NamesAccepted"}, {"status", "True"}}}}}}});
    }
    if (!server_.Get(kControl).empty()) {
      Patch(kControl, {{"status",
                        {{"observedGeneration", 1000},
                         {"replicas", 2},
                         {"updatedReplicas", 2},
                         {"availableReplicas", 2}}}});
      for (const std::string ns : {"default", "qanat-system", "istio-system"}) {
        server_.Put("/api/v1/namespaces/" + ns + "/configmaps/istio-ca-root-cert",
                    R"({"metadata":{"labels":{"app.kubernetes.io/part-of":"qanat"}},
                        "data":{"root-cert.pem":"PEM"}})");
      }
      server_.Put(std::string(kNs) + "/secrets/qanat-ca",
                  R"({"metadata":{"labels":{"app.kubernetes.io/part-of":"qanat"}}})");
      server_.Put(
          "/apis/coordination.k8s.io/v1/namespaces/qanat-system/leases/qanat-controlplane-leader",
          R"({"metadata":{"labels":{"app.kubernetes.io/part-of":"qanat"}},
              "spec":{"holderIdentity":"cp-1"}})");
    }
    if (nodes_work_) Nodes();
  }

  void Nodes() {
    for (const auto& [path, app] : {std::pair{kAgents, "qanat-agent"}, {kZtunnels, "ztunnel"}}) {
      const std::string pod = std::string(kNs) + "/pods/" + app + "-1";
      if (server_.Get(path).empty()) {
        server_.Remove(pod);
        continue;
      }
      Patch(path, {{"status",
                    {{"observedGeneration", 1000},
                     {"desiredNumberScheduled", 1},
                     {"updatedNumberScheduled", 1},
                     {"numberAvailable", 1}}}});
      server_.Put(pod, Json{{"metadata", {{"labels", {{"app", app}}}, {"uid", pod}}},
                            {"spec", {{"nodeName", "n1"}}},
                            {"status", {{"conditions", {{{"type", "Ready"}, {"status", "True"}}}}}}}
                           .dump());
    }
  }

  Status DoInstall() { return Install(api_, install_, pace_); }
  Status DoUninstall(bool purge) {
    return Uninstall(api_, {.purge = purge, .timeout = install_.timeout}, pace_);
  }
  std::string Verdict() {
    auto checks = Verify(api_, "qanat-system");
    if (!checks) return checks.error().ToString();
    std::string wrong;
    for (const Check& check : *checks) {
      if (check.state == Check::State::kWrong) wrong += check.what + ": " + check.detail + "\n";
    }
    return wrong;
  }
  size_t Asked(const std::string& what) const {
    for (size_t i = 0; i < asked_.size(); ++i) {
      if (asked_[i] == what) return i;
    }
    return asked_.size();
  }

  kube::testing::FakeApiServer server_{{.tls = false}};
  Api api_{[this](kube::CallRequest request) { return Answer(std::move(request)); }};
  InstallOptions install_{.timeout = std::chrono::seconds(10)};
  Pace pace_;
  std::chrono::steady_clock::time_point now_{};
  std::string said_;
  std::vector<std::string> asked_;
  std::string forbidden_;
  bool gateway_api_ = true;
  bool discovery_ = true;
  bool nodes_work_ = true;
};

TEST_F(InstallTest, InstallVerifyUninstallLeavesNothing) {
  EXPECT_THAT(Verdict(),
              AllOf(HasSubstr("objects: missing: "), HasSubstr("Deployment qanat-controlplane,")));
  const Status installed = DoInstall();
  ASSERT_TRUE(installed) << installed.error().message << "\n" << said_;
  EXPECT_EQ(Verdict(), "");
  // The control plane before the nodes' parts, which wait for its certificate.
  EXPECT_LT(Asked(std::string("PATCH ") + kControl), Asked(std::string("PATCH ") + kAgents));
  EXPECT_THAT(said_, HasSubstr("ok   DaemonSet ztunnel: 1/1 ready"));
  const Json root = Json::parse(server_.Get(kRoot));
  EXPECT_TRUE(Get(Get(root, "metadata"), "labels").is_null()) << root;

  ASSERT_TRUE(DoInstall()) << said_;  // again: an upgrade

  asked_.clear();
  server_.Put("/apis/apps/v1/namespaces/shop/deployments/waypoint",
              R"({"metadata":{"labels":{"app.kubernetes.io/part-of":"qanat"}}})");
  server_.Put("/apis/apps/v1/namespaces/shop/deployments/backend", "{}");
  const Status gone = DoUninstall(true);
  ASSERT_TRUE(gone) << gone.error().message << "\n" << said_;
  EXPECT_EQ(server_.Get("/apis/apps/v1/namespaces/shop/deployments/waypoint"), "");
  EXPECT_NE(server_.Get("/apis/apps/v1/namespaces/shop/deployments/backend"), "");
  EXPECT_EQ(server_.Get(kRoot), "") << "made by us, and nothing of others in it";
  EXPECT_THAT(server_.List(kCrds), IsEmpty());
  EXPECT_EQ(server_.Get(kNs), "");
  // The agents have their account and roles until they have ended.
  EXPECT_LT(Asked(std::string("DELETE ") + kAgents),
            Asked("DELETE /apis/rbac.authorization.k8s.io/v1/clusterroles/qanat-agent"));
}

TEST_F(InstallTest, UninstallWithoutPurgeKeepsTheKeyAndPolicies) {
  ASSERT_TRUE(DoInstall()) << said_;
  ASSERT_TRUE(DoUninstall(false)) << said_;
  EXPECT_NE(server_.Get(std::string(kNs) + "/secrets/qanat-ca"), "");
  EXPECT_EQ(server_.List(kCrds).size(), 6u);
  EXPECT_THAT(said_, HasSubstr("--purge removes these too"));
  EXPECT_EQ(server_.Get("/api/v1/namespaces/default/configmaps/istio-ca-root-cert"), "");
}

TEST_F(InstallTest, ARootNamespaceThatIsUsedOrWasThereStays) {
  const std::string root = kRoot;
  struct Case {
    const char* what;
    std::string put;  // what somebody puts into it
    bool made_by_us, stays;
  };
  for (const Case& c :
       {Case{"was there", "", false, true},
        {"a kind of its own", "/apis/a.b/v2/namespaces/istio-system/toys/t", true, true},
        {"a config map", root + "/configmaps/team", true, true},
        {"one in another", "/api/v1/namespaces/shop/configmaps/team", true, false},
        {"Kubernetes' own", root + "/configmaps/kube-root-ca.crt", true, false},
        {"an event", root + "/events/e", true, false}}) {
    SCOPED_TRACE(c.what);
    if (!c.made_by_us) server_.Put(kRoot, "{}");
    ASSERT_TRUE(DoInstall()) << said_;
    if (!c.put.empty()) server_.Put(c.put, "{}");
    ASSERT_TRUE(DoUninstall(false)) << said_;
    EXPECT_NE(server_.Get(kRoot), "") << "only --purge takes it away";
    ASSERT_TRUE(DoInstall()) << said_;
    said_.clear();
    ASSERT_TRUE(DoUninstall(true)) << said_;
    EXPECT_EQ(server_.Get(kRoot) != "", c.stays) << said_;
    EXPECT_THAT(server_.Get(kRoot), Not(HasSubstr("qanat.io")))
        << "it says no longer that it is ours";
    if (c.stays && c.made_by_us) EXPECT_THAT(said_, HasSubstr("istio-system stays, it is yours"));
    server_.Remove(kRoot);
    if (!c.put.empty()) server_.Remove(c.put);
  }
  ASSERT_TRUE(DoInstall()) << said_;
  discovery_ = false;
  ASSERT_TRUE(DoUninstall(true)) << said_;
  EXPECT_NE(server_.Get(kRoot), "") << "nobody knows what is in it";
  EXPECT_THAT(said_, HasSubstr("could not be read: no answer"));
}

TEST_F(InstallTest, UninstallStopsAtANodeThatDoesNotEnd) {
  ASSERT_TRUE(DoInstall()) << said_;
  nodes_work_ = false;  // the agent's pod stays
  const Status stopped = DoUninstall(true);
  ASSERT_FALSE(stopped);
  EXPECT_THAT(stopped.error().message,
              AllOf(HasSubstr("still ending on n1"), HasSubstr("--force")));
  EXPECT_NE(server_.Get("/apis/rbac.authorization.k8s.io/v1/clusterroles/qanat-agent"), "");
}

TEST_F(InstallTest, UninstallWantsWorkingAgents) {
  ASSERT_TRUE(DoInstall()) << said_;
  nodes_work_ = false;
  Patch(kAgents, {{"status", {{"numberAvailable", 0}}}});
  asked_.clear();
  const Status refused = DoUninstall(true);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("agents 0/1 ready"), HasSubstr("--force")));
  for (const std::string& line : asked_) EXPECT_FALSE(line.starts_with("DELETE")) << line;
}

TEST_F(InstallTest, UninstallNamesNodesThatWereNotRestored) {
  ASSERT_TRUE(DoInstall()) << said_;
  server_.Put("/api/v1/namespaces/shop/pods/p",
              R"({"metadata":{"annotations":{"ambient.istio.io/redirection":"enabled"}},
                  "spec":{"nodeName":"n7"}})");
  const Status left = DoUninstall(true);
  ASSERT_FALSE(left);
  EXPECT_THAT(left.error().message, AllOf(HasSubstr("n7 (1)"), HasSubstr("with working agents")));
}

TEST_F(InstallTest, StatusesAreTakenBack) {
  ASSERT_TRUE(DoInstall()) << said_;
  const std::string path = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/";
  server_.Put(path + "w", R"({"metadata":{"managedFields":[
      {"manager":"qanat-controlplane","subresource":"status","operation":"Apply"}]}})");
  server_.Put(path + "other", R"({"metadata":{"managedFields":[{"manager":"kubectl"}]}})");
  asked_.clear();
  ASSERT_TRUE(DoUninstall(false)) << said_;
  EXPECT_LT(Asked("PATCH " + path + "w/status"), asked_.size());
  EXPECT_EQ(Asked("PATCH " + path + "other/status"), asked_.size());
}

TEST_F(InstallTest, PrerequisitesStopBeforeAnythingIsMade) {
  gateway_api_ = false;
  server_.Put("/apis/apps/v1/namespaces/istio-system/daemonsets/istio-cni-node", "{}");
  server_.Put("/apis/apps/v1/namespaces/istio-system/deployments/istiod-1-30", "{}");
  server_.Put(
      "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/"
      "istio-sidecar-injector",
      "{}");
  server_.Put("/api/v1/namespaces/kube-system/configmaps/cilium-config",
              R"({"data":{"kube-proxy-replacement":"true"}})");
  server_.Put("/apis/crd.projectcalico.org/v1/felixconfigurations/default",
              R"({"spec":{"bpfEnabled":true}})");
  const Status refused = DoInstall();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("nothing was installed"));
  for (const char* part :
       {"standard-install.yaml", "istio-system/istio-cni-node", "istio-system/istiod-1-30",
        "istio-sidecar-injector", "socketLB.hostNamespaceOnly=true", "cni.exclusive=false",
        "bpfConnectTimeLoadBalancing"}) {
    EXPECT_THAT(said_, HasSubstr(part));
  }
  EXPECT_EQ(server_.CountRequests("PATCH", ""), 0u);
  EXPECT_EQ(server_.CountRequests("POST", ""), 0u);

  install_.force = true;
  EXPECT_TRUE(DoInstall()) << said_;
}

TEST_F(InstallTest, ToldWhatOneMayNotDo) {
  forbidden_ = "clusterroles";
  server_.AddFault({.path_part = "", .count = -1, .status = 403, .reason = "Forbidden"});
  EXPECT_FALSE(DoInstall());
  EXPECT_THAT(said_, AllOf(HasSubstr("you may not create clusterroles"),
                           HasSubstr("ClusterRole cluster-admin")));
  forbidden_ = "validatingadmissionpolicies";
  EXPECT_FALSE(DoInstall());
  EXPECT_THAT(said_, HasSubstr("you may not create validatingadmissionpolicies"));
}

TEST_F(InstallTest, OthersCrdsAreNeverTouched) {
  const std::string path = std::string(kCrds) + "/authorizationpolicies.security.istio.io";
  server_.Put(path, R"({"spec":{"theirs":true}})");
  for (const bool force : {false, true}) {
    install_.force = force;
    ASSERT_TRUE(DoInstall()) << said_;
    EXPECT_THAT(said_, HasSubstr("authorizationpolicies.security.istio.io is there and not ours"));
    EXPECT_EQ(server_.CountRequests("PATCH", "authorizationpolicies.security.istio.io"), 0u);
  }
  EXPECT_EQ(Verdict(), "");
  // What is printed for kubectl leaves it out, and no other.
  const auto others = OthersCrds(api_);
  ASSERT_TRUE(others) << others.error().message;
  EXPECT_THAT(*others, ::testing::ElementsAre("authorizationpolicies.security.istio.io"));
  const auto all = RenderText({}, true), text = RenderText({}, true, *others);
  ASSERT_TRUE(all && text);
  EXPECT_THAT(*all, HasSubstr("\n  name: authorizationpolicies.security.istio.io\n"));
  EXPECT_THAT(*text, Not(HasSubstr("\n  name: authorizationpolicies.security.istio.io\n")));
  for (const char* other : {"peerauthentications.security", "serviceentries.networking"})
    EXPECT_THAT(*text, HasSubstr("\n  name: " + std::string(other) + ".istio.io\n"));
  ASSERT_TRUE(DoUninstall(true)) << said_;
  EXPECT_THAT(server_.Get(path), HasSubstr("theirs"));
}

TEST_F(InstallTest, ASecondInstallationInAnotherNamespaceIsRefused) {
  server_.Put("/apis/apps/v1/namespaces/mesh/daemonsets/qanat-agent",
              R"({"metadata":{"labels":{"app.kubernetes.io/part-of":"qanat"}}})");
  ASSERT_FALSE(DoInstall());
  EXPECT_THAT(said_, AllOf(HasSubstr("installed already, in namespace mesh"),
                           HasSubstr("qanatctl uninstall --namespace mesh")));
  EXPECT_EQ(server_.CountRequests("PATCH", ""), 0u);
}

TEST_F(InstallTest, AnObjectOfTheSameNameIsNotTakenOver) {
  server_.Put(kZtunnels, R"({"metadata":{"labels":{"team":"a"}}})");
  const Status refused = DoInstall();
  ASSERT_FALSE(refused);
  server_.Remove(kZtunnels);
  server_.Put("/apis/rbac.authorization.k8s.io/v1/clusterroles/qanat-agent", "{}");
  said_.clear();
  const Status stranger = DoInstall();
  ASSERT_FALSE(stranger);
  EXPECT_THAT(stranger.error().message,
              AllOf(HasSubstr("ClusterRole qanat-agent exists"), HasSubstr("--force")));
  EXPECT_EQ(server_.CountRequests("PATCH", ""), 0u);
}

TEST_F(InstallTest, AWaitSaysWhy) {
  nodes_work_ = false;
  server_.Put(std::string(kNs) + "/pods/ztunnel-1", R"({
      "metadata":{"labels":{"app":"ztunnel"},"uid":"u"},"spec":{"nodeName":"n1"},
      "status":{"containerStatuses":[{"name":"ztunnel","state":{"waiting":{
          "reason":"ErrImageNeverPull","message":"no such image"}}}]}})");
  server_.Put(std::string(kNs) + "/events/e", R"({"type":"Warning","reason":"FailedCreate",
      "message":"pods \"qanat-agent-\" is forbidden: violates PodSecurity \"baseline\"",
      "involvedObject":{"kind":"DaemonSet","name":"qanat-agent"}})");
  const Status late = DoInstall();
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Code::kDeadlineExceeded);
  EXPECT_THAT(late.error().message,
              AllOf(HasSubstr("n1: ErrImageNeverPull: no such image - the node has no such image"),
                    HasSubstr("the namespace must allow privileged pods")));
  EXPECT_THAT(
      Verdict(),
      HasSubstr("node n1: qanat-agent has no pod here; ztunnel is not ready (why: DaemonSet "));
}

// Of each part, in install's words; also where an old pod still serves beside the one that waits.
TEST_F(InstallTest, VerifyNamesTheImageThatIsMissing) {
  ASSERT_TRUE(DoInstall()) << said_;
  ASSERT_EQ(Verdict(), "");
  nodes_work_ = false;
  const auto waits = [this](const std::string& app, const std::string& pod,
                            const std::string& image) {
    server_.Put(std::string(kNs) + "/pods/" + pod,
                Json{{"metadata", {{"labels", {{"app", app}}}, {"uid", pod}}},
                     {"spec", {{"nodeName", "n1"}}},
                     {"status",
                      {{"containerStatuses",
                        {{{"name", app},
                          {"image", image},
                          {"state",
                           {{"waiting",
                             {{"reason", "ImagePullBackOff"},
                              {"message", "Back-off pulling image \"" + image + "\""}}}}}}}}}}}
                    .dump());
  };
  Patch(kZtunnels, {{"status", {{"updatedNumberScheduled", 0}}}});
  waits("ztunnel", "ztunnel-2", "localhost/qanat/ztunnel:9");  // ztunnel-1 is ready
  Patch(kAgents, {{"status", {{"numberAvailable", 0}}}});
  waits("qanat-agent", "qanat-agent-1", "localhost/qanat/agent:9");
  Patch(kControl, {{"status", {{"availableReplicas", 1}}}});
  waits("qanat-controlplane", "cp-1", "localhost/qanat/controlplane:9");
  const std::string verdict = Verdict();
  for (const std::string& what :
       {std::string("DaemonSet ztunnel: 0/1 ready; n1: ImagePullBackOff: Back-off pulling image "
                    "\"localhost/qanat/ztunnel:9\" - the node has no such image: load "),
        std::string("DaemonSet qanat-agent: 0/1 ready; n1: ImagePullBackOff: Back-off pulling "
                    "image \"localhost/qanat/agent:9\" - the node has no such image: load "),
        std::string("Deployment qanat-controlplane: 1/2 ready; n1: ImagePullBackOff: Back-off "
                    "pulling image \"localhost/qanat/controlplane:9\" - the node has")}) {
    EXPECT_THAT(verdict, HasSubstr(what));
  }
  EXPECT_THAT(verdict, HasSubstr("node n1: qanat-agent is not ready (why: DaemonSet qanat-agent)"));
  const std::string once = "qanat/agent:9\" - the node";
  EXPECT_EQ(verdict.find(once), verdict.rfind(once)) << verdict;
}

TEST_F(InstallTest, NoPermissionEndsTheWait) {
  server_.AddFault({.method = "GET",
                    .path_part = "/pods",
                    .count = -1,
                    .status = 403,
                    .reason = "Forbidden",
                    .message = "pods is forbidden"});
  nodes_work_ = false;
  const Status refused = DoInstall();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kPermissionDenied);
}

}  // namespace
}  // namespace qanat::ctl
