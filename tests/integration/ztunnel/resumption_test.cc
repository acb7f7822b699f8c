// SPDX-License-Identifier: Apache-2.0
// A further tunnel between two proxies of ours resumes the TLS session of the one before.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "common/tls/test_crl.h"
#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Eq;
using testing::Ge;
using testing::Lt;

constexpr char kFrontend[] = "spiffe://cluster.local/ns/shop/sa/frontend";

class ResumptionTest : public Bed {
 protected:
  void SetUp() override {
    char name[] = "/tmp/qzt-res-XXXXXX";
    dir = mkdtemp(name);
    Revoke({});
  }
  void TearDown() override { std::filesystem::remove_all(dir); }

  // frontend on n1, whose tunnels go as soon as they are unused, and backend on n2.
  void Make(const std::function<void(Config&)>& far = {}) {
    frontend = &AddPod(1);
    backend = &AddPod(2);
    Announce("frontend", *frontend, "n1");
    Announce("backend", *backend, "n2");
    n1 = &AddNode("n1", [](Config& c) {
      c.workers = 1;
      c.pool_idle = std::chrono::milliseconds(20);
    });
    n2 = &AddNode("n2", [&](Config& c) {
      c.crl_path = dir + "/crl";
      if (far) far(c);
    });
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
    server = std::make_unique<Server>(backend->netns(), backend->At(8080), Server::Echo());
  }
  void Revoke(const std::vector<tls::Certificate>& revoked) {
    std::ofstream(dir + "/.new", std::ios::binary)
        << tls::testing::Pem(tls::testing::Make(control_plane_.root(), {revoked}).get());
    std::filesystem::rename(dir + "/.new", dir + "/crl");
  }
  bool Talks() {
    Tcp tcp = ConnectFrom(frontend->netns(), backend->At(8080));
    return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x";
  }
  // One connection over a tunnel that is made for it.
  bool TalksAnew() {
    const bool good = Talks();
    EXPECT_TRUE(n1->Counts("qanat_pool_tunnels", {"pool=\"direct\""}, Eq(0)));
    return good;
  }
  double Resumed(Node& node, const char* role) {
    return node.Metric("qanat_tls_resumptions_total", {fmt::format("role=\"{}\"", role)});
  }

  std::string dir;
  PodNet *frontend = nullptr, *backend = nullptr;
  Node *n1 = nullptr, *n2 = nullptr;
  std::unique_ptr<Server> server;
};

TEST_F(ResumptionTest, TheNextTunnelResumesAndRevocationEndsThat) {
  Make();
  ASSERT_TRUE(TalksAnew());
  EXPECT_EQ(Resumed(*n1, "client"), 0);
  for (int i = 1; i <= 3; ++i) {
    ASSERT_TRUE(TalksAnew());
    EXPECT_EQ(Resumed(*n1, "client"), i);
    EXPECT_EQ(Resumed(*n2, "server"), i);
  }
  EXPECT_EQ(n2->Metric("istio_tcp_connections_opened_total",
                       {std::string("source_principal=\"") + kFrontend}),
            4)
      << "who it is comes from the session";
  Revoke({control_plane_.Issued(kFrontend).back()});
  EXPECT_TRUE(Eventually([&] { return !TalksAnew(); }));
  EXPECT_TRUE(n2->Counts("qanat_inbound_tunnel_errors_total", {"certificate_revoked"}, Ge(1)));
  const double resumed = Resumed(*n2, "server");
  EXPECT_FALSE(TalksAnew());
  EXPECT_EQ(Resumed(*n2, "server"), resumed);
}

TEST_F(ResumptionTest, NotTowardsPeersThatGiveNoTickets) {
  Make([](Config& config) { config.tls_resumption = false; });
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(TalksAnew());
  EXPECT_EQ(Resumed(*n1, "client"), 0);
  EXPECT_EQ(Resumed(*n2, "server"), 0);
}

// A new certificate on either side is a new beginning.
TEST_F(ResumptionTest, NotAcrossARenewal) {
  control_plane_.certificate_lifetime = std::chrono::seconds(10);
  Make();
  ASSERT_TRUE(TalksAnew());
  int made = 1;
  const auto renewed = [&] { return control_plane_.Issued(kFrontend).size() >= 2; };
  while (!renewed() && made < 20000) {
    ASSERT_TRUE(TalksAnew());
    ++made;
  }
  for (int i = 0; i < 20; ++i, ++made) ASSERT_TRUE(TalksAnew());
  EXPECT_THAT(Resumed(*n2, "server"), Lt(made - 1));
  EXPECT_THAT(Resumed(*n2, "server"), Ge(10));
}

}  // namespace
}  // namespace qanat::ztunnel::test
