// SPDX-License-Identifier: Apache-2.0
// The ZDS server: every proxy that connects gets the snapshot of enrolled pods; new pods go to the
// newest proxy, deletions to all. A message from outside never ends the agent, only a connection.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/zds/connection.h"

namespace qanat::agent::zds {

struct SnapshotItem {
  Workload workload;
  Fd netns;  // none: the namespace cannot be opened now; sent as Keep
};

class Owner {
 public:
  // The proxy said Hello. An error refuses it (the reason is logged and counted).
  virtual Status OnPeer(const Peer& peer) = 0;
  virtual std::vector<SnapshotItem> Snapshot() = 0;
  virtual void OnSnapshotAck(const Peer& peer, const std::string& uid, const Status& status) = 0;
  virtual void OnPeerReady(const Peer& peer) = 0;
  virtual void OnPeerGone(uint64_t peer_id) = 0;

 protected:
  ~Owner() = default;
};

struct Stats {
  uint64_t accepted = 0;
  uint64_t refused = 0;          // not root, or refused by the owner
  uint64_t protocol_errors = 0;  // garbage, unprompted messages, oversize
  uint64_t timeouts = 0;
};

class Server {
 public:
  Server(event::EventLoop& loop, Owner* owner);
  ~Server();

  // Replaces whatever socket lies at `path`; mode 0600, or 0660 for a group, by which a proxy that
  // is not root's gets in. Once more when the file is gone: those that are connected stay. Proxies
  // may connect from then on and wait; they are answered after StartAccepting().
  Status Listen(const std::string& path, std::optional<gid_t> group = {});
  void StartAccepting();

  // To the newest connection, after its snapshot. `done` is called with kUnavailable when there is
  // none or when it breaks.
  void Add(const Workload& workload, Fd netns, Connection::Done done);
  void Del(const std::string& uid);

  // The newest proxy whose snapshot is acknowledged, if any.
  const Peer* ready_peer() const;
  // The newest that said Hello: where Add goes.
  const Peer* newest_peer() const;
  std::set<pid_t> Pids() const;  // of all that said Hello
  size_t connections() const { return connections_.size(); }
  const Stats& stats() const { return stats_; }

 private:
  void Accept();
  void SendSnapshot(Connection& connection);
  void OnClosed(Connection& connection, const Error& why);
  Connection* Newest() const;

  event::EventLoop& loop_;
  Owner* owner_;
  Fd listener_;
  std::optional<gid_t> group_;
  std::unique_ptr<event::IoWatch> watch_;
  event::Timer accept_pause_;
  std::vector<std::unique_ptr<Connection>> connections_;  // oldest first
  uint64_t next_peer_ = 1;
  Stats stats_;
};

}  // namespace qanat::agent::zds
