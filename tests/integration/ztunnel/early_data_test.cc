// SPDX-License-Identifier: Apache-2.0
// First bytes that go along with the CONNECT: they arrive once, at whoever took the connection, and
// at nobody whom a policy or a switch keeps from it.
#include <gmock/gmock.h>

#include <map>
#include <mutex>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Eq;
using testing::Ge;

class EarlyDataTest : public Bed {
 protected:
  // frontend on n1, two backends of one service on n2 and n3. Each answers a line with itself.
  void Make(const std::function<void(Config&)>& far = {}) {
    frontend = &AddPod(1);
    service = TestMesh::MakeService("backend", "10.96.0.10");
    Put(service);
    Announce("frontend", *frontend, "n1");
    n1 = &AddNode("n1");
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    for (const int i : {2, 3}) {
      const std::string name = "backend" + std::to_string(i), node = "n" + std::to_string(i);
      backends.push_back(&AddPod(i));
      Announce(name, *backends.back(), node,
               [&](TestMesh::Workload& w) { TestMesh::Join(w, service); });
      Node& its = AddNode(node, far);
      ASSERT_EQ(its.Enrol(name, *backends.back()), "");
      ASSERT_EQ(its.agent().SnapshotSent(), "");
    }
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
  }
  void Serve(const PodNet& pod) {
    servers.push_back(
        std::make_unique<Server>(pod.netns(), pod.At(8080), [this](Tcp& tcp, const std::string&) {
          const std::string line = tcp.Read(kLine);
          {
            const std::lock_guard lock(mutex);
            ++seen[line];
          }
          tcp.Send(line);
        }));
  }
  static std::string Line(int i) {
    std::string line = std::to_string(i);
    return std::string(kLine - line.size(), '0') + line;
  }
  Tcp Ask(int i) {
    Tcp tcp = ConnectFrom(frontend->netns(), "10.96.0.10:80");
    EXPECT_TRUE(tcp.connected() && tcp.Send(Line(i)));
    return tcp;
  }
  double Early(const std::string& outcome) {
    return n1->Metric("qanat_early_data_total", {"outcome=\"" + outcome + "\""});
  }
  int Seen(int i) {
    const std::lock_guard lock(mutex);
    return seen[Line(i)];
  }

  static constexpr size_t kLine = 16;
  PodNet* frontend = nullptr;
  std::vector<PodNet*> backends;
  Node* n1 = nullptr;
  TestMesh::Service service;
  std::mutex mutex;
  std::map<std::string, int> seen;
  std::vector<std::unique_ptr<Server>> servers;
};

// Nobody listens in one of the two: what it refuses goes to the other one, and no byte twice.
TEST_F(EarlyDataTest, WhatOneRefusesAnotherGetsOnce) {
  Make();
  Serve(*backends[0]);
  int asked = 0;
  // Whether the bytes are there when the CONNECT goes out is up to the machine.
  while (asked < 500 && (asked < 30 || Early("taken") < 5 || Early("dropped") < 1)) {
    Tcp tcp = Ask(asked);
    ASSERT_EQ(tcp.Read(kLine), Line(asked));
    ++asked;
  }
  EXPECT_GE(Early("taken"), 5);
  EXPECT_GE(Early("dropped"), 1);
  EXPECT_EQ(Early("unknown"), 0);
  for (int i = 0; i < asked; ++i) EXPECT_EQ(Seen(i), 1) << i;
  EXPECT_EQ(n1->Metric("qanat_connections_refused_total", {"reporter=\"source\""}), 0);
  EXPECT_TRUE(n1->Counts("istio_tcp_sent_bytes_total", {"reporter=\"source\""},
                         Eq(static_cast<double>(asked) * kLine)));
}

// A tunnel breaks with what was not answered: nobody else is given that, and the client is told.
TEST_F(EarlyDataTest, WhatNobodyAnsweredIsNotSaidTwice) {
  Make();
  for (const PodNet* pod : backends) Serve(*pod);
  int asked = 0;
  while (asked < 500 && (asked < 30 || Early("taken") < 5)) {
    Tcp tcp = Ask(asked);
    ASSERT_EQ(tcp.Read(kLine), Line(asked));
    ++asked;
  }
  // The first one's application is not heard any more, so its proxy does not answer ...
  const auto run = [](const std::string& command) { return std::system(command.c_str()); };
  ASSERT_EQ(run("ip netns exec " + backends[0]->name() +
                " nft 'add table inet deny; add chain inet deny in { type filter hook input "
                "priority 0; }; add rule inet deny in tcp dport 8080 drop'"),
            0);
  std::vector<Tcp> calls;
  const int first = asked;
  for (int i = 0; i < 16; ++i) calls.push_back(Ask(asked++));
  // ... and the next packet that is sent to that proxy has the tunnel reset.
  ASSERT_EQ(run("ip netns exec " + frontend->name() + " nft insert rule inet q out ip daddr " +
                backends[0]->ip() + " tcp dport 15008 reject with tcp reset"),
            0);
  for (int i = 0; i < 16; ++i) calls.push_back(Ask(asked++));
  int answered = 0, cut = 0;
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string got = calls[i].Read(kLine);
    if (got.empty()) {
      EXPECT_EQ(calls[i].Next(), "reset");
    }
    (got.empty() ? cut : answered) += 1;
    EXPECT_EQ(Seen(first + static_cast<int>(i)), got.empty() ? 0 : 1);
  }
  EXPECT_TRUE(n1->Counts("qanat_early_data_total", {"unknown"}, Eq(cut)));
  EXPECT_GE(cut, 1);
  EXPECT_GE(answered, 1);
}

TEST_F(EarlyDataTest, ADenialDropsThem) {
  Make();
  for (const PodNet* pod : backends) Serve(*pod);
  ASSERT_EQ(Ask(0).Read(kLine), Line(0));
  auto policy = TestMesh::MakePolicy("deny", istio::security::DENY);
  policy.add_rules()->add_clauses()->add_matches()->add_principals()->set_exact(
      "cluster.local/ns/shop/sa/frontend");
  Put(policy);
  int asked = 1;
  EXPECT_TRUE(Eventually([&] { return Ask(asked++).Next() == "reset"; }));
  const int first = asked;
  while (asked < 500 && (asked < first + 10 || Early("dropped") < 1)) {
    EXPECT_EQ(Ask(asked++).Next(), "reset");
  }
  EXPECT_GE(Early("dropped"), 1);
  for (int i = first; i < asked; ++i) EXPECT_EQ(Seen(i), 0) << i;
}

TEST_F(EarlyDataTest, NotToWhoDoesNotTakeThem) {
  Make([](Config& config) { config.early_data = false; });
  for (const PodNet* pod : backends) Serve(*pod);
  for (int i = 0; i < 30; ++i) ASSERT_EQ(Ask(i).Read(kLine), Line(i));
  EXPECT_EQ(n1->Metric("qanat_early_data_total"), 0);
}

}  // namespace
}  // namespace qanat::ztunnel::test
