// SPDX-License-Identifier: Apache-2.0
// The same-node direct path of the kernel, with lease and verdicts written by the test: what goes
// straight to the application, and that everything else goes through the proxy as before.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/bpf/direct_fixture.h"

namespace qanat::test {
namespace {

TEST_F(DirectTest, ReachesTheApplicationWithoutAProxy) {
  t_->SetVerdict(8080);
  const uint64_t direct = t_->Counter(t_->a, QANAT_CNT_DIRECT);
  const uint64_t accepted = t_->Counter(t_->b, QANAT_CNT_DIRECT_ACCEPTED);
  const uint64_t captured = t_->Counter(t_->a, QANAT_CNT_CAPTURED);
  ExpectDirect();
  ExpectReached({.to = To4(), .as_mapped = true}, "app");
  ExpectReached({.to = To4(), .nonblocking = true}, "app");
  ExpectReached({.to = To6(), .nonblocking = true}, "app");
  ExpectReached({.to = To4(), .fastopen = true}, "app");
  ExpectReached({.to = To6(), .fastopen = true}, "app");
  ExpectReached({.to = To4(), .bind = t_->a.ip4 + ":0"}, "app");
  ExpectReached({.to = To6(), .bind = "[" + t_->a.ip6 + "]:0"}, "app");
  ExpectReached({.to = To4(), .drop_privileges = true}, "app");
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT), direct + 10);
  EXPECT_EQ(t_->Counter(t_->b, QANAT_CNT_DIRECT_ACCEPTED), accepted + 10);
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_CAPTURED), captured);
}

TEST_F(DirectTest, BothEndsSeeTheRealAddresses) {
  t_->SetVerdict(8080);
  for (const auto& [to, own] :
       {std::pair{To4(), t_->a.ip4 + ":"}, std::pair{To6(), "[" + t_->a.ip6}}) {
    const std::string line = t_->From(t_->a, {.to = to, .say_self = true});
    EXPECT_NE(line.find("app " + to + " " + own), std::string::npos) << line;
    EXPECT_NE(line.find("self=" + own), std::string::npos) << line;
    EXPECT_NE(line.find("peer=" + to), std::string::npos) << line;
  }
}

TEST_F(DirectTest, AMarkOfTheApplicationIsTakenOff) {
  t_->SetVerdict(8080);
  for (unsigned mark : {0x539u, 0x53au, 0x53bu, 0x53cu, 0x1u})
    ExpectReached({.to = To4(), .mark = mark}, "app");
}

TEST_F(DirectTest, WithoutAVerdictTheProxyDecides) {
  ExpectCaptured("no verdict");
  t_->SetVerdict(8081);
  ExpectCaptured("a verdict for another port");
  for (uint32_t what : {QANAT_VERDICT_ASKED, QANAT_VERDICT_NO}) {
    t_->SetVerdict(8080, what);
    ExpectCaptured("verdict " + std::to_string(what));
  }
  t_->SetVerdict(8080);
  ASSERT_TRUE(t_->maps.verdicts.Erase(t_->Key(8080, 6)));
  ExpectReached({.to = To4()}, "app");
  ExpectReached({.to = To6()}, "out");  // each family has its own
}

TEST_F(DirectTest, AVerdictOfAnEarlierGenerationIsVoid) {
  t_->SetVerdict(8080, QANAT_VERDICT_DIRECT, 5);
  t_->SetLease(60, 6);
  ExpectCaptured("older than the lease's generation");
  t_->SetLease(60, 5);
  ExpectDirect();
  t_->SetFlags(t_->b, QANAT_DIRECT_TO, 6);
  ExpectCaptured("older than the destination's floor");
}

TEST_F(DirectTest, WithoutALeaseNothingIsDirect) {
  t_->SetVerdict(8080);
  t_->SetLease(60, 1, false);
  ExpectCaptured("switched off");
  t_->SetLease(0);
  ExpectCaptured("run out");
  t_->SetLease(1);
  ExpectDirect();
  t_->bed.WaitFor([] { return false; }, 1100);
  ExpectCaptured("ran out by itself");
  t_->SetLease(60);
  ASSERT_TRUE(t_->maps.EndLease());
  ExpectCaptured("ended");
}

