// SPDX-License-Identifier: Apache-2.0
// Session tickets of TLS 1.3, both sides. A server of ours puts all that a resumption needs into
// the ticket (RFC 8446 4.6.1), sealed with a key that is its context's alone: another certificate,
// another identity or other roots are another context, for which the ticket is noise. A client of
// ours keeps tickets of our own kind of server only, for one context, one address and one set of
// expected names. Whoever resumes is verified again from the certificates that the session began
// with: chain, dates, names, roots and revocation lists as they are now. What does not pass is not
// refused but ignored, and the handshake goes its full way, with its own reasons.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/tls/verified_peer.h"

namespace qanat::tls {

class TlsContext;
struct PeerPolicy;

// Tickets that a client holds, each for one use. Of one event loop.
class TicketStore {
 public:
  explicit TicketStore(size_t most_peers = 2048, size_t most_bytes = 4u << 20);
  ~TicketStore();
  TicketStore(const TicketStore&) = delete;
  TicketStore& operator=(const TicketStore&) = delete;

  void Clear();  // other roots, another certificate
  size_t size() const;

  // Private to common/tls; connections may outlive the loop's other objects for a round: shared.
  struct State;
  const std::shared_ptr<State>& state() const { return state_; }

 private:
  std::shared_ptr<State> state_;
};

// What a ticket is good for: this very context, that address, and whom the client expects there.
std::string TicketKey(const TlsContext& context, const std::string& address,
                      const std::string& server_name, const PeerPolicy& policy);

}  // namespace qanat::tls
