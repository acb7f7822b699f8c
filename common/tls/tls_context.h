// SPDX-License-Identifier: Apache-2.0
// What a TLS endpoint is made of: own certificate and key, roots, protocol choices. Immutable; one
// per (identity, role), shared by all connections and threads. A renewed certificate is a new
// context; connections keep the one they began with.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/tls/crypto.h"
#include "common/tls/x509.h"

namespace qanat::tls {

struct ContextOptions {
  // Own certificate, leaf first, and its key. A server must have one; a client may do without
  // (towards the control plane: server authentication only, the token is the caller's proof).
  std::vector<Certificate> chain;
  PrivateKey key;
  // Whom to believe. A client must have roots.
  std::vector<Certificate> roots;
  // In order of preference; the handshake fails when nothing is agreed on, unless this is empty.
  std::vector<std::string> alpn = {"h2"};
  // TLS 1.3 only by default (stock ztunnel: TLS12_ENABLED adds 1.2 with ECDHE and AES-GCM).
  bool allow_tls12 = false;
  // Nothing that a quantum computer could read later: X25519MLKEM768 is the only group, and there
  // is no TLS 1.2 whatever allow_tls12 says (COMPLIANCE_POLICY=pqc).
  bool post_quantum_only = false;
  // As a server, give tickets; as a client with a TicketStore, use them (tickets.h). Needs a
  // certificate; without effect where TLS 1.2 is allowed.
  bool resumption = false;
};

struct ContextImpl;

class TlsContext {
 public:
  explicit TlsContext(std::unique_ptr<const ContextImpl> impl);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // `Make` checks that key and certificate belong together. It does not look at the clock: that
  // happens in each handshake.
  static Result<std::shared_ptr<const TlsContext>> Make(ContextOptions options);
  // The same from PEM texts, as files and CA responses hold them. Empty = absent.
  static Result<std::shared_ptr<const TlsContext>> FromPem(std::string_view chain_pem,
                                                           std::string_view key_pem,
                                                           std::string_view roots_pem,
                                                           ContextOptions options = {});

  const ContextOptions& options() const;
  // The own leaf's SPIFFE id ("" without one) and its trust domain.
  const std::string& identity() const;
  const std::string& trust_domain() const;
  const ContextImpl& impl() const { return *impl_; }

 private:
  std::unique_ptr<const ContextImpl> impl_;
};

using TlsContextPtr = std::shared_ptr<const TlsContext>;

}  // namespace qanat::tls
