// SPDX-License-Identifier: Apache-2.0
// What the connections of one event loop share about certificates: the revocation lists in force,
// the chains that were verified before, and the live connections that rest on them. On its loop's
// thread; outlives the handshakes that were given it.
//
// A chain is remembered under a hash of the certificates as they came, what they are to be used for
// and the roots, until the first certificate of its path ends. Revocation is no part of what is
// remembered: it is asked once for each generation of the lists.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "common/tls/revocation.h"
#include "common/tls/verified_peer.h"

namespace qanat::tls {

class PeerVerifier {
 public:
  explicit PeerVerifier(size_t most_remembered = 2048) : most_(most_remembered) {}
  PeerVerifier(const PeerVerifier&) = delete;
  PeerVerifier& operator=(const PeerVerifier&) = delete;

  // The lists that count from now on; null: none. Live connections go on until EndRevoked().
  void SetRevocations(RevocationListPtr lists);
  const RevocationListPtr& revocations() const { return lists_; }
  // Why the peer counts as revoked now, in words; nothing if it does not.
  std::optional<std::string> Revoked(const VerifiedPeer& peer) const;
  // Ends every live connection whose peer is revoked: it is aborted, and its owner reads an error
  // that says why. Never calls the owner from inside. Returns how many.
  size_t EndRevoked();

  // Called when this side refuses a peer whose certificate leads to no root it knows, or is refused
  // so itself: one of the two may not have heard of a new root. With the own identity.
  void OnUnknownIssuer(std::function<void(const std::string& own)> call) {
    live_->on_unknown_issuer = std::move(call);
  }

  // ---- for handshakes (private to common/tls)

  using Key = std::array<uint8_t, 32>;
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  VerifiedPeerPtr Find(const Key& key, Time now);
  void Remember(const Key& key, VerifiedPeerPtr peer);
  // Changes with every SetRevocations().
  uint64_t generation() const { return generation_; }

  class Live {
   public:
    virtual const VerifiedPeer& proven() const = 0;
    virtual void Revoke(const std::string& why) = 0;

   protected:
    ~Live() = default;
  };
  // Connections may outlive their loop's other objects for the rest of a round: shared.
  struct LiveSet {
    std::unordered_set<Live*> all;
    std::function<void(const std::string&)> on_unknown_issuer;
  };
  const std::shared_ptr<LiveSet>& live() const { return live_; }

  struct Counters {
    uint64_t verified = 0;    // with signatures and all
    uint64_t remembered = 0;  // saved
  };
  const Counters& counters() const { return counters_; }

 private:
  using Map = std::unordered_map<Key, VerifiedPeerPtr, KeyHash>;

  const size_t most_;
  RevocationListPtr lists_;
  uint64_t generation_ = 0;
  Map recent_, older_;  // what was not asked for while `recent_` filled up is forgotten
  std::shared_ptr<LiveSet> live_ = std::make_shared<LiveSet>();
  Counters counters_;
};

}  // namespace qanat::tls
