// SPDX-License-Identifier: Apache-2.0
// For tests: BoringSSL's own connections as the oracle of our record layer. Two of them shake hands
// in memory; then one side's records go over to ours and the other one checks every byte. Header
// only; needs BoringSSL's headers, so it is for the tests of this folder and its fuzzer.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "common/tls/boring.h"
#include "common/tls/record_layer.h"
#include "common/tls/test_certs.h"

namespace qanat::tls::testing {

constexpr uint16_t kSuites[] = {0x1301, 0x1302, 0x1303};

class Oracle {
 public:
  // `ours` is the role that leaves BoringSSL.
  Oracle(uint16_t suite, Role ours, bool tickets = false) {
    static const TestCa* const ca = new TestCa(TestCa::Make());
    static const auto* const identity =
        new TestCa::Identity(ca->Issue("spiffe://cluster.local/ns/shop/sa/bob"));
    ctx_.reset(SSL_CTX_new(TLS_method()));
    SSL_CTX_set_min_proto_version(ctx_.get(), TLS1_3_VERSION);
    SSL_CTX_set1_tls13_ciphers(ctx_.get(), &suite, nullptr, 1);
    uint16_t group = SSL_GROUP_X25519;
    SSL_CTX_set1_group_ids(ctx_.get(), &group, 1);
    SSL_CTX_use_certificate(ctx_.get(), identity->certificate.impl()->cert.get());
    SSL_CTX_use_PrivateKey(ctx_.get(), identity->key.impl()->key.get());
    if (!tickets) SSL_CTX_set_options(ctx_.get(), SSL_OP_NO_TICKET);
    SSL* client = Add(true);
    SSL* server = Add(false);
    for (int i = 0; i < 10 && (SSL_in_init(client) || SSL_in_init(server)); ++i) {
      SSL_do_handshake(client);
      Carry(client, server);
      SSL_do_handshake(server);
      Carry(server, client);
    }
    ours_ = ours == Role::kClient ? client : server;
    theirs_ = ours == Role::kClient ? server : client;
  }

  SSL* ours() { return ours_; }
  SSL* peer() { return theirs_; }
  // Ours is another's from now on.
  bssl::UniquePtr<SSL> TakeOurs() { return std::move(ours_ == client_.get() ? client_ : server_); }
  static void Carry(SSL* from, SSL* to) {
    std::vector<uint8_t> bytes = Wire(from);
    BIO_write(SSL_get_rbio(to), bytes.data(), static_cast<int>(bytes.size()));
  }
  // What a side wants to send.
  static std::vector<uint8_t> Wire(SSL* ssl) {
    std::vector<uint8_t> out(BIO_pending(SSL_get_wbio(ssl)));
    if (!out.empty()) BIO_read(SSL_get_wbio(ssl), out.data(), static_cast<int>(out.size()));
    return out;
  }
  void ToPeer(std::span<const uint8_t> bytes) {
    BIO_write(SSL_get_rbio(theirs_), bytes.data(), static_cast<int>(bytes.size()));
  }
  // Everything the peer can read now; `error` gets SSL_get_error of the end.
  std::string PeerReads(int* error = nullptr) {
    std::string out;
    char buffer[20000];
    for (;;) {
      ERR_clear_error();
      int n = SSL_read(theirs_, buffer, sizeof buffer);
      if (n <= 0) {
        if (error != nullptr) *error = SSL_get_error(theirs_, n);
        return out;
      }
      out.append(buffer, static_cast<size_t>(n));
    }
  }
  std::vector<uint8_t> PeerWrites(std::string_view text) {
    ERR_clear_error();
    SSL_write(theirs_, text.data(), static_cast<int>(text.size()));
    return Wire(theirs_);
  }

 private:
  SSL* Add(bool client) {
    bssl::UniquePtr<SSL>& ssl = client ? client_ : server_;
    ssl.reset(SSL_new(ctx_.get()));
    BIO* in = BIO_new(BIO_s_mem());
    BIO* out = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(in, -1);
    SSL_set_bio(ssl.get(), in, out);
    if (client) {
      SSL_set_connect_state(ssl.get());
    } else {
      SSL_set_accept_state(ssl.get());
    }
    return ssl.get();
  }

  bssl::UniquePtr<SSL_CTX> ctx_;
  bssl::UniquePtr<SSL> client_;
  bssl::UniquePtr<SSL> server_;
  SSL* ours_ = nullptr;
  SSL* theirs_ = nullptr;
};

}  // namespace qanat::tls::testing
