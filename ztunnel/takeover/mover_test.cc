// SPDX-License-Identifier: Apache-2.0
// What a worker makes of connections that stand still, and of those that another process gives.
#include "ztunnel/takeover/mover.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <future>

#include "common/takeover/fields.h"
#include "common/tls/revocation.h"
#include "common/tls/test_certs.h"
#include "common/tls/test_crl.h"
#include "ztunnel/mesh_for_test.h"
#include "ztunnel/proxy/inbound_connection.h"
#include "ztunnel/proxy/outbound_connection.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {
namespace {

using testing::HasSubstr;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";
constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";
constexpr char kCarol[] = "spiffe://cluster.local/ns/shop/sa/carol";

// A live connection: ours, which does not block, and the other end.
std::pair<Fd, Fd> Connection() {
  const Fd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof at;
  EXPECT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&at), size), 0);
  EXPECT_EQ(listen(listener.get(), 1), 0);
  EXPECT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&at), &size), 0);
  Fd near(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_EQ(connect(near.get(), reinterpret_cast<sockaddr*>(&at), size), 0);
  Fd far(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  fcntl(near.get(), F_SETFL, O_NONBLOCK);
  return {std::move(near), std::move(far)};
}

class MoverTest : public ::testing::Test {
 protected:
  MoverTest() {
    environment.metrics = &metrics;
    environment.pools = &pools;
    environment.access_log = &log;
    environment.post_main = [](const std::function<void()>&) {};
    environment.want_certificate = [](const model::Identity&) {};
    environment.renew_certificate = [](const model::Identity&) {};
    environment.reread_addresses = [](const std::string&) {};
    worker = std::make_unique<Worker>(0, environment);
    auto bob = std::make_shared<Pod>(*LocalPod("bob", "10.0.0.2"));
    bob->netns_cookie = 77;
    pod = bob;
    mesh.Put(TestMesh::MakePod("bob", "10.0.0.2")).Put(TestMesh::MakePod("alice", "10.0.0.1"));
    On([&] {
      worker->SetSnapshot(mesh.Snapshot());
      worker->AddPod(pod, {});
      worker->SetCertificate(*model::Identity::Parse(kBob), Certificate("first"));
    });
  }
  ~MoverTest() override { worker->Stop(); }

  // On the worker's thread, and what follows from it.
  void On(const std::function<void()>& work) {
    for (const auto& step : {work, std::function<void()>([] {})}) {
      std::promise<void> done;
      worker->loop().Post([&] {
        step();
        done.set_value();
      });
      done.get_future().wait();
    }
  }
  identity::CertificatePtr Certificate(const std::string& chain) {
    auto out = std::make_shared<identity::WorkloadCertificate>();
    const auto now = std::chrono::system_clock::now();
    out->identity = *model::Identity::Parse(kBob);
    out->chain = {{chain, "1", now, now + std::chrono::hours(1)}};
    out->chain_pem = chain;
    out->roots = {{ca.authority.certificate.ToPem(), "2", now, now + std::chrono::hours(1)}};
    return out;
  }
  // A tunnel of bob's to alice, without streams.
  SavedTunnel Tunnel(Fd socket) {
    SavedTunnel out;
    out.pod_uid = pod->uid;
    out.netns_cookie = 77;
    hbone::PoolKey key;
    key.source_identity = kBob;
    key.destination_identities = {kAlice};
    key.destination = At("10.0.0.1:15008");
    key.source_ip = Ip("10.0.0.2");
    key.source_netns = 77;
    out.outbound = SavedTunnel::Outbound{key, false};
    out.tls.state.cipher = 0x1301;
    const std::vector<uint8_t> secret(32, 9);
    out.tls.state.read_secret = tls::Secret(secret);
    out.tls.state.write_secret = tls::Secret(secret);
    out.tls.peer = tls::MakeVerifiedPeer({peer.certificate, ca.authority.certificate});
    out.tls.socket = std::move(socket);
    out.session.options.max_header_list = 65536;
    out.session.options.initial_stream_window = out.session.state.first_window = 256 << 10;
    out.session.state.settings_seen = true;
    out.session.state.next_stream = 5;
    return out;
  }
  // One through a gateway (of carol's), with a tunnel to alice inside.
  SavedTunnel Double(Fd socket) {
    SavedTunnel out = Tunnel(std::move(socket));
    SavedTunnel far = Tunnel(Fd());
    hbone::SavedStream through;
    through.state.id = 1;
    through.state.send_window = through.state.recv_window = 65535;
    through.state.window = 256 << 10;
    through.state.answered = true;
    out.session.streams.push_back(std::move(through));
    out.outbound->key.destination_identities = {kCarol};
    out.tls.peer = tls::MakeVerifiedPeer({gateway.certificate, ca.authority.certificate});
    SavedTunnel::Inner inner;
    inner.stream = 1;
    inner.key = far.outbound->key;
    inner.key.through_authority = "alice.shop.svc:80";
    inner.key.through_identities = {kCarol};
    inner.tls = std::move(far.tls);
    inner.tls.state.write_sequence = 12;
    inner.session = std::move(far.session);
    out.inner.push_back(std::move(inner));
    return out;
  }
  SavedConnection Plain() {
    SavedConnection out;
    out.pod_uid = pod->uid;
    out.netns_cookie = 77;
    out.flow.source = At("10.0.0.1:5000");
    out.flow.destination = At("10.0.0.2:80");
    return out;
  }
  // A tunnel in the pool, and its number.
  uint64_t Standing(Fd socket) {
    auto parcel = EncodeTunnel(Tunnel(std::move(socket)));
    EXPECT_TRUE(parcel.has_value());
    uint64_t number = 0;
    On([&] {
      const Status status = worker->mover().Import(1, std::move(*parcel));
      EXPECT_TRUE(status) << status.error().message;
      worker->mover().Run(1);
      const std::vector<uint64_t> all = worker->mover().Offer();
      ASSERT_EQ(all.size(), 1u);
      number = all[0];
    });
    return number;
  }
  size_t Tunnels() {
    size_t out = 0;
    On([&] { out = worker->pool().Tunnels().size(); });
    return out;
  }
  size_t InnerTunnels() {
    size_t out = 0;
    On([&] { out = worker->inner_pool().Tunnels().size(); });
    return out;
  }

  const tls::testing::TestCa ca = tls::testing::TestCa::Make();
  const tls::testing::TestCa::Identity peer = ca.Issue(kAlice);
  const tls::testing::TestCa::Identity gateway = ca.Issue(kCarol);
  metrics::Registry registry;
  Metrics metrics{registry};
  PoolMetrics pools{registry};
  Fd null{open("/dev/null", O_WRONLY | O_CLOEXEC)};
  log::LineWriter log{null.get()};
  Environment environment;
  TestMesh mesh;
  PodPtr pod;
  std::unique_ptr<Worker> worker;
};

// New streams are to go over tunnels with the new certificate: also where the old one was away, on
// its way to another process that did not take it, when it came.
TEST_F(MoverTest, ARenewalReachesATunnelThatStandsStill) {
  for (const bool renewed : {false, true}) {
    auto [near, far] = Connection();
    const uint64_t number = Standing(std::move(near));
    ASSERT_EQ(Tunnels(), 1u);
    On([&] { EXPECT_TRUE(worker->mover().Freeze(number).has_value()); });
    ASSERT_EQ(Tunnels(), 0u);
    On([&] {
      worker->SetCertificate(*model::Identity::Parse(kBob),
                             Certificate(renewed ? "second" : "first"));
      worker->mover().Thaw(number);
    });
    // It has no streams: drained, it ends.
    for (int i = 0; i < 3000 && renewed && Tunnels() > 0; ++i) usleep(10000);
    EXPECT_EQ(Tunnels(), renewed ? 0u : 1u);
    On([&] { worker->pool().Close([](const auto&) { return true; }, "over"); });
  }
}

// The same of one that is not ours yet.
TEST_F(MoverTest, ARenewalReachesATunnelThatIsHeld) {
  auto [near, far] = Connection();
  auto parcel = EncodeTunnel(Tunnel(std::move(near)));
  On([&] {
    ASSERT_TRUE(worker->mover().Import(1, std::move(*parcel)));
    worker->SetCertificate(*model::Identity::Parse(kBob), Certificate("second"));
    worker->mover().Run(1);
  });
  for (int i = 0; i < 3000 && Tunnels() > 0; ++i) usleep(10000);
  EXPECT_EQ(Tunnels(), 0u);
}

// It is moved with what it goes through, as often as that is; never by itself.
TEST_F(MoverTest, ATunnelInsideOfAnotherGoesAlong) {
  auto [near, far] = Connection();
  auto parcel = EncodeTunnel(Double(std::move(near)));
  On([&] {
    ASSERT_TRUE(worker->mover().Import(1, std::move(*parcel)));
    worker->mover().Run(1);
  });
  uint64_t written = 12;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(Tunnels(), 1u);
    ASSERT_EQ(InnerTunnels(), 1u);
    std::vector<uint64_t> offered;
    std::optional<takeover::Parcel> frozen;
    On([&] {
      offered = worker->mover().Offer();
      ASSERT_EQ(offered.size(), 1u);
      frozen = worker->mover().Freeze(offered[0]);
    });
    ASSERT_TRUE(frozen.has_value());
    EXPECT_EQ(frozen->fds.size(), 1u);
    EXPECT_EQ(Tunnels() + InnerTunnels(), 0u);
    auto state = DecodeTunnel(std::move(*frozen));
    ASSERT_TRUE(state.has_value()) << state.error().message;
    ASSERT_EQ(state->inner.size(), 1u);
    EXPECT_GE(state->inner[0].tls.state.write_sequence, written);
    written = state->inner[0].tls.state.write_sequence;
    EXPECT_EQ(state->inner[0].key.destination_identities, std::vector<std::string>{kAlice});
    EXPECT_EQ(state->inner[0].key.through_identities, std::vector<std::string>{kCarol});
    // Nobody takes it; or somebody who then gives it back.
    On([&] {
      if (i == 0) return worker->mover().Thaw(offered[0]);
      EXPECT_TRUE(worker->mover().Forget(offered[0]));
      auto back = EncodeTunnel(*state);
      ASSERT_TRUE(worker->mover().Import(2, std::move(*back)));
      worker->mover().Run(2);
    });
  }
  // A renewal while it stands still reaches both.
  On([&] {
    const uint64_t number = worker->mover().Offer().at(0);
    EXPECT_TRUE(worker->mover().Freeze(number).has_value());
    worker->SetCertificate(*model::Identity::Parse(kBob), Certificate("second"));
    worker->mover().Thaw(number);
  });
  for (int i = 0; i < 3000 && InnerTunnels() > 0; ++i) usleep(10000);
  EXPECT_EQ(InnerTunnels(), 0u);
}

