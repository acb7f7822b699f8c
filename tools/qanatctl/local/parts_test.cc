// SPDX-License-Identifier: Apache-2.0
// The small pure parts: addresses, names, nft and DNS texts, environments, tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/tls/jwt.h"
#include "tools/qanatctl/local/dns.h"
#include "tools/qanatctl/local/env.h"
#include "tools/qanatctl/local/files.h"
#include "tools/qanatctl/local/ipam.h"
#include "tools/qanatctl/local/names.h"
#include "tools/qanatctl/local/proxy_rules.h"
#include "tools/qanatctl/local/sandbox.h"
#include "tools/qanatctl/local/token.h"

namespace qanat::local {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

net::IpAddress Ip(const char* text) { return net::IpAddress::Parse(text).value(); }
net::SocketAddress At(const char* text) { return net::SocketAddress::Parse(text).value(); }

TEST(Names, AMeshNameIsNeverAnothersPrefix) {
  EXPECT_TRUE(CheckMeshName("local"));
  for (const char* bad : {"", "a-b", "Local", "a/b", "..", "aaaaaaaaaaaaa", "a b"}) {
    EXPECT_FALSE(CheckMeshName(bad)) << bad;
  }
}

TEST(Ipam, AddressesFollowTheContract) {
  EXPECT_EQ(UnderlayV4(2).ToString(), "10.90.0.2");
  EXPECT_EQ(UnderlayV6(kFabricHost).ToString(), "fd90::254");
  EXPECT_EQ(PodBlockV4(2).ToString(), "10.91.2.0/24");
  EXPECT_EQ(PodBlockV6(12).ToString(), "fd91:12::/64");
  EXPECT_EQ(PodGatewayV6(1).ToString(), "fd91:1::1");
  EXPECT_EQ(DnsV4().ToString(), "10.96.0.10");
}

TEST(Ipam, PodsGetTheLowestFreeAddressAndTheOneTheyAskFor) {
  PodAddresses pods;
  EXPECT_EQ(pods.Take(1, "").value(), 2);
  EXPECT_EQ(pods.Take(1, "").value(), 3);
  EXPECT_EQ(pods.Take(2, "").value(), 2);
  pods.Release(1, 2);
  EXPECT_EQ(pods.Take(1, "").value(), 2);
  EXPECT_EQ(pods.Take(1, "10.91.1.9").value(), 9);
  EXPECT_FALSE(pods.Take(1, "10.91.1.9"));
  EXPECT_FALSE(pods.Take(1, "10.91.2.9"));
  EXPECT_FALSE(pods.Take(1, "10.91.1.1"));  // the gateway
  EXPECT_FALSE(pods.Take(1, "nonsense"));
  PodAddresses full;
  for (int i = 2; i <= 253; ++i) ASSERT_TRUE(full.Take(1, ""));
  EXPECT_FALSE(full.Take(1, ""));
}

TEST(Ipam, ClusterIpsAreStableUniqueAndHonourTheSpec) {
  ServiceAddresses a;
  ServiceAddresses b;
  const uint16_t first = a.Take("shop/web", "").value();
  (void)b.Take("shop/other", "").value();
  EXPECT_EQ(b.Take("shop/web", "").value(), first);
  EXPECT_EQ(a.Take("shop/web", "").value(), first);
  EXPECT_EQ(a.Take("shop/fixed", "10.96.1.7").value(), 0x107);
  EXPECT_FALSE(a.Take("shop/clash", "10.96.1.7"));
  EXPECT_FALSE(a.Take("shop/outside", "10.97.1.7"));
  std::set<uint16_t> seen;
  for (int i = 0; i < 2000; ++i) {
    EXPECT_TRUE(seen.insert(b.Take("ns/" + std::to_string(i), "").value()).second);
  }
}

TEST(ProxyRules, OneTableAFamilyReplacedInOneGo) {
  const std::string rules = RenderProxyRules(
      {{Ip("10.96.1.1"), 80, false, "", {At("10.91.1.2:8080"), At("10.91.2.2:8080")}},
       {Ip("10.96.1.2"), 53, true, "", {At("10.91.1.3:53")}},
       {Ip("10.96.1.3"), 80, false, "", {}},
       {Ip("fd96::101"), 80, false, "", {At("[fd91:1::2]:8080")}}},
      {Ip("10.91.1.2"), Ip("fd91:1::2")});
  EXPECT_THAT(rules, HasSubstr("table ip qanat_services {}\ndelete table ip qanat_services\n"));
  EXPECT_THAT(rules, HasSubstr("delete table ip6 qanat_services"));
  EXPECT_THAT(rules, HasSubstr("10.96.1.1 . tcp . 80 : goto svc_0"));
  EXPECT_THAT(rules, HasSubstr("numgen random mod 2 map { 0 : 10.91.1.2 . 8080, "
                               "1 : 10.91.2.2 . 8080 }"));
  EXPECT_THAT(rules, HasSubstr("10.96.1.2 . udp . 53 : goto svc_1"));
  EXPECT_THAT(rules, HasSubstr("{ 10.96.1.3 . tcp . 80 } meta l4proto tcp reject with tcp reset"));
  EXPECT_THAT(rules, HasSubstr("{ 10.91.1.2 . 10.91.1.2 } masquerade"));
  EXPECT_THAT(rules, HasSubstr("0 : fd91:1::2 . 8080"));
}

TEST(ProxyRules, NothingToDoIsStillValid) {
  const std::string rules = RenderProxyRules({}, {});
  EXPECT_THAT(rules, Not(HasSubstr("vmap")));
  EXPECT_THAT(rules, Not(HasSubstr("{ }")));
}

TEST(Dns, Texts) {
  EXPECT_THAT(RenderDnsmasqConfig({DnsV4()}, "/x/hosts"), HasSubstr("listen-address=10.96.0.10\n"));
  EXPECT_EQ(RenderHostsRecords({{"a.b.svc.cluster.local", {Ip("10.96.0.9"), Ip("fd96::9")}}}),
            "10.96.0.9 a.b.svc.cluster.local\nfd96::9 a.b.svc.cluster.local\n");
  EXPECT_EQ(RenderResolvConf({}, "shop"),
            "search shop.svc.cluster.local svc.cluster.local cluster.local\n"
            "nameserver 10.96.0.10\noptions ndots:5\n");
  kube::PodDns dns;
  dns.policy = "Default";
  EXPECT_EQ(RenderResolvConf(dns, "shop"), "nameserver 10.96.0.10\n");
  dns.policy = "None";
  dns.servers = {"203.0.113.5"};
  dns.searches = {"a.example"};
  EXPECT_EQ(RenderResolvConf(dns, "shop"), "search a.example\nnameserver 203.0.113.5\n");
  EXPECT_THAT(RenderPodHosts("p", "", {Ip("10.91.1.2")}), HasSubstr("10.91.1.2\tp\n"));
}

PodFacts Facts() {
  return {"shop",
          "web-1",
          "u",
          "node1",
          "web",
          "10.90.0.1",
          {"10.91.1.2", "fd91:1::2"},
          {{"app", "web"}},
          {{"note", "x"}}};
}

TEST(Env, ReferencesAreResolved) {
  ContainerSpec c;
  c.argv = {"run", "--at=$(IP):$(PORT)", "$(UNKNOWN)", "$$(PORT)", "100$", "$(open"};
  c.env = {{"PORT", EnvVar::Source::kValue, "80", "", "", false},
           {"IP", EnvVar::Source::kField, "", "status.podIP", "", false},
           {"URL", EnvVar::Source::kValue, "http://$(IP):$(PORT)", "", "", false},
           {"APP", EnvVar::Source::kField, "", "metadata.labels['app']", "", false},
           {"KEY", EnvVar::Source::kConfigMap, "", "k", "m", false},
           {"MAYBE", EnvVar::Source::kSecret, "", "k", "nope", true}};
  c.env_from = {"m"};
  const Command command =
      MakeCommand(c, Facts(), "web-1", {{"shop/m", {{"k", "v"}, {"E", "1"}}}}, {});
  EXPECT_TRUE(command.problems.empty());
  EXPECT_EQ(command.argv, (std::vector<std::string>{"run", "--at=10.91.1.2:80", "$(UNKNOWN)",
                                                    "$(PORT)", "100$", "$(open"}));
  EXPECT_THAT(command.env, ::testing::IsSupersetOf({"URL=http://10.91.1.2:80", "APP=web", "KEY=v",
                                                    "E=1", "HOSTNAME=web-1"}));
}

TEST(Env, WhatIsMissingIsSaid) {
  ContainerSpec c;
  c.env = {{"A", EnvVar::Source::kField, "", "spec.what", "", false},
           {"B", EnvVar::Source::kConfigMap, "", "k", "m", false}};
  EXPECT_EQ(MakeCommand(c, Facts(), "h", {}, {}).problems.size(), 2u);
}

TEST(Sandbox, CapabilitiesAreThoseOfAContainer) {
  const uint64_t mask = CapabilityMask({}).value();
  EXPECT_EQ(mask >> 12 & 1, 0u) << "NET_ADMIN would let a pod choose its own marks";
  EXPECT_EQ(mask >> 21 & 1, 0u) << "SYS_ADMIN";
  EXPECT_EQ(mask >> 13 & 1, 1u) << "NET_RAW is a default capability";
  EXPECT_EQ(CapabilityMask({"NET_ADMIN"}).value() >> 12 & 1, 1u);
  EXPECT_FALSE(CapabilityMask({"FLY"}));
}

TEST(Token, HasTheClaimsOfAProjectedToken) {
  const auto json = nlohmann::json::parse(
      TokenClaims({"shop", "web", "web-1", "uid-1", "node1"}, kMeshAudience, 1000, "j"));
  EXPECT_EQ(json["sub"], "system:serviceaccount:shop:web");
  EXPECT_EQ(json["aud"][0], "istio-ca");
  EXPECT_EQ(json["exp"], 1000 + kTokenLifetime.count());
  EXPECT_EQ(json["kubernetes.io"]["pod"]["uid"], "uid-1");
  EXPECT_EQ(json["kubernetes.io"]["node"]["name"], "node1");
}

TEST(Token, UidsAreWellFormed) {
  EXPECT_EQ(StableUid("x"), StableUid("x"));
  EXPECT_NE(RandomUid(), RandomUid());
  EXPECT_EQ(RandomUid().size(), 36u);
  EXPECT_EQ(PodVethName("01234567-89").size(), 9u);
}

TEST(Files, WritesAreWholeAndRemovalForgives) {
  const std::string dir = ::testing::TempDir() + "qanat-files-test";
  ASSERT_TRUE(RemoveTree(dir));
  ASSERT_TRUE(MakeDirs(dir + "/a/b"));
  ASSERT_TRUE(WriteFile(dir + "/a/f", "one"));
  ASSERT_TRUE(WriteFile(dir + "/a/f", "two"));
  EXPECT_EQ(ReadFile(dir + "/a/f").value(), "two");
  EXPECT_EQ(ListDir(dir + "/a"), (std::vector<std::string>{"b", "f"}));
  EXPECT_FALSE(WriteFile(dir + "/missing/f", "x"));
  EXPECT_TRUE(RemoveFile(dir + "/a/f"));
  EXPECT_TRUE(RemoveFile(dir + "/a/f"));
  EXPECT_TRUE(RemoveTree(dir));
  EXPECT_FALSE(Exists(dir));
}

}  // namespace
}  // namespace qanat::local
