// SPDX-License-Identifier: Apache-2.0
// A worker's live connections, those between two sockets and tunnels (tunnel_mover.h), on their way
// to or from another process. Owned by the worker, on its thread; the sessions are on the main one.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/takeover/session.h"
#include "ztunnel/takeover/connection_state.h"
#include "ztunnel/takeover/tunnel_mover.h"

namespace qanat::ztunnel {

class Connection;
class UserConnection;
class Worker;

class ConnectionMover {
 public:
  explicit ConnectionMover(Worker& worker);
  ~ConnectionMover();
  TunnelMover& tunnels() { return tunnels_; }

  // ---- the old process. Numbers are this object's, of connections that can be given.
  std::vector<uint64_t> Offer();
  std::optional<takeover::Parcel> Freeze(uint64_t number);
  void Thaw(uint64_t number);
  bool Forget(uint64_t number);  // false: it did not stand still
  void OnReleased(Connection* connection);

  // ---- the new process. `item` is the session's.
  Status Import(takeover::ItemId item, takeover::Parcel parcel);
  void Run(takeover::ItemId item);
  void Drop(takeover::ItemId item);

  void Clear();  // the worker ends

 private:
  struct Held {
    std::unique_ptr<UserConnection> connection;
    RelayState relay;
  };
  UserConnection* Find(uint64_t number) const;

  Worker& worker_;
  TunnelMover tunnels_;
  uint64_t next_ = 1;
  std::unordered_map<uint64_t, UserConnection*> offered_;
  std::unordered_map<Connection*, uint64_t> numbers_;
  std::map<takeover::ItemId, Held> held_;  // imported, not ours yet
};

}  // namespace qanat::ztunnel
