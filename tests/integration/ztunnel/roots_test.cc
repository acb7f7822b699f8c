// SPDX-License-Identifier: Apache-2.0
// The mesh's root changes: connections that exist go on, new ones are made all the time.
#include <gmock/gmock.h>
#include <unistd.h>

#include <thread>

#include "tests/integration/ztunnel/bed.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Ge;

class RootsTest : public Bed {
 protected:
  // frontend on n1, backend on n2; both serve on 8080.
  void Start(std::chrono::seconds lifetime, std::chrono::seconds grace) {
    control_plane_.certificate_lifetime = lifetime;
    frontend = &AddPod(1);
    other = &AddPod(3);
    backend = &AddPod(2);
    Announce("frontend", *frontend, "n1");
    Announce("backend", *backend, "n2");
    const auto change = [&](Config& c) { c.root_grace = grace; };
    n1 = &AddNode("n1", change);
    n2 = &AddNode("n2", change);
    ASSERT_EQ(n1->Enrol("frontend", *frontend), "");
    ASSERT_EQ(n2->Enrol("backend", *backend), "");
    ASSERT_EQ(n1->agent().SnapshotSent(), "");
    ASSERT_EQ(n2->agent().SnapshotSent(), "");
    for (PodNet* pod : {frontend, backend}) {
      servers.push_back(std::make_unique<Server>(pod->netns(), pod->At(8080), Server::Echo()));
    }
  }
  static bool Talks(Tcp& tcp) { return tcp.connected() && tcp.Send("x") && tcp.Read(1) == "x"; }
  static bool Talks(PodNet* from, PodNet* to) {
    Tcp tcp = ConnectFrom(from->netns(), to->At(8080));
    return Talks(tcp);
  }

  PodNet *frontend, *other, *backend;
  Node *n1, *n2;
  std::vector<std::unique_ptr<Server>> servers;
};

// Certificates of 9 s, renewed at half of that (so much may a machine stop without harm); each root
// is replaced in the usual three steps.
TEST_F(RootsTest, ThreeRotationsUnderLoadWithoutALostConnection) {
  Start(std::chrono::seconds(8), std::chrono::seconds(6));
  Tcp there = ConnectFrom(frontend->netns(), backend->At(8080));
  Tcp back = ConnectFrom(backend->netns(), frontend->At(8080));
  ASSERT_TRUE(Talks(there) && Talks(back));
  std::atomic<bool> stop{false};
  std::atomic<int> made{0}, lost{0};
  std::vector<std::thread> load;
  for (const bool forth : {true, false}) {
    load.emplace_back([&, forth] {
      while (!stop) {
        (forth ? Talks(frontend, backend) : Talks(backend, frontend)) ? ++made : ++lost;
        usleep(5000);
      }
    });
  }
  const auto live = [&](int ms) {
    for (int i = 0; i < ms / 50; ++i) {
      EXPECT_TRUE(Talks(there) && Talks(back));
      usleep(50'000);
    }
  };
  tls::Authority root = control_plane_.root();
  for (int i = 0; i < 3; ++i) {
    const tls::Authority next = FakeControlPlane::NewRoot();
    control_plane_.Rotate(root, {root.certificate, next.certificate});
    live(6000);
    control_plane_.Rotate(next, {root.certificate, next.certificate});
    live(6000);
    control_plane_.Rotate(next, {next.certificate});
    live(6000);
    root = next;
  }
  live(3000);
  stop = true;
  for (auto& thread : load) thread.join();
  EXPECT_EQ(lost, 0) << "of " << made;
  EXPECT_GT(made, 500);
  EXPECT_TRUE(Talks(there) && Talks(back));
  // Tunnels were really made anew all the time.
  EXPECT_TRUE(
      n2->Counts("qanat_tls_handshakes_total", {"role=\"server\"", "outcome=\"ok\""}, Ge(5)));
  // And the first root is no longer believed by anybody.
  EXPECT_TRUE(Eventually(
      [&] {
        const std::string now = n1->Get("/config_dump");
        return now.find(control_plane_.root().certificate.serial()) == std::string::npos;
      },
      60000));
}

// The CA changes from one day to the next, without the step in between. Who has a new certificate
// believes the old root as well; who has not is told so by a handshake that fails, and asks.
TEST_F(RootsTest, AProxyThatHasNotHeardOfTheNewRootAsks) {
  Start(std::chrono::hours(1), std::chrono::hours(24));
  Tcp live = ConnectFrom(frontend->netns(), backend->At(8080));
  ASSERT_TRUE(Talks(live));
  usleep(5'500'000);  // a certificate that has just come is not asked for again
  const tls::Authority next = FakeControlPlane::NewRoot();
  control_plane_.Rotate(next, {next.certificate});
  Announce("other", *other, "n1");
  ASSERT_EQ(n1->Enrol("other", *other), "");
  Server server(other->netns(), other->At(8080), Server::Echo());
  EXPECT_TRUE(Eventually([&] { return Talks(other, backend); }));
  EXPECT_TRUE(Talks(backend, other));
  EXPECT_TRUE(Talks(frontend, backend)) << "old certificate to a new one";
  EXPECT_TRUE(Talks(live));
  EXPECT_EQ(control_plane_.Issued("spiffe://cluster.local/ns/shop/sa/backend").size(), 2u);
  EXPECT_EQ(control_plane_.Issued("spiffe://cluster.local/ns/shop/sa/frontend").size(), 1u);
}

}  // namespace
}  // namespace qanat::ztunnel::test
