// SPDX-License-Identifier: Apache-2.0
// TLS over any net::Transport. TlsHandshake turns a connected transport into a TlsConnection whose
// transport carries plaintext; TlsConnector does connect() and handshake in one. Each lives on the
// loop of the transport it was given.
//
// Semantics of the resulting transport: close_notify is kEof and ShutdownWrite() sends it (then
// FIN); a FIN without close_notify is kReset, since bytes may be missing; Abort() is RST. error()
// names the alert that the peer sent (with TLS 1.3 a client learns only at its first read that the
// server refused its certificate).
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/net/socket.h"
#include "common/net/transport.h"
#include "common/tls/handshake_shared.h"
#include "common/tls/tls_context.h"
#include "common/tls/verified_peer.h"

namespace qanat::tls {

enum class Role { kClient, kServer };

// What a handshake demands of the peer's certificate, besides a chain to the context's roots, the
// extended key usage for its role, and being valid now.
struct PeerPolicy {
  // Client: at least one URI SAN must equal one of these (mesh peers) ...
  std::vector<std::string> uris;
  // ... or one DNS SAN (left-most wildcard label allowed) or IP SAN one of these (servers known by
  // name). With both lists empty a client refuses every server: say explicitly whom you expect.
  std::vector<std::string> names;
  // Server: the client must present a certificate with exactly one SPIFFE URI (X.509-SVID 4.1)
  // of the server's own trust domain. kOptional takes clients without certificate, never with a bad
  // one; kNone does not ask.
  enum class ClientCertificate { kRequired, kOptional, kNone };
  ClientCertificate client_certificate = ClientCertificate::kRequired;
  // Server: also accept these trust domains.
  std::vector<std::string> trust_domains;
};

struct HandshakeOptions {
  Role role = Role::kClient;
  PeerPolicy peer;
  std::string server_name;  // SNI; empty sends none, as mesh peers do
  // Client: where the server is; "" resumes nothing. TlsConnector fills it in.
  std::string ticket_address;
  std::chrono::milliseconds timeout{10000};
  // Of the loop, or none: then nobody is revoked, nothing is remembered and nobody waits.
  HandshakeShared* shared = nullptr;
};

// Facts about an established connection.
struct PeerInfo {
  std::string identity;  // the peer's SPIFFE id; "" when it has none
  SubjectAltNames sans;  // of the peer's leaf
  Certificate leaf;      // unset when the peer sent none
  VerifiedPeerPtr verified;
  std::string alpn;
  std::string version;  // "TLSv1.3"
  std::string group;    // "X25519MLKEM768"
  std::string cipher;
  bool resumed = false;
};

struct TlsConnection {
  net::TransportPtr transport;
  PeerInfo peer;
};

// Runs one handshake. Calls `done` exactly once, never from inside the constructor; destroying the
// object before that cancels and closes. `done` may destroy the object.
// Errors: kUnauthenticated (the certificate was refused, by us or by the peer: the message says by
// whom and why, with the names seen and wanted), kDeadlineExceeded, kUnavailable (the connection
// ended), kInvalidArgument (what came is not TLS or nothing in common), kResourceExhausted (there
// are too many handshakes). Error::sys_errno may be kRevoked or kUnknownIssuer (x509.h).
class TlsHandshake {
 public:
  using Done = std::function<void(Result<TlsConnection>)>;
  TlsHandshake(net::TransportPtr transport, TlsContextPtr context, HandshakeOptions options,
               Done done);
  ~TlsHandshake();
  TlsHandshake(const TlsHandshake&) = delete;
  TlsHandshake& operator=(const TlsHandshake&) = delete;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// net::Connector and a client TlsHandshake one after the other, with the same contract.
class TlsConnector : public event::Deferred {
 public:
  using Done = TlsHandshake::Done;
  TlsConnector(event::EventLoop& loop, const net::ConnectOptions& connect, TlsContextPtr context,
               HandshakeOptions options, Done done);
  ~TlsConnector() override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::tls
