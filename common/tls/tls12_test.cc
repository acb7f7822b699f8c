// SPDX-License-Identifier: Apache-2.0
// BoringSSL itself as the other end: what our context refuses and what its options allow.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "common/tls/boring.h"
#include "common/tls/test_certs.h"

namespace qanat::tls {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TestCa;

constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";

// A client made of BoringSSL alone with these versions and groups, against our server.
struct Outcome {
  std::optional<Result<TlsConnection>> server;
  std::string client_error;
  uint16_t group = 0;
};
Outcome Shake12(event::EventLoop& loop, TlsContextPtr context, uint16_t max_version,
                std::vector<uint16_t> groups, const TestCa& ca) {
  int fds[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  Fd client_fd(fds[0]);
  Outcome out;
  HandshakeOptions options;
  options.role = Role::kServer;
  TlsHandshake handshake(net::MakeSocketTransport(loop, Fd(fds[1])), std::move(context), options,
                         [&](Result<TlsConnection> r) { out.server = std::move(r); });
  bssl::UniquePtr<SSL_CTX> ctx(SSL_CTX_new(TLS_method()));
  SSL_CTX_set_max_proto_version(ctx.get(), max_version);
  auto alice = ca.Issue("spiffe://cluster.local/ns/shop/sa/alice");
  SSL_CTX_use_certificate(ctx.get(), alice.certificate.impl()->cert.get());
  SSL_CTX_use_PrivateKey(ctx.get(), alice.key.impl()->key.get());
  SSL_CTX_set_alpn_protos(ctx.get(), reinterpret_cast<const uint8_t*>("\2h2"), 3);
  bssl::UniquePtr<SSL> ssl(SSL_new(ctx.get()));
  if (!groups.empty()) SSL_set1_group_ids(ssl.get(), groups.data(), groups.size());
  SSL_set_fd(ssl.get(), client_fd.get());
  SSL_set_connect_state(ssl.get());
  bool client_done = false;
  for (int i = 0; i < 400 && (!out.server || !client_done); ++i) {
    if (!client_done) {
      ERR_clear_error();
      int r = SSL_do_handshake(ssl.get());
      int why = SSL_get_error(ssl.get(), r);
      if (r == 1) {
        client_done = true;
        out.group = SSL_get_group_id(ssl.get());
      } else if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
        client_done = true;
        out.client_error = TakeSslError();
        client_fd.Reset();
      }
    }
    loop.RunOnce(std::chrono::milliseconds(2));
  }
  return out;
}

class OldTlsTest : public ::testing::Test {
 protected:
  TlsContextPtr Context(bool allow_tls12, bool post_quantum_only = false) {
    auto bob = ca_.Issue(kBob);
    ContextOptions options;
    options.chain = {bob.certificate};
    options.key = bob.key;
    options.roots = {ca_.authority.certificate};
    options.allow_tls12 = allow_tls12;
    options.post_quantum_only = post_quantum_only;
    return *TlsContext::Make(std::move(options));
  }
  event::EventLoop loop_;
  TestCa ca_ = TestCa::Make();
};

TEST_F(OldTlsTest, Tls12IsRefusedByDefault) {
  Outcome out = Shake12(loop_, Context(false), TLS1_2_VERSION, {}, ca_);
  ASSERT_TRUE(out.server && !*out.server);
  EXPECT_THAT(out.server->error().message, HasSubstr("does not speak TLS 1.3"));
  EXPECT_THAT(out.client_error, HasSubstr("PROTOCOL_VERSION"));
}

TEST_F(OldTlsTest, Tls12WhereAllowed) {
  Outcome out = Shake12(loop_, Context(true), TLS1_2_VERSION, {}, ca_);
  ASSERT_TRUE(out.server && *out.server) << out.server->error().message;
  EXPECT_EQ((*out.server)->peer.version, "TLSv1.2");
  EXPECT_THAT((*out.server)->peer.cipher, HasSubstr("GCM"));
  EXPECT_EQ((*out.server)->peer.identity, "spiffe://cluster.local/ns/shop/sa/alice");
}

TEST_F(OldTlsTest, GroupsInOurOrder) {
  EXPECT_EQ(Shake12(loop_, Context(false), TLS1_3_VERSION,
                    {SSL_GROUP_SECP256R1, SSL_GROUP_X25519, SSL_GROUP_X25519_MLKEM768}, ca_)
                .group,
            SSL_GROUP_X25519_MLKEM768);
  EXPECT_EQ(Shake12(loop_, Context(false), TLS1_3_VERSION, {SSL_GROUP_SECP256R1}, ca_).group,
            SSL_GROUP_SECP256R1);
  EXPECT_EQ(Shake12(loop_, Context(false), TLS1_3_VERSION, {SSL_GROUP_SECP384R1}, ca_).group,
            SSL_GROUP_SECP384R1);
  Outcome out = Shake12(loop_, Context(false), TLS1_3_VERSION, {SSL_GROUP_SECP521R1}, ca_);
  ASSERT_FALSE(*out.server);
  EXPECT_THAT(out.server->error().message, HasSubstr("no key exchange group"));
}

// The client's order is BoringSSL's: AES-128 before AES-256, or ChaCha20 where the CPU has no AES.
TEST_F(OldTlsTest, SuitesInOurOrder) {
  Outcome out = Shake12(loop_, Context(false), TLS1_3_VERSION, {}, ca_);
  ASSERT_TRUE(out.server && *out.server) << out.client_error;
  EXPECT_EQ((*out.server)->peer.cipher, "TLS_AES_256_GCM_SHA384");
  out = Shake12(loop_, Context(true), TLS1_2_VERSION, {}, ca_);
  ASSERT_TRUE(out.server && *out.server) << out.client_error;
  EXPECT_EQ((*out.server)->peer.cipher, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
}

// What a client of ours offers, as the other end reads it.
struct Offer {
  std::vector<uint16_t> suites, groups;
};
std::vector<uint16_t> Numbers(const uint8_t* bytes, size_t size) {
  std::vector<uint16_t> out;
  for (; size >= 2; bytes += 2, size -= 2) {
    out.push_back(static_cast<uint16_t>(bytes[0] << 8 | bytes[1]));
  }
  return out;
}
ssl_select_cert_result_t NoteOffer(const SSL_CLIENT_HELLO* hello) {
  auto& offer = *static_cast<Offer*>(SSL_get_app_data(hello->ssl));
  offer.suites = Numbers(hello->cipher_suites, hello->cipher_suites_len);
  const uint8_t* groups = nullptr;
  size_t size = 0;
  if (SSL_early_callback_ctx_extension_get(hello, TLSEXT_TYPE_supported_groups, &groups, &size) ==
      1) {
    offer.groups = Numbers(groups + 2, size - 2);
  }
  return ssl_select_cert_error;
}

TEST_F(OldTlsTest, WhatAClientOffers) {
  const auto offered = [&](TlsContextPtr context) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    Fd server(fds[0]);
    HandshakeOptions options;
    options.peer.uris = {kBob};
    TlsHandshake handshake(net::MakeSocketTransport(loop_, Fd(fds[1])), std::move(context), options,
                           [](const Result<TlsConnection>&) {});
    Offer offer;
    bssl::UniquePtr<SSL_CTX> ctx(SSL_CTX_new(TLS_method()));
    SSL_CTX_set_select_certificate_cb(ctx.get(), NoteOffer);
    bssl::UniquePtr<SSL> ssl(SSL_new(ctx.get()));
    SSL_set_app_data(ssl.get(), &offer);
    SSL_set_fd(ssl.get(), server.get());
    SSL_set_accept_state(ssl.get());
    for (int i = 0; i < 400 && offer.suites.empty(); ++i) {
      loop_.RunOnce(std::chrono::milliseconds(2));
      SSL_do_handshake(ssl.get());
    }
    ERR_clear_error();
    return offer;
  };
  Offer offer = offered(Context(false));
  EXPECT_THAT(offer.suites, ElementsAre(0x1302, 0x1301));
  EXPECT_THAT(offer.groups, ElementsAre(SSL_GROUP_X25519_MLKEM768, SSL_GROUP_X25519,
                                        SSL_GROUP_SECP256R1, SSL_GROUP_SECP384R1));
  offer = offered(Context(true));
  EXPECT_THAT(offer.suites, ElementsAre(0x1302, 0x1301, 0xc02c, 0xc02b, 0xc030, 0xc02f));
  offer = offered(Context(true, true));
  EXPECT_THAT(offer.suites, ElementsAre(0x1302, 0x1301));
  EXPECT_THAT(offer.groups, ElementsAre(SSL_GROUP_X25519_MLKEM768));
}

TEST_F(OldTlsTest, PostQuantumOnly) {
  Outcome out = Shake12(loop_, Context(true, true), TLS1_3_VERSION,
                        {SSL_GROUP_X25519, SSL_GROUP_X25519_MLKEM768}, ca_);
  ASSERT_TRUE(*out.server) << out.server->error().message;
  EXPECT_EQ(out.group, SSL_GROUP_X25519_MLKEM768);
  EXPECT_EQ((*out.server)->peer.cipher, "TLS_AES_256_GCM_SHA384");
  out = Shake12(loop_, Context(true, true), TLS1_3_VERSION, {SSL_GROUP_X25519, SSL_GROUP_SECP256R1},
                ca_);
  ASSERT_FALSE(*out.server);
  EXPECT_THAT(out.server->error().message, HasSubstr("no key exchange group"));
  out = Shake12(loop_, Context(true, true), TLS1_2_VERSION, {}, ca_);
  EXPECT_FALSE(*out.server) << "TLS12_ENABLED does not open a way around it";
}

}  // namespace
}  // namespace qanat::tls
