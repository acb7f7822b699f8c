// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: the transport that a finished handshake becomes: plaintext for its user,
// records below. It can be ended from outside when its peer's certificate is revoked.
#pragma once

#include "common/tls/peer_verifier.h"
#include "common/tls/records.h"
#include "common/tls/tls_context.h"

namespace qanat::tls {

// `context` (asked only for our own name), `peer` and `verifier` may be null.
net::TransportPtr MakeEstablished(std::unique_ptr<Records> records, TlsContextPtr context,
                                  VerifiedPeerPtr peer, const PeerVerifier* verifier,
                                  event::Duration handshake_time);

}  // namespace qanat::tls
