// SPDX-License-Identifier: Apache-2.0
// Delta ADS without gRPC: sessions and the hub, driven message by message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "controlplane/ads/hub.h"
#include "controlplane/source/store.h"
#include "envoy/service/discovery/v3/discovery.pb.h"

namespace qanat::controlplane {
namespace {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

const char* kMesh = R"(
apiVersion: v1
kind: Pod
metadata: {name: ztunnel-n1, namespace: qanat-system, uid: zt1}
spec: {nodeName: n1, serviceAccountName: ztunnel, hostNetwork: true}
---
apiVersion: v1
kind: Pod
metadata: {name: w-1, namespace: shop, uid: w1, labels: {gateway.networking.k8s.io/gateway-name: w}}
spec: {nodeName: n1, serviceAccountName: w}
status: {podIP: 10.91.1.9}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, uid: web1, labels: {app: web}}
spec: {nodeName: n1, serviceAccountName: web}
status: {podIP: 10.91.1.5}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, clusterIP: 10.96.0.10, ports: [{port: 80}]}
)";
const char* kPolicy = R"(
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop}
spec: {selector: {matchLabels: {app: web}}}
)";

std::shared_ptr<const ConfigSnapshot> SnapshotOf(const std::string& yaml) {
  static uint64_t generation = 0;
  return BuildSnapshot(World::Build(LoadText(yaml).objects, {}), ++generation);
}

SessionSource SourceOf(const std::shared_ptr<const ConfigSnapshot>& snapshot) {
  return {std::shared_ptr<const ResourceSet>(snapshot, &snapshot->resources), snapshot};
}

struct Response {
  std::string type, nonce;
  std::vector<std::string> names, removed;
};

Response Parse(const std::string& bytes) {
  DeltaDiscoveryResponse message;
  EXPECT_TRUE(message.ParseFromString(bytes));
  Response out{message.type_url(), message.nonce(), {}, {}};
  for (const auto& resource : message.resources()) {
    EXPECT_EQ(resource.resource().type_url(), message.type_url());
    EXPECT_FALSE(resource.version().empty());
    out.names.push_back(resource.name());
  }
  out.removed.assign(message.removed_resources().begin(), message.removed_resources().end());
  return out;
}

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

// --- The hub ------------------------------------------------------------------------------------

class FakeWriter final : public StreamWriter {
 public:
  void Write(std::string bytes) override { written.push_back(Parse(bytes)); }
  void Finish(Status status) override { finished = std::move(status); }
  std::vector<Response> written;
  std::optional<Status> finished;
};

class HubTest : public testing::Test {
 protected:
  HubTest() {
    std::ofstream(dir_ + "/jwks.json") << *tls::MakeJwks(key_.public_key(), "k");
    Publish(kMesh);
  }
  ~HubTest() override { std::filesystem::remove_all(dir_); }

  void Publish(const std::string& yaml) { hub_.Publish(SnapshotOf(yaml), event::Clock::now()); }

  CallInfo Call(const std::string& ns, const std::string& sa, const std::string& pod,
                const std::string& uid) {
    const auto t = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
    const std::string payload = R"({"aud":["istio-ca"],"exp":)" + std::to_string(t + 600) +
                                R"(,"sub":"system:serviceaccount:)" + ns + ":" + sa +
                                R"(","kubernetes.io":{"namespace":")" + ns +
                                R"(","serviceaccount":{"name":")" + sa + R"("},"pod":{"name":")" +
                                pod + R"(","uid":")" + uid + R"("}}})";
    return {"Bearer " + *tls::SignJwt(key_, "k", payload), "Kubernetes", "ipv4:10.90.0.1:1234"};
  }
  CallInfo Ztunnel() { return Call("qanat-system", "ztunnel", "ztunnel-n1", "zt1"); }

  static std::string Hello(const std::string& id, std::string_view type,
                           std::map<std::string, std::string> metadata = {}) {
    DeltaDiscoveryRequest request;
    request.mutable_node()->set_id(id);
    for (const auto& [key, value] : metadata) {
      (*request.mutable_node()->mutable_metadata()->mutable_fields())[key].set_string_value(value);
    }
    request.set_type_url(std::string(type));
    return request.SerializeAsString();
  }
  static std::string Ack(const Response& response) {
    DeltaDiscoveryRequest request;
    request.set_type_url(response.type);
    request.set_response_nonce(response.nonce);
    return request.SerializeAsString();
  }
  void ExpectRefused(const CallInfo& call, const std::string& hello, Code code,
                     const std::string& text) {
    FakeWriter writer;
    const auto stream = hub_.OnStream(call, writer);
    if (stream) stream->OnMessage(hello);
    ASSERT_TRUE(writer.finished) << text;
    ASSERT_FALSE(*writer.finished);
    EXPECT_EQ(writer.finished->error().code, code) << writer.finished->error().message;
    EXPECT_THAT(writer.finished->error().message, HasSubstr(text));
    EXPECT_THAT(writer.written, IsEmpty());
  }

  const std::string kNode =
      "ztunnel~10.90.0.1~ztunnel-n1.qanat-system~qanat-system.svc.cluster.local";
  static std::string MakeDirectory() {
    char name[] = "/tmp/qanat-ads-XXXXXX";
    return ::mkdtemp(name);
  }
  const std::string dir_ = MakeDirectory();
  tls::PrivateKey key_ = *tls::PrivateKey::GenerateP256();
  metrics::Registry registry_;
  TokenAuthenticator tokens_{dir_ + "/jwks.json"};
  int translated_ = 0;
  AdsHub hub_{tokens_,
              [this](const World&, const WaypointKey& key) {
                ++translated_;
                WaypointConfig config;
                config.resources[std::string(kListenerType)].emplace(
                    "l", MakeResource(kListenerType, "l", {}, key.ToString()));
                return config;
              },
              [] { return std::chrono::system_clock::now(); }, registry_};
};