TEST_F(MoverTest, AnInnerTunnelMustLeadToWhoIsWanted) {
  auto [near, far] = Connection();
  SavedTunnel tunnel = Double(std::move(near));
  tunnel.inner[0].tls.peer = tunnel.tls.peer;  // the gateway itself
  auto parcel = EncodeTunnel(tunnel);
  On([&] {
    const Status status = worker->mover().Import(1, std::move(*parcel));
    ASSERT_FALSE(status);
    EXPECT_THAT(status.error().message, HasSubstr("not of who it is said to be"));
  });
}

// Nobody uses it, so nobody but the tunnel itself can be asked.
TEST_F(MoverTest, AnIdleInnerTunnelOfARevokedPeerEnds) {
  auto [near, far] = Connection();
  auto parcel = EncodeTunnel(Double(std::move(near)));
  const std::string list =
      tls::testing::Pem(tls::testing::Make(ca.authority, {.revoked = {peer.certificate}}).get());
  const auto lists =
      tls::RevocationList::Parse({reinterpret_cast<const uint8_t*>(list.data()), list.size()});
  ASSERT_TRUE(lists.has_value());
  On([&] {
    ASSERT_TRUE(worker->mover().Import(1, std::move(*parcel)));
    worker->SetRevocations(*lists);
    worker->mover().Run(1);
  });
  for (int i = 0; i < 3000 && InnerTunnels() > 0; ++i) usleep(10000);
  EXPECT_EQ(InnerTunnels(), 0u);
  EXPECT_EQ(Tunnels(), 1u);
}

