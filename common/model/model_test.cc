// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <set>

#include "common/model/authorization.h"
#include "common/model/identity.h"
#include "common/model/reason.h"
#include "common/model/workload.h"

namespace qanat::model {
namespace {

TEST(Identity, RoundTrip) {
  const auto id = Identity::Parse("spiffe://cluster.local/ns/shop/sa/frontend");
  ASSERT_TRUE(id.has_value());
  EXPECT_EQ(id->trust_domain, "cluster.local");
  EXPECT_EQ(id->ns, "shop");
  EXPECT_EQ(id->sa, "frontend");
  EXPECT_EQ(id->ToString(), "spiffe://cluster.local/ns/shop/sa/frontend");
  EXPECT_EQ(id->Principal(), "cluster.local/ns/shop/sa/frontend");
}

TEST(Identity, RefusesEverythingElse) {
  for (const char* bad :
       {"", "spiffe://", "cluster.local/ns/a/sa/b", "spiffe://td/ns/a/sa", "spiffe://td/ns/a/sa/",
        "spiffe://td/ns/a/sa/b/c", "spiffe:///ns/a/sa/b", "spiffe://td/ns//sa/b",
        "spiffe://td/sa/a/ns/b", "SPIFFE://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b/"}) {
    EXPECT_FALSE(Identity::Parse(bad).has_value()) << bad;
  }
}

TEST(Reason, EachHasItsOwnNameAndARemedy) {
  const std::set<std::string_view> flags = {"-",
                                            "DENY",
                                            "CONNECT",
                                            "TLS_FAILURE",
                                            "H2_HANDSHAKE_FAILURE",
                                            "NETWORK_POLICY",
                                            "IDENTITY_ERROR",
                                            "CERT_REVOKED"};
  std::set<std::string_view> names;
  for (Reason reason : AllReasons()) {
    EXPECT_FALSE(ToString(reason).empty());
    EXPECT_TRUE(names.insert(ToString(reason)).second) << ToString(reason);
    EXPECT_FALSE(Explanation(reason).empty()) << ToString(reason);
    if (reason != Reason::kNone) {
      EXPECT_FALSE(Remedy(reason).empty()) << ToString(reason);
    }
    EXPECT_TRUE(flags.contains(ResponseFlag(reason))) << ToString(reason);
    if (IsPolicy(reason)) {
      EXPECT_EQ(ResponseFlag(reason), "DENY");
    }
  }
  EXPECT_FALSE(IsPolicy(Reason::kNone));
  EXPECT_FALSE(IsPolicy(Reason::kSourceUnknown));
}

TEST(Workload, PortsOfFindsExactServiceOnly) {
  Workload workload;
  workload.services = {{"a/x.svc", {{80, 8080}}}, {"b/x.svc", {{80, 9090}}}};
  ASSERT_NE(workload.PortsOf("b/x.svc"), nullptr);
  EXPECT_EQ(workload.PortsOf("b/x.svc")->front().target_port, 9090);
  EXPECT_EQ(workload.PortsOf("b/x"), nullptr);
  EXPECT_EQ(workload.PortsOf("c/x.svc"), nullptr);
}

TEST(Workload, TheNameIsTheEndOfTheUidOrAnotherText) {
  Workload workload;
  EXPECT_EQ(workload.name(), "");
  workload.uid = "Kubernetes//Pod/shop/front-1";
  for (const char* name : {"front-1", "", "t-1", "Pod", "shop/front-1", "else"}) {
    workload.SetName(name);
    EXPECT_EQ(workload.name(), name);
  }
  workload.uid = "front";
  workload.SetName("front");
  EXPECT_EQ(workload.name(), "front");
}

TEST(AddressList, HasNoneOneOrSeveral) {
  const auto a = *net::IpAddress::Parse("10.0.0.1"), b = *net::IpAddress::Parse("fd00::1");
  const AddressList none, one = {a}, two = {a, b};
  EXPECT_TRUE(none.empty());
  EXPECT_EQ(none.begin(), none.end());
  EXPECT_EQ(one.size(), 1u);
  EXPECT_EQ(one.front(), a);
  EXPECT_EQ(two[1], b);
  EXPECT_EQ(two, (AddressList{a, b}));
  EXPECT_NE(two, one);
  EXPECT_NE(one, none);
  EXPECT_NE(two, (AddressList{b, a}));
}

TEST(Service, HasAnAddressInItsNetworkAlone) {
  Service service;
  const auto ip = *net::IpAddress::Parse("10.96.0.1");
  service.addresses = {{"n1", *net::Cidr::Parse("10.96.0.1/32"), true},
                       {"n2", *net::Cidr::Parse("10.97.0.0/16"), false}};
  EXPECT_TRUE(service.HasAddress("n1", ip));
  EXPECT_FALSE(service.HasAddress("n2", ip));
  EXPECT_FALSE(service.HasAddress("n2", *net::IpAddress::Parse("10.97.0.0")));
}

TEST(Match, EmptyOnlyWithoutAnyCondition) {
  Match match;
  EXPECT_TRUE(match.empty());
  match.not_understood = true;
  EXPECT_FALSE(match.empty());
}

}  // namespace
}  // namespace qanat::model
