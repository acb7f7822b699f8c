// SPDX-License-Identifier: Apache-2.0
// Private to the pool: what it has for one key, tunnels, dials and the line of streams that wait.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/client_session.h"
#include "common/hbone/placement.h"
#include "common/hbone/pool.h"

namespace qanat::hbone {

struct Tunnel {
  uint64_t id = 0;
  std::unique_ptr<ClientSession> session;
  std::unique_ptr<event::Timer> idle;
  bool leaving = false;  // drains: never offered again
  bool over = false;

  void Drain() {
    leaving = true;
    idle->Stop();
    session->Drain();
  }
};

// One stream that somebody wants: waits for a tunnel, then for the peer's answer.
struct Want : std::enable_shared_from_this<Want> {
  PoolKey key;
  ConnectRequest request;
  ClientSession::OnResponse done;
  std::unique_ptr<PendingConnect> pending;  // once it is on a tunnel
  event::TimePoint since;                   // when it was wanted
  int tries = 0;                            // that count
  // On its tunnel: how many streams there are with it, and did the peer's limit come before?
  size_t position = 0;
  bool limit_known = true;
};
using WantPtr = std::shared_ptr<Want>;

class WantHandle final : public PendingConnect {
 public:
  explicit WantHandle(WantPtr want) : want_(std::move(want)) {}
  ~WantHandle() override {
    want_->done = nullptr;
    want_->pending.reset();
  }

 private:
  WantPtr want_;
};

struct Dialing {
  uint64_t id = 0;
  bool stripe = false;
  std::unique_ptr<event::Deferred> dial;
  std::unique_ptr<event::Timer> deadline;
};

struct Entry {
  bool queued = false;  // Sweep() will look at it
  bool shared = false;  // as its key; nothing waits in its line
  std::list<Tunnel> tunnels;
  std::vector<Dialing> dials;
  std::list<WantPtr> waiting;          // who has waited longest first
  std::optional<uint32_t> peer_limit;  // what the peer said last, good for tunnels to come
  std::unique_ptr<event::Timer> line;  // when the line has to be looked at again
  event::TimePoint no_dial_before{}, no_stripe_before{};
  size_t published[3] = {0, 0, 0};  // tunnels, dials, waiting, as they are in the counters

  void Publish(PoolCounters& counters) {
    const size_t now[3] = {tunnels.size(), dials.size(), waiting.size()};
    std::atomic<int64_t>* const gauges[3] = {&counters.tunnels, &counters.dialing,
                                             &counters.waiting};
    for (size_t i = 0; i < 3; ++i) {
      if (now[i] == published[i]) continue;
      Count(*gauges[i], static_cast<int64_t>(now[i]) - static_cast<int64_t>(published[i]));
      published[i] = now[i];
    }
  }
};

}  // namespace qanat::hbone