TEST_F(DirectTest, FlagsAndModesOfBothPodsAreObeyed) {
  t_->SetVerdict(8080);
  t_->SetFlags(t_->a, QANAT_DIRECT_TO);
  ExpectCaptured("not from it");
  t_->SetFlags(t_->a, QANAT_DIRECT_FROM);
  t_->SetFlags(t_->b, QANAT_DIRECT_FROM);
  ExpectCaptured("not to it");
  t_->SetFlags(t_->b, QANAT_DIRECT_TO);
  ExpectDirect();
  for (qanat_mode mode : {QANAT_MODE_OFF, QANAT_MODE_CUT}) {
    t_->SetMode(t_->b, mode);
    ExpectCaptured("destination in mode " + std::to_string(mode));
  }
  t_->SetMode(t_->b, QANAT_MODE_ENFORCED);
  t_->SetMode(t_->a, QANAT_MODE_CUT);
  EXPECT_EQ(t_->From(t_->a, {.to = To4()}), "error: ECONNREFUSED");
}

TEST_F(DirectTest, WhatIsNotAPlainSocketOfThePodGoesThroughTheProxy) {
  t_->SetVerdict(8080);
  const uint64_t before = t_->Counter(t_->a, QANAT_CNT_DIRECT);
  const uint64_t retaken = t_->Counter(t_->a, QANAT_CNT_DIRECT_RETAKEN);
  ExpectReached({.to = To4(), .device = "eth0"}, "out");
  ExpectReached({.to = To6(), .device = "eth0"}, "out");
  ExpectReached({.to = To4(), .mptcp = true}, "out");
  ExpectReached({.to = To6(), .mptcp = true}, "out");
  ExpectReached({.to = To4(), .bind = "10.66.1.99:0", .transparent = true}, "out");
  ExpectReached({.to = t_->n.ip4 + ":8080"}, "out");  // not in the mesh
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT), before);
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT_RETAKEN), retaken) << "known at connect()";
}

TEST_F(DirectTest, ASourceOfAnotherAddressOfThePodGoesThroughTheProxy) {
  // Verdicts were made for the address that the mesh knows. Not bound: chosen after connect()'s
  // hook.
  t_->SetVerdict(8080);
  ASSERT_TRUE(t_->bed.Sh(t_->a.netns,
                         "ip addr add 10.66.1.60/24 dev eth0 && "
                         "ip route add 10.66.1.11/32 dev eth0 src 10.66.1.60"));
  const uint64_t before = t_->Counter(t_->a, QANAT_CNT_DIRECT_RETAKEN);
  ExpectReached({.to = To4()}, "out");
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT_RETAKEN), before + 1);
  ASSERT_TRUE(t_->bed.Sh(t_->a.netns, "ip addr del 10.66.1.60/24 dev eth0; ip route flush cache"));
  t_->bed.Sh(t_->a.netns, "ip route del 10.66.1.11/32 dev eth0 2>/dev/null");
  ExpectReached({.to = To4()}, "app");
}

TEST_F(DirectTest, FullMapsFallBackToTheProxy) {
  t_->SetVerdict(8080);
  qanat_tuple tuple{};
  const auto fill = [&](auto& map, auto value) {
    for (uint32_t i = 0;; ++i) {
      tuple.src.word[3] = i;
      if (!map.Update(tuple, value)) return i;
    }
  };
  const auto empty = [&](auto& map, uint32_t entries) {
    for (uint32_t i = 0; i < entries; ++i) {
      tuple.src.word[3] = i;
      ASSERT_TRUE(map.Erase(tuple));
    }
  };
  uint64_t before = t_->Counter(t_->a, QANAT_CNT_DIRECT_FLOW_FULL);
  uint32_t entries = fill(t_->maps.flows, qanat_flow{});
  EXPECT_EQ(entries, uint32_t{QANAT_MAX_FLOWS});
  ExpectCaptured("flows full");
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT_FLOW_FULL), before + 2);
  empty(t_->maps.flows, entries);
  before = t_->Counter(t_->b, QANAT_CNT_GRANT_FULL);
  entries = fill(t_->maps.grants, qanat_grant{});
  EXPECT_EQ(entries, uint32_t{QANAT_MAX_GRANTS});
  ExpectCaptured("grants full");
  EXPECT_EQ(t_->Counter(t_->b, QANAT_CNT_GRANT_FULL), before + 2);
  EXPECT_TRUE(t_->maps.flows.Keys().empty()) << "a flow without a grant";
  empty(t_->maps.grants, entries);
  ExpectDirect();
}

