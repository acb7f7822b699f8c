// SPDX-License-Identifier: Apache-2.0
// Services on the direct path: what the connect hook draws, what becomes of the draw, and what the
// application sees of it. Which endpoints there are is written by the test.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <sstream>
#include <tuple>

#include "tests/bpf/direct_fixture.h"

namespace qanat::test {
namespace {

constexpr const char* kVip4 = "10.66.200.1";
constexpr const char* kVip6 = "fd66:200::1";
const std::string kTo4 = std::string(kVip4) + ":80", kTo6 = "[" + std::string(kVip6) + "]:80";

class DirectVipTest : public DirectTest {
 protected:
  void SetUp() override {
    DirectTest::SetUp();
    t_->SetVerdict(8080);
  }
  // In both families; `b`: with pod b's address.
  static void SetVip(std::vector<DirectBed::VipEndpoint> endpoints) {
    for (const auto& [vip, own] : {std::pair{kVip4, t_->b.ip4}, std::pair{kVip6, t_->b.ip6}}) {
      auto of_family = endpoints;
      for (auto& endpoint : of_family)
        if (!endpoint.ip.empty()) endpoint.ip = own;
      t_->SetVip(vip, 80, of_family);
    }
  }
  static std::string From(const Dial& dial) { return t_->From(t_->a, dial); }
  static void ExpectAtB(const Dial& dial) {
    const bool v4 = dial.to == kTo4;
    const std::string line = From(dial), at = "app " + (v4 ? To4() : To6()) + " ";
    EXPECT_EQ(line.rfind(at, 0), 0u) << dial.to << " -> " << line;
  }
  // By the proxy, which still sees where the application wants to go. 0: nothing is said of a draw.
  static void ExpectProxied(uint32_t code, const Dial& how = {}) {
    for (const std::string& to : {kTo4, kTo6}) {
      Dial dial = how;
      dial.to = to;
      const std::string line = From(dial);
      EXPECT_EQ(line.rfind("out ", 0), 0u) << line;
      EXPECT_NE(line.find(" " + to + " "), std::string::npos) << line;
      const std::string drawn = code == 0 ? "drawn=" : " drawn=" + std::to_string(code);
      EXPECT_EQ(line.find(drawn) != std::string::npos, code != 0) << line;
    }
  }
  static uint64_t A(qanat_counter which) { return t_->Counter(t_->a, which); }
};

TEST_F(DirectVipTest, GoesStraightToTheDrawnEndpoint) {
  SetVip({{.code = 77, .ip = "b"}});
  const uint64_t vip = A(QANAT_CNT_VIP_DIRECT), captured = A(QANAT_CNT_CAPTURED);
  for (const std::string& to : {kTo4, kTo6}) {
    ExpectAtB({.to = to});
    ExpectAtB({.to = to, .nonblocking = true});
    ExpectAtB({.to = to, .fastopen = true});
    ExpectAtB({.to = to, .deferred = true});
    ExpectAtB({.to = to, .mark = 0x53a});
  }
  const std::string mapped = From({.to = kTo4, .as_mapped = true});
  EXPECT_EQ(mapped.rfind("app " + To4() + " ", 0), 0u) << mapped;
  EXPECT_EQ(A(QANAT_CNT_VIP_DIRECT), vip + 11);
  EXPECT_EQ(A(QANAT_CNT_CAPTURED), captured);
  EXPECT_EQ(t_->maps.suspended.Keys().size(), 0u);
}

TEST_F(DirectVipTest, TheApplicationSeesTheService) {
  SetVip({{.ip = "b"}});
  for (const std::string& to : {kTo4, kTo6}) {
    const std::string line = From({.to = to, .say_self = true});
    EXPECT_EQ(line.rfind("app ", 0), 0u) << line;
    EXPECT_TRUE(line.ends_with(" peer=" + to)) << line;
  }
  const std::string mapped = From({.to = kTo4, .as_mapped = true, .say_self = true});
  EXPECT_TRUE(mapped.ends_with(" peer=" + kTo4)) << mapped;
  // Not where the pod was asked for by its own address.
  const std::string own = From({.to = To4(), .say_self = true});
  EXPECT_TRUE(own.ends_with(" peer=" + To4())) << own;
}

TEST_F(DirectVipTest, ASocketThatConnectsAgainShowsWhereTo) {
  SetVip({{.ip = "b", .port = 9999}});
  t_->SetVerdict(9999);
  // Refused by the drawn endpoint; then to the same pod and port by its own address, captured, and
  // then straight.
  for (const auto& [bound, reached] : {std::pair{"", "app"}, std::pair{"eth0", "out"}}) {
    for (const auto& key : t_->maps.suspended.Keys()) ASSERT_TRUE(t_->maps.suspended.Erase(key));
    const std::string program =
        "import socket,sys\ns=socket.socket()\n"
        "try: s.connect(('" +
        std::string(kVip4) +
        "',80))\n"
        "except ConnectionRefusedError: print('refused')\n"
        "s.setsockopt(1,25,b'" +
        std::string(bound) +
        "\\0')\n"
        "s.connect((sys.argv[1],8080))\n"
        "print(s.getpeername()[0]==sys.argv[1],s.recv(9).decode()[:3])";
    EXPECT_EQ(t_->Python(t_->a, program), std::string("refused\nTrue ") + reached);
  }
}

TEST_F(DirectVipTest, WhatCannotGoStraightIsToldToTheProxy) {
  SetVip({{.code = 0xabcde, .ip = "b"}});
  const uint64_t said = A(QANAT_CNT_VIP_PROXY);
  for (uint32_t what : {QANAT_VERDICT_ASKED, QANAT_VERDICT_NO}) {
    t_->SetVerdict(8080, what);
    ExpectProxied(0xabcde);
  }
  t_->SetVerdict(8080);
  t_->SetFlags(t_->b, 0);
  ExpectProxied(0xabcde);
  t_->SetFlags(t_->b, QANAT_DIRECT_TO);
  SetVip({{.code = 5, .ip = "b", .stale = true}});
  ExpectProxied(5);  // another pod has the address now
  SetVip({{.code = 1}});
  ExpectProxied(1);  // on another node
  EXPECT_EQ(A(QANAT_CNT_VIP_PROXY), said + 10);
  SetVip({{.code = 0}});
  ExpectProxied(0);  // a proxy that does not read it
}

TEST_F(DirectVipTest, WithoutAnEntryTheProxyPicks) {
  for (bool known : {false, true}) {
    if (known) SetVip({});  // "no": the agent has answered
    ExpectProxied(0);
  }
  SetVip({{.code = 7, .ip = "b"}});
  t_->SetLease(0);
  ExpectProxied(0);
  t_->SetLease(60);
  t_->SetFlags(t_->a, QANAT_DIRECT_TO);
  ExpectProxied(0);
  t_->SetFlags(t_->a, QANAT_DIRECT_FROM);
  ExpectProxied(0, {.mptcp = true});
  ExpectProxied(0, {.device = "eth0"});
  // Another port, and another pod's entry.
  const std::string other = From({.to = std::string(kVip4) + ":81"});
  EXPECT_EQ(other.rfind("out ", 0), 0u) << other;
}

TEST_F(DirectVipTest, TheAgentIsAskedOncePerService) {
  const uint64_t asked = A(QANAT_CNT_DIRECT_ASKED);
  for (int i = 0; i < 3; ++i) ExpectProxied(0);
  EXPECT_EQ(A(QANAT_CNT_DIRECT_ASKED), asked + 2);
  ASSERT_EQ(t_->maps.vips.Keys().size(), 2u);
  for (const auto& key : t_->maps.vips.Keys()) {
    EXPECT_EQ(key.src_serial, t_->KernelPod(t_->a).serial);
    EXPECT_EQ(key.port, 80);
    EXPECT_EQ((*t_->maps.vips.Lookup(key))->total, 0u);
  }
  // No more than so many at once, whatever a pod connects to.
  ASSERT_TRUE(t_->maps.asked.Update(t_->KernelPod(t_->a).id, QANAT_MAX_ASKED));
  const std::string line = From({.to = "10.66.200.9:80"});
  EXPECT_EQ(line.rfind("out ", 0), 0u) << line;
  EXPECT_EQ(t_->maps.vips.Keys().size(), 2u);
}

// Each endpoint gets its share, whichever way its connections take.
TEST_F(DirectVipTest, SharesAreThoseOfTheWeights) {
  const std::string program =
      "import socket,sys\n"
      "n={}\n"
      "for i in range(600):\n"
      " s=socket.create_connection(('" +
      std::string(kVip4) +
      "',80))\n"
      " w=s.recv(200).decode().split(); s.close()\n"
      " k=w[0]+(w[4] if len(w)>4 else w[1].split(':')[-1] if w[0]=='app' else '')\n"
      " n[k]=n.get(k,0)+1\n"
      "print(*(n.get(k,0) for k in ('app8080','outdrawn=2','outdrawn=3','outdrawn=4')))";
  t_->SetVerdict(8081, QANAT_VERDICT_NO);
  SetVip({{.weight = 3, .code = 1, .ip = "b"},
          {.weight = 2, .code = 2},
          {.weight = 1, .code = 3, .ip = "b", .port = 8081},
          {.weight = 4, .code = 4}});
  std::istringstream said(t_->Python(t_->a, program));
  const int weights[] = {3, 2, 1, 4};
  int sum = 0;
  for (int weight : weights) {
    int got = 0;
    said >> got;
    sum += got;
    // Five standard deviations of a binomial share.
    const double p = weight / 10.0, expected = 600 * p, sd = std::sqrt(600 * p * (1 - p));
    EXPECT_NEAR(got, expected, 5 * sd) << "weight " << weight;
  }
  EXPECT_EQ(sum, 600);
}

TEST_F(DirectVipTest, EveryPlaceOfTheTableIsDrawn) {
  std::vector<DirectBed::VipEndpoint> all;
  for (uint32_t code = 1; code <= QANAT_VIP_ENDPOINTS; ++code) all.push_back({.code = code});
  SetVip(all);
  std::vector<bool> seen(QANAT_VIP_ENDPOINTS + 1);
  EXPECT_TRUE(t_->bed.WaitFor(
      [&] {
        const std::string line = From({.to = kTo4});
        const size_t at = line.find("drawn=");
        EXPECT_NE(at, std::string::npos) << line;
        if (at != std::string::npos) seen.at(std::stoul(line.substr(at + 6))) = true;
        return std::count(seen.begin(), seen.end(), true) == QANAT_VIP_ENDPOINTS;
      },
      20000));
}

TEST_F(DirectVipTest, AnEndpointThatRefusesIsLeftToTheProxyForAWhile) {
  t_->SetVerdict(9999);
  SetVip({{.code = 9, .ip = "b", .port = 9999}});
  EXPECT_EQ(From({.to = kTo4}), "error: ECONNREFUSED");
  const uint64_t suspended = A(QANAT_CNT_VIP_SUSPENDED);
  ExpectProxied(0);  // its own pick, which may try others; the endpoint is one in both families
  EXPECT_EQ(A(QANAT_CNT_VIP_SUSPENDED), suspended + 2);
  const qanat_suspended_key key{t_->KernelPod(t_->a).serial, t_->KernelPod(t_->b).serial, 9999};
  // A second at first, then twice as long.
  const auto refused_after = [&](std::chrono::milliseconds at_least) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_TRUE(t_->bed.WaitFor([&] { return From({.to = kTo4}) == "error: ECONNREFUSED"; }));
    EXPECT_GE(std::chrono::steady_clock::now() - start, at_least);
  };
  auto first = t_->maps.suspended.Lookup(key);
  ASSERT_TRUE(first && *first);
  EXPECT_EQ((*first)->failures, 1u);
  refused_after(std::chrono::milliseconds(0));
  EXPECT_EQ((*t_->maps.suspended.Lookup(key))->failures, 2u);
  refused_after(std::chrono::milliseconds(1500));
  EXPECT_EQ((*t_->maps.suspended.Lookup(key))->failures, 3u);
  // By its own address it is refused as ever: there is no other to try.
  EXPECT_EQ(From({.to = To4(9999)}), "error: ECONNREFUSED");
  EXPECT_EQ((*t_->maps.suspended.Lookup(key))->failures, 3u);
}

TEST_F(DirectVipTest, SuspendingGrowsToHalfAMinuteAndEndsWithAnAnswer) {
  SetVip({{.ip = "b"}});
  const qanat_suspended_key key{t_->KernelPod(t_->a).serial, t_->KernelPod(t_->b).serial, 8080};
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const uint64_t ns =
      static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
  ASSERT_TRUE(t_->maps.suspended.Update(key, {ns + 60000000000, 4, 0}));
  ExpectProxied(0);
  ASSERT_TRUE(t_->maps.suspended.Update(key, {ns, 4, 0}));
  ExpectAtB({.to = kTo4});
  EXPECT_FALSE(*t_->maps.suspended.Lookup(key)) << "it answered";
  // The longest time, from whatever number of failures.
  t_->SetVerdict(9999);
  SetVip({{.ip = "b", .port = 9999}});
  const qanat_suspended_key other{key.src_serial, key.dst_serial, 9999};
  for (uint32_t failures : {5u, 6u, 31u}) {
    ASSERT_TRUE(t_->maps.suspended.Update(other, {ns, failures, 0}));
    EXPECT_EQ(From({.to = kTo4}), "error: ECONNREFUSED");
    auto after = t_->maps.suspended.Lookup(other);
    ASSERT_TRUE(after && *after);
    EXPECT_GT((*after)->until_ns, ns + 29000000000) << failures;
    EXPECT_LT((*after)->until_ns, ns + 60000000000) << failures;
  }
  // Long ago is forgotten.
  ASSERT_TRUE(t_->maps.suspended.Update(other, {ns - 61000000000, 5, 0}));
  EXPECT_EQ(From({.to = kTo4}), "error: ECONNREFUSED");
  EXPECT_EQ((*t_->maps.suspended.Lookup(other))->failures, 1u);
}

TEST_F(DirectVipTest, OnlyASilentEndpointIsSuspendedForATimeout) {
  SetVip({{.ip = "b"}});
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns,
                         "nft add table inet q; nft \"add chain inet q in { type "
                         "filter hook input priority 0; }\"; nft add rule inet q in "
                         "tcp dport 8080 drop"));
  // Given up by the application before a second SYN: nothing is known of the endpoint.
  EXPECT_EQ(From({.to = kTo4, .timeout_ms = 200}), "error: timeout");
  EXPECT_TRUE(t_->maps.suspended.Keys().empty());
  EXPECT_EQ(From({.to = kTo4, .timeout_ms = 2500}), "error: timeout");
  EXPECT_EQ(t_->maps.suspended.Keys().size(), 1u);
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns, "nft delete table inet q"));
}

