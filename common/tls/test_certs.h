// SPDX-License-Identifier: Apache-2.0
// For tests: a CA and identities made on the spot, contexts for both ends of a connection, and a
// handshake over an in-memory pipe. Header only, so that no product links it.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "common/event/event_loop.h"
#include "common/net/transport.h"
#include "common/tls/tls_context.h"
#include "common/tls/tls_transport.h"
#include "common/tls/x509.h"

namespace qanat::tls::testing {

inline Time Now() { return std::chrono::system_clock::now(); }

struct TestCa {
  Authority authority;

  static TestCa Make(std::string_view organization = "cluster.local") {
    auto key = PrivateKey::GenerateP256();
    return {*MakeRoot(*key, organization, "test root", Now() - std::chrono::hours(1),
                      Now() + std::chrono::hours(1000))};
  }

  struct Identity {
    Certificate certificate;
    PrivateKey key;
  };
  Identity Issue(RequestNames names, Usage usage = Usage::kBoth,
                 std::chrono::seconds begin = std::chrono::seconds(-60),
                 std::chrono::seconds end = std::chrono::seconds(3600)) const {
    auto key = PrivateKey::GenerateP256();
    LeafTemplate leaf;
    leaf.key = key->public_key();
    leaf.names = std::move(names);
    leaf.not_before = Now() + begin;
    leaf.not_after = Now() + end;
    leaf.usage = usage;
    auto cert = SignLeaf(authority, leaf);
    return {cert.value(), key.value()};
  }
  Identity Issue(std::string spiffe) const {
    return Issue(RequestNames{{std::move(spiffe)}, {}, {}});
  }

  // A context that has this identity and trusts this CA.
  TlsContextPtr Context(const Identity& identity) const {
    ContextOptions options;
    options.chain = {identity.certificate};
    options.key = identity.key;
    options.roots = {authority.certificate};
    return TlsContext::Make(std::move(options)).value();
  }
  TlsContextPtr Context(std::string spiffe) const { return Context(Issue(std::move(spiffe))); }
};

// Runs both ends over `pipe` until both have an outcome (or two seconds have passed).
struct Pair {
  std::optional<Result<TlsConnection>> client;
  std::optional<Result<TlsConnection>> server;
};
inline Pair Shake(event::EventLoop& loop, TlsContextPtr client_context, HandshakeOptions client,
                  TlsContextPtr server_context, HandshakeOptions server,
                  std::pair<net::TransportPtr, net::TransportPtr> pipe) {
  Pair out;
  client.role = Role::kClient;
  server.role = Role::kServer;
  TlsHandshake c(std::move(pipe.first), std::move(client_context), std::move(client),
                 [&](Result<TlsConnection> r) { out.client = std::move(r); });
  TlsHandshake s(std::move(pipe.second), std::move(server_context), std::move(server),
                 [&](Result<TlsConnection> r) { out.server = std::move(r); });
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  while ((!out.client || !out.server) && std::chrono::steady_clock::now() < end) {
    loop.RunOnce(std::chrono::milliseconds(10));
  }
  return out;
}

}  // namespace qanat::tls::testing
