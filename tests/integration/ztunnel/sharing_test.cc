// SPDX-License-Identifier: Apache-2.0
// Two pods of one identity on n1 call a pod of n2: whose tunnel carries them, and whom the far end
// takes them for. The proxies' own namespace, in which shared tunnels begin, is linked to the
// pods'.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::AllOf;
using testing::Eq;
using testing::Ge;
using testing::HasSubstr;
using testing::Not;

constexpr int kProxy = 250;  // 10.93.0.250 is the proxy's address

class SharingTest : public Bed {
 protected:
  ~SharingTest() override {
    echo.reset();  // hears of the ends of its connections while there is a way for them
    Do("(ip link del qzown; ip route del 10.93.0.0/24) 2>/dev/null");
  }

  enum class Reach : uint8_t { kKnown, kUnknown, kNone };
  using Change = std::function<void(Config&)>;
  void Make(Reach reach = Reach::kKnown, const Change& far = {}, const Change& near = {}) {
    if (reach == Reach::kNone) {
      ASSERT_EQ(Do("ip route add unreachable 10.93.0.0/24"), 0);
    } else {
      ASSERT_EQ(Do(fmt::format("ip link add qzown type veth peer name vown netns {0} && "
                               "ip -n {0} link set vown master br0 up && ip link set qzown up && "
                               "ip addr add 10.93.0.{1}/24 dev qzown",
                               bridge_, kProxy)),
                0);
    }
    one = &AddPod(1);
    two = &AddPod(2);
    backend = &AddPod(3);
    const auto front = [](TestMesh::Workload& w) {
      w.set_service_account("front");
      w.set_workload_name("front");
    };
    Announce("front-1", *one, "n1", front);
    Announce("front-2", *two, "n1", front);
    Announce("backend", *backend, "n2");
    if (reach == Reach::kKnown) {
      auto proxy =
          TestMesh::MakePod("ztunnel-n1", fmt::format("10.93.0.{}", kProxy), "n1", "qanat-system");
      proxy.set_tunnel_protocol(istio::workload::NONE);
      Put(proxy);
    }
    n1 = &AddNode("n1", [&](Config& config) {
      config.workers = 1;
      if (near) near(config);
    });
    ASSERT_EQ(n1->Enrol("front-1", *one, "front"), "");
    ASSERT_EQ(n1->Enrol("front-2", *two, "front"), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    StartFar(far);
    echo = std::make_unique<Server>(backend->netns(), backend->At(8080), Server::Echo());
  }
  void StartFar(const Change& change) {
    n2 = &AddNode("n2", [&](Config& config) {
      config.workers = 1;
      if (change) change(config);
    });
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
  }
  static int Do(const std::string& command) { return std::system(command.c_str()); }
  // A firewall of that pod.
  static void Deny(const PodNet& pod, const std::string& hook, const std::string& rule) {
    ASSERT_EQ(Do(fmt::format("ip netns exec {} nft 'add table inet deny; add chain inet deny {} {{ "
                             "type filter hook {} priority 0; }}; add rule inet deny {} {}'",
                             pod.name(), hook, hook, hook, rule)),
              0);
  }
  Tcp Call(const PodNet& from) {
    Tcp tcp = ConnectFrom(from.netns(), backend->At(8080));
    EXPECT_TRUE(tcp.connected() && tcp.Send("x"));
    EXPECT_EQ(tcp.Read(1), "x");
    return tcp;
  }
  double Shared(const std::string& outcome = "taken") {
    return n1->Metric("qanat_shared_streams_total", {"outcome=\"" + outcome + "\""});
  }
  double Dials() { return n1->Metric("qanat_pool_dials_total", {"pool=\"direct\""}); }
  // One call of each pod, after which there is a tunnel to share.
  Tcp Open() {
    Tcp first = Call(*one);
    Call(*two);
    EXPECT_TRUE(n1->Counts("qanat_pool_tunnels", {"pool=\"direct\""}, Eq(3)));
    // Its peer's SETTINGS must be in, too: whoever comes before goes its own way.
    EXPECT_TRUE(Eventually([&] {
      Call(*one);
      return Shared() >= 1;
    }));
    return first;
  }

  PodNet *one = nullptr, *two = nullptr, *backend = nullptr;
  Node *n1 = nullptr, *n2 = nullptr;
  std::unique_ptr<Server> echo;
};

TEST_F(SharingTest, PodsOfAnIdentityShareATunnelAndKeepTheirAddresses) {
  Make();
  Tcp first = Open();
  const double dials = Dials(), shared = Shared();
  EXPECT_EQ(dials, 3);
  Tcp second = Call(*two);
  EXPECT_EQ(Dials(), dials);
  EXPECT_EQ(Shared(), shared + 1);
  // The far end takes it for the pod, not for the proxy that the tunnel comes from.
  const std::string seen = n2->Get("/debug/connections");
  EXPECT_THAT(seen, HasSubstr(two->ip() + ":"));
  EXPECT_THAT(seen, HasSubstr("front-2"));
  EXPECT_THAT(seen, Not(HasSubstr("10.93.0.250:")));

  // A policy by address tells them apart on the one tunnel.
  Tcp third = Call(*one);
  EXPECT_EQ(Shared(), shared + 2);
  auto policy = TestMesh::MakePolicy("deny", istio::security::DENY);
  auto* address = policy.add_rules()->add_clauses()->add_matches()->add_source_ips();
  address->set_address(IpBytes(two->ip()));
  address->set_length(32);
  Put(policy);
  EXPECT_NE(second.Next(), "nothing");
  EXPECT_TRUE(n2->Counts("qanat_connections_refused_total", {"policy_denied"}, Eq(1)));
  EXPECT_TRUE(third.Send("y"));
  EXPECT_EQ(third.Read(1), "y");
  EXPECT_EQ(Shared("refused"), 0);
}

// What a firewall keeps from a pod it does not get over its siblings' tunnel.
TEST_F(SharingTest, APodProvesForItselfThatItMayGoThere) {
  Make();
  Deny(*two, "output", "tcp dport 15008 reject with tcp reset");
  Call(*one);
  EXPECT_TRUE(Eventually([&] {
    Call(*one);
    return Shared() >= 1;
  }));
  for (int i = 0; i < 3; ++i) {
    Tcp tcp = ConnectFrom(two->netns(), backend->At(8080));
    tcp.Send("x");
    EXPECT_EQ(tcp.Next(), "reset");
  }
  EXPECT_TRUE(n1->Counts("qanat_connections_refused_total", {}, Eq(3)));
  Call(*one);
}

// The tunnel's packets are swallowed from some time on: nobody waits for that to be found.
TEST_F(SharingTest, WhatGetsNoAnswerGoesItsOwnWay) {
  Make();
  Tcp first = Open();
  Deny(*backend, "input", fmt::format("ip saddr 10.93.0.{} drop", kProxy));
  for (int i = 1; i < 3; ++i) {
    const auto begun = event::Clock::now();
    Call(*two);
    EXPECT_LT(event::Clock::now() - begun, std::chrono::seconds(20));
    EXPECT_EQ(Shared("timeout"), 1) << "and not tried again at once";
  }
  EXPECT_EQ(n1->Metric("qanat_connections_refused_total"), 0);
}

// Connections that nobody answers are given up by hundreds at a time; a receiver ends a tunnel for
// 500 of them, but not the one that the siblings use.
TEST_F(SharingTest, WhatOnePodGivesUpIsNoHarmToItsSiblings) {
  Make();
  Tcp first = Open();
  const double shared = Shared();
  Tcp live = Call(*one);
  ASSERT_EQ(Shared(), shared + 1);
  Deny(*backend, "input", "tcp dport 9999 drop");
  std::vector<Tcp> many;
  for (int i = 0; i < 700; ++i) many.push_back(ConnectFrom(two->netns(), backend->At(9999)));
  EXPECT_TRUE(n1->Counts("qanat_shared_streams_total", {"timeout"}, Ge(1)));
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_LE(Shared("timeout"), 100);
  EXPECT_TRUE(live.Send("y"));
  EXPECT_EQ(live.Read(1), "y");
  EXPECT_EQ(n2->Metric("qanat_http2_abuse_total"), 0);
  many.clear();
}

// Whom the control plane does not name in time is not decided about.
TEST_F(SharingTest, WhereTheSourceIsNotKnownYet) {
  Make(Reach::kKnown, [](Config& config) {
    config.xds_on_demand = true;
    config.dns_capture = false;
  });
  Call(*one);
  Call(*two);
  control_plane_.SetSilent(true);  // of both pods it knows by now, of the proxy nothing
  EXPECT_TRUE(Eventually([&] {
    Call(*two);
    return Shared("refused") + Shared("timeout") == 1;
  }));
  EXPECT_EQ(Shared(), 0);
  EXPECT_EQ(n2->Metric("qanat_connections_refused_total", {"source_unproven"}), 1);
  EXPECT_EQ(n1->Metric("qanat_connections_refused_total"), 0);
}

// The process after this one serves one of two pods: the other's streams end, and no others.
TEST_F(SharingTest, ATunnelGoesOnWithoutThePodsThatAreGone) {
  const std::string socket = fmt::format("/tmp/qzt-{}-takeover.sock", getpid());
  const auto near = [&](Config& config) {
    config.node_name = "n1";
    config.workers = 1;
    config.takeover_socket = socket;
    config.make_shared_tunnels = true;
  };
  Make(Reach::kKnown, {}, near);
  Tcp first = Open();
  const double shared = Shared();
  Tcp gone = Call(*one), stays = Call(*two);
  ASSERT_EQ(Shared(), shared + 2);
  Node& next = AddNode("n1-next", near);
  ASSERT_EQ(next.Enrol("front-2", *two, "front"), "");
  ASSERT_EQ(next.agent().SnapshotSent(), "");
  EXPECT_TRUE(Eventually(
      [&] { return next.Get("/debug/connections").find("front-2") != std::string::npos; }, 10000));
  EXPECT_EQ(gone.Next(), "reset");
  ASSERT_EQ(nodes_.front().get(), n1);
  nodes_.erase(nodes_.begin());
  EXPECT_TRUE(stays.Send("y"));
  EXPECT_EQ(stays.Read(1), "y");
  std::remove(socket.c_str());
}

TEST_F(SharingTest, TheTunnelOutlivesThePodThatCameFirst) {
  Make();
  Tcp first = Open();
  Tcp second = Call(*two);
  ASSERT_EQ(n1->agent().Del("uid-front-1"), "");
  EXPECT_NE(first.Next(), "nothing");
  EXPECT_TRUE(second.Send("y"));
  EXPECT_EQ(second.Read(1), "y");
  Call(*two);  // alone now, over its own
  // With its last pod the identity's tunnels go.
  ASSERT_EQ(n1->agent().Del("uid-front-2"), "");
  EXPECT_TRUE(n1->Counts("qanat_pool_tunnels", {"pool=\"direct\""}, Eq(0)));
}

// A take-over's new process is in another pod, and the tunnels of this one's end with it.
TEST_F(SharingTest, WhereAnotherProcessTakesOverEachPodHasItsOwn) {
  Make(Reach::kKnown, {}, [](Config& config) {
    config.takeover_socket = fmt::format("/tmp/qzt-{}-takeover.sock", getpid());
  });
  for (int i = 0; i < 3; ++i) {
    Call(*one);
    Call(*two);
  }
  EXPECT_EQ(Dials(), 2);
  EXPECT_EQ(Shared(), 0);
}

TEST_F(SharingTest, TowardsOthersEachPodHasItsOwn) {
  Make(Reach::kKnown, [](Config& config) { config.shared_tunnels = false; });
  for (int i = 0; i < 2; ++i) {
    Call(*one);
    Call(*two);
  }
  EXPECT_EQ(Dials(), 2);
  EXPECT_EQ(Shared(), 0);
  EXPECT_EQ(Shared("refused"), 0);
}

TEST_F(SharingTest, SourcesThatAreNotProvenGoTheirOwnWay) {
  Make(Reach::kUnknown);  // nobody knows on which node the tunnel's address is
  Call(*one);
  Call(*two);
  EXPECT_TRUE(n1->Counts("qanat_pool_tunnels", {"pool=\"direct\""}, Eq(3)));
  EXPECT_TRUE(Eventually([&] {
    Call(*two);  // served all the same
    return Shared("refused") == 1;
  }));
  EXPECT_TRUE(Eventually([&] {
    Call(*one);
    return Shared("refused") == 2;
  })) << "each learns for itself";
  EXPECT_EQ(Shared(), 0);
  EXPECT_EQ(n2->Metric("qanat_connections_refused_total", {"source_unproven"}), 2);
  Call(*one);
  Call(*two);
  EXPECT_EQ(Shared("refused"), 2) << "not tried again at once";
  EXPECT_EQ(n1->Metric("qanat_connections_refused_total"), 0);
  EXPECT_EQ(n2->Metric("istio_tcp_connections_failed_total"), 0);
}

TEST_F(SharingTest, OutOfReachOfTheProxyItself) {
  Make(Reach::kNone);
  for (int i = 0; i < 3; ++i) {
    Call(*one);
    Call(*two);
  }
  EXPECT_TRUE(n1->Counts("qanat_pool_dial_failures_total", {"pool=\"direct\""}, Ge(1)));
  EXPECT_EQ(n1->Metric("qanat_pool_tunnels", {"pool=\"direct\""}), 2);
  EXPECT_EQ(Shared(), 0);
}

TEST_F(SharingTest, APeerThatComesBackAsAnother) {
  Make();
  Tcp first = Open();
  const double shared = Shared();
  ASSERT_EQ(nodes_.back().get(), n2);
  nodes_.pop_back();
  StartFar([](Config& config) { config.shared_tunnels = false; });
  EXPECT_TRUE(n1->Counts("qanat_pool_tunnels", {"pool=\"direct\""}, Eq(0)));
  for (int i = 0; i < 3; ++i) {
    Call(*one);
    Call(*two);
  }
  EXPECT_EQ(Shared(), shared);
  EXPECT_EQ(n1->Metric("qanat_pool_tunnels", {"pool=\"direct\""}), 2);
}

}  // namespace
}  // namespace qanat::ztunnel::test
