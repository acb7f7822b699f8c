// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: who the peer of a handshake is, and whether that is whom we want.
#pragma once

#include "common/tls/boring.h"
#include "common/tls/tls_transport.h"

namespace qanat::tls {

// Checks the certificates that the peer presented (null: none). On success fills identity, sans,
// leaf and verified of `peer`; otherwise `alert` is what the peer will be told. `verifier` may be
// null.
Status VerifyPeer(const STACK_OF(CRYPTO_BUFFER) * chain, const TlsContext& context, Role role,
                  const PeerPolicy& policy, PeerVerifier* verifier, Time now, PeerInfo& peer,
                  uint8_t* alert);
// The error of a handshake with a peer whose certificate is revoked.
Error RevokedError(std::string why);

// What an alert from the peer means, in words: "the peer refused our certificate: ...".
std::string AlertText(int alert);
Error ExplainAlert(int alert);
// For an error queue entry (SSL_ERROR_SSL): code and words. Empties the queue.
Error ExplainSslError(std::string_view doing);

}  // namespace qanat::tls