TEST_F(DirectVipTest, ALateRefusalIsCapturedAsTheEndpointsOwn) {
  SetVip({{.code = 9, .ip = "b"}});
  ASSERT_TRUE(t_->bed.Sh(t_->a.netns, "sysctl -qw net.ipv4.tcp_fastopen=5"));
  const uint64_t retaken = A(QANAT_CNT_DIRECT_RETAKEN);
  for (const auto& [vip, family, real] :
       {std::tuple{kVip4, "socket.AF_INET", To4()}, std::tuple{kVip6, "socket.AF_INET6", To6()}}) {
    t_->SetLease(60);
    const std::string said = t_->Python(
        t_->a,
        "import socket,sys\ns=socket.socket(" + std::string(family) +
            ")\ns.settimeout(3)\ns.setsockopt(6,30,1)\n"
            "s.connect(('" +
            vip +
            "',80))\ninput('?')\ns.send(b'hi')\n"
            "w=s.recv(100).decode().split()\nprint(w[0],w[2],len(w),s.getpeername()[:2])\n",
        [] { t_->SetLease(0); });
    // The proxy is asked for the pod, whose policies hold; the application still sees the service.
    EXPECT_EQ(said, "out " + real + " 4 ('" + vip + "', 80)");
  }
  EXPECT_EQ(A(QANAT_CNT_DIRECT_RETAKEN), retaken + 2);
}

TEST_F(DirectVipTest, UdpIsLeftAlone) {
  SetVip({{.ip = "b"}});
  EXPECT_EQ(t_->Python(t_->a,
                       "import socket\n"
                       "for f,a in ((2,'" +
                           std::string(kVip4) + "'),(10,'" + kVip6 +
                           "')):\n"
                           " s=socket.socket(f,socket.SOCK_DGRAM)\n s.connect((a,80))\n"
                           " print(s.getpeername()[:2])\n"),
            "('" + std::string(kVip4) + "', 80)\n('" + kVip6 + "', 80)");
}

TEST_F(DirectVipTest, NobodyElseIsDrawnFor) {
  SetVip({{.code = 3, .ip = "b"}});
  // Pod b has no entry of its own, pod n is not in the mesh.
  const std::string from_b = t_->From(t_->b, {.to = kTo4});
  EXPECT_EQ(from_b.rfind("out ", 0), 0u) << from_b;
  EXPECT_EQ(from_b.find("drawn"), std::string::npos) << from_b;
  const std::string from_n = t_->From(t_->n, {.to = kTo4, .timeout_ms = 300});
  EXPECT_EQ(from_n.rfind("error", 0), 0u) << from_n;
}

}  // namespace
}  // namespace qanat::test
