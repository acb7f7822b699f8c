// SPDX-License-Identifier: Apache-2.0
// Our wire codec against the messages that protoc makes of Envoy's own protos.
#include "common/xds/delta_codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "envoy/service/discovery/v3/discovery.pb.h"

namespace qanat::xds {
namespace {

using envoy::service::discovery::v3::DeltaDiscoveryRequest;
using envoy::service::discovery::v3::DeltaDiscoveryResponse;
using ::testing::ElementsAre;

TEST(DeltaRequest, IsWhatEnvoyReads) {
  Node node;
  node.id = NodeId("ztunnel", "10.91.1.5", "ztunnel-x", "qanat-system");
  node.metadata["CLUSTER_ID"] = "Kubernetes";
  node.metadata_json["LABELS"] = R"({"a":"b","n":[1,true,null]})";
  node.build_version = "qanat/1";
  HeldVersions versions;
  versions.Set("r1", "v0");
  versions.Set("r2", "");
  versions.Set("gone", "v1");
  versions.Set("r1", "v1");
  versions.Erase("gone");
  versions.Erase("never there");
  EXPECT_EQ(versions.NameOf("r1").view().data(), versions.NameOf("r1").view().data());
  EXPECT_EQ(versions.NameOf("unheld"), "unheld");
  DeltaRequest request;
  request.type_url = "type.googleapis.com/istio.workload.Address";
  request.node = &node;
  request.subscribe = {"a", ""};
  request.unsubscribe = {"b"};
  request.initial_versions = &versions;
  request.nonce = "n1";
  request.error = "r3: bad";
  auto bytes = EncodeDeltaRequest(request);
  ASSERT_TRUE(bytes);
  DeltaDiscoveryRequest parsed;
  ASSERT_TRUE(parsed.ParseFromString(*bytes));
  EXPECT_EQ(parsed.node().id(),
            "ztunnel~10.91.1.5~ztunnel-x.qanat-system~"
            "qanat-system.svc.cluster.local");
  EXPECT_EQ(parsed.node().metadata().fields().at("CLUSTER_ID").string_value(), "Kubernetes");
  EXPECT_EQ(
      parsed.node().metadata().fields().at("LABELS").struct_value().fields().at("a").string_value(),
      "b");
  EXPECT_EQ(parsed.node().user_agent_version(), "");
  EXPECT_EQ(parsed.type_url(), "type.googleapis.com/istio.workload.Address");
  EXPECT_THAT(parsed.resource_names_subscribe(), ElementsAre("a", ""));
  EXPECT_THAT(parsed.resource_names_unsubscribe(), ElementsAre("b"));
  EXPECT_EQ(parsed.initial_resource_versions().size(), 2u);
  EXPECT_EQ(parsed.initial_resource_versions().at("r1"), "v1");
  EXPECT_EQ(parsed.initial_resource_versions().at("r2"), "");
  EXPECT_EQ(parsed.response_nonce(), "n1");
  EXPECT_EQ(parsed.error_detail().message(), "r3: bad");
}

TEST(DeltaRequest, PlainAckIsSmall) {
  DeltaRequest request;
  request.type_url = "t";
  request.nonce = "n";
  EXPECT_EQ(*EncodeDeltaRequest(request), std::string("\x12\x01t\x32\x01n"));
}

TEST(DeltaRequest, MetadataThatIsNotJson) {
  Node node;
  node.metadata_json["X"] = "{";
  DeltaRequest request;
  request.node = &node;
  EXPECT_FALSE(EncodeDeltaRequest(request));
}

struct Collected final : DeltaResponseParser::Sink {
  std::vector<std::string> seen;
  void OnResource(const ResourceView& r) override {
    seen.push_back(std::string(r.name) + "@" + std::string(r.version) + " " +
                   std::string(r.type_url) + "=" + std::string(r.value) +
                   (r.has_resource ? "" : " (none)"));
  }
  void OnRemoved(std::string_view name) override { seen.push_back("-" + std::string(name)); }
};

std::string Response() {
  DeltaDiscoveryResponse r;
  r.set_system_version_info("sys");
  for (int i = 0; i < 3; ++i) {
    auto* resource = r.add_resources();
    resource->set_name("name" + std::to_string(i));
    resource->set_version("v" + std::to_string(i));
    resource->add_aliases("alias");
    resource->mutable_ttl()->set_seconds(300);
    resource->mutable_resource()->set_type_url("type");
    resource->mutable_resource()->set_value(std::string(static_cast<size_t>(i) * 200, 'x'));
  }
  r.add_resources()->set_name("heartbeat");
  r.set_type_url("type");
  r.set_nonce("nonce-1");
  r.add_removed_resources("gone");
  r.mutable_control_plane()->set_identifier("istiod");
  return r.SerializeAsString();
}

TEST(DeltaResponse, SameInAnyFragmentation) {
  const std::string bytes = Response();
  std::vector<std::string> first;
  for (size_t n : {bytes.size(), size_t{1}, size_t{2}, size_t{3}, size_t{13}, size_t{100}}) {
    Collected sink;
    DeltaResponseParser parser(sink);
    parser.Begin();
    for (size_t i = 0; i < bytes.size(); i += n) {
      ASSERT_TRUE(parser.Feed(std::string_view(bytes).substr(i, n))) << parser.error();
    }
    ASSERT_TRUE(parser.Finish());
    EXPECT_EQ(parser.type_url(), "type");
    EXPECT_EQ(parser.nonce(), "nonce-1");
    EXPECT_EQ(parser.system_version(), "sys");
    if (first.empty()) first = sink.seen;
    EXPECT_EQ(sink.seen, first);
  }
  ASSERT_EQ(first.size(), 5u);
  EXPECT_EQ(first[0], "name0@v0 type=");
  EXPECT_EQ(first[2], "name2@v2 type=" + std::string(400, 'x'));
  EXPECT_EQ(first[3], "heartbeat@ = (none)");
  EXPECT_EQ(first[4], "-gone");
}

TEST(DeltaResponse, MalformedInputIsAnErrorNotACrash) {
  const std::string good = Response();
  for (size_t cut = 0; cut < good.size(); ++cut) {
    Collected sink;
    DeltaResponseParser parser(sink);
    parser.Begin();
    const bool ok = parser.Feed(std::string_view(good).substr(0, cut)) && parser.Finish();
    DeltaDiscoveryResponse reference;
    EXPECT_EQ(ok, reference.ParseFromString(good.substr(0, cut))) << cut;
  }
  for (std::string bad : {std::string("\x07"), std::string("\x03"), std::string("\x00", 1),
                          std::string("\x12\x03\x0a\x05x", 5), std::string(11, '\xff'),
                          std::string("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11)}) {
    Collected sink;
    DeltaResponseParser parser(sink);
    parser.Begin();
    EXPECT_FALSE(parser.Feed(bad) && parser.Finish());
  }
}

TEST(Node, EnvironmentMetadata) {
  Node node;
  AddEnvironmentMetadata({"ISTIO_META_CLUSTER_ID=c1", "ISTIO_METAJSON_LABELS={\"a\":\"b\"}",
                          "PATH=/", "ISTIO_META_=x", "ISTIO_META_DNS"},
                         node);
  EXPECT_THAT(node.metadata, ElementsAre(std::pair("CLUSTER_ID", "c1")));
  EXPECT_THAT(node.metadata_json, ElementsAre(std::pair("LABELS", "{\"a\":\"b\"}")));
}

}  // namespace
}  // namespace qanat::xds
