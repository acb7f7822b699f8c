// SPDX-License-Identifier: Apache-2.0
#include "common/tls/tls_transport.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "common/tls/reader_for_test.h"
#include "common/tls/test_certs.h"

namespace qanat::tls {
namespace {

using net::IoResult;
using ::testing::HasSubstr;
using testing::Now;
using testing::Pair;
using testing::Reader;
using testing::Shake;
using testing::TestCa;
using namespace std::chrono_literals;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";
constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";

iovec Piece(std::string_view text) { return {const_cast<char*>(text.data()), text.size()}; }

class TlsTest : public ::testing::Test {
 protected:
  HandshakeOptions Expect(std::vector<std::string> uris) {
    HandshakeOptions options;
    options.peer.uris = std::move(uris);
    return options;
  }
  Pair Connect(TlsContextPtr client, TlsContextPtr server, HandshakeOptions expect,
               HandshakeOptions accept = {}, size_t capacity = 65536) {
    return Shake(loop_, std::move(client), std::move(expect), std::move(server), std::move(accept),
                 net::MakePipe(loop_, capacity));
  }
  template <typename Until>
  void RunUntil(Until until, std::chrono::milliseconds limit = 60s) {
    auto end = std::chrono::steady_clock::now() + limit;
    while (!until() && std::chrono::steady_clock::now() < end) loop_.RunOnce(5ms);
    EXPECT_TRUE(until());
  }
  // Good pair of connected transports.
  Pair Good(size_t capacity = 65536) {
    Pair pair = Connect(ca_.Context(kAlice), ca_.Context(kBob), Expect({kBob}), {}, capacity);
    EXPECT_TRUE(pair.client && *pair.client) << (*pair.client).error().message;
    EXPECT_TRUE(pair.server && *pair.server) << (*pair.server).error().message;
    return pair;
  }
  std::string ClientError(const Pair& pair) {
    if (!pair.client || *pair.client) return "(no error)";
    return (*pair.client).error().message;
  }
  std::string ServerError(const Pair& pair) {
    if (!pair.server || *pair.server) return "(no error)";
    return (*pair.server).error().message;
  }

