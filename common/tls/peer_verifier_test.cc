// SPDX-License-Identifier: Apache-2.0
// Revoked peers in handshakes and live connections, and what of a verification is remembered.
#include "common/tls/peer_verifier.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/tls/test_certs.h"
#include "common/tls/test_crl.h"

namespace qanat::tls {
namespace {

using ::testing::HasSubstr;
using testing::Now;
using testing::Pair;
using testing::TestCa;
using namespace std::chrono_literals;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";
constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";

RevocationListPtr ListOf(const std::vector<const Authority*>& issuers,
                         const std::vector<Certificate>& revoked) {
  std::string text;
  for (const Authority* issuer : issuers)
    text += testing::Pem(testing::Make(*issuer, {revoked}).get());
  return *RevocationList::Parse({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

struct Owner final : net::TransportEvents {
  explicit Owner(net::Transport& t) : transport(t) { transport.SetEvents(this); }
  void OnReadable() override {
    uint8_t byte;
    last = transport.Read({&byte, 1}).kind;
    ++readable;
    if (last == net::IoResult::Kind::kError || last == net::IoResult::Kind::kReset) {
      transport.ReadEnable(false);
    }
  }
  void OnWritable() override {
    ++writable;
    transport.WriteEnable(false);
  }
  net::Transport& transport;
  net::IoResult::Kind last = net::IoResult::Kind::kOk;
  int readable = 0, writable = 0;
};

class PeerVerifierTest : public ::testing::Test {
 protected:
  PeerVerifierTest() {
    auto key = PrivateKey::GenerateP256();
    middle_ = {
        *SignIntermediate(root_.authority, key->public_key(), "middle", Now() - 1h, Now() + 2h),
        *key};
    alice_ = TestCa{middle_}.Issue(kAlice);
    bob_ = TestCa{middle_}.Issue(kBob);
  }
  TlsContextPtr Context(const TestCa::Identity& identity, const TestCa& root) {
    ContextOptions options;
    options.chain = {identity.certificate, middle_.certificate};
    options.key = identity.key;
    options.roots = {root.authority.certificate};
    return *TlsContext::Make(std::move(options));
  }
  Pair Connect() {
    HandshakeOptions client, server;
    client.peer.uris = {kBob};
    client.shared = &client_;
    server.shared = &server_;
    return testing::Shake(loop_, Context(alice_, root_), client, Context(bob_, root_), server,
                          net::MakePipe(loop_));
  }
  void Turn(int rounds = 5) {
    for (int i = 0; i < rounds; ++i) loop_.RunOnce(2ms);
  }

  event::EventLoop loop_;
  TestCa root_ = TestCa::Make();
  Authority middle_;
  TestCa::Identity alice_, bob_;
  HandshakeShared client_{loop_}, server_{loop_};
};

TEST_F(PeerVerifierTest, ARevokedClientIsRefusedAndTold) {
  server_.verifier.SetRevocations(ListOf({&middle_}, {alice_.certificate}));
  Pair pair = Connect();
  ASSERT_TRUE(pair.server && !*pair.server);
  EXPECT_EQ(pair.server->error().sys_errno, kRevoked);
  EXPECT_EQ(pair.server->error().code, Code::kUnauthenticated);
  EXPECT_THAT(pair.server->error().message, HasSubstr(alice_.certificate.serial_hex()));
  ASSERT_TRUE(pair.client && *pair.client) << "with TLS 1.3 a client learns it by its first read";
  Owner owner(*(*pair.client)->transport);
  owner.transport.ReadEnable(true);
  Turn();
  EXPECT_EQ(owner.last, net::IoResult::Kind::kError);
  EXPECT_EQ(owner.transport.error(), "the peer refused our certificate: it is revoked");
}

TEST_F(PeerVerifierTest, ARevokedServerOrIntermediateIsRefused) {
  client_.verifier.SetRevocations(ListOf({&middle_}, {bob_.certificate}));
  Pair pair = Connect();
  ASSERT_TRUE(pair.client && !*pair.client);
  EXPECT_EQ(pair.client->error().sys_errno, kRevoked);
  ASSERT_TRUE(pair.server && !*pair.server);
  EXPECT_EQ(pair.server->error().sys_errno, kRevoked) << "it is told by the alert";
  client_.verifier.SetRevocations(ListOf({&root_.authority}, {middle_.certificate}));
  pair = Connect();
  ASSERT_TRUE(pair.client && !*pair.client);
  EXPECT_THAT(pair.client->error().message, HasSubstr("middle"));
  client_.verifier.SetRevocations(nullptr);
  pair = Connect();
  EXPECT_TRUE(*pair.client && *pair.server);
}

TEST_F(PeerVerifierTest, LiveConnectionsOfARevokedPeerEnd) {
  Pair bad = Connect();
  alice_ = TestCa{middle_}.Issue(kAlice);
  Pair good = Connect();
  ASSERT_TRUE(*bad.server && *good.server && *bad.client);
  Owner reading(*(*bad.server)->transport), far(*(*bad.client)->transport);
  Owner other(*(*good.server)->transport);
  for (Owner* owner : {&reading, &far, &other}) owner->transport.ReadEnable(true);
  Turn();
  server_.verifier.SetRevocations(
      ListOf({&middle_}, {(*bad.server)->transport->verified_peer()->path[0]}));
  EXPECT_EQ(server_.verifier.EndRevoked(), 1u);
  EXPECT_EQ(reading.readable, 0) << "never from inside";
  Turn();
  EXPECT_EQ(reading.last, net::IoResult::Kind::kError);
  EXPECT_THAT(reading.transport.error(), HasSubstr("is revoked"));
  EXPECT_EQ(far.last, net::IoResult::Kind::kReset) << "and the peer notices";
  EXPECT_EQ(other.readable, 0) << "the same identity with another certificate";
  const uint8_t byte = 'x';
  iovec data{const_cast<uint8_t*>(&byte), 1};
  EXPECT_EQ(reading.transport.Write({&data, 1}).kind, net::IoResult::Kind::kError);
  EXPECT_TRUE(other.transport.Write({&data, 1}).ok());
}

TEST_F(PeerVerifierTest, AWriterLearnsOfItToo) {
  Pair pair = Connect();
  Owner owner(*(*pair.server)->transport);
  server_.verifier.SetRevocations(ListOf({&middle_}, {alice_.certificate}));
  server_.verifier.EndRevoked();
  owner.transport.WriteEnable(true);
  Turn();
  EXPECT_EQ(owner.writable, 1);
}

TEST_F(PeerVerifierTest, AChainIsVerifiedOnce) {
  for (int i = 0; i < 3; ++i) {
    Pair pair = Connect();
    ASSERT_TRUE(*pair.client && *pair.server);
    EXPECT_EQ((*pair.server)->peer.identity, kAlice);
    EXPECT_EQ((*pair.server)->peer.verified->path.size(), 3u);
  }
  EXPECT_EQ(server_.verifier.counters().verified, 1u);
  EXPECT_EQ(server_.verifier.counters().remembered, 2u);
  // A list counts for what is remembered as well.
  server_.verifier.SetRevocations(ListOf({&middle_}, {alice_.certificate}));
  EXPECT_FALSE(*Connect().server);
}

TEST_F(PeerVerifierTest, OtherRootsAreAnotherQuestion) {
  ASSERT_TRUE(*Connect().server);
  const TestCa other = TestCa::Make("elsewhere");
  HandshakeOptions client, server;
  client.peer.uris = {kBob};
  server.shared = &server_;
  Pair pair = testing::Shake(loop_, Context(alice_, root_), client, Context(bob_, other), server,
                             net::MakePipe(loop_));
  ASSERT_TRUE(pair.server && !*pair.server);
  EXPECT_EQ(pair.server->error().sys_errno, kUnknownIssuer);
}

TEST(PeerVerifier, WhatIsRememberedEndsWithTheCertificateAndIsBounded) {
  PeerVerifier verifier(4);
  const Time now = Now();
  const auto key = [](uint8_t i) {
    PeerVerifier::Key out{};
    out[0] = i;
    return out;
  };
  const auto peer = std::make_shared<VerifiedPeer>(VerifiedPeer{{}, {}, now - 60s, now + 60s});
  verifier.Remember(key(0), peer);
  EXPECT_EQ(verifier.Find(key(0), now), peer);
  EXPECT_EQ(verifier.Find(key(0), now - 61s), nullptr) << "the clock was set back";
  verifier.Remember(key(0), peer);
  EXPECT_EQ(verifier.Find(key(0), now + 61s), nullptr);
  EXPECT_EQ(verifier.Find(key(0), now), nullptr) << "and stays forgotten";
  for (uint8_t i = 1; i <= 100; ++i) {
    verifier.Remember(key(i), peer);
    EXPECT_NE(verifier.Find(key(1), now), nullptr) << "what is asked for stays";
  }
  size_t left = 0;
  for (uint8_t i = 1; i <= 100; ++i) left += verifier.Find(key(i), now) != nullptr ? 1 : 0;
  EXPECT_LE(left, 5u);
}

}  // namespace
}  // namespace qanat::tls
