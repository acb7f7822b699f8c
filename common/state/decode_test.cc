// SPDX-License-Identifier: Apache-2.0
#include "common/state/decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/proto/authorization.pb.h"
#include "common/proto/workload.pb.h"

namespace qanat::state {
namespace {

namespace wl = istio::workload;
namespace sec = istio::security;

std::string V4(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
  return {static_cast<char>(a), static_cast<char>(b), static_cast<char>(c), static_cast<char>(d)};
}

Result<model::Workload> Workload(const wl::Address& address) {
  auto decoded = DecodeAddress(address.SerializeAsString());
  if (!decoded) return Fail(decoded.error());
  return std::get<model::Workload>(std::move(*decoded));
}

TEST(Decode, WorkloadWithDefaults) {
  wl::Address address;
  auto* w = address.mutable_workload();
  w->set_uid("Kubernetes//Pod/shop/a");
  w->add_addresses(V4(10, 0, 0, 1));
  w->add_addresses(std::string(12, '\0') + V4(1, 2, 3, 4));
  (*w->mutable_services())["shop/b.svc"].add_ports()->set_service_port(80);
  (*w->mutable_services())["shop/a.svc"].add_ports()->set_target_port(8080);
  const auto out = Workload(address);
  ASSERT_TRUE(out.has_value()) << out.error().message;
  EXPECT_EQ(out->trust_domain, "cluster.local");
  EXPECT_EQ(out->service_account, "default");
  EXPECT_EQ(out->cluster_id, "Kubernetes");
  EXPECT_EQ(out->capacity, 1u);
  EXPECT_EQ(out->addresses[0].ToString(), "10.0.0.1");
  EXPECT_TRUE(out->addresses[1].is_v6());
  EXPECT_EQ(out->services[0].first, "shop/a.svc");  // sorted
  EXPECT_TRUE(out->healthy);
}

TEST(Decode, RefusesWhatWouldChangeWhereTrafficGoes) {
  const auto fails = [](auto change) {
    wl::Address address;
    address.mutable_workload()->set_uid("u");
    change(*address.mutable_workload());
    return !DecodeAddress(address.SerializeAsString()).has_value();
  };
  EXPECT_FALSE(fails([](wl::Workload&) {}));
  EXPECT_TRUE(fails([](wl::Workload& w) { w.set_uid(""); }));
  EXPECT_TRUE(fails([](wl::Workload& w) { w.add_addresses("abc"); }));
  EXPECT_TRUE(fails([](wl::Workload& w) { w.set_tunnel_protocol(wl::LEGACY_ISTIO_MTLS); }));
  EXPECT_TRUE(
      fails([](wl::Workload& w) { w.set_tunnel_protocol(static_cast<wl::TunnelProtocol>(99)); }));
  EXPECT_TRUE(fails([](wl::Workload& w) { w.mutable_waypoint(); }));
  EXPECT_TRUE(fails(
      [](wl::Workload& w) { (*w.mutable_services())["a/b"].add_ports()->set_target_port(65536); }));
  EXPECT_FALSE(DecodeAddress("").has_value());
  EXPECT_FALSE(DecodeAddress("\xff\xff\xff").has_value());
}

TEST(Decode, Service) {
  wl::Address address;
  auto* s = address.mutable_service();
  s->set_namespace_("shop");
  s->set_hostname("backend.shop.svc.cluster.local");
  s->add_addresses()->set_address(V4(10, 96, 0, 1));
  auto* block = s->add_addresses();
  block->set_address(V4(10, 1, 2, 3));
  block->set_length(16);
  s->set_visibility(static_cast<wl::Service::Visibility>(7));
  s->mutable_waypoint()->mutable_hostname()->set_hostname("wp.shop.svc.cluster.local");
  const auto decoded = DecodeAddress(address.SerializeAsString());
  ASSERT_TRUE(decoded.has_value());
  const auto& out = std::get<model::Service>(*decoded);
  EXPECT_TRUE(out.addresses[0].host);
  EXPECT_FALSE(out.addresses[1].host);
  EXPECT_EQ(out.addresses[1].cidr.ToString(), "10.1.0.0/16");
  EXPECT_TRUE(out.namespace_only);  // a visibility that we do not know is the narrow one
  ASSERT_TRUE(out.waypoint.has_value());
  EXPECT_EQ(out.waypoint->hbone_port, 15008);
}

TEST(Decode, AServiceThatHasNoKeyIsRefused) {
  wl::Address address;
  address.mutable_service()->set_namespace_("shop");
  EXPECT_FALSE(DecodeAddress(address.SerializeAsString()).has_value());
  address.mutable_service()->set_hostname("backend.shop.svc.cluster.local");
  EXPECT_TRUE(DecodeAddress(address.SerializeAsString()).has_value());
  address.mutable_service()->set_namespace_("sh/op");
  const auto refused = DecodeAddress(address.SerializeAsString());
  ASSERT_FALSE(refused.has_value());
  EXPECT_THAT(refused.error().message, testing::HasSubstr("\"sh/op\""));
}

sec::Authorization Base() {
  sec::Authorization a;
  a.set_name("p");
  a.set_namespace_("shop");
  a.set_scope(sec::NAMESPACE);
  return a;
}
sec::Match* AddMatch(sec::Authorization& a) { return a.add_rules()->add_clauses()->add_matches(); }

TEST(DecodePolicy, KeepsEveryField) {
  auto a = Base();
  a.set_action(sec::DENY);
  a.set_dry_run(true);
  auto* m = AddMatch(a);
  m->add_namespaces()->set_exact("x");
  m->add_not_namespaces()->set_prefix("x");
  m->add_principals()->set_suffix("x");
  m->add_not_principals()->mutable_presence();
  m->add_destination_ports(80);
  m->add_not_destination_ports(0);
  auto* ip = m->add_source_ips();
  ip->set_address(V4(10, 0, 0, 0));
  ip->set_length(8);
  *m->add_not_source_ips() = *ip;
  *m->add_destination_ips() = *ip;
  *m->add_not_destination_ips() = *ip;
  auto* account = m->add_service_accounts();
  account->set_namespace_("n");
  account->set_serviceaccount("s");
  *m->add_not_service_accounts() = *account;
  const auto out = DecodeAuthorization(a.SerializeAsString());
  ASSERT_TRUE(out.has_value());
  EXPECT_TRUE(out->problems.empty());
  EXPECT_TRUE(out->dry_run);
  EXPECT_EQ(out->action, model::PolicyAction::kDeny);
  const model::Match& match = out->rules[0].clauses[0].matches[0];
  EXPECT_EQ(match.namespaces[0].kind, model::StringMatch::Kind::kExact);
  EXPECT_EQ(match.not_principals[0].kind, model::StringMatch::Kind::kPresence);
  EXPECT_EQ(match.source_ips[0].block.ToString(), "10.0.0.0/8");
  EXPECT_TRUE(match.destination_ports[0].understood);
  EXPECT_FALSE(match.not_understood);
  EXPECT_EQ(match.service_accounts[0].sa, "s");
  EXPECT_EQ(match.not_service_accounts.size(), 1u);
  EXPECT_EQ(match.not_destination_ips.size(), 1u);
}

TEST(DecodePolicy, MarksWhatIsNotUnderstood) {
  auto a = Base();
  auto* m = AddMatch(a);
  m->add_destination_ports(70000);
  m->add_source_ips()->set_address("abc");
  auto* too_long = m->add_destination_ips();
  too_long->set_address(V4(10, 0, 0, 0));
  too_long->set_length(33);
  m->add_principals();
  m->add_service_accounts();
  const auto out = DecodeAuthorization(a.SerializeAsString());
  ASSERT_TRUE(out.has_value());
  const model::Match& match = out->rules[0].clauses[0].matches[0];
  EXPECT_FALSE(match.destination_ports[0].understood);
  EXPECT_FALSE(match.source_ips[0].understood);
  EXPECT_FALSE(match.destination_ips[0].understood);
  EXPECT_EQ(match.principals[0].kind, model::StringMatch::Kind::kNotUnderstood);
  EXPECT_FALSE(match.service_accounts[0].understood);
  EXPECT_EQ(out->problems.size(), 5u);
}

// Field 1000, varint 1: what a newer server would send to an older proxy.
const std::string kNewerField = "\xc0\x3e\x01";

TEST(DecodePolicy, UnknownFieldNumbersAtEveryLevel) {
  const auto decode = [](const sec::Authorization& a) {
    return DecodeAuthorization(a.SerializeAsString()).value();
  };
  auto top = Base();
  EXPECT_TRUE(DecodeAuthorization(top.SerializeAsString() + kNewerField)->not_understood);

  auto a = Base();
  ASSERT_TRUE(a.add_rules()->ParseFromString(kNewerField));
  EXPECT_TRUE(decode(a).rules[0].not_understood);
  a = Base();
  ASSERT_TRUE(a.add_rules()->add_clauses()->ParseFromString(kNewerField));
  EXPECT_TRUE(decode(a).rules[0].clauses[0].not_understood);
  a = Base();
  ASSERT_TRUE(AddMatch(a)->ParseFromString(kNewerField));
  EXPECT_TRUE(decode(a).rules[0].clauses[0].matches[0].not_understood);
  a = Base();
  ASSERT_TRUE(AddMatch(a)->add_principals()->ParseFromString(kNewerField));
  EXPECT_EQ(decode(a).rules[0].clauses[0].matches[0].principals[0].kind,
            model::StringMatch::Kind::kNotUnderstood);
}

TEST(DecodePolicy, UnknownEnums) {
  auto a = Base();
  a.set_action(static_cast<sec::Action>(5));
  auto out = DecodeAuthorization(a.SerializeAsString()).value();
  EXPECT_EQ(out.action, model::PolicyAction::kDeny);
  EXPECT_TRUE(out.not_understood);
  a = Base();
  a.set_scope(static_cast<sec::Scope>(9));
  out = DecodeAuthorization(a.SerializeAsString()).value();
  EXPECT_TRUE(out.not_understood);
  EXPECT_EQ(out.scope, model::PolicyScope::kNamespace);
}

}  // namespace
}  // namespace qanat::state
