// SPDX-License-Identifier: Apache-2.0
// Keeps a storm of handshakes from stalling the traffic of its loop: a handshake computes for half
// a millisecond and more, so only a few steps are made in one round, and between rounds everybody
// else has a turn. The others wait in order; who has begun goes before who has not. When too many
// wait, the oldest is given up: its client has most likely done so already, and all that came later
// would only wait longer. On its loop's thread; outlives the handshakes that were given it.
#pragma once

#include <list>

#include "common/event/event_loop.h"

namespace qanat::tls {

class HandshakeGate {
 public:
  struct Options {
    size_t steps_per_round = 4;
    size_t most_waiting = 1024;  // that have not begun
  };
  // Embedded in a handshake.
  class Waiter {
   public:
    virtual void OnTurn() = 0;  // compute now
    virtual void OnShed() = 0;  // give up; may destroy itself

   protected:
    ~Waiter() = default;

   private:
    friend class HandshakeGate;
    std::list<Waiter*>* queue_ = nullptr;
    std::list<Waiter*>::iterator position_;
  };

  HandshakeGate(event::EventLoop& loop, Options options);
  explicit HandshakeGate(event::EventLoop& loop) : HandshakeGate(loop, Options{}) {}
  HandshakeGate(const HandshakeGate&) = delete;
  HandshakeGate& operator=(const HandshakeGate&) = delete;

  // True: go on at once. False: it waits (also when it did already), and OnTurn() or OnShed() is
  // called later. `begun`: it has computed before, so that giving it up would waste that.
  bool Enter(Waiter& waiter, bool begun);
  void Leave(Waiter& waiter);  // no longer interested; idempotent

  size_t waiting() const { return begun_.size() + fresh_.size(); }

 private:
  bool TakeTurn();  // one more step in this round?
  void Run();

  event::EventLoop& loop_;
  const Options options_;
  event::TimePoint round_;
  size_t used_ = 0;  // steps made in that round
  std::list<Waiter*> begun_, fresh_;
  event::Timer run_;
};

}  // namespace qanat::tls
