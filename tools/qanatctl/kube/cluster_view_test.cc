// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/kube/cluster_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tools/qanatctl/inspect/collect.h"
#include "tools/qanatctl/inspect/why.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json Pod(const std::string& ns, const std::string& name, const std::string& node,
         const Json& labels, bool ready = true) {
  return {
      {"metadata",
       {{"namespace", ns},
        {"name", name},
        {"labels", labels},
        {"ownerReferences",
         {{{"kind", "ReplicaSet"}, {"name", name.substr(0, name.rfind('-'))}}}}}},
      {"spec",
       {{"nodeName", node}, {"serviceAccountName", "sa"}, {"containers", {{{"name", "c"}}}}}},
      {"status",
       {{"phase", "Running"},
        {"podIPs", {{{"ip", "10.244.1.5"}}}},
        {"containerStatuses",
         {{{"restartCount", 2},
           {"state", ready ? Json::object()
                           : Json{{"waiting",
                                   {{"reason", "ImagePullBackOff"}, {"message", "no image"}}}}}}}},
        {"conditions", {{{"type", "Ready"}, {"status", ready ? "True" : "False"}}}}}}};
}
Json Ours(const char* app) { return {{"app", app}, {"app.kubernetes.io/part-of", "qanat"}}; }

ClusterObjects Cluster() {
  ClusterObjects out;
  out.pods = {
      Pod("qanat-system", "cp-5d9-a", "n1", Ours("qanat-controlplane"), false),
      Pod("qanat-system", "cp-5d9-b", "n2", Ours("qanat-controlplane")),
      Pod("qanat-system", "agent-x", "n1", Ours("qanat-agent")),
      Pod("qanat-system", "ztunnel-x", "n1", Ours("ztunnel")),
      Pod("istio-system", "stock", "n2", {{"app", "ztunnel"}}),
      Pod("zz-anybody", "ztunnel-x", "n1", {{"app", "ztunnel"}}),
      Pod("shop", "frontend-7f-abc", "n1", {{"app", "frontend"}}),
      Pod("shop", "wp-7f-abc", "n2",
          {{"gateway.networking.k8s.io/gateway-name", "wp"}, {"gateway.istio.io/managed", "x"}})};
  out.pods[2]["spec"]["hostNetwork"] = true;
  out.pods[6]["metadata"]["annotations"] = {{"ambient.istio.io/redirection", "enabled"}};
  out.services = {Json::parse(
      R"({"metadata":{"namespace":"shop","name":"db"},"spec":{"clusterIPs":["None"]}})")};
  out.endpoint_slices = {Json::parse(
      R"({"metadata":{"namespace":"shop","labels":{"kubernetes.io/service-name":"db"}},"endpoints":[
        {"addresses":["10.244.2.9"],"conditions":{"ready":true}},
        {"addresses":["10.244.2.8"],"conditions":{"ready":false}}]})")};
  return out;
}

TEST(ClusterView, WhatRunsWhere) {
  std::vector<std::string> asked;
  auto view = ViewOfCluster("context x", Cluster(),
                            [&](const std::string& where, uint16_t port,
                                const HttpRequest& request) -> Result<HttpResponse> {
                              asked.push_back(where + ":" + std::to_string(port) + request.path);
                              if (where.ends_with("cp-5d9-b") && request.path == "/a") {
                                return Fail(Code::kUnavailable, "down");
                              }
                              return HttpResponse{200, "{\"list\":[1]}"};
                            });
  ASSERT_TRUE(view.has_value()) << view.error().message;
  EXPECT_FALSE(Bool(view->raw(), "settled"));
  EXPECT_THAT(Items(view->raw(), "waiting")[0].get<std::string>(),
              HasSubstr("qanat-system/cp-5d9-a: ImagePullBackOff: no image"));
  EXPECT_EQ(Items(view->raw(), "programs").size(), 7U);
  EXPECT_EQ(view->nodes().size(), 2U);
  // The ready control plane first; when it does not answer, the other one.
  EXPECT_TRUE(AskControlPlane(*view, "/a").has_value());
  EXPECT_EQ(AskControlPlanes(*view, "/b", "list")->size(), 2U);
  auto nodes = AskNodes(*view, "n1", 15030, "/c");
  ASSERT_TRUE(nodes.has_value());
  EXPECT_TRUE(AskNodes(*view, "", 15000, "/d").has_value());
  EXPECT_THAT(asked,
              ElementsAre("pod:qanat-system/cp-5d9-b:8080/a", "pod:qanat-system/cp-5d9-a:8080/a",
                          "pod:qanat-system/cp-5d9-b:8080/b", "pod:qanat-system/cp-5d9-a:8080/b",
                          "pod:qanat-system/agent-x:15030/c", "pod:qanat-system/ztunnel-x:15000/d",
                          "pod:istio-system/stock:15000/d"));
  auto no_agent = AskNodes(*view, "n2", 15030, "/c");
  ASSERT_FALSE(no_agent.has_value());
  EXPECT_THAT(no_agent.error().message, HasSubstr("no agent runs on node n2"));
}