TEST_F(DirectTest, OverBudgetFallsBackToTheProxy) {
  t_->SetVerdict(8080);
  ExpectDirect();
  const uint64_t cookie = t_->Cookie(t_->a);
  ASSERT_TRUE(t_->maps.budgets.Update(cookie, {QANAT_BUDGET_DEFAULT, 0}));
  const uint64_t before = t_->Counter(t_->b, QANAT_CNT_GRANT_OVER_BUDGET);
  ExpectCaptured("over budget");
  EXPECT_EQ(t_->Counter(t_->b, QANAT_CNT_GRANT_OVER_BUDGET), before + 2);
  ASSERT_TRUE(t_->maps.budgets.Update(cookie, {QANAT_BUDGET_DEFAULT - 1, 0}));
  ExpectDirect();
  ASSERT_TRUE(t_->maps.budgets.Update(cookie, {0, 0}));
}

// What is dropped on the way keeps its grants; those of others have room all the same.
TEST_F(DirectTest, AFloodOfOnePodCostsNoOtherItsGrants) {
  t_->SetVerdict(8080);
  for (uint8_t family : {uint8_t{4}, uint8_t{6}}) {
    const qanat_verdict_key back{t_->KernelPod(t_->b).serial, t_->KernelPod(t_->a).serial, 9999,
                                 family, 0};
    ASSERT_TRUE(t_->maps.verdicts.Update(back, {1, 7, QANAT_VERDICT_DIRECT}));
  }
  ASSERT_TRUE(t_->bed.Sh(t_->a.netns,
                         "nft add table inet q; nft \"add chain inet q in { type "
                         "filter hook prerouting priority 0; }\"; nft add rule inet q in "
                         "tcp dport 9999 drop"));
  const uint64_t over = t_->Counter(t_->a, QANAT_CNT_GRANT_OVER_BUDGET);
  const std::string program =
      "import socket\nheld=[]\nfor i in range(600):\n"
      " for f,to in ((2,'" +
      t_->a.ip4 + "'),(10,'" + t_->a.ip6 +
      "')):\n"
      "  s=socket.socket(f)\n  s.setblocking(False)\n  s.connect_ex((to,9999))\n  held.append(s)\n"
      "input('?')";
  t_->Python(t_->b, program, [&] {
    const uint64_t flooding = t_->Cookie(t_->b), victim = t_->Cookie(t_->a);
    EXPECT_EQ((*t_->maps.budgets.Lookup(flooding))->in_flight, uint32_t{QANAT_BUDGET_DEFAULT});
    EXPECT_EQ(t_->maps.grants.Keys().size(), size_t{QANAT_BUDGET_DEFAULT});
    EXPECT_GE(t_->Counter(t_->a, QANAT_CNT_GRANT_OVER_BUDGET), over + 1000);
    const uint64_t direct = t_->Counter(t_->a, QANAT_CNT_DIRECT);
    for (int i = 0; i < 20; ++i) ExpectDirect();
    EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT), direct + 40);
    const auto budget = t_->maps.budgets.Lookup(victim);
    if (budget && *budget) EXPECT_EQ((*budget)->in_flight, 0u);
  });
  ASSERT_TRUE(t_->bed.Sh(t_->a.netns, "nft delete table inet q"));
}

