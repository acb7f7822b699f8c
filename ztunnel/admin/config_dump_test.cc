// SPDX-License-Identifier: Apache-2.0
// /config_dump against the types that istioctl reads it with.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ztunnel/admin/istioctl_types_for_test.h"
#include "ztunnel/admin/json.h"
#include "ztunnel/mesh_for_test.h"

namespace qanat::ztunnel {
namespace {

namespace sec = istio::security;
using test::Json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

identity::SecretManager::Entry Certificate(const std::string& sa) {
  auto certificate = std::make_shared<identity::WorkloadCertificate>();
  certificate->identity = {"cluster.local", "shop", sa};
  const auto now = std::chrono::system_clock::now();
  certificate->chain = {{"PEM", "1234567890123456789012345678", now, now}};
  certificate->roots = {{"PEM", "1", now, now}};
  identity::SecretManager::Entry entry;
  entry.identity = certificate->identity;
  entry.state = identity::SecretManager::State::kAvailable;
  entry.certificate = certificate;
  return entry;
}

// A mesh in which every optional part of a workload, a service and a policy occurs.
class ConfigDumpTest : public testing::Test {
 protected:
  ConfigDumpTest() {
    waypoint_ = TestMesh::MakeService("waypoint", "10.96.0.9");
    service_ = TestMesh::MakeService("backend", "10.96.0.10");
    *service_.mutable_waypoint() = TestMesh::GatewayOf(waypoint_);
    auto* weighted = service_.add_weighted_waypoints();
    *weighted->mutable_destination() = TestMesh::GatewayOf(waypoint_);
    weighted->set_weight(3);
    auto* block = service_.add_addresses();
    block->set_address(IpBytes("10.99.0.0"));
    block->set_length(16);
    service_.set_ip_families(istio::workload::DUAL);
    service_.add_subject_alt_names("spiffe://cluster.local/ns/shop/sa/backend");
    service_.mutable_load_balancing()->set_mode(istio::workload::LoadBalancing::FAILOVER);
    service_.mutable_load_balancing()->add_routing_preference(istio::workload::LoadBalancing::ZONE);
    backend_ = TestMesh::MakePod("backend", "10.0.0.2", "n2");
    backend_.add_addresses(IpBytes("fd00::2"));
    TestMesh::Join(backend_, service_);
    *backend_.mutable_waypoint() = TestMesh::GatewayOf(waypoint_);
    auto* gateway = backend_.mutable_network_gateway()->mutable_address();
    gateway->set_network("other");
    gateway->set_address(IpBytes("10.1.2.3"));
    backend_.mutable_network_gateway()->set_hbone_mtls_port(15008);
    backend_.mutable_application_tunnel()->set_protocol(istio::workload::ApplicationTunnel::PROXY);
    backend_.mutable_application_tunnel()->set_port(15088);
    backend_.add_authorization_policies("istio-system/istio_converted_static_strict");
    backend_.mutable_locality()->set_region("r");
    frontend_ = TestMesh::MakePod("frontend", "10.0.0.1");
    mesh_.Put(waypoint_).Put(service_).Put(backend_).Put(frontend_);
  }

  Json Dump(const Config& config = Config()) {
    const auto snapshot = mesh_.Snapshot();
    std::map<std::string, Pods::Entry> pods;
    pods["uid-frontend"] = {LocalPod("frontend", "10.0.0.1"), true, ""};
    pods["uid-unknown"] = {LocalPod("unknown", "10.0.0.7"), false, "no such namespace"};
    ConnectionInfo in, out;
    in.pod_uid = out.pod_uid = "uid-frontend";
    in.flow.reporter = Reporter::kDestination;
    in.flow.source = At("10.0.0.2:41000");
    in.flow.destination = At("10.0.0.1:15008");
    in.flow.target = At("10.0.0.1:8080");
    out.flow.source = At("10.0.0.1:41001");
    out.dialled = At("10.96.0.10:80");
    out.flow.destination = At("[fd00::2]:15008");
    out.flow.target = At("[fd00::2]:8080");
    identity::SecretManager::Entry failed;
    failed.identity = {"cluster.local", "shop", "backend"};
    failed.state = identity::SecretManager::State::kUnavailable;
    failed.error = "the CA is away";
    const std::string text =
        ConfigDumpJson({*snapshot, config, pods, {Certificate("frontend"), failed}, {in, out}});
    return Json::parse(text);
  }

