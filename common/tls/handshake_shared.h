// SPDX-License-Identifier: Apache-2.0
// What the handshakes of one event loop share. Made and destroyed on the loop's thread; outlives
// the handshakes that were given it (the connections that they became may outlive it).
#pragma once

#include <functional>

#include "common/tls/handshake_gate.h"
#include "common/tls/peer_verifier.h"
#include "common/tls/tickets.h"

namespace qanat::tls {

// How one handshake went, for counters.
struct HandshakeOutcome {
  enum class Kind : uint8_t { kOk, kFailed, kTimeout, kShed };
  bool server = false;
  Kind kind = Kind::kFailed;
  bool resumed = false;
  event::Duration duration{};  // from the first byte that could have been sent
};

struct HandshakeShared {
  explicit HandshakeShared(event::EventLoop& loop, HandshakeGate::Options options = {})
      : gate(loop, options) {}

  PeerVerifier verifier;
  HandshakeGate gate;
  TicketStore tickets;
  std::function<void(const HandshakeOutcome&)> on_outcome;  // before the handshake's `done`
};

}  // namespace qanat::tls