TEST_F(DirectTest, AConnectionIsAFlowWhileItLivesAndItsGrantIsUsedUp) {
  t_->SetVerdict(8080);
  for (const char* index : {"1", "2"}) {
    // python3 -c PROGRAM IP4 IP6: argv[0] is "-c".
    const std::string program = "import socket,sys\ns=socket.create_connection((sys.argv[" +
                                std::string(index) + "],8080))\ns.recv(100)\ninput('?')\ns.close()";
    t_->Python(t_->a, program, [&] {
      EXPECT_TRUE(t_->maps.grants.Keys().empty());
      const auto flows = t_->maps.flows.Keys();
      ASSERT_EQ(flows.size(), 1u);
      auto flow = t_->maps.flows.Lookup(flows[0]);
      ASSERT_TRUE(flow && *flow);
      EXPECT_NE((*flow)->client, 0u);
      EXPECT_NE((*flow)->server, 0u);
      EXPECT_NE((*flow)->client, (*flow)->server);
      EXPECT_EQ((*flow)->src_serial, t_->KernelPod(t_->a).serial);
      EXPECT_EQ((*flow)->dst_serial, t_->KernelPod(t_->b).serial);
      EXPECT_EQ((*flow)->policy, 7u);
      EXPECT_EQ((*flow)->generation, 1u);
      EXPECT_EQ(flows[0].dport, 8080);
    });
    EXPECT_EQ(t_->Leftovers(), "") << "argument " << index;
  }
}

TEST_F(DirectTest, AFailedConnectLeavesNothing) {
  t_->SetVerdict(9999);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(t_->From(t_->a, {.to = To4(9999)}), "error: ECONNREFUSED");
    EXPECT_EQ(t_->From(t_->a, {.to = To6(9999)}), "error: ECONNREFUSED");
  }
  EXPECT_EQ(t_->Leftovers(), "");
  t_->SetVerdict(8080);
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns,
                         "nft add table inet q; nft \"add chain inet q in { type "
                         "filter hook input priority 0; }\"; nft add rule inet q in "
                         "tcp dport 8080 drop"));
  // A NetworkPolicy's drop is obeyed, and giving up leaves nothing.
  EXPECT_EQ(t_->From(t_->a, {.to = To4(), .timeout_ms = 300}), "error: timeout");
  EXPECT_EQ(t_->From(t_->a, {.to = To6(), .timeout_ms = 300}), "error: timeout");
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns, "nft delete table inet q"));
}

TEST_F(DirectTest, ASocketThatConnectsAgainIsJudgedAnew) {
  t_->SetVerdict(9999);
  EXPECT_EQ(t_->Python(t_->a,
                       "import socket,sys\n"
                       "s=socket.socket()\n"
                       "try: s.connect((sys.argv[1],9999))\n"
                       "except ConnectionRefusedError: pass\n"
                       "s.connect((sys.argv[1],8080))\n"
                       "print(s.recv(100).decode().split()[0])"),
            "out");
}

TEST_F(DirectTest, ASynWithoutAGrantMeetsTheProxy) {
  t_->SetVerdict(8080);
  // From a pod outside the mesh, with the address of one that has a verdict. Its ARP request must
  // not carry that address: it would teach it to the bridge.
  ASSERT_TRUE(t_->bed.Sh(t_->n.netns, "sysctl -qw net.ipv4.conf.all.arp_announce=2"));
  const uint64_t inbound = t_->Counter(t_->b, QANAT_CNT_TO_INBOUND);
  const uint64_t used = t_->Counter(t_->b, QANAT_CNT_GRANT_USED);
  const std::string line = t_->From(
      t_->n, {.to = To4(), .bind = t_->a.ip4 + ":0", .transparent = true, .timeout_ms = 1500});
  EXPECT_EQ(line.rfind("error: ", 0), 0u) << line;
  EXPECT_GE(t_->Counter(t_->b, QANAT_CNT_TO_INBOUND), inbound + 1);
  EXPECT_EQ(t_->Counter(t_->b, QANAT_CNT_GRANT_USED), used);
  // And a raw socket of the pod itself is no connection of it.
  const uint64_t dropped = t_->Counter(t_->a, QANAT_CNT_GUARD_DROPPED);
  t_->Python(t_->a,
             "import socket,struct,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_RAW,6)\n"
             "s.sendto(struct.pack('!HHIIBBHHH',4444,8080,1,0,0x50,2,1024,0,0),(sys.argv[1],0))");
  EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_GUARD_DROPPED), dropped + 1);
}

