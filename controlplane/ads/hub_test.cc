// SPDX-License-Identifier: Apache-2.0
// The hub without gRPC, driven message by message.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "controlplane/ads/ads_fixture.h"
#include "controlplane/ca/jwks_authenticator.h"

namespace qanat::controlplane {
namespace {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

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
                           const std::map<std::string, std::string>& metadata = {}) {
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
  JwksAuthenticator tokens_{dir_ + "/jwks.json"};
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

TEST_F(HubTest, ANodeAgentHearsWhatItsProxyHearsAndIsListedAsWhatItIs) {
  FakeWriter writer;
  const auto stream = hub_.OnStream(Ztunnel(), writer);
  stream->OnMessage(Hello(kNode, kAddressType, {{"QANAT_PROGRAM", "agent"}}));
  ASSERT_EQ(hub_.Clients().size(), 1u);
  EXPECT_EQ(hub_.Clients()[0].type, "agent");
  Publish(kMesh);
  EXPECT_EQ(writer.written.size(), 1u);
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
