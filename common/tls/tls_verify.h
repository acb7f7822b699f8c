// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: who the peer of a handshake is, and whether that is whom we want.
#pragma once

#include "common/tls/boring.h"
#include "common/tls/tls_transport.h"

namespace qanat::tls {

// Checks the certificates that the peer of `ssl` presented. On success fills identity, sans and
// leaf of `peer`; otherwise `alert` is what the peer will be told.
Status VerifyPeer(const SSL* ssl, const TlsContext& context, Role role, const PeerPolicy& policy,
                  Time now, PeerInfo& peer, uint8_t* alert);

// What an alert from the peer means, in words: "the peer refused our certificate: ...".
std::string AlertText(int alert);
// For an error queue entry (SSL_ERROR_SSL): code and words. Empties the queue.
Error ExplainSslError(std::string_view doing);

}  // namespace qanat::tls
