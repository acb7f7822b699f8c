// SPDX-License-Identifier: Apache-2.0
// Private to common/tls: tickets as BoringSSL's objects. A context's key for the tickets that it
// gives out as a server, and what a client has kept.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/tls/boring.h"
#include "common/tls/tickets.h"

namespace qanat::tls {

// Has the context give and take tickets; it must only be used with TLS 1.3.
Status EnableTickets(ContextImpl& context);

// Asked about the certificates of a session that a client wants to resume: true if the peer passes
// now. Set by the handshake for as long as it lasts.
struct TicketJudge {
  virtual bool MayResume(const STACK_OF(CRYPTO_BUFFER) * chain) = 0;

 protected:
  ~TicketJudge() = default;
};
void SetTicketJudge(SSL* ssl, TicketJudge* judge);

struct TicketStore::State {
  struct Ticket {
    bssl::UniquePtr<SSL_SESSION> session;
    VerifiedPeerPtr peer;
    Time not_after;
    size_t bytes = 0;  // about
  };
  using Map = std::unordered_map<std::string, std::vector<Ticket>>;
  static constexpr size_t kPerPeer = 4;

  // The newest that has not ended and that `good` passes; others that were in front of it are gone.
  bssl::UniquePtr<SSL_SESSION> Take(const std::string& key, Time now,
                                    const std::function<bool(const VerifiedPeer&)>& good);
  void Keep(const std::string& key, Ticket ticket);

  size_t most = 0, most_bytes = 0;
  Map recent, older;  // as PeerVerifier's: what was not asked for in a while is forgotten
  size_t recent_bytes = 0;
};

// Of a client's connection: turns NewSessionTicket messages into tickets that are kept. Holds what
// is left of the handshake, so it goes with the first data.
class TicketTaker {
 public:
  TicketTaker(std::weak_ptr<TicketStore::State> store, std::string key, VerifiedPeerPtr peer,
              Time not_after)
      : store_(std::move(store)),
        key_(std::move(key)),
        peer_(std::move(peer)),
        not_after_(not_after) {}
  void Hold(bssl::UniquePtr<SSL> ssl);
  // False: BoringSSL would end the connection for it.
  bool Take(std::span<const uint8_t> message);

 private:
  const std::weak_ptr<TicketStore::State> store_;
  const std::string key_;
  const VerifiedPeerPtr peer_;
  const Time not_after_;
  bssl::UniquePtr<SSL> ssl_;
};

}  // namespace qanat::tls
