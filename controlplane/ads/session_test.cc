// SPDX-License-Identifier: Apache-2.0
// Delta ADS without gRPC: sessions, driven message by message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "controlplane/ads/ads_fixture.h"

namespace qanat::controlplane {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class SessionTest : public testing::Test {
 protected:
  void Use(const std::string& yaml) { session_.SetSource(SourceOf(SnapshotOf(yaml))); }
  std::optional<Response> Next() {
    const auto message = session_.Next();
    if (!message) return std::nullopt;
    return Parse(message->bytes);
  }
  void Ask(std::string_view type, std::vector<std::string> subscribe = {},
           std::vector<std::string> unsubscribe = {},
           std::map<std::string, std::string> initial = {}) {
    DeltaRequest request;
    request.type_url = type;
    request.subscribe = std::move(subscribe);
    request.unsubscribe = std::move(unsubscribe);
    request.initial_versions = std::move(initial);
    EXPECT_TRUE(session_.OnRequest(request));
  }
  void Answer(const Response& response, std::optional<std::string> error = std::nullopt) {
    DeltaRequest request;
    request.type_url = response.type;
    request.nonce = response.nonce;
    request.error = std::move(error);
    EXPECT_TRUE(session_.OnRequest(request));
  }
  const std::string kWebPod = "Kubernetes//Pod/shop/web";
  const std::string kWebService = "shop/web.shop.svc.cluster.local";
  AdsSession session_{{std::string(kAddressType), std::string(kAuthorizationType)}};
};

TEST_F(SessionTest, WildcardGetsAllOnceAndThenOnlyWhatChanges) {
  Use(kMesh);
  EXPECT_FALSE(Next());
  Ask(kAddressType);
  auto first = Next();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->names.size(), 3u);
  EXPECT_FALSE(Next());
  EXPECT_FALSE(session_.synced());
  Answer(*first);
  EXPECT_FALSE(Next());
  EXPECT_TRUE(session_.synced());
  Use(kMesh);  // the same content
  EXPECT_FALSE(Next());
  std::string moved = kMesh;
  moved.replace(moved.find("podIP: 10.91.1.5"), 16, "podIP: 10.91.1.6");
  Use(moved);
  auto second = Next();
  ASSERT_TRUE(second);
  EXPECT_THAT(second->names, ElementsAre(kWebPod));
  EXPECT_THAT(second->removed, IsEmpty());
  Answer(*second);
  std::string gone = kMesh;
  gone.resize(gone.find("---\napiVersion: v1\nkind: Service"));
  Use(gone);
  auto third = Next();
  ASSERT_TRUE(third);
  EXPECT_THAT(third->removed, ElementsAre(kWebService));
  EXPECT_EQ(third->names.size(), 1u);  // the pod, which has lost its service
}

TEST_F(SessionTest, FirstAnswerIsSentEvenWhenEmpty) {
  Use("");
  Ask(kAuthorizationType);
  auto first = Next();
  ASSERT_TRUE(first);
  EXPECT_THAT(first->names, IsEmpty());
  Answer(*first);
  EXPECT_FALSE(Next());
  EXPECT_TRUE(session_.synced());
}

TEST_F(SessionTest, ReconnectSendsOnlyTheDifference) {
  const auto snapshot = SnapshotOf(kMesh);
  std::map<std::string, std::string> have;
  for (const auto& [name, resource] : snapshot->resources.at(std::string(kAddressType))) {
    have[name] = resource.version;
  }
  have[kWebPod] = "older";
  have["Kubernetes//Pod/shop/gone"] = "x";
  session_.SetSource(SourceOf(snapshot));
  Ask(kAddressType, {}, {}, have);
  const auto first = Next();
  ASSERT_TRUE(first);
  EXPECT_THAT(first->names, ElementsAre(kWebPod));
  EXPECT_THAT(first->removed, ElementsAre("Kubernetes//Pod/shop/gone"));
}

TEST_F(SessionTest, ChangesGatherWhileTheClientIsBusy) {
  Use(kMesh);
  Ask(kAddressType);
  const auto first = Next();
  for (int i = 0; i < 5; ++i) {
    std::string moved = kMesh;
    moved.replace(moved.find("10.91.1.5"), 9, "10.91.2." + std::to_string(i));
    Use(moved);
    EXPECT_FALSE(Next());
  }
  Answer(*first);
  const auto second = Next();
  ASSERT_TRUE(second);
  EXPECT_THAT(second->names, ElementsAre(kWebPod));
  Answer(*second);
  EXPECT_FALSE(Next());
}

TEST_F(SessionTest, RejectionIsRememberedAndNotRepeated) {
  Use(kMesh);
  Ask(kAddressType);
  const auto first = Next();
  Answer(*first, "web: bad address");
  EXPECT_FALSE(Next());
  EXPECT_FALSE(session_.synced());
  const auto& state = session_.types().find(kAddressType)->second;
  EXPECT_EQ(state.nacks, 1u);
  EXPECT_EQ(state.last_error, "web: bad address");
}

TEST_F(SessionTest, PolicyComesBeforeTheWorkloadThatNamesItAndGoesAfterIt) {
  Use(kMesh);
  Ask(kAddressType);
  Ask(kAuthorizationType);
  for (int i = 0; i < 2; ++i) Answer(*Next());
  Use(std::string(kMesh) + kPolicy);
  const auto policy = Next();
  ASSERT_TRUE(policy);
  EXPECT_EQ(policy->type, kAuthorizationType);
  const auto workload = Next();
  ASSERT_TRUE(workload);
  EXPECT_EQ(workload->type, kAddressType);
  Answer(*policy);
  Answer(*workload);
  Use(kMesh);
  const auto unlisted = Next();
  ASSERT_TRUE(unlisted);
  EXPECT_EQ(unlisted->type, kAddressType);
  const auto removed = Next();
  ASSERT_TRUE(removed);
  EXPECT_EQ(removed->type, kAuthorizationType);
  EXPECT_THAT(removed->removed, ElementsAre("shop/p"));
}