  event::EventLoop loop_;
  TestCa ca_ = TestCa::Make();
};

TEST_F(TlsTest, BothEndsKnowEachOther) {
  Pair pair = Good();
  const PeerInfo& seen_by_client = (*pair.client)->peer;
  EXPECT_EQ(seen_by_client.identity, kBob);
  EXPECT_EQ(seen_by_client.alpn, "h2");
  EXPECT_EQ(seen_by_client.version, "TLSv1.3");
  EXPECT_EQ(seen_by_client.group, "X25519MLKEM768");
  EXPECT_THAT(seen_by_client.cipher, HasSubstr("AES"));
  const PeerInfo& seen_by_server = (*pair.server)->peer;
  EXPECT_EQ(seen_by_server.identity, kAlice);
  EXPECT_EQ(seen_by_server.sans.uri, std::vector<std::string>{kAlice});
  EXPECT_FALSE(seen_by_server.leaf.serial().empty());
}

TEST_F(TlsTest, HalfCloseBothWays) {
  Pair pair = Good();
  auto& client = *(*pair.client)->transport;
  auto& server = *(*pair.server)->transport;
  Reader at_client(client), at_server(server);
  iovec hello = Piece("hello"), world = Piece("world");
  EXPECT_EQ(client.Write({&hello, 1}).bytes, 5u);
  EXPECT_TRUE(client.ShutdownWrite().ok());
  RunUntil([&] { return at_server.end.has_value(); });
  EXPECT_EQ(at_server.text, "hello");
  EXPECT_EQ(*at_server.end, IoResult::Kind::kEof);
  // The other direction still works after the first one has ended.
  EXPECT_EQ(server.Write({&world, 1}).bytes, 5u);
  EXPECT_TRUE(server.ShutdownWrite().ok());
  RunUntil([&] { return at_client.end.has_value(); });
  EXPECT_EQ(at_client.text, "world");
  EXPECT_EQ(*at_client.end, IoResult::Kind::kEof);
}

TEST_F(TlsTest, ManyBytesThroughANarrowPipe) {
  Pair pair = Good(/*capacity=*/777);
  auto& client = *(*pair.client)->transport;
  Reader at_server(*(*pair.server)->transport);
  Reader at_client(client);
  at_server.chunk = 1000;
  std::string data(1 << 20, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 31 + (i >> 8));
  size_t sent = 0;
  bool blocked = false, shut = false;
  auto pump = [&] {
    while (sent < data.size()) {
      // Odd pieces, so that records are gathered from several.
      size_t n = std::min<size_t>(50000, data.size() - sent);
      std::string_view part(data.data() + sent, n);
      iovec pieces[3] = {Piece(part.substr(0, n / 3)), Piece(part.substr(n / 3, 7)),
                         Piece(part.substr(std::min(n, n / 3 + 7)))};
      IoResult wrote = client.Write(pieces);
      if (wrote.kind == IoResult::Kind::kWouldBlock) {
        blocked = true;
        client.WriteEnable(true);
        return;
      }
      ASSERT_TRUE(wrote.ok());
      sent += wrote.bytes;
    }
    shut = client.ShutdownWrite().ok();
    if (!shut) client.WriteEnable(true);
  };
  at_client.on_writable = pump;
  pump();
  RunUntil([&] { return at_server.end.has_value(); }, 30s);
  EXPECT_TRUE(blocked);
  EXPECT_TRUE(shut);
  EXPECT_EQ(at_server.text == data, true);
  EXPECT_EQ(*at_server.end, IoResult::Kind::kEof);
}

TEST_F(TlsTest, BufferedPlaintextIsReportedAgain) {
  Pair pair = Good();
  auto& client = *(*pair.client)->transport;
  Reader at_server(*(*pair.server)->transport);
  at_server.chunk = 3;  // one record, many reads
  iovec text = Piece("twelve bytes");
  client.Write({&text, 1});
  RunUntil([&] { return at_server.text.size() == 12; });
  EXPECT_GE(at_server.calls, 4);
  // Switched off with data inside, on again later: it must come without anything new on the wire.
  at_server.chunk = 1;
  (*pair.server)->transport->ReadEnable(false);
  client.Write({&text, 1});
  for (int i = 0; i < 5; ++i) loop_.RunOnce(1ms);
  EXPECT_EQ(at_server.text.size(), 12u);
  (*pair.server)->transport->ReadEnable(true);
  RunUntil([&] { return at_server.text.size() == 24; });
}

TEST_F(TlsTest, FinWithoutCloseNotifyIsNotACleanEnd) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  int raw = fds[0];
  Pair pair = Shake(
      loop_, ca_.Context(kAlice), Expect({kBob}), ca_.Context(kBob), {},
      {net::MakeSocketTransport(loop_, Fd(fds[0])), net::MakeSocketTransport(loop_, Fd(fds[1]))});
  ASSERT_TRUE(*pair.client && *pair.server);
  Reader at_server(*(*pair.server)->transport);
  iovec text = Piece("part");
  (*pair.client)->transport->Write({&text, 1});
  ::shutdown(raw, SHUT_WR);  // below TLS
  RunUntil([&] { return at_server.end.has_value(); });
  EXPECT_EQ(at_server.text, "part");
  EXPECT_EQ(*at_server.end, IoResult::Kind::kReset);
  EXPECT_THAT((*pair.server)->transport->error(), HasSubstr("without close_notify"));
}

TEST_F(TlsTest, AbortIsSeenAsReset) {
  Pair pair = Good();
  Reader at_server(*(*pair.server)->transport);
  (*pair.client)->transport->Abort();
  RunUntil([&] { return at_server.end.has_value(); });
  EXPECT_EQ(*at_server.end, IoResult::Kind::kReset);
  uint8_t byte[1];
  EXPECT_EQ((*pair.client)->transport->Read(byte).kind, IoResult::Kind::kReset);
}

TEST_F(TlsTest, TamperedRecordIsAnError) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  int raw = fds[0];
  Pair pair = Shake(
      loop_, ca_.Context(kAlice), Expect({kBob}), ca_.Context(kBob), {},
      {net::MakeSocketTransport(loop_, Fd(fds[0])), net::MakeSocketTransport(loop_, Fd(fds[1]))});
  ASSERT_TRUE(*pair.client && *pair.server);
  Reader at_server(*(*pair.server)->transport);
  const uint8_t forged[] = {0x17, 3,  3,  0,  20, 1,  2,  3,  4,  5,  6,  7, 8,
                            9,    10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
  ASSERT_EQ(::send(raw, forged, sizeof forged, 0), static_cast<ssize_t>(sizeof forged));
  RunUntil([&] { return at_server.end.has_value(); });
  EXPECT_EQ(*at_server.end, IoResult::Kind::kError);
  EXPECT_FALSE((*pair.server)->transport->error().empty());
}

// ---- who is let in ----

TEST_F(TlsTest, WrongServerIsNamed) {
  Pair pair = Connect(ca_.Context(kAlice), ca_.Context(kBob),
                      Expect({"spiffe://cluster.local/ns/shop/sa/carol"}));
  EXPECT_THAT(ClientError(pair), HasSubstr(kBob));
  EXPECT_THAT(ClientError(pair), HasSubstr("sa/carol"));
  EXPECT_THAT(ServerError(pair), HasSubstr("refused our certificate"));
}

TEST_F(TlsTest, AnyOfSeveralExpectedIdentitiesWillDo) {
  Pair pair = Connect(ca_.Context(kAlice), ca_.Context(kBob),
                      Expect({"spiffe://cluster.local/ns/shop/sa/carol", kBob}));
  EXPECT_EQ((*pair.client)->peer.identity, kBob);
}

TEST_F(TlsTest, AClientThatExpectsNobodyRefusesEverybody) {
  Pair pair = Connect(ca_.Context(kAlice), ca_.Context(kBob), Expect({}));
  EXPECT_THAT(ClientError(pair), HasSubstr("nobody said"));
}

TEST_F(TlsTest, ServerByName) {
  TestCa::Identity istiod = ca_.Issue(RequestNames{{}, {"istiod.istio-system.svc"}, {"127.0.0.1"}});
  for (std::string name : {"istiod.istio-system.svc", "ISTIOD.istio-system.svc", "127.0.0.1"}) {
    HandshakeOptions expect, accept;
    expect.peer.names = {name};
    expect.server_name = name == "127.0.0.1" ? "" : name;
    accept.peer.client_certificate = PeerPolicy::ClientCertificate::kNone;
    ContextOptions anonymous;
    anonymous.roots = {ca_.authority.certificate};
    Pair pair = Connect(*TlsContext::Make(anonymous), ca_.Context(istiod), expect, accept);
    EXPECT_EQ(ClientError(pair), "(no error)") << name;
    EXPECT_EQ(ServerError(pair), "(no error)") << name;
  }
  HandshakeOptions expect;
  expect.peer.names = {"other.istio-system.svc", "127.0.0.2"};
  Pair pair = Connect(ca_.Context(kAlice), ca_.Context(istiod), expect);
  EXPECT_THAT(ClientError(pair), HasSubstr("127.0.0.2"));
}

TEST_F(TlsTest, ClientWithoutCertificate) {
  ContextOptions anonymous;
  anonymous.roots = {ca_.authority.certificate};
  Pair pair = Connect(*TlsContext::Make(anonymous), ca_.Context(kBob), Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("presented no certificate"));
  // With TLS 1.3 the client was done before; it learns it when it reads.
  ASSERT_TRUE(*pair.client);
  Reader at_client(*(*pair.client)->transport);
  RunUntil([&] { return at_client.end.has_value(); });
  EXPECT_EQ(*at_client.end, IoResult::Kind::kError);
  EXPECT_THAT((*pair.client)->transport->error(), HasSubstr("wants a certificate"));
  HandshakeOptions optional;
  optional.peer.client_certificate = PeerPolicy::ClientCertificate::kOptional;
  pair = Connect(*TlsContext::Make(anonymous), ca_.Context(kBob), Expect({kBob}), optional);
  ASSERT_TRUE(*pair.server);
  EXPECT_EQ((*pair.server)->peer.identity, "");
}

TEST_F(TlsTest, ForeignTrustDomain) {
  Pair pair = Connect(ca_.Context("spiffe://other.example/ns/shop/sa/alice"), ca_.Context(kBob),
                      Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("not of our trust domain"));
  HandshakeOptions accept;
  accept.peer.trust_domains = {"other.example"};
  pair = Connect(ca_.Context("spiffe://other.example/ns/shop/sa/alice"), ca_.Context(kBob),
                 Expect({kBob}), accept);
  EXPECT_EQ(ServerError(pair), "(no error)");
}

TEST_F(TlsTest, ClientNamesThatAreNoIdentity) {
  for (RequestNames names :
       {RequestNames{{"spiffe://cluster.local/ns/shop/sa/alice/x"}, {}, {}},
        RequestNames{{"https://cluster.local/ns/shop/sa/alice"}, {}, {}},
        RequestNames{{}, {"alice.shop"}, {}}, RequestNames{{kAlice, kBob}, {}, {}}}) {
    Pair pair = Connect(ca_.Context(ca_.Issue(names)), ca_.Context(kBob), Expect({kBob}));
    EXPECT_FALSE(*pair.server);
  }
}

TEST_F(TlsTest, WrongRoot) {
  TestCa other = TestCa::Make("other mesh");
  ContextOptions options;
  auto alice = other.Issue(kAlice);
  options.chain = {alice.certificate};
  options.key = alice.key;
  options.roots = {ca_.authority.certificate};
  Pair pair = Connect(*TlsContext::Make(options), ca_.Context(kBob), Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("leads to no root"));
  EXPECT_THAT(ServerError(pair), HasSubstr("other mesh"));
  // A root of the same name with another key.
  TestCa twin = TestCa::Make();
  pair = Connect(twin.Context(kAlice), ca_.Context(kBob), Expect({kBob}));
  EXPECT_FALSE(*pair.client);
}

TEST_F(TlsTest, ExpiredAndNotYetValid) {
  auto names = RequestNames{{kAlice}, {}, {}};
  Pair pair = Connect(ca_.Context(ca_.Issue(names, Usage::kBoth, -600s, -10s)), ca_.Context(kBob),
                      Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("expired at"));
  pair = Connect(ca_.Context(ca_.Issue(names, Usage::kBoth, 600s, 900s)), ca_.Context(kBob),
                 Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("valid only from"));
  auto server = ca_.Issue(RequestNames{{kBob}, {}, {}}, Usage::kBoth, -600s, -10s);
  pair = Connect(ca_.Context(kAlice), ca_.Context(server), Expect({kBob}));
  EXPECT_THAT(ClientError(pair), HasSubstr("expired at"));
  EXPECT_THAT(ServerError(pair), HasSubstr("expired"));
}

TEST_F(TlsTest, KeyUsageForTheOtherRole) {
  Pair pair = Connect(ca_.Context(ca_.Issue(RequestNames{{kAlice}, {}, {}}, Usage::kServer)),
                      ca_.Context(kBob), Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("extended key usage"));
  pair =
      Connect(ca_.Context(kAlice),
              ca_.Context(ca_.Issue(RequestNames{{kBob}, {}, {}}, Usage::kClient)), Expect({kBob}));
  EXPECT_THAT(ClientError(pair), HasSubstr("extended key usage"));
}

TEST_F(TlsTest, IntermediateIsUsed) {
  auto key = PrivateKey::GenerateP256();
  auto middle =
      SignIntermediate(ca_.authority, key->public_key(), "middle", Now() - 1h, Now() + 2h);
  ASSERT_TRUE(middle);
  TestCa below{Authority{*middle, *key}};
  auto alice = below.Issue(kAlice);
  ContextOptions options;
  options.chain = {alice.certificate, *middle};
  options.key = alice.key;
  options.roots = {ca_.authority.certificate};
  Pair pair = Connect(*TlsContext::Make(options), ca_.Context(kBob), Expect({kBob}));
  EXPECT_EQ(ServerError(pair), "(no error)");
  options.chain = {alice.certificate};
  pair = Connect(*TlsContext::Make(options), ca_.Context(kBob), Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("leads to no root"));
}

// ---- protocol ----

TEST_F(TlsTest, AlpnMustAgree) {
  ContextOptions options;
  auto alice = ca_.Issue(kAlice);
  options.chain = {alice.certificate};
  options.key = alice.key;
  options.roots = {ca_.authority.certificate};
  options.alpn = {"http/1.1"};
  Pair pair = Connect(*TlsContext::Make(options), ca_.Context(kBob), Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("ALPN"));
  EXPECT_THAT(ClientError(pair), HasSubstr("ALPN"));
  options.alpn = {};  // offers nothing
  pair = Connect(*TlsContext::Make(options), ca_.Context(kBob), Expect({kBob}));
  EXPECT_THAT(ServerError(pair), HasSubstr("ALPN"));
}

TEST_F(TlsTest, PlaintextIsNamedAsSuch) {
  auto pipe = net::MakePipe(loop_);
  iovec text = Piece("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  pipe.first->Write({&text, 1});
  std::optional<Result<TlsConnection>> outcome;
  HandshakeOptions server;
  server.role = Role::kServer;
  TlsHandshake handshake(std::move(pipe.second), ca_.Context(kBob), server,
                         [&](Result<TlsConnection> r) { outcome = std::move(r); });
  RunUntil([&] { return outcome.has_value(); });
  ASSERT_FALSE(*outcome);
  EXPECT_THAT(outcome->error().message, HasSubstr("not TLS"));
}

TEST_F(TlsTest, SilenceTimesOut) {
  auto pipe = net::MakePipe(loop_);
  std::optional<Result<TlsConnection>> outcome;
  HandshakeOptions client = Expect({kBob});
  client.timeout = 30ms;
  TlsHandshake handshake(std::move(pipe.second), ca_.Context(kAlice), client,
                         [&](Result<TlsConnection> r) { outcome = std::move(r); });
  RunUntil([&] { return outcome.has_value(); });
  EXPECT_EQ(outcome->error().code, Code::kDeadlineExceeded);
}

TEST_F(TlsTest, PeerThatHangsUpDuringTheHandshake) {
  auto pipe = net::MakePipe(loop_);
  std::optional<Result<TlsConnection>> outcome;
  TlsHandshake handshake(std::move(pipe.second), ca_.Context(kAlice), Expect({kBob}),
                         [&](Result<TlsConnection> r) { outcome = std::move(r); });
  pipe.first.reset();
  RunUntil([&] { return outcome.has_value(); });
  ASSERT_FALSE(*outcome);
  EXPECT_EQ(outcome->error().code, Code::kUnavailable);
}

TEST_F(TlsTest, CancelledHandshakeCallsNobody) {
  auto pipe = net::MakePipe(loop_);
  bool called = false;
  {
    TlsHandshake handshake(std::move(pipe.second), ca_.Context(kAlice), Expect({kBob}),
                           [&](Result<TlsConnection>) { called = true; });
    loop_.RunOnce(1ms);
  }
  for (int i = 0; i < 5; ++i) loop_.RunOnce(1ms);
  EXPECT_FALSE(called);
}

TEST_F(TlsTest, TransportMayBeDestroyedWhileItCalls) {
  Pair pair = Good();
  struct Suicide final : net::TransportEvents {
    net::TransportPtr transport;
    bool called = false;
    void OnReadable() override {
      called = true;
      transport.reset();
    }
    void OnWritable() override {}
  } user;
  user.transport = std::move((*pair.server)->transport);
  user.transport->SetEvents(&user);
  user.transport->ReadEnable(true);
  iovec text = Piece("x");
  (*pair.client)->transport->Write({&text, 1});
  RunUntil([&] { return user.called; });
  Reader at_client(*(*pair.client)->transport);
  RunUntil([&] { return at_client.end.has_value(); });
  EXPECT_EQ(*at_client.end, IoResult::Kind::kReset);
}

TEST_F(TlsTest, ConnectorNamesWhatIsMissing) {
  net::ListenOptions listen;
  listen.address = {net::IpAddress::V4(0x7f000001), 0};
  auto fd = net::Listen(listen);
  ASSERT_TRUE(fd);
  net::ConnectOptions to;
  to.to = *net::SocketAddress::OfLocal(fd->get());
  fd->Reset();  // nobody listens there now
  std::optional<Result<TlsConnection>> outcome;
  TlsConnector connector(loop_, to, ca_.Context(kAlice), Expect({kBob}),
                         [&](Result<TlsConnection> r) { outcome = std::move(r); });
  RunUntil([&] { return outcome.has_value(); });
  ASSERT_FALSE(*outcome);
  EXPECT_THAT(outcome->error().message, HasSubstr("refused"));
}

// Contexts are shared by all workers.
TEST_F(TlsTest, ContextsServeSeveralThreads) {
  auto client = ca_.Context(kAlice), server = ca_.Context(kBob);
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      event::EventLoop loop;
      HandshakeOptions expect;
      expect.peer.uris = {kBob};
      for (int n = 0; n < 10; ++n) {
        Pair pair = Shake(loop, client, expect, server, {}, net::MakePipe(loop));
        if (pair.client && *pair.client && pair.server && *pair.server) ++good;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(good, 40);
}

TEST_F(TlsTest, KeyMustBelongToTheCertificate) {
  ContextOptions options;
  options.chain = {ca_.Issue(kAlice).certificate};
  options.key = ca_.Issue(kAlice).key;
  auto context = TlsContext::Make(options);
  ASSERT_FALSE(context);
  EXPECT_THAT(context.error().message, HasSubstr("does not belong"));
}

}  // namespace
}  // namespace qanat::tls