TEST(ClusterView, SaysWhyAProgramEndsAndWhichVersionsRun) {
  ClusterObjects objects = Cluster();
  Json& agent = objects.pods[2];
  agent["status"]["conditions"][0]["status"] = "False";
  agent["status"]["containerStatuses"][0] = Json::parse(R"({"name":"agent","ready":false,
      "state":{"running":{}},"lastState":{"terminated":{"exitCode":1,"reason":"Error",
      "message":"warn x\nerror this node's kernel lacks bpf_link\n"}}})");
  for (const int i : {0, 1}) {
    objects.pods[i]["spec"]["containers"][0]["image"] = "r/controlplane:0." + std::to_string(i + 1);
  }
  auto view = ViewOfCluster("x", objects, nullptr);
  ASSERT_TRUE(view.has_value());
  EXPECT_THAT(Items(view->raw(), "waiting").dump(), HasSubstr("kernel lacks bpf_link"));
  EXPECT_THAT(Items(view->raw(), "findings").dump(),
              HasSubstr("2 versions of the control plane run: 0.1 (qanat-system/cp-5d9-a), 0.2"));
}

TEST(ClusterView, PodsAndNames) {
  auto view = ViewOfCluster("x", Cluster(), nullptr);
  ASSERT_TRUE(view.has_value());
  auto frontend = view->FindPod("shop/deploy/frontend");
  ASSERT_TRUE(frontend.has_value()) << frontend.error().message;
  EXPECT_EQ((*frontend)->name, "frontend-7f-abc");
  EXPECT_TRUE((*frontend)->mesh);
  EXPECT_EQ((*frontend)->restarts, 2);
  EXPECT_EQ((*view->FindPod("wp.shop"))->gateway, "wp");
  EXPECT_EQ((*view->FindPod("qanat-system/agent-x"))->reason, "host network");
  // A headless name is what its ready endpoints are.
  auto target = ResolveTarget(*view, **frontend, "db:5432", view->Hosts("n1"));
  ASSERT_TRUE(target.has_value()) << target.error().message;
  EXPECT_EQ(target->address, "10.244.2.9");
}

TEST(ClusterView, APodWithASidecarIsNamedWithTheRemedy) {
  ClusterObjects objects = Cluster();
  Json& pod = objects.pods[6];
  pod["spec"]["containers"].push_back({{"name", "istio-proxy"}});
  pod["metadata"]["annotations"] = Json::object();
  EXPECT_EQ(Items(ViewOfCluster("x", objects, nullptr)->raw(), "findings").dump(), "[]")
      << "its labels do not ask for the mesh, else its agent had said so";
  pod["metadata"]["annotations"] = {{"ambient.istio.io/redirection", "pending"}};
  const std::string findings =
      Items(ViewOfCluster("x", objects, nullptr)->raw(), "findings").dump();
  EXPECT_THAT(findings, HasSubstr("shop/frontend-7f-abc is not in the mesh: it has a sidecar"));
  EXPECT_THAT(findings, HasSubstr("restart it"));
}

TEST(ClusterView, NoMeshThere) {
  ClusterObjects objects;
  objects.pods = {Pod("shop", "a-b", "n1", {{"app", "a"}})};
  auto view = ViewOfCluster("context x", objects, nullptr);
  ASSERT_FALSE(view.has_value());
  EXPECT_THAT(view.error().message, HasSubstr("qanatctl install"));
}

}  // namespace
}  // namespace qanat::ctl