TEST_F(MoverTest, AnInnerTunnelEndsWithItsPod) {
  auto [near, far] = Connection();
  auto parcel = EncodeTunnel(Double(std::move(near)));
  On([&] {
    ASSERT_TRUE(worker->mover().Import(1, std::move(*parcel)));
    worker->mover().Run(1);
    const uint64_t number = worker->mover().Offer().at(0);
    EXPECT_TRUE(worker->mover().Freeze(number).has_value());
    worker->RemovePod(pod->uid);
    worker->mover().Thaw(number);
  });
  for (int i = 0; i < 3000 && Tunnels() + InnerTunnels() > 0; ++i) usleep(10000);
  EXPECT_EQ(Tunnels() + InnerTunnels(), 0u);
}

TEST_F(MoverTest, OnlyWhatStandsStillCanBeForgotten) {
  auto [near, far] = Connection();
  const uint64_t number = Standing(std::move(near));
  On([&] {
    ConnectionMover& mover = worker->mover();
    EXPECT_FALSE(mover.Forget(number));  // in use
    EXPECT_FALSE(mover.Forget(4711));
    EXPECT_TRUE(mover.Freeze(number).has_value());
    EXPECT_FALSE(mover.Freeze(number).has_value());  // it is away already
    mover.Thaw(number);
    EXPECT_FALSE(mover.Forget(number));
    EXPECT_TRUE(mover.Freeze(number).has_value());
    EXPECT_TRUE(mover.Forget(number));
    EXPECT_FALSE(mover.Forget(number));
  });
  EXPECT_EQ(Tunnels(), 0u);
}

