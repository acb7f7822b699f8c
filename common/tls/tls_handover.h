// SPDX-License-Identifier: Apache-2.0
// An established TLS 1.3 connection that stands still, as a value: what another process, or this
// one again, needs to go on with it. Only one of them may: sequence numbers are used once. It is
// made of connections that are whole: one that is at its end, or has failed, or whose records are
// BoringSSL's (TLS 1.2), stays where it is.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/base/wiped_string.h"
#include "common/net/transport.h"
#include "common/tls/peer_verifier.h"
#include "common/tls/tls_state.h"
#include "common/tls/verified_peer.h"

namespace qanat::tls {

struct TlsHandover {
  TlsState state;
  std::vector<uint8_t> plaintext;  // opened, and not read by the user
  std::vector<uint8_t> received;   // not opened
  std::vector<uint8_t> unsent;     // sealed, and not sent: the rest of a record, perhaps
  uint64_t sent_small = 0;         // bytes that went in small records, since the last pause
  VerifiedPeerPtr peer;
  Fd socket;  // none: it is inside of another connection
};

// Takes all out of a transport that a handshake made, which seals and opens nothing from then on,
// and may only be destroyed. Nothing, and no change, where that cannot be.
std::optional<TlsHandover> Export(net::Transport& transport);
// What carries the bytes of a connection that could be exported now; null for any other.
const net::Transport* CarrierOf(const net::Transport& transport);
// As Export(), of a connection inside of another one, which has to stand still by itself.
std::optional<TlsHandover> ExportInner(net::Transport& transport);
// The same connection. Fails for what DecodeTls() would not have given. `verifier` may be null.
Result<net::TransportPtr> Import(event::EventLoop& loop, TlsHandover from,
                                 const PeerVerifier* verifier);
// ... inside of another one: over `carrier`.
Result<net::TransportPtr> ImportInner(net::TransportPtr carrier, TlsHandover from,
                                      const PeerVerifier* verifier);

// Everything but the socket. What is decoded can be imported.
WipedString EncodeTls(const TlsHandover& from);
Result<TlsHandover> DecodeTls(std::string_view bytes);

}  // namespace qanat::tls