TEST_F(SessionTest, WorkloadWaitsForAPolicyThatCannotBeSentYet) {
  std::string other = kPolicy;
  other.replace(other.find("name: p"), 7, "name: q");
  other.replace(other.find("app: web"), 8, "app: not");
  Use(kMesh + other);
  Ask(kAuthorizationType);
  Ask(kAddressType);
  const auto policies = Next();
  const auto addresses = Next();
  ASSERT_TRUE(policies && addresses);
  Answer(*addresses);
  // Policies are not answered yet: the workload that names the new one must not overtake it.
  Use(kMesh + other + kPolicy);
  EXPECT_FALSE(Next());
  Answer(*policies);
  EXPECT_EQ(Next()->type, kAuthorizationType);
  EXPECT_EQ(Next()->type, kAddressType);
}

TEST_F(SessionTest, OnDemandByUidAliasAndService) {
  Use(kMesh);
  Ask(kAddressType, {"*"}, {"*"});  // stock: subscribe to nothing yet
  EXPECT_FALSE(Next());
  Ask(kAddressType, {"/10.91.1.5"});
  auto pod = Next();
  ASSERT_TRUE(pod);
  EXPECT_THAT(pod->names, ElementsAre(kWebPod));
  Answer(*pod);
  // A VIP brings the service and its workloads; what is there already is not sent again.
  Ask(kAddressType, {"/10.96.0.10"});
  auto service = Next();
  ASSERT_TRUE(service);
  EXPECT_THAT(service->names, ElementsAre(kWebService));
  Answer(*service);
  Ask(kAddressType, {"/10.99.99.99"});
  auto nothing = Next();
  ASSERT_TRUE(nothing);
  EXPECT_THAT(nothing->removed, ElementsAre("/10.99.99.99"));
  Answer(*nothing);
  EXPECT_FALSE(Next());
  Use(kMesh);
  EXPECT_FALSE(Next());  // told once
  EXPECT_TRUE(session_.synced());
}

TEST_F(SessionTest, AskingAgainByNameSendsAgain) {
  Use(kMesh);
  Ask(kAddressType);
  Answer(*Next());
  Ask(kAddressType, {kWebPod});
  const auto again = Next();
  ASSERT_TRUE(again);
  EXPECT_THAT(again->names, ElementsAre(kWebPod));
}

TEST_F(SessionTest, TypesThatAreNotForThisClient) {
  Use(kMesh);
  DeltaRequest request;
  request.type_url = kListenerType;
  EXPECT_FALSE(session_.OnRequest(request));
}

// --- Envoy's order ------------------------------------------------------------------------------

ResourceSet EnvoySet(const std::string& salt) {
  ResourceSet set;
  for (const auto type : {kClusterType, kEndpointType, kListenerType, kRouteType}) {
    const std::string url(type);
    set[url].emplace("r", MakeResource(type, "r", {}, "body" + salt));
  }
  return set;
}

TEST(EnvoyOrder, ClustersEndpointsListenersRoutesAndTheirDependentsAgain) {
  AdsSession session({std::string(kClusterType), std::string(kEndpointType),
                      std::string(kListenerType), std::string(kRouteType)});
  const auto snapshot = SnapshotOf("");
  const auto use = [&](ResourceSet set) {
    session.SetSource({std::make_shared<const ResourceSet>(std::move(set)), snapshot});
  };
  const auto ask = [&](std::string_view type, std::vector<std::string> names) {
    DeltaRequest request;
    request.type_url = type;
    request.subscribe = std::move(names);
    EXPECT_TRUE(session.OnRequest(request));
  };
  const auto drain = [&] {
    std::vector<std::string> order;
    while (const auto message = session.Next()) {
      const Response response = Parse(message->bytes);
      order.push_back(response.type.substr(response.type.rfind('.') + 1) +
                      (response.names.empty() ? "-" : "+"));
      DeltaRequest ack;
      ack.type_url = response.type;
      ack.nonce = response.nonce;
      session.OnRequest(ack);
    }
    return order;
  };
  use(EnvoySet("1"));
  ask(kClusterType, {});
  EXPECT_THAT(drain(), ElementsAre("Cluster+"));
  ask(kEndpointType, {"r"});
  ask(kListenerType, {});
  ask(kRouteType, {"r"});
  EXPECT_THAT(drain(), ElementsAre("ClusterLoadAssignment+", "Listener+", "RouteConfiguration+"));
  // Only the cluster changes: its endpoints go again, since it waits for them.
  ResourceSet set = EnvoySet("1");
  set[std::string(kClusterType)].at("r") = MakeResource(kClusterType, "r", {}, "other");
  use(set);
  EXPECT_THAT(drain(), ElementsAre("Cluster+", "ClusterLoadAssignment+"));
  set[std::string(kListenerType)].at("r") = MakeResource(kListenerType, "r", {}, "other");
  use(set);
  EXPECT_THAT(drain(), ElementsAre("Listener+", "RouteConfiguration+"));
  EXPECT_TRUE(session.synced());
  // A removed cluster goes after the routes that no longer use it.
  ResourceSet less = EnvoySet("2");
  less[std::string(kClusterType)].clear();
  less[std::string(kEndpointType)].clear();
  use(less);
  EXPECT_THAT(drain(), ElementsAre("Listener+", "RouteConfiguration+", "Cluster-",
                                   "ClusterLoadAssignment-"));
}

}  // namespace
}  // namespace qanat::controlplane
