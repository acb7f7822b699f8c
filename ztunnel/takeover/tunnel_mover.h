// SPDX-License-Identifier: Apache-2.0
// A worker's tunnels, in and out, on their way to or from another process, each with its streams'
// connections. Owned by the worker's ConnectionMover, on the worker's thread.
//
// A tunnel stands still as a whole or not at all, with the tunnels inside of it (tunnel_inside.cc):
// where a stream is not relayed yet, or a session is in the middle of something, it stays for now.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "ztunnel/pod.h"
#include "ztunnel/takeover/tunnel_state.h"

namespace qanat::ztunnel {

class Connection;
class TunnelSession;
class UserConnection;
class Worker;

class TunnelMover {
 public:
  explicit TunnelMover(Worker& worker);
  ~TunnelMover();

  // Whose stream it is, while it is relayed.
  void OnStream(const net::Transport* stream, UserConnection* user) { users_[stream] = user; }
  void OnStreamGone(const net::Transport* stream) { users_.erase(stream); }

  // ---- the old process; numbers are drawn from `next`
  void Offer(uint64_t& next, std::vector<uint64_t>& out);
  bool Knows(uint64_t number) const { return items_.contains(number); }
  std::optional<takeover::Parcel> Freeze(uint64_t number);
  void Thaw(uint64_t number);
  bool Forget(uint64_t number);  // false: it did not stand still
  // The pool's Drain(), of those that stand still outside of it or are not ours yet.
  void Drain(const std::function<bool(const hbone::PoolKey&)>& which);
  void OnReleased(Connection* connection);

  // ---- the new process
  Status Import(takeover::ItemId item, takeover::Parcel parcel);
  bool Holds(takeover::ItemId item) const { return held_.contains(item); }
  void Run(takeover::ItemId item);
  void Drop(takeover::ItemId item) { held_.erase(item); }

  void Clear();  // the worker ends

 private:
  struct Frozen {
    SavedTunnel saved;  // of the streams only what is not with their users
    std::vector<UserConnection*> users;
  };
  struct Item {
    TunnelSession* inbound = nullptr;
    uint64_t pooled = 0;  // the pool's number for it
    std::optional<Frozen> frozen;
  };

  // Who is on a tunnel that could stand still now, as SavedTunnel::streams has them.
  struct Users {
    std::vector<UserConnection*> all;
    // Its streams that carry a tunnel: where it is among the streams, the inner pool's number.
    std::vector<std::pair<size_t, uint64_t>> inner;
  };
  // The stream that it goes through -> the inner pool's number.
  using Carriers = std::unordered_map<const net::Transport*, uint64_t>;
  // Of a stream after its tunnel stood still.
  struct Way {
    net::TransportPtr stream;  // none: lost
    tls::VerifiedPeerPtr proven;
  };
  template <typename Session>
  std::optional<Users> UsersOf(const Session& session, const Carriers& carriers) const;
  bool AddUsers(const std::vector<const net::Transport*>& handles,
                std::vector<UserConnection*>& out) const;
  Carriers FindCarriers() const;
  SavedTunnel::Inner FreezeInner(uint64_t number, uint32_t stream);
  void ResumeInner(SavedTunnel::Inner inner, net::TransportPtr carrier, std::vector<Way>& ways);
  // Users' streams begin again over `transport`.
  void Resume(Item& item, Frozen frozen, net::TransportPtr transport);
  Status Check(const SavedTunnel& saved) const;
  // The pod that it is of, if it is served here as that identity's. Not found: it is not, or not
  // any more. Any other error: that is not known yet.
  Result<PodPtr> Owner(const std::string& pod_uid, uint64_t netns_cookie,
                       const std::string& identity) const;
  bool Believed(const tls::VerifiedPeerPtr& peer, const model::Identity& own) const;

  Worker& worker_;
  std::unordered_map<const net::Transport*, UserConnection*> users_;
  std::map<uint64_t, Item> items_;
  std::unordered_map<Connection*, uint64_t> numbers_;
  std::map<uint64_t, uint64_t> pooled_;           // the pool's number -> ours
  std::map<takeover::ItemId, SavedTunnel> held_;  // imported, not ours yet
};

}  // namespace qanat::ztunnel
