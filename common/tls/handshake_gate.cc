// SPDX-License-Identifier: Apache-2.0
#include "common/tls/handshake_gate.h"

#include <utility>

namespace qanat::tls {

HandshakeGate::HandshakeGate(event::EventLoop& loop, Options options)
    : loop_(loop), options_(options), run_(loop, [this] { Run(); }) {}

bool HandshakeGate::TakeTurn() {
  if (loop_.now() != round_) {
    round_ = loop_.now();
    used_ = 0;
  }
  if (used_ >= options_.steps_per_round) return false;
  ++used_;
  return true;
}

bool HandshakeGate::Enter(Waiter& waiter, bool begun) {
  if (waiter.queue_ != nullptr) return false;
  std::list<Waiter*>& queue = begun ? begun_ : fresh_;
  // Nobody overtakes those who wait for the same.
  const bool first = begun_.empty() && (begun || fresh_.empty());
  if (first && TakeTurn()) return true;
  waiter.queue_ = &queue;
  waiter.position_ = queue.insert(queue.end(), &waiter);
  if (!run_.armed()) run_.Start({});
  if (fresh_.size() > options_.most_waiting) {
    Waiter* oldest = fresh_.front();
    Leave(*oldest);
    oldest->OnShed();
  }
  return false;
}

void HandshakeGate::Leave(Waiter& waiter) {
  if (waiter.queue_ == nullptr) return;
  std::exchange(waiter.queue_, nullptr)->erase(waiter.position_);
}

void HandshakeGate::Run() {
  while (waiting() > 0 && TakeTurn()) {
    Waiter* next = begun_.empty() ? fresh_.front() : begun_.front();
    Leave(*next);
    next->OnTurn();
  }
  if (waiting() > 0 && !run_.armed()) run_.Start({});
}

}  // namespace qanat::tls
