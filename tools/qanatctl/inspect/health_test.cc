// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/inspect/health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace qanat::ctl {
namespace {

using ::testing::HasSubstr;

constexpr const char* kFrontend = "spiffe://cluster.local/ns/shop/sa/frontend";
constexpr const char* kBackend = "spiffe://cluster.local/ns/shop/sa/backend";
const HealthPair kPair{"ns/shop/sa/frontend", "ns/shop/sa/backend", ""};

Json Series(const char* reporter, const char* path, uint64_t connections, Json more = {}) {
  Json series = {{"source", kFrontend},
                 {"destination", kBackend},
                 {"service", ""},
                 {"path", path},
                 {"reporter", reporter},
                 {"connections", connections},
                 {"established", connections}};
  if (more.is_object()) series.update(more);
  return series;
}
Json Agent(std::vector<Json> series, uint64_t lost = 0) {
  return {{"series", std::move(series)}, {"recordsLost", lost}};
}

TEST(Health, TooFewSayNothing) {
  HealthReport r = JudgeHealth(kPair, {Agent({Series("source", "proxied", 19)})}, 100);
  EXPECT_EQ(r.verdict, "not enough");
  EXPECT_THAT(HealthText(kPair, r), HasSubstr("not enough: 19 connections have ended"));
  EXPECT_EQ(JudgeHealth(kPair, {}, 0).verdict, "not enough");
  r = JudgeHealth(kPair, {Agent({Series("source", "proxied", 20)})}, 100);
  EXPECT_EQ(r.verdict, "mesh");
}

TEST(Health, TheLargestShareIsTheAnswer) {
  const Json client = Series("source", "proxied", 20);
  HealthReport r = JudgeHealth(
      kPair,
      {Agent({client}), Agent({Series("destination", "proxied", 20, {{"responseUs", 20 * 5000}})})},
      1000);
  EXPECT_EQ(r.verdict, "application");
  EXPECT_DOUBLE_EQ(r.application_us, 5000);
  EXPECT_DOUBLE_EQ(r.mesh_us, 1000);
  r = JudgeHealth(kPair,
                  {Agent({client, Series("destination", "proxied", 20,
                                         {{"responseUs", 20 * 5000}, {"busyUs", 20 * 8000}})})},
                  1000);
  EXPECT_EQ(r.verdict, "network");
  // The same time, but it is the proxy that does not read.
  r = JudgeHealth(kPair,
                  {Agent({client, Series("destination", "proxied", 20,
                                         {{"responseUs", 20 * 5000},
                                          {"busyUs", 20 * 8000},
                                          {"windowLimitedUs", 20 * 7900}})})},
                  1000);
  EXPECT_EQ(r.verdict, "mesh");
}

TEST(Health, ADirectConnectionHasNoMeshInIt) {
  const HealthReport r = JudgeHealth(
      kPair,
      {Agent(
          {Series("source", "direct", 30,
                  {{"connectUs", 30 * 200}, {"windowLimitedUs", 30 * 900}, {"busyUs", 30 * 900}}),
           Series("destination", "direct", 30)})},
      50000);
  EXPECT_DOUBLE_EQ(r.mesh_us, 0);
  EXPECT_DOUBLE_EQ(r.network_us, 200) << "its handshake";
  EXPECT_EQ(r.verdict, "application") << "which does not read";
}

TEST(Health, OthersFiguresAreNotOurs) {
  Json other = Series("source", "proxied", 100, {{"busyUs", 1000000}});
  other["destination"] = "spiffe://cluster.local/ns/shop/sa/backend-2";
  Json from = Series("source", "proxied", 100);
  from["source"] = "spiffe://cluster.local/ns/other-shop/sa/frontend";
  EXPECT_EQ(JudgeHealth(kPair, {Agent({other, from})}, 0).client.connections, 0u);
}

TEST(Health, AServiceIsWhoeverAnswersForIt) {
  Json client = Series("source", "proxied", 25);
  client["service"] = "backend.shop.svc.cluster.local";
  const HealthPair pair{"ns/shop/sa/frontend", "", "backend.shop.svc.cluster.local"};
  const HealthReport r = JudgeHealth(
      pair, {Agent({client, Series("source", "proxied", 7), Series("destination", "proxied", 25)})},
      10);
  EXPECT_EQ(r.client.connections, 25u);
  EXPECT_EQ(r.server.connections, 25u);
}

TEST(Health, WhatIsLostIsSaid) {
  const HealthReport r =
      JudgeHealth(kPair, {Agent({Series("source", "proxied", 20)}, 3), Agent({}, 4)}, 0);
  EXPECT_EQ(r.lost, 7u);
  EXPECT_THAT(HealthText(kPair, r), HasSubstr("lack 7 connections"));
  EXPECT_EQ(HealthJson(kPair, r)["recordsLost"], 7);
}

TEST(Health, WhatAProxySpendsOnAConnection) {
  const std::string text =
      "qanat_connection_setup_seconds_sum{reporter=\"source\",phase=\"tls\"} 0.02\n"
      "qanat_connection_setup_seconds_count{reporter=\"source\",phase=\"tls\"} 10\n"
      "qanat_connection_setup_seconds_sum{reporter=\"source\",phase=\"policy\"} 0.001\n"
      "qanat_connection_setup_seconds_count{reporter=\"source\",phase=\"policy\"} 10\n"
      "qanat_connection_setup_seconds_sum{reporter=\"source\",phase=\"connect\"} 9\n"
      "qanat_connection_setup_seconds_count{reporter=\"source\",phase=\"connect\"} 1\n"
      "qanat_connection_setup_seconds_sum{reporter=\"destination\",phase=\"tls\"} 7\n"
      "qanat_connection_setup_seconds_count{reporter=\"destination\",phase=\"tls\"} 1\n";
  EXPECT_NEAR(SetupMicroseconds(text, "source"), 2100, 1);
}

}  // namespace
}  // namespace qanat::ctl