TEST_F(MoverTest, AUserWhoseTunnelIsLostEnds) {
  for (const bool outbound : {true, false}) {
    On([&] {
      SavedConnection saved = Plain();
      std::unique_ptr<UserConnection> user;
      if (outbound) {
        saved.outbound =
            SavedConnection::Outbound{At("10.9.9.9:80"), false, 3, false, false, {}, {}, {}};
        user =
            std::make_unique<OutboundConnection>(*worker, pod, Fd(), saved.flow.source,
                                                 OriginalDestination{At("10.9.9.9:80"), false, 0});
      } else {
        user = std::make_unique<InboundConnection>(*worker, pod, saved.flow.source,
                                                   saved.flow.destination,
                                                   Proven{*model::Identity::Parse(kAlice), nullptr},
                                                   hbone::InboundConnect{}, hbone::Responder());
      }
      user->Restore(saved);  // as it comes from another process
      UserConnection& restored = *user;
      worker->Adopt(std::move(user));
      EXPECT_EQ(worker->user_connections(), 1u);
      restored.LoseStream();
      restored.OnSnapshot();  // what follows a take-over is harmless
      restored.OnRevocations();
    });
    On([&] { EXPECT_EQ(worker->user_connections(), 0u); });
  }
  EXPECT_EQ(pod->load->connections, 0u);
}

TEST_F(MoverTest, NobodyIsSomebodyByTheOldProcessesWordAlone) {
  const auto import = [&](const SavedConnection& saved) {
    auto [a, b] = Connection();
    auto [c, d] = Connection();
    auto parcel = EncodeConnection(saved, {}, {}, std::move(a), std::move(c));
    std::string error = "taken";
    On([&] {
      const Status status = worker->mover().Import(7, std::move(parcel));
      if (!status) error = status.error().message;
      worker->mover().Drop(7);
    });
    return error;
  };
  EXPECT_EQ(import(Plain()), "taken");
  SavedConnection somebody = Plain();
  somebody.flow.source_identity = kAlice;
  EXPECT_THAT(import(somebody), HasSubstr("with an identity"));
  auto nobody = Plain();  // in one pass, where the identity is all that policy goes by
  nobody.outbound = SavedConnection::Outbound{};
  nobody.outbound->one_pass = true;
  nobody.outbound->destination_pod = pod->uid;
  nobody.outbound->destination = "Kubernetes//Pod/shop/alice";
  EXPECT_THAT(import(nobody), HasSubstr("of nobody"));
  SavedConnection elsewhere = Plain();
  elsewhere.netns_cookie = 78;
  EXPECT_THAT(import(elsewhere), HasSubstr("not served here"));
}

}  // namespace
}  // namespace qanat::ztunnel