  TestMesh mesh_;
  TestMesh::Service waypoint_, service_;
  TestMesh::Workload backend_, frontend_;
};

TEST_F(ConfigDumpTest, EndpointsOfAServiceThatWasNotAnnounced) {
  const auto late = TestMesh::MakeService("late", "10.96.0.11");
  TestMesh::Join(backend_, late);
  mesh_.Put(backend_);
  Json dump = Dump();
  EXPECT_THAT(test::WhatIstioctlCannotRead(dump), IsEmpty());
  const std::string key = "shop/late.shop.svc.cluster.local";
  EXPECT_EQ(dump["stagedServices"].size(), 1u);
  EXPECT_EQ(dump["stagedServices"][key]["Kubernetes//Pod/shop/backend"]["port"]["80"], 8080);
  mesh_.Put(late);
  EXPECT_EQ(Dump()["stagedServices"], Json::object());
}

TEST_F(ConfigDumpTest, WhatCameFromAFile) {
  EXPECT_EQ(Dump()["staticConfig"]["workloads"], Json::array());
  Config config;
  config.local_xds_path = "/mesh.yaml";
  config.control_plane.xds_address = "https://istiod:15012";
  EXPECT_EQ(Dump(config)["staticConfig"]["workloads"], Json::array()) << "nobody knows which";
  config.control_plane.xds_address.clear();
  const Json dump = Dump(config);
  EXPECT_EQ(dump["staticConfig"]["workloads"], dump["workloads"]);
  EXPECT_EQ(dump["staticConfig"]["services"].size(), 2u);
  EXPECT_EQ(dump["staticConfig"]["policies"], Json::array());
}

TEST_F(ConfigDumpTest, WhatEveryMeshHasIsReadable) {
  const Json dump = Dump();
  EXPECT_THAT(test::WhatIstioctlCannotRead(dump), IsEmpty());
  const Json& service = dump["services"][0];
  EXPECT_EQ(service["name"], "backend");
  EXPECT_EQ(service["ipFamilies"], "Dual");
  EXPECT_EQ(service["vips"], Json({"/10.96.0.10"}));
  EXPECT_TRUE(dump["services"][1]["ipFamilies"].is_null());
  EXPECT_EQ(service["waypoint"]["destination"], "shop/waypoint.shop.svc.cluster.local");
  const Json& endpoint = service["endpoints"]["Kubernetes//Pod/shop/backend"];
  EXPECT_EQ(endpoint["service"], "shop/backend.shop.svc.cluster.local");
  EXPECT_EQ(endpoint["port"]["80"], 8080);
  const Json& state = dump["workloadState"]["uid-frontend"];
  EXPECT_EQ(state["info"]["trustDomain"], "cluster.local");
  EXPECT_EQ(state["connections"]["inbound"][0]["actualDst"], "10.0.0.1:8080");
  EXPECT_TRUE(state["connections"]["inbound"][0]["originalDst"].is_null());
  EXPECT_EQ(state["connections"]["outbound"][0]["originalDst"], "10.96.0.10:80");
  EXPECT_EQ(state["connections"]["outbound"][0]["actualDst"], "[fd00::2]:15008");
  EXPECT_EQ(dump["workloadState"]["uid-unknown"]["state"], "Pending");
  EXPECT_EQ(dump["certificates"][0]["certChain"][0]["serialNumber"],
            "1234567890123456789012345678");
  EXPECT_EQ(dump["certificates"][1]["state"], "Unavailable: the CA is away");
}

// What istiod makes of a PeerAuthentication with STRICT: one value of a wrong type here and
// istioctl prints nothing at all.
TEST_F(ConfigDumpTest, AStrictMesh) {
  auto strict = TestMesh::MakePolicy("istio_converted_static_strict", sec::DENY, "istio-system");
  strict.set_scope(sec::WORKLOAD_SELECTOR);
  strict.add_rules()->add_clauses()->add_matches()->add_not_principals()->mutable_presence();
  mesh_.Put(strict);
  const Json dump = Dump();
  EXPECT_THAT(test::WhatIstioctlCannotRead(dump), IsEmpty());
  const Json& policy = dump["policies"][0];
  EXPECT_EQ(policy["scope"], "WorkloadSelector");
  EXPECT_EQ(policy["action"], "Deny");
  EXPECT_EQ(policy["rules"][0][0][0]["notPrincipals"][0], Json::parse(R"({"Presence":[]})"));
  EXPECT_FALSE(policy.contains("problems"));
}

TEST_F(ConfigDumpTest, EveryKindOfCondition) {
  auto policy = TestMesh::MakePolicy("all", sec::ALLOW);
  auto* match = policy.add_rules()->add_clauses()->add_matches();
  match->add_namespaces()->set_exact("bank");
  match->add_not_namespaces()->set_prefix("kube-");
  match->add_principals()->set_suffix("/sa/teller");
  match->add_not_principals()->mutable_presence();
  for (auto* address : {match->add_source_ips(), match->add_not_source_ips(),
                        match->add_destination_ips(), match->add_not_destination_ips()}) {
    address->set_address(IpBytes("10.1.0.0"));
    address->set_length(16);
  }
  match->add_destination_ports(8080);
  match->add_not_destination_ports(65535);
  match->add_service_accounts()->set_namespace_("bank");
  match->mutable_service_accounts(0)->set_serviceaccount("teller");
  match->add_not_service_accounts()->set_namespace_("bank");
  match->mutable_not_service_accounts(0)->set_serviceaccount("guest");
  policy.add_rules();  // without clauses: matches everything
  mesh_.Put(policy);
  const Json dump = Dump();
  EXPECT_THAT(test::WhatIstioctlCannotRead(dump), IsEmpty());
  const Json shown = dump["policies"][0]["rules"][0][0][0];
  EXPECT_EQ(shown, Json::parse(R"({
    "namespaces": [{"Exact": "bank"}], "notNamespaces": [{"Prefix": "kube-"}],
    "principals": [{"Suffix": "/sa/teller"}], "notPrincipals": [{"Presence": []}],
    "sourceIps": ["10.1.0.0/16"], "notSourceIps": ["10.1.0.0/16"],
    "destinationIps": ["10.1.0.0/16"], "notDestinationIps": ["10.1.0.0/16"],
    "destinationPorts": [8080], "notDestinationPorts": [65535],
    "serviceAccounts": [{"namespace": "bank", "serviceAccount": "teller"}],
    "notServiceAccounts": [{"namespace": "bank", "serviceAccount": "guest"}]})"));
  EXPECT_EQ(dump["policies"][0]["rules"][1], Json::array());
}

// Nothing of it may look like a value, and none of it may vanish without a word.
TEST_F(ConfigDumpTest, WhatIsNotUnderstoodIsSaidAside) {
  auto policy = TestMesh::MakePolicy("broken", sec::DENY);
  auto* match = policy.add_rules()->add_clauses()->add_matches();
  match->add_principals();  // no kind of match
  match->add_principals()->set_exact("a/b");
  match->add_source_ips()->set_address("abc");
  match->add_destination_ports(70000);
  match->add_service_accounts()->set_namespace_("bank");
  match->add_extensions()->set_name("future");
  state::MeshState state;  // the policy is applied and refused at once
  EXPECT_FALSE(state.UpsertAuthorization("shop/broken", policy.SerializeAsString()));
  const auto snapshot = state.Publish();
  const std::map<std::string, Pods::Entry> pods;
  const Json dump = Json::parse(ConfigDumpJson({*snapshot, Config(), pods, {}, {}}));
  EXPECT_THAT(test::WhatIstioctlCannotRead(dump), IsEmpty());
  const Json& shown = dump["policies"][0]["rules"][0][0][0];
  EXPECT_EQ(shown["principals"], Json::parse(R"([{"Exact":"a/b"}])"));
  for (const char* key : {"sourceIps", "destinationPorts", "serviceAccounts"}) {
    EXPECT_FALSE(shown.contains(key)) << key;
  }
  EXPECT_THAT(shown["problems"].get<std::vector<std::string>>(),
              ElementsAre("serviceAccounts: 1 of 1 values not understood",
                          "principals: 1 of 2 values not understood",
                          "sourceIps: 1 of 1 values not understood",
                          "destinationPorts: 1 of 1 values not understood",
                          "one more condition that is not understood"));
  EXPECT_EQ(dump["policies"][0]["problems"].size(), 5u);
}

TEST(DnsJson, SaysWhoIsAskedAndFromWhere) {
  dns::PodDns dns;
  dns.servers = {{At("10.96.0.10:53"), true}, {At("127.0.0.53:53"), false}};
  dns.search = {"shop.svc.cluster.local"};
  const Json shown = Json::parse(DnsJson(
      {{LocalPod("frontend", "10.0.0.1"), dns}, {LocalPod("backend", "10.0.0.2"), dns::PodDns()}}));
  ASSERT_EQ(shown.size(), 2u);
  EXPECT_EQ(shown[0]["name"], "frontend");
  EXPECT_EQ(shown[0]["nameservers"], Json::parse(R"([{"address":"10.96.0.10:53","askedFrom":"pod"},
                            {"address":"127.0.0.53:53","askedFrom":"proxy"}])"));
  EXPECT_EQ(shown[0]["search"], Json::parse(R"(["shop.svc.cluster.local"])"));
  EXPECT_EQ(shown[1]["nameservers"], Json::array());
  EXPECT_EQ(shown[1]["search"], Json::array());
}

// The schema itself: the values that once stood there are what it refuses.
TEST(IstioctlTypes, RefuseWhatGoRefuses) {
  const auto with = [](const char* match) {
    return test::WhatIstioctlCannotRead(
        Json::parse(std::string(R"({"workloads":[],"services":[],"certificates":[],
          "workloadState":{},"policies":[{"name":"n","namespace":"x","scope":"Global",
          "action":"Deny","rules":[[[)") +
                    match + "]]]}]}"));
  };
  EXPECT_THAT(with(R"({"principals":[{"Presence":[]}]})"), IsEmpty());
  for (const char* bad : {R"({"principals":["Presence"]})", R"({"serviceAccounts":["ns/sa"]})",
                          R"({"destinationPorts":["NotUnderstood"]})",
                          R"({"destinationPorts":[70000]})", R"({"SourceIPs":["1.2.3.4"]})"}) {
    EXPECT_THAT(with(bad), ElementsAre(HasSubstr("rules[0][0][0]"))) << bad;
  }
}

}  // namespace
}  // namespace qanat::ztunnel
