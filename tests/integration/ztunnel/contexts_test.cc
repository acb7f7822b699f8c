// SPDX-License-Identifier: Apache-2.0
// What TLS needs is made once for each certificate, and no connection makes anything again: neither
// the context with its key nor the store of roots (the stock proxy makes both for each connection
// that it accepts, and for each tunnel).
#include <gmock/gmock.h>

#include "tests/integration/ztunnel/bed.h"
#include "tests/integration/ztunnel/boringssl_calls.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Eq;

class ContextsTest : public Bed, public testing::WithParamInterface<bool> {
 protected:
  // Tunnels go as soon as they are unused: each connection makes a new one.
  Node& Start(const std::string& name, PodNet& pod, const std::string& account) {
    Node& node = AddNode(name, [](Config& config) {
      config.workers = 1;
      config.pool_idle = std::chrono::milliseconds(20);
      config.tls_resumption = GetParam();
    });
    EXPECT_EQ(node.Enrol(account, pod), "");
    EXPECT_EQ(node.agent().SnapshotSent(), "");
    return node;
  }
  int Issued() {
    size_t count = 0;
    for (const auto& spiffe : control_plane_.IssuedFor()) {
      count += control_plane_.Issued(spiffe).size();
    }
    return static_cast<int>(count);
  }
};

TEST_P(ContextsTest, AreMadeForCertificatesNotForConnections) {
  PodNet& frontend = AddPod(1);
  PodNet& backend = AddPod(2);
  Announce("frontend", frontend, "n1");
  Announce("backend", backend, "n2");
  const int at_start = ContextsMade();
  Node& n1 = Start("n1", frontend, "frontend");
  Node& n2 = Start("n2", backend, "backend");
  Server echo(backend.netns(), backend.At(8080), Server::Echo());
  const auto talk = [&] {
    Tcp tcp = ConnectFrom(frontend.netns(), backend.At(8080));
    EXPECT_TRUE(tcp.Send("x") && tcp.Read(1) == "x");
    tcp = Tcp();
    EXPECT_TRUE(n1.Counts("qanat_pool_tunnels", {"pool=\"direct\""}, Eq(0)));
  };
  talk();
  // One serves both as a client and as a server; made anew with the roots that all believe.
  EXPECT_EQ(Issued(), 2);
  EXPECT_EQ(ContextsMade() - at_start, 2 * 2);
  const int contexts = ContextsMade(), stores = RootStoresMade();
  EXPECT_GT(stores, 0);
  for (int i = 0; i < 10; ++i) talk();
  for (const auto& [node, role] : {std::pair(&n1, "client"), std::pair(&n2, "server")}) {
    EXPECT_TRUE(node->Counts("qanat_tls_handshake_duration_seconds_count",
                             {std::string("role=\"") + role + '"'}, Eq(11)));
    EXPECT_EQ(node->Metric("qanat_tls_resumptions_total", {role}) > 0, GetParam()) << role;
  }
  EXPECT_EQ(ContextsMade(), contexts);
  EXPECT_EQ(RootStoresMade(), stores);
}
INSTANTIATE_TEST_SUITE_P(FullHandshakes, ContextsTest, testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Resumed, ContextsTest, testing::Values(true));

}  // namespace
}  // namespace qanat::ztunnel::test