TEST_F(HubTest, NodeProxyGetsTheMeshAndChangesAtOnce) {
  FakeWriter writer;
  const auto stream = hub_.OnStream(Ztunnel(), writer);
  ASSERT_TRUE(stream) << writer.finished->error().message;
  stream->OnMessage(Hello(kNode, kAddressType, {{"NAMESPACE", "qanat-system"}}));
  ASSERT_EQ(writer.written.size(), 1u);
  EXPECT_EQ(writer.written[0].names.size(), 3u);
  stream->OnMessage(Hello("", kAuthorizationType));
  EXPECT_EQ(writer.written.size(), 1u) << "one write at a time";
  stream->OnWritten();
  ASSERT_EQ(writer.written.size(), 2u);
  stream->OnWritten();
  stream->OnMessage(Ack(writer.written[0]));
  stream->OnMessage(Ack(writer.written[1]));
  ASSERT_EQ(hub_.Clients().size(), 1u);
  EXPECT_TRUE(hub_.Clients()[0].session->synced());
  Publish(std::string(kMesh) + kPolicy);
  ASSERT_EQ(writer.written.size(), 3u) << "before the call returns";
  EXPECT_THAT(writer.written[2].names, ElementsAre("shop/p"));
  stream->OnWritten();
  ASSERT_EQ(writer.written.size(), 4u);
  EXPECT_THAT(writer.written[3].names, ElementsAre("Kubernetes//Pod/shop/web"));
  EXPECT_THAT(registry_.Render(), HasSubstr("pilot_xds_pushes{type=\"wads\"} 2"));
}

TEST_F(HubTest, Refusals) {
  ExpectRefused({"", "", "p"}, "", Code::kUnauthenticated, "no bearer token");
  ExpectRefused(Call("shop", "web", "web", "no-such-uid"), "", Code::kUnauthenticated,
                "does not exist");
  ExpectRefused(Ztunnel(), "garbage", Code::kInvalidArgument, "not a DeltaDiscoveryRequest");
  ExpectRefused(Ztunnel(), Hello("", kAddressType), Code::kInvalidArgument, "must carry the node");
  ExpectRefused(Ztunnel(), Hello("ztunnel~1.1.1.1~x", kAddressType), Code::kInvalidArgument,
                "not of the form");
  ExpectRefused(Ztunnel(), Hello("ztunnel~1.1.1.1~web.shop~shop.svc.cluster.local", kAddressType),
                Code::kPermissionDenied, "its token says qanat-system/ztunnel");
  ExpectRefused(Ztunnel(), Hello(kNode, kAddressType, {{"SERVICE_ACCOUNT", "web"}}),
                Code::kPermissionDenied, "its token says");
  ExpectRefused(Ztunnel(), Hello("sidecar~1.1.1.1~a.qanat-system~x", kAddressType),
                Code::kUnimplemented, "sidecar");
  ExpectRefused(Ztunnel(), Hello(kNode, kListenerType), Code::kInvalidArgument, "is not served");
  // A pod that belongs to no Gateway cannot read a waypoint's configuration.
  ExpectRefused(Call("shop", "web", "web", "web1"),
                Hello("waypoint~10.91.1.5~web.shop~shop.svc.cluster.local", kListenerType,
                      {{"GATEWAY_NAME", "w"}}),
                Code::kPermissionDenied, "belongs to no Gateway");
}

TEST_F(HubTest, WaypointsShareOneTranslationPerState) {
  const std::string hello =
      Hello("waypoint~10.91.1.9~w-1.shop~shop.svc.cluster.local", kListenerType);
  FakeWriter a;
  FakeWriter b;
  const auto first = hub_.OnStream(Call("shop", "w", "w-1", "w1"), a);
  const auto second = hub_.OnStream(Call("shop", "w", "w-1", "w1"), b);
  first->OnMessage(hello);
  second->OnMessage(hello);
  EXPECT_THAT(a.written.at(0).names, ElementsAre("l"));
  EXPECT_THAT(b.written.at(0).names, ElementsAre("l"));
  EXPECT_EQ(translated_, 1);
  EXPECT_EQ(hub_.Clients()[0].waypoint, "shop/w");
}

TEST_F(HubTest, StreamOfADeletedPodEnds) {
  FakeWriter writer;
  const auto stream = hub_.OnStream(Ztunnel(), writer);
  stream->OnMessage(Hello(kNode, kAddressType));
  std::string without = kMesh;
  without.replace(without.find("uid: zt1"), 8, "uid: zt2");
  Publish(without);
  ASSERT_TRUE(writer.finished);
  EXPECT_EQ(writer.finished->error().code, Code::kUnauthenticated);
}

TEST(Codec, NodeIds) {
  const auto id = ParseNodeId("waypoint~fd00::1~a.b.shop~shop.svc.cluster.local");
  ASSERT_TRUE(id);
  EXPECT_EQ(id->pod, "a.b");
  EXPECT_EQ(id->ns, "shop");
  for (const char* bad : {"", "a", "a~b~c", "a~b~c~d", "a~b~.c~d", "a~b~c.~d", "a~b~c.d~e~f"}) {
    EXPECT_FALSE(ParseNodeId(bad)) << bad;
  }
}

TEST(Codec, CertificateRequests) {
  EXPECT_FALSE(DecodeCertificateRequest("\xff\xff"));
  EXPECT_TRUE(DecodeCertificateRequest(""));
}

}  // namespace
}  // namespace qanat::controlplane
