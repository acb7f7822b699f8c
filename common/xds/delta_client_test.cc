// SPDX-License-Identifier: Apache-2.0
#include "common/xds/delta_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/grpc/test_server.h"
#include "envoy/service/discovery/v3/discovery.pb.h"

namespace qanat::xds {
namespace {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;
using grpc::test::TestServer;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

struct Handler final : ResourceHandler {
  std::map<std::string, std::string> resources;
  std::vector<std::string> log;
  Status OnResource(const KeptText& name, std::string_view version,
                    std::string_view bytes) override {
    if (bytes == "bad") return Fail(Code::kInvalidArgument, "not decodable");
    resources[std::string(name)] = bytes;
    log.push_back("+" + std::string(name) + "@" + std::string(version));
    return {};
  }
  void OnRemoved(std::string_view name) override {
    resources.erase(std::string(name));
    log.push_back("-" + std::string(name));
  }
  void OnBatchEnd() override { log.push_back("."); }
};

class DeltaClientTest : public ::testing::Test {
 protected:
  DeltaClientTest() { Serve(); }
  void Serve(net::SocketAddress at = *net::SocketAddress::Parse("127.0.0.1:0")) {
    server_ = std::make_unique<TestServer>(loop_, nullptr, at);
    server_->on_call = [this](TestServer::Call& c) {
      EXPECT_EQ(c.head.path,
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources");
      stream_ = &c;
      requests_.clear();
      c.on_message = [this](std::string m) {
        DeltaDiscoveryRequest r;
        ASSERT_TRUE(r.ParseFromString(m));
        requests_.push_back(std::move(r));
      };
      c.on_closed = [this, &c] {
        if (stream_ == &c) stream_ = nullptr;
      };
    };
  }
  void Make(std::function<void(DeltaClient&)> types) {
    grpc::ChannelOptions options;
    options.endpoint = server_->endpoint();
    channel_ = std::make_unique<grpc::Channel>(loop_, options);
    DeltaObserver observer;
    observer.on_terminated = [this](std::string_view r) { ended_.emplace_back(r); };
    observer.on_synced = [this] { ++synced_; };
    observer.on_nack = [this](std::string_view, std::string_view e) { nacks_.emplace_back(e); };
    Node node;
    node.id = "ztunnel~1.1.1.1~a.b~b.svc.cluster.local";
    client_ =
        std::make_unique<DeltaClient>(loop_, *channel_, node, observer,
                                      grpc::Backoff::Policy{milliseconds(10), milliseconds(80)});
    types(*client_);
    client_->Start();
  }
  void MakeWorkload() {
    Make([this](DeltaClient& c) {
      c.AddType(kAddressType, DeltaClient::Subscription::kWildcard, &address_);
      c.AddType(kAuthorizationType, DeltaClient::Subscription::kWildcard, &authorization_);
    });
  }
  void RunUntil(const std::function<bool()>& done) {
    const auto end = event::Clock::now() + std::chrono::seconds(60);
    while (!done() && event::Clock::now() < end) loop_.RunOnce(milliseconds(10));
    ASSERT_TRUE(done()) << "timed out";
  }
  void RunFor(milliseconds time) {
    const auto end = event::Clock::now() + time;
    // At least so many rounds: on a busy machine the time alone may be one round.
    for (int i = 0; i < 20 || event::Clock::now() < end; ++i) loop_.RunOnce(milliseconds(2));
  }
  static DeltaDiscoveryResponse Response(std::string_view type, std::string nonce,
                                         std::map<std::string, std::string> resources,
                                         std::vector<std::string> removed = {}) {
    DeltaDiscoveryResponse r;
    r.set_type_url(std::string(type));
    r.set_nonce(std::move(nonce));
    for (const auto& [name, value] : resources) {
      auto* resource = r.add_resources();
      resource->set_name(name);
      resource->set_version("v1");
      resource->mutable_resource()->set_type_url(std::string(type));
      resource->mutable_resource()->set_value(value);
    }
    for (const auto& name : removed) r.add_removed_resources(name);
    return r;
  }
  void Respond(std::string_view type, std::string nonce,
               std::map<std::string, std::string> resources,
               std::vector<std::string> removed = {}) {
    ASSERT_NE(stream_, nullptr);
    stream_->Send(Response(type, std::move(nonce), std::move(resources), std::move(removed))
                      .SerializeAsString());
  }

  event::EventLoop loop_;
  std::unique_ptr<TestServer> server_;
  TestServer::Call* stream_ = nullptr;
  std::vector<DeltaDiscoveryRequest> requests_;
  Handler address_, authorization_;
  std::vector<std::string> ended_, nacks_;
  int synced_ = 0;
  std::unique_ptr<grpc::Channel> channel_;
  std::unique_ptr<DeltaClient> client_;
};

TEST_F(DeltaClientTest, AsksAcknowledgesAndSyncs) {
  MakeWorkload();
  RunUntil([&] { return requests_.size() == 2; });
  EXPECT_EQ(requests_[0].type_url(), kAddressType);
  EXPECT_EQ(requests_[1].type_url(), kAuthorizationType);
  for (const auto& r : requests_) {
    EXPECT_EQ(r.node().id(), "ztunnel~1.1.1.1~a.b~b.svc.cluster.local");
    EXPECT_THAT(r.resource_names_subscribe(), IsEmpty());
    EXPECT_EQ(r.response_nonce(), "");
  }
  EXPECT_FALSE(client_->connected());
  Respond(kAddressType, "n1", {{"a", "1"}, {"b", "2"}});
  RunUntil([&] { return requests_.size() == 3; });
  EXPECT_EQ(requests_[2].type_url(), kAddressType);
  EXPECT_EQ(requests_[2].response_nonce(), "n1");
  EXPECT_FALSE(requests_[2].has_error_detail());
  EXPECT_FALSE(requests_[2].has_node());
  EXPECT_THAT(address_.log, ElementsAre("+a@v1", "+b@v1", "."));
  EXPECT_TRUE(client_->connected());
  EXPECT_TRUE(client_->synced(kAddressType));
  EXPECT_FALSE(client_->synced());
  EXPECT_FALSE(client_->current());
  EXPECT_TRUE(client_->last_activity().has_value());
  Respond(kAuthorizationType, "n2", {});
  RunUntil([&] { return synced_ == 1; });
  EXPECT_TRUE(client_->synced());
  EXPECT_TRUE(client_->current());
  EXPECT_THAT(authorization_.log, ElementsAre("."));
  Respond(kAddressType, "n3", {{"c", "3"}}, {"a"});
  RunUntil([&] { return address_.resources.size() == 2 && address_.log.size() == 6; });
  EXPECT_THAT(address_.log, ElementsAre("+a@v1", "+b@v1", ".", "+c@v1", "-a", "."));
  EXPECT_EQ(client_->resource_count(kAddressType), 2u);
}

TEST_F(DeltaClientTest, BadResourcesAreNackedAndGoodOnesApplied) {
  MakeWorkload();
  RunUntil([&] { return requests_.size() == 2; });
  auto response = Response(kAddressType, "n1", {{"a", "1"}, {"x", "bad"}, {"y", "bad"}});
  auto* odd = response.add_resources();
  odd->set_name("z");
  odd->mutable_resource()->set_type_url("type.googleapis.com/other");
  stream_->Send(response.SerializeAsString());
  RunUntil([&] { return requests_.size() == 3; });
  EXPECT_EQ(requests_[2].response_nonce(), "n1");
  EXPECT_EQ(requests_[2].error_detail().message(),
            "x: not decodable; y: not decodable; z: unexpected type type.googleapis.com/other");
  EXPECT_EQ(nacks_.size(), 1u);
  EXPECT_THAT(address_.log, ElementsAre("+a@v1", "."));
  // What was refused is not claimed to be held when we come back.
  stream_->Finish(14);
  RunUntil([&] { return server_->calls.size() == 2 && requests_.size() == 2; });
  EXPECT_EQ(requests_[0].initial_resource_versions().size(), 1u);
  EXPECT_EQ(requests_[0].initial_resource_versions().at("a"), "v1");
}

// The first message subscribes to everything and to nothing of it; names follow. Answers under
// other names count, and so do removals.
TEST_F(DeltaClientTest, OnDemand) {
  Make([this](DeltaClient& c) {
    c.AddType(kAddressType, DeltaClient::Subscription::kOnDemand, &address_);
    c.AddType(kAuthorizationType, DeltaClient::Subscription::kWildcard, &authorization_);
  });
  RunUntil([&] { return requests_.size() == 2; });
  EXPECT_EQ(requests_[0].type_url(), kAddressType);
  EXPECT_THAT(requests_[0].resource_names_subscribe(), ElementsAre("*"));
  EXPECT_THAT(requests_[0].resource_names_unsubscribe(), ElementsAre("*"));
  EXPECT_TRUE(requests_[0].has_node());
  EXPECT_THAT(requests_[1].resource_names_subscribe(), IsEmpty());
  Respond(kAuthorizationType, "n1", {});
  RunUntil([&] { return synced_ == 1; });  // nothing of the other type is waited for
  client_->Subscribe(kAddressType, "/10.0.0.1");
  client_->Subscribe(kAddressType, "/10.0.0.2");
  RunUntil([&] { return requests_.size() == 4; });
  EXPECT_THAT(requests_[3].resource_names_subscribe(), ElementsAre("/10.0.0.1", "/10.0.0.2"));
  EXPECT_THAT(requests_[3].resource_names_unsubscribe(), IsEmpty());
  EXPECT_FALSE(requests_[3].has_node());
  Respond(kAddressType, "n2", {{"uid-1", "x"}}, {"/10.0.0.2"});
  RunUntil([&] { return requests_.size() == 5; });
  EXPECT_THAT(address_.log, ElementsAre("+uid-1@v1", "-/10.0.0.2", "."));
  // On a new stream: what is held, and then all names again.
  stream_->Finish(0);
  RunUntil([&] { return stream_ != nullptr && requests_.size() == 3; });
  EXPECT_THAT(requests_[0].resource_names_subscribe(), ElementsAre("*"));
  EXPECT_EQ(requests_[0].initial_resource_versions().size(), 1);
  EXPECT_THAT(requests_[1].resource_names_subscribe(), ElementsAre("/10.0.0.1", "/10.0.0.2"));
}

// What was saved by an earlier process: the server is told of it, and tells what is gone.
TEST_F(DeltaClientTest, BeginsWithWhatIsHeldFromBefore) {
  Make([this](DeltaClient& c) {
    c.AddType(kAddressType, DeltaClient::Subscription::kWildcard, &address_,
              {{"a", "v7"}, {"b", "v8"}});
  });
  RunUntil([&] { return requests_.size() == 1; });
  EXPECT_EQ(requests_[0].initial_resource_versions().size(), 2);
  EXPECT_EQ(requests_[0].initial_resource_versions().at("b"), "v8");
  EXPECT_EQ(client_->resource_count(kAddressType), 2u);
  EXPECT_FALSE(client_->synced());
  Respond(kAddressType, "n1", {}, {"b"});
  RunUntil([&] { return client_->synced(); });
  EXPECT_THAT(address_.log, ElementsAre("-b", "."));
  EXPECT_EQ(client_->resource_count(kAddressType), 1u);
}

TEST_F(DeltaClientTest, ReconnectKeepsVersionsAndState) {
  MakeWorkload();
  RunUntil([&] { return requests_.size() == 2; });
  Respond(kAddressType, "n1", {{"a", "1"}, {"b", "2"}});
  Respond(kAddressType, "n2", {}, {"b"});
  Respond(kAuthorizationType, "n3", {});
  RunUntil([&] { return requests_.size() == 5; });
  EXPECT_TRUE(client_->current());
  const net::SocketAddress address = server_->address();
  server_.reset();
  RunUntil([&] { return !ended_.empty(); });
  EXPECT_FALSE(client_->connected());
  EXPECT_FALSE(client_->last_activity().has_value());
  EXPECT_TRUE(client_->synced(kAddressType)) << "what we have is still good";
  EXPECT_FALSE(client_->current());
  RunUntil([&] { return ended_.size() >= 2; });
  EXPECT_EQ(ended_.back(), "ConnectionError");
  EXPECT_THAT(client_->last_error(), HasSubstr("UNAVAILABLE"));
  Serve(address);
  RunUntil([&] { return requests_.size() == 2; });
  EXPECT_EQ(requests_[0].initial_resource_versions().size(), 1u);
  EXPECT_EQ(requests_[0].initial_resource_versions().at("a"), "v1");
  EXPECT_TRUE(requests_[0].has_node());
  EXPECT_EQ(address_.resources.size(), 1u);
  Respond(kAddressType, "m1", {});
  RunUntil([&] { return client_->connected(); });
  EXPECT_TRUE(client_->synced());
  EXPECT_FALSE(client_->current()) << "policies may have changed meanwhile";
  Respond(kAuthorizationType, "m2", {});
  RunUntil([&] { return client_->current(); });
}

TEST_F(DeltaClientTest, ReasonsOfTermination) {
  MakeWorkload();
  RunUntil([&] { return requests_.size() == 2; });
  Respond(kAddressType, "n", {});
  stream_->Finish(0);
  RunUntil([&] { return server_->calls.size() == 2 && requests_.size() == 2; });
  stream_->Finish(1);
  RunUntil([&] { return server_->calls.size() == 3 && requests_.size() == 2; });
  stream_->Finish(7, "denied");
  RunUntil([&] { return ended_.size() == 3; });
  EXPECT_THAT(ended_, ElementsAre("Complete", "Reconnect", "Error"));
}

TEST_F(DeltaClientTest, AServerThatNeverAnswersIsNotHammered) {
  server_->on_call = [](TestServer::Call& c) { c.Finish(0); };
  MakeWorkload();
  const auto begin = event::Clock::now();
  RunUntil([&] { return server_->calls.size() >= 8; });
  // 10 + 20 + 40 + 80 + 80 + 80 + 80 milliseconds lie before the eighth.
  EXPECT_GE(event::Clock::now() - begin, milliseconds(380));
}

TEST_F(DeltaClientTest, StreamBrokenInsideAResponsePublishesWhatCame) {
  MakeWorkload();
  RunUntil([&] { return requests_.size() == 2; });
  auto bytes =
      Response(kAddressType, "n1", {{"a", "1"}, {"b", std::string(1000, 'b')}}).SerializeAsString();
  stream_->SendRaw(TestServer::Call::Frame(bytes).substr(0, 400));
  RunUntil([&] { return !address_.log.empty(); });
  EXPECT_THAT(address_.log, ElementsAre("+a@v1"));
  stream_->Finish(14);
  RunUntil([&] { return server_->calls.size() == 2 && requests_.size() == 2; });
  EXPECT_THAT(address_.log, ElementsAre("+a@v1", "."));
  EXPECT_EQ(requests_[0].initial_resource_versions().size(), 1u);
}

TEST_F(DeltaClientTest, MalformedResponseRestartsTheStream) {
  MakeWorkload();
  RunUntil([&] { return requests_.size() == 2; });
  stream_->Send("\x07garbage");
  RunUntil([&] { return server_->calls.size() == 2 && requests_.size() == 2; });
  EXPECT_EQ(ended_.size(), 1u);
  Respond(kAddressType, "n", {{"a", "1"}});
  RunUntil([&] { return address_.resources.size() == 1; });
}

TEST_F(DeltaClientTest, ByNameSubscriptions) {
  Handler clusters, endpoints;
  Make([&](DeltaClient& c) {
    c.AddType(kClusterType, DeltaClient::Subscription::kWildcard, &clusters);
    c.AddType(kEndpointType, DeltaClient::Subscription::kByName, &endpoints);
  });
  RunUntil([&] { return requests_.size() == 1; });
  RunFor(milliseconds(30));
  ASSERT_EQ(requests_.size(), 1u) << "no endpoint is wanted yet: an empty request would mean all";
  EXPECT_EQ(requests_[0].type_url(), kClusterType);
  Respond(kClusterType, "c1", {{"x", "1"}, {"y", "1"}});
  RunUntil([&] { return client_->synced(); });
  client_->SetNames(kEndpointType, {"x", "y"});
  RunUntil([&] { return requests_.size() == 3; });
  EXPECT_EQ(requests_[2].type_url(), kEndpointType);
  EXPECT_TRUE(requests_[2].has_node());
  EXPECT_THAT(requests_[2].resource_names_subscribe(), UnorderedElementsAre("x", "y"));
  Respond(kEndpointType, "e1", {{"x", "ends"}, {"y", "ends"}});
  RunUntil([&] { return endpoints.resources.size() == 2 && requests_.size() == 4; });
  client_->SetNames(kEndpointType, {"y", "z"});
  RunUntil([&] { return requests_.size() == 5; });
  EXPECT_THAT(requests_[4].resource_names_subscribe(), ElementsAre("z"));
  EXPECT_THAT(requests_[4].resource_names_unsubscribe(), ElementsAre("x"));
  EXPECT_FALSE(requests_[4].has_node());
  // An answer that crossed with the unsubscription is neither taken nor refused.
  endpoints.log.clear();
  Respond(kEndpointType, "e2", {{"x", "late"}}, {"z"});
  RunUntil([&] { return requests_.size() == 6; });
  EXPECT_FALSE(requests_[5].has_error_detail());
  EXPECT_THAT(endpoints.log, ElementsAre("-z", "."));
  stream_->Finish(14);
  RunUntil([&] { return server_->calls.size() == 2 && requests_.size() == 2; });
  EXPECT_THAT(requests_[1].resource_names_subscribe(), UnorderedElementsAre("y", "z"));
  EXPECT_EQ(requests_[1].initial_resource_versions().size(), 1u);
  EXPECT_EQ(requests_[1].initial_resource_versions().at("y"), "v1");
}

TEST_F(DeltaClientTest, NamesMayBeSetInsideTheHandler) {
  struct Chain final : ResourceHandler {
    DeltaClient** client;
    Status OnResource(const KeptText&, std::string_view, std::string_view) override { return {}; }
    void OnRemoved(std::string_view) override {}
    void OnBatchEnd() override { (*client)->Subscribe(kRouteType, "8080"); }
  } listeners;
  Handler routes;
  DeltaClient* raw = nullptr;
  listeners.client = &raw;
  Make([&](DeltaClient& c) {
    raw = &c;
    c.AddType(kListenerType, DeltaClient::Subscription::kWildcard, &listeners);
    c.AddType(kRouteType, DeltaClient::Subscription::kByName, &routes);
  });
  RunUntil([&] { return requests_.size() == 1; });
  Respond(kListenerType, "l1", {{"main", "1"}});
  RunUntil([&] { return requests_.size() == 3; });
  EXPECT_THAT(requests_[2].resource_names_subscribe(), ElementsAre("8080"));
}

TEST_F(DeltaClientTest, ManyResourcesArriveInOneResponse) {
  MakeWorkload();
  RunUntil([&] { return requests_.size() == 2; });
  std::map<std::string, std::string> many;
  for (int i = 0; i < 20000; ++i) many["r" + std::to_string(i)] = std::string(300, 'w');
  Respond(kAddressType, "n", many);
  RunUntil([&] { return requests_.size() == 3; });
  EXPECT_EQ(address_.resources.size(), 20000u);
}

}  // namespace
}  // namespace qanat::xds
