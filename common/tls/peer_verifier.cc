// SPDX-License-Identifier: Apache-2.0
#include "common/tls/peer_verifier.h"

#include <cstring>

namespace qanat::tls {

size_t PeerVerifier::KeyHash::operator()(const Key& key) const {
  size_t out;  // of a SHA-256: any part is as good as all
  std::memcpy(&out, key.data(), sizeof out);
  return out;
}

void PeerVerifier::SetRevocations(RevocationListPtr lists) {
  lists_ = std::move(lists);
  ++generation_;
}

std::optional<std::string> PeerVerifier::Revoked(const VerifiedPeer& peer) const {
  if (lists_ == nullptr) return std::nullopt;
  return lists_->Revoked(peer.path);
}

size_t PeerVerifier::EndRevoked() {
  size_t ended = 0;
  for (Live* connection : live_->all) {
    if (const auto why = Revoked(connection->proven())) {
      connection->Revoke(*why);
      ++ended;
    }
  }
  return ended;
}

VerifiedPeerPtr PeerVerifier::Find(const Key& key, Time now) {
  auto found = recent_.find(key);
  if (found == recent_.end()) {
    found = older_.find(key);
    if (found == older_.end()) return nullptr;
    VerifiedPeerPtr peer = std::move(found->second);
    older_.erase(found);
    found = recent_.emplace(key, std::move(peer)).first;
  }
  const VerifiedPeer& peer = *found->second;
  if (now > peer.not_after || now < peer.not_before) {
    recent_.erase(found);
    return nullptr;
  }
  ++counters_.remembered;
  return found->second;
}

void PeerVerifier::Remember(const Key& key, VerifiedPeerPtr peer) {
  ++counters_.verified;
  if (most_ == 0) return;
  if (recent_.size() >= (most_ + 1) / 2) {
    older_ = std::move(recent_);
    recent_.clear();
  }
  recent_.insert_or_assign(key, std::move(peer));
}

}  // namespace qanat::tls
