// SPDX-License-Identifier: Apache-2.0
// Private to the pool: its state and steps. What waits, and for which tunnel, is in pool.cc; how
// tunnels are made, end and go to another process is in pool_tunnels.cc.
#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>

#include "common/hbone/pool_entry.h"

namespace qanat::hbone {

// Who is wanted, as errors and the log name it.
std::string Wanted(const PoolKey& key);

struct Pool::Impl {
  Impl(event::EventLoop& l, PoolOptions o, Dial d)
      : loop(l), options(std::move(o)), dial(std::move(d)), sweep(l, [this] { Sweep(); }) {
    counters = options.counters ? options.counters : std::make_shared<PoolCounters>();
  }

  using Entries = std::map<PoolKey, Entry>;

  // Tunnels and their load.
  uint32_t PeerLimit(const Entry& entry, const Tunnel& tunnel) const;
  // Valid until the next call.
  std::span<const TunnelLoad> Loads(Entry& entry);
  Tunnel* Pick(Entry& entry);

  // Streams and the line that they wait in.
  // Waiting ones go to a tunnel with room; for the others tunnels are dialed.
  void Serve(Entries::iterator it);
  void Open(const Entry& entry, Tunnel& tunnel, const WantPtr& want);
  bool TryAgain(Want& want);
  static WantPtr NewWant(const PoolKey& key, ConnectRequest request, ClientSession::OnResponse done,
                         event::TimePoint since);
  // On a tunnel with room, if nobody else waits for it.
  bool OpenNow(const WantPtr& want);
  void Wait(const WantPtr& want, bool first);
  // Streams that no tunnel takes do not wait for ever.
  void WatchLine(Entries::iterator it);
  void Expire(const PoolKey& key, Entry& entry);
  // Have Sweep() look at it, from the loop and not from inside of a caller or a session.
  void Due(Entries::iterator it);

  // Dials and what becomes of them.
  void StartDial(Entries::iterator it, bool stripe);
  void Dialed(const PoolKey& wanted, uint64_t id, Result<net::TransportPtr> result);
  // Entries stay where they are as long as they have a tunnel, list nodes anyway.
  void AddSession(Entries::iterator it, Tunnel& tunnel, net::TransportPtr transport);
  std::unique_ptr<event::Timer> IdleTimer(Entries::iterator it, Tunnel* at);
  ClientSession::Events EventsOf(Entries::iterator it, Tunnel* at);
  void Changed(Entries::iterator it, Tunnel& tunnel);

  void Sweep();
  void Publish(Entry& entry) { entry.Publish(*counters); }
  void Discard(std::unique_ptr<event::Deferred> object);
  void FailWaiting(Entry& entry, const Error& error);

  event::EventLoop& loop;
  PoolOptions options;
  Dial dial;
  std::shared_ptr<PoolCounters> counters;
  Entries entries;
  std::vector<Entries::iterator> due;
  std::vector<TunnelLoad> loads;
  uint64_t last_dial = 0, last_tunnel = 0;
  bool stopping = false;
  event::Timer sweep;
};

}  // namespace qanat::hbone