TEST_F(DirectTest, WorksWithSynCookies) {
  t_->SetVerdict(8080);
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns, "sysctl -qw net.ipv4.tcp_syncookies=2"));
  for (int i = 0; i < 30; ++i) ExpectReached({.to = To4()}, "app");
  for (int i = 0; i < 10; ++i) ExpectReached({.to = To6()}, "app");
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns, "sysctl -qw net.ipv4.tcp_syncookies=1"));
}

TEST_F(DirectTest, AGrantIsVoidOnceItsVerdictIs) {
  // The SYN is under way, dropped once, while the verdict is taken back.
  t_->SetVerdict(8080);
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns,
                         "nft add table inet q; nft \"add chain inet q in { type "
                         "filter hook prerouting priority 0; }\""));
  const auto late = [&](const std::function<void()>& revoke) {
    EXPECT_TRUE(t_->bed.Sh(t_->b.netns, "nft add rule inet q in tcp dport 8080 drop"));
    return t_->Python(t_->a,
                      "import socket,sys\ns=socket.socket()\ns.setblocking(False)\n"
                      "s.connect_ex((sys.argv[1],8080))\ninput('?')\ns.settimeout(10)\n"
                      "print(s.recv(100).decode().split()[0])",
                      [&] {
                        EXPECT_EQ(t_->maps.grants.Keys().size(), 1u);
                        revoke();
                        EXPECT_TRUE(t_->bed.Sh(t_->b.netns, "nft flush chain inet q in"));
                      });
  };
  const uint64_t accepted = t_->Counter(t_->b, QANAT_CNT_DIRECT_ACCEPTED);
  EXPECT_EQ(late([&] { t_->SetLease(0); }), "in");
  t_->SetLease(60);
  EXPECT_EQ(late([&] { t_->SetFlags(t_->b, 0); }), "in");
  t_->SetFlags(t_->b, QANAT_DIRECT_TO);
  EXPECT_EQ(late([&] { t_->SetFlags(t_->b, QANAT_DIRECT_TO, 2); }), "in");
  EXPECT_EQ(t_->Counter(t_->b, QANAT_CNT_DIRECT_ACCEPTED), accepted);
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns, "nft delete table inet q"));
}

// Last: the agent runs again from here on.
TEST_F(DirectTest, ZAStartingAgentTakesTheLeaseAndTheFlagsBack) {
  t_->SetVerdict(8080);
  ExpectDirect();
  const uint32_t a = t_->KernelPod(t_->a).serial, b = t_->KernelPod(t_->b).serial;
  EXPECT_NE(a, b);
  t_->bed.StopAgent(9);
  ExpectDirect();  // pins hold, and the lease has not run out
  t_->bed.StartAgent();
  ASSERT_TRUE(t_->bed.WaitEnabled(t_->a));
  ExpectCaptured("a new agent");
  EXPECT_EQ((*t_->maps.direct.Lookup(0))->on, 0u);
  EXPECT_EQ((*t_->maps.pod_state.Lookup(t_->KernelPod(t_->a).id))->flags, 0u);
  EXPECT_EQ(t_->KernelPod(t_->a).serial, a) << "a pod keeps its serial over a restart";
  // Who comes back with the same id is somebody else.
  t_->bed.ShowPod(t_->b, false);
  ASSERT_TRUE(t_->bed.WaitFor(
      [&] { return !t_->maps.pod_ips.Keys().empty() && t_->maps.pods.Keys().size() == 1; }));
  t_->bed.ShowPod(t_->b);
  ASSERT_TRUE(t_->bed.WaitEnabled(t_->b));
  EXPECT_GT(t_->KernelPod(t_->b).serial, std::max(a, b));
}

}  // namespace
}  // namespace qanat::test
