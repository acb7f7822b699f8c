// SPDX-License-Identifier: Apache-2.0
// Resumed handshakes: that they happen, and when they must not.
#include "common/tls/tickets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/tls/test_certs.h"
#include "common/tls/test_crl.h"
#include "common/tls/test_oracle.h"
#include "common/tls/ticket_state.h"

namespace qanat::tls {
namespace {

using testing::Now;
using testing::Pair;
using testing::TestCa;
using namespace std::chrono_literals;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";
constexpr char kCarol[] = "spiffe://cluster.local/ns/shop/sa/carol";
constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";

RevocationListPtr ListOf(const Authority& issuer, const std::vector<Certificate>& revoked) {
  const std::string text = testing::Pem(testing::Make(issuer, {revoked}).get());
  return *RevocationList::Parse({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

class TicketsTest : public ::testing::Test {
 protected:
  TlsContextPtr Context(const TestCa::Identity& identity, std::vector<Certificate> roots = {},
                        bool resumption = true, bool tls12 = false) {
    ContextOptions options;
    options.chain = {identity.certificate};
    options.key = identity.key;
    options.roots = std::move(roots);
    if (options.roots.empty()) options.roots = {root_.authority.certificate};
    options.resumption = resumption;
    options.allow_tls12 = tls12;
    return *TlsContext::Make(std::move(options));
  }
  // One connection; the server says a byte, the client reads it and so the tickets before it.
  Pair Connect(const TlsContextPtr& client_context, const TlsContextPtr& server_context,
               const std::string& address = "10.0.0.2:15008", bool read = true) {
    HandshakeOptions client, server;
    client.peer.uris = uris_;
    client.server_name = server_name_;
    client.ticket_address = address;
    client.shared = &client_;
    server.shared = &server_;
    Pair pair =
        testing::Shake(loop_, client_context, client, server_context, server, net::MakePipe(loop_));
    if (read && pair.client && *pair.client && pair.server && *pair.server) Exchange(pair);
    return pair;
  }
  void Exchange(Pair& pair) {
    uint8_t byte = 'x';
    const iovec all{&byte, 1};
    for (bool from_server : {true, false}) {
      net::Transport& from = from_server ? *(*pair.server)->transport : *(*pair.client)->transport;
      net::Transport& to = from_server ? *(*pair.client)->transport : *(*pair.server)->transport;
      ASSERT_TRUE(from.Write({&all, 1}).ok());
      uint8_t got = 0;
      for (int i = 0; i < 50; ++i) {
        const net::IoResult read = to.Read({&got, 1});
        if (read.kind != net::IoResult::Kind::kWouldBlock) {
          ASSERT_TRUE(read.ok());
          break;
        }
        loop_.RunOnce(2ms);
      }
      EXPECT_EQ(got, 'x');
    }
  }
  static bool Resumed(const Pair& pair) {
    EXPECT_TRUE(pair.client && *pair.client && pair.server && *pair.server);
    if (!pair.client || !*pair.client || !pair.server || !*pair.server) return false;
    EXPECT_EQ((*pair.client)->peer.resumed, (*pair.server)->peer.resumed);
    return (*pair.client)->peer.resumed;
  }

  event::EventLoop loop_;
  TestCa root_ = TestCa::Make();
  TestCa::Identity alice_ = root_.Issue(kAlice), bob_ = root_.Issue(kBob);
  std::vector<std::string> uris_ = {kBob};
  std::string server_name_;
  HandshakeShared client_{loop_}, server_{loop_};
};

TEST_F(TicketsTest, ASecondConnectionIsResumedAndWhoTheEndsAreIsKnown) {
  const TlsContextPtr alice = Context(alice_), bob = Context(bob_);
  EXPECT_FALSE(Resumed(Connect(alice, bob)));
  EXPECT_EQ(client_.tickets.size(), 1u);
  int resumed = 0;
  server_.on_outcome = [&](const HandshakeOutcome& one) { resumed += one.resumed ? 1 : 0; };
  for (int i = 0; i < 3; ++i) {  // each brings the next ticket
    const Pair pair = Connect(alice, bob);
    EXPECT_TRUE(Resumed(pair)) << i;
    EXPECT_EQ((*pair.server)->peer.identity, kAlice);
    EXPECT_EQ((*pair.client)->peer.identity, kBob);
    EXPECT_EQ((*pair.server)->peer.alpn, "h2");
    EXPECT_EQ((*pair.server)->peer.leaf.serial_hex(), alice_.certificate.serial_hex());
    ASSERT_NE((*pair.server)->peer.verified, nullptr);
    EXPECT_EQ((*pair.server)->peer.verified->path.size(), 2u);
    EXPECT_EQ((*pair.client)->peer.group, "X25519MLKEM768");  // a new key exchange each time
    EXPECT_EQ(client_.tickets.size(), 1u);
  }
  EXPECT_EQ(resumed, 3);
}

TEST_F(TicketsTest, ATicketIsForOneUse) {
  const TlsContextPtr alice = Context(alice_), bob = Context(bob_);
  Connect(alice, bob);
  const Pair first = Connect(alice, bob, "10.0.0.2:15008", false);  // its ticket is not read
  EXPECT_TRUE(Resumed(first));
  EXPECT_FALSE(Resumed(Connect(alice, bob)));
}

// Where the address, the expected names or either end's identity differ.
TEST_F(TicketsTest, BoundToWhoAndWhere) {
  const TlsContextPtr alice = Context(alice_), bob = Context(bob_);
  const TlsContextPtr carol = Context(root_.Issue(kCarol));
  Connect(alice, bob);
  EXPECT_FALSE(Resumed(Connect(carol, bob))) << "another client";
  EXPECT_FALSE(Resumed(Connect(alice, bob, "10.0.0.3:15008"))) << "another address";
  EXPECT_FALSE(Resumed(Connect(alice, bob, ""))) << "an address that nobody said";
  server_name_ = "bob.shop";
  EXPECT_FALSE(Resumed(Connect(alice, bob))) << "another SNI";
  server_name_.clear();
  uris_ = {kBob, kCarol};
  EXPECT_FALSE(Resumed(Connect(alice, bob))) << "others would do, too";
  uris_ = {kBob};
  EXPECT_TRUE(Resumed(Connect(alice, bob)));
  // Another workload is at the address now: its key opens no ticket of bob's.
  EXPECT_FALSE(Resumed(Connect(alice, Context(root_.Issue(kBob))))) << "bob's replacement";
  uris_ = {kCarol};
  const Pair pair = Connect(alice, bob);
  EXPECT_FALSE(*pair.client) << "bob is not carol, ticket or not";
}

TEST_F(TicketsTest, ARenewedCertificateOfEitherEnd) {
  const TlsContextPtr bob = Context(bob_);
  Connect(Context(alice_), bob);
  EXPECT_FALSE(Resumed(Connect(Context(root_.Issue(kAlice)), bob)));
  EXPECT_FALSE(Resumed(Connect(Context(alice_), bob))) << "the same one, in another context";
}

TEST_F(TicketsTest, EndsWithTheCertificatesThatItBeganWith) {
  // The client's, as the server sees it: the ticket is taken out of a client that forgets dates.
  // Long enough for the handshakes before their ends, on a machine that may stop for seconds.
  const auto brief = root_.Issue({{kAlice}, {}, {}}, Usage::kBoth, -60s, 8s);
  const auto brief_bob = root_.Issue({{kBob}, {}, {}}, Usage::kBoth, -60s, 8s);
  const TlsContextPtr carol = Context(root_.Issue(kCarol)), ending = Context(brief_bob);
  Connect(carol, ending);
  const TlsContextPtr alice = Context(brief), bob = Context(bob_);
  Connect(alice, bob);
  ASSERT_EQ(client_.tickets.size(), 2u);
  for (auto& [key, tickets] : client_.tickets.state()->recent) {
    for (auto& ticket : tickets) ticket.not_after = Time::max();
  }
  EXPECT_TRUE(Resumed(Connect(alice, bob)));
  for (auto& [key, tickets] : client_.tickets.state()->recent) {
    for (auto& ticket : tickets) ticket.not_after = Time::max();
  }
  while (Now() <= brief.certificate.not_after()) loop_.RunOnce(50ms);
  Pair pair = Connect(alice, bob, "10.0.0.2:15008", false);
  ASSERT_TRUE(pair.server);
  ASSERT_FALSE(*pair.server) << "neither resumed nor with a certificate that has ended";
  EXPECT_EQ(pair.server->error().code, Code::kUnauthenticated);

  // The server's, as the client sees it.
  while (Now() <= brief_bob.certificate.not_after()) loop_.RunOnce(50ms);
  pair = Connect(carol, ending, "10.0.0.2:15008", false);
  ASSERT_TRUE(pair.client);
  EXPECT_FALSE(*pair.client);
}

TEST_F(TicketsTest, RevokedSinceThen) {
  const TlsContextPtr alice = Context(alice_), bob = Context(bob_);
  Connect(alice, bob);
  server_.verifier.SetRevocations(ListOf(root_.authority, {alice_.certificate}));
  Pair pair = Connect(alice, bob, "10.0.0.2:15008", false);
  ASSERT_TRUE(pair.server);
  ASSERT_FALSE(*pair.server);
  EXPECT_EQ(pair.server->error().sys_errno, kRevoked) << "the full handshake says why";
  server_.verifier.SetRevocations(ListOf(root_.authority, {bob_.certificate}));  // not its peer
  EXPECT_FALSE(Resumed(Connect(alice, bob))) << "that ticket is used up";
  EXPECT_TRUE(Resumed(Connect(alice, bob)));
  client_.verifier.SetRevocations(ListOf(root_.authority, {bob_.certificate}));
  pair = Connect(alice, bob, "10.0.0.2:15008", false);
  ASSERT_TRUE(pair.client);
  ASSERT_FALSE(*pair.client);
  EXPECT_EQ(pair.client->error().sys_errno, kRevoked);
}

TEST_F(TicketsTest, ARootThatIsNoLongerBelieved) {
  const TestCa next = TestCa::Make();
  const auto old_and_new =
      std::vector<Certificate>{root_.authority.certificate, next.authority.certificate};
  const auto new_alice = next.Issue(kAlice);
  const TlsContextPtr alice = Context(alice_, old_and_new);
  const TlsContextPtr bob = Context(bob_, old_and_new);
  Connect(alice, bob);
  EXPECT_TRUE(Resumed(Connect(alice, bob)));
  // The server believes the new root alone: what alice proved once no longer counts.
  const TlsContextPtr strict =
      Context(next.Issue(kBob), std::vector<Certificate>{next.authority.certificate});
  Pair pair = Connect(alice, strict, "10.0.0.2:15008", false);
  ASSERT_TRUE(pair.server);
  ASSERT_FALSE(*pair.server);
  EXPECT_EQ(pair.server->error().sys_errno, kUnknownIssuer);
}

// The certificates of a ticket are verified as those of a handshake are, whatever the key says.
TEST_F(TicketsTest, TheTicketsOwnCertificatesAreJudged) {
  const TlsContextPtr alice = Context(alice_), bob = Context(bob_);
  Connect(alice, bob);
  // The same context expects somebody else from now on (policy of the handshake).
  HandshakeOptions client, server;
  client.peer.uris = {kBob};
  client.ticket_address = "10.0.0.2:15008";
  client.shared = &client_;
  server.shared = &server_;
  server.peer.uris = {kCarol};
  const Pair pair = testing::Shake(loop_, alice, client, bob, server, net::MakePipe(loop_));
  ASSERT_TRUE(pair.server);
  EXPECT_FALSE(*pair.server);
}

TEST_F(TicketsTest, PeersWithoutTicketsNoticeNothing) {
  for (const auto& [with_client, with_server] : {std::pair{true, false}, std::pair{false, true}}) {
    const TlsContextPtr alice = Context(alice_, {}, with_client);
    const TlsContextPtr bob = Context(bob_, {}, with_server);
    EXPECT_FALSE(Resumed(Connect(alice, bob)));
    EXPECT_EQ(client_.tickets.size(), 0u);
    EXPECT_FALSE(Resumed(Connect(alice, bob)));
  }
  // TLS 1.2 allowed: tickets would come in a form that is not ours to check.
  const TlsContextPtr alice = Context(alice_, {}, true, true), bob = Context(bob_, {}, true, true);
  EXPECT_FALSE(Resumed(Connect(alice, bob)));
  EXPECT_FALSE(Resumed(Connect(alice, bob)));
}

TEST_F(TicketsTest, ATicketThatWasChangedIsAFullHandshake) {
  const TlsContextPtr alice = Context(alice_), bob = Context(bob_);
  for (const size_t at : {size_t{0}, size_t{9}, size_t{40}, size_t{200}}) {
    client_.tickets.Clear();
    Connect(alice, bob);
    ASSERT_EQ(client_.tickets.size(), 1u);
    auto& ticket = client_.tickets.state()->recent.begin()->second.back();
    const uint8_t* bytes = nullptr;
    size_t size = 0;
    SSL_SESSION_get0_ticket(ticket.session.get(), &bytes, &size);
    ASSERT_GT(size, at);
    std::vector<uint8_t> changed(bytes, bytes + size);
    changed[at] ^= 1;
    ASSERT_EQ(SSL_SESSION_set_ticket(ticket.session.get(), changed.data(), changed.size()), 1);
    const Pair pair = Connect(alice, bob);
    EXPECT_FALSE(Resumed(pair)) << at;
    EXPECT_EQ((*pair.server)->peer.identity, kAlice);
  }
}

// As BoringSSL takes them: what is malformed ends the connection; what is not ours is not kept.
TEST_F(TicketsTest, MessagesOfAServer) {
  testing::Oracle oracle(0x1301, Role::kClient, /*tickets=*/true);
  TicketStore store;
  TicketTaker taker(store.state(), "key", std::make_shared<const VerifiedPeer>(), Time::max());
  taker.Hold(oracle.TakeOurs());
  const auto message = [](const std::string& ticket, const std::string& extensions) {
    const auto sized = [](const std::string& text, int bytes) {
      std::string out;
      for (int i = bytes - 1; i >= 0; --i) out += static_cast<char>(text.size() >> (8 * i));
      return out + text;
    };
    const std::string body = std::string("\0\0\x0e\x10\1\2\3\4", 8) + sized("n", 1) +
                             sized(ticket, 2) + sized(extensions, 2);
    return "\4" + sized(body, 3);
  };
  const auto take = [&](const std::string& text) {
    return taker.Take({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  };
  EXPECT_TRUE(take(message("somebody else's ticket", "")));
  EXPECT_EQ(store.size(), 0u);
  EXPECT_TRUE(take(message("qanat-t1 and what is sealed", "")));
  EXPECT_EQ(store.size(), 1u);
  EXPECT_FALSE(take(message("", ""))) << "no ticket";
  EXPECT_FALSE(take(message("qanat-t1", std::string("\0\x2a\0\1x", 5)))) << "half of early_data";
  EXPECT_FALSE(take(message("qanat-t1", "\1"))) << "half an extension";
  EXPECT_EQ(store.size(), 1u);
}

// A message that long would end the connection at the client (RecordLayer::kMaxHandshake).
TEST_F(TicketsTest, AChainThatMakesALargeTicketGetsNone) {
  for (const size_t names : {40, 200, 300}) {  // of 60 bytes
    std::vector<std::string> dns;
    for (size_t i = 0; i < names; ++i)
      dns.push_back(std::to_string(1000 + i) + std::string(56, 'a'));
    const TlsContextPtr alice = Context(root_.Issue({{kAlice}, dns, {}})), bob = Context(bob_);
    client_.tickets.Clear();
    const Pair pair = Connect(alice, bob);
    EXPECT_FALSE(Resumed(pair));
    EXPECT_EQ((*pair.server)->peer.identity, kAlice);
    EXPECT_EQ(client_.tickets.size(), names < 100 ? 1u : 0u) << names;
    EXPECT_EQ(Resumed(Connect(alice, bob)), names < 100) << names;
  }
}

// What nobody would resume is not given, and nothing is left unsent below the first data.
TEST_F(TicketsTest, ServersThatResumeNothingGiveNone) {
  const TlsContextPtr alice = Context(alice_), bob = Context(bob_);
  for (const bool alone : {true, false}) {  // without the loop's shared state; without certificates
    HandshakeOptions client, server;
    client.peer.uris = {kBob};
    client.ticket_address = "10.0.0.2:15008";
    client.shared = &client_;
    if (!alone) {
      server.shared = &server_;
      server.peer.client_certificate = PeerPolicy::ClientCertificate::kOptional;
    }
    for (int i = 0; i < 2; ++i) {
      Pair pair = testing::Shake(loop_, alice, client, bob, server, net::MakePipe(loop_));
      ASSERT_TRUE(pair.client && *pair.client && pair.server && *pair.server);
      Exchange(pair);
      Exchange(pair);
      EXPECT_FALSE(Resumed(pair));
      EXPECT_EQ(client_.tickets.size(), 0u) << alone;
    }
  }
}

TEST_F(TicketsTest, BoundedInMemory) {
  TicketStore store(1000, 100'000);
  const auto known = std::make_shared<const VerifiedPeer>();
  TicketStore::State& state = *store.state();
  const auto held = [&] {
    size_t bytes = 0;
    for (const auto* map : {&state.recent, &state.older}) {
      for (const auto& [key, tickets] : *map) {
        for (const auto& ticket : tickets) bytes += ticket.bytes;
      }
    }
    return bytes;
  };
  for (int i = 0; i < 300; ++i) {
    const std::string key = "k" + std::to_string(i % 70);
    state.Keep(key, {nullptr, known, Time::max(), 3000});
    EXPECT_LE(held(), 100'000u);
    if (i % 3 == 0) state.Take(key, Now(), [](const VerifiedPeer&) { return true; });
  }
  EXPECT_GT(held(), 40'000u);
  state.Keep("large", {nullptr, known, Time::max(), 60'000});
  EXPECT_LE(held(), 100'000u);
  EXPECT_FALSE(state.recent.contains("large"));
  // As a real one counts itself.
  const TlsContextPtr alice = Context(alice_), bob = Context(bob_);
  Connect(alice, bob);
  EXPECT_GT(client_.tickets.state()->recent_bytes, 1500u);
  EXPECT_LT(client_.tickets.state()->recent_bytes, 8000u);
  client_.tickets.Clear();
  EXPECT_EQ(client_.tickets.state()->recent_bytes, 0u);
}

TEST_F(TicketsTest, BoundedAndForgotten) {
  TicketStore store(4);
  const auto known = std::make_shared<const VerifiedPeer>();
  for (int i = 0; i < 100; ++i) {
    store.state()->Keep("k" + std::to_string(i), {nullptr, known, Time::max()});
    store.state()->Keep("k" + std::to_string(i), {nullptr, known, Time::max()});
  }
  EXPECT_LE(store.size(), 8u);
  for (int i = 0; i < 10; ++i) store.state()->Keep("one", {nullptr, known, Time::max()});
  EXPECT_LE(store.size(), 6u + TicketStore::State::kPerPeer);
  store.Clear();
  EXPECT_EQ(store.size(), 0u);
}

}  // namespace
}  // namespace qanat::tls
