// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/mover.h"

#include "ztunnel/proxy/inbound_connection.h"
#include "ztunnel/proxy/outbound_connection.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/takeover/sockets.h"

namespace qanat::ztunnel {
ConnectionMover::ConnectionMover(Worker& worker) : worker_(worker), tunnels_(worker) {}

ConnectionMover::~ConnectionMover() = default;

// ---- the old process

std::vector<uint64_t> ConnectionMover::Offer() {
  std::vector<uint64_t> out;
  worker_.ForEachConnection([&](Connection& connection) {
    UserConnection* user = connection.user();
    if (user == nullptr || !user->CanFreeze()) return;
    const auto [it, added] = numbers_.try_emplace(&connection, next_);
    if (added) offered_[next_++] = user;
    out.push_back(it->second);
  });
  tunnels_.Offer(next_, out);
  return out;
}

UserConnection* ConnectionMover::Find(uint64_t number) const {
  const auto it = offered_.find(number);
  return it == offered_.end() ? nullptr : it->second;
}

std::optional<takeover::Parcel> ConnectionMover::Freeze(uint64_t number) {
  if (tunnels_.Knows(number)) return tunnels_.Freeze(number);
  UserConnection* connection = Find(number);
  if (connection == nullptr) return std::nullopt;  // over meanwhile
  return connection->Freeze();
}

void ConnectionMover::Thaw(uint64_t number) {
  tunnels_.Thaw(number);
  if (UserConnection* connection = Find(number)) connection->Thaw();
}

bool ConnectionMover::Forget(uint64_t number) {
  if (tunnels_.Knows(number)) return tunnels_.Forget(number);
  UserConnection* connection = Find(number);
  return connection != nullptr && connection->Forget();
}

void ConnectionMover::OnReleased(Connection* connection) {
  tunnels_.OnReleased(connection);
  const auto it = numbers_.find(connection);
  if (it == numbers_.end()) return;
  offered_.erase(it->second);
  numbers_.erase(it);
}

// ---- the new process

Status ConnectionMover::Import(takeover::ItemId item, takeover::Parcel parcel) {
  if (HoldsTunnel(parcel)) return tunnels_.Import(item, std::move(parcel));
  QANAT_ASSIGN_OR_RETURN(ImportedConnection imported, DecodeConnection(std::move(parcel)));
  const SavedConnection& saved = imported.saved;
  // Only a tunnel's certificate says who comes to a pod (tunnel_state.cc).
  if (!saved.outbound && (!saved.flow.source_identity.empty() || saved.flow.mutual_tls)) {
    return Fail(Code::kPermissionDenied, "a plain connection with an identity");
  }
  for (const Fd* fd : {&imported.relay.downstream, &imported.relay.upstream}) {
    QANAT_RETURN_IF_ERROR(CheckSocket(fd->get()));
  }
  const PodPtr pod = worker_.PodByUid(saved.pod_uid);
  if (pod == nullptr || pod->netns_cookie != saved.netns_cookie) {
    return Fail(Code::kNotFound, "its pod is not served here");
  }
  std::unique_ptr<UserConnection> connection;
  if (saved.outbound) {
    if (saved.outbound->one_pass && !model::Identity::Parse(saved.flow.source_identity)) {
      return Fail(Code::kInvalidArgument, "a connection in one pass, of nobody");
    }
    // What judges it from now on must be known.
    if (saved.outbound->one_pass &&
        (worker_.PodByUid(saved.outbound->destination_pod) == nullptr ||
         worker_.snapshot().WorkloadByUid(saved.outbound->destination) == nullptr)) {
      return Fail(Code::kNotFound, "its destination is not known here");
    }
    connection = std::make_unique<OutboundConnection>(
        worker_, pod, Fd(), saved.flow.source,
        OriginalDestination{saved.outbound->original, saved.outbound->by_nat, 0});
  } else {
    connection = std::make_unique<InboundConnection>(worker_, pod, Fd(), saved.flow.source,
                                                     saved.flow.destination);
  }
  connection->Restore(saved);
  held_[item] = {std::move(connection), std::move(imported.relay)};
  return {};
}

void ConnectionMover::Run(takeover::ItemId item) {
  if (tunnels_.Holds(item)) return tunnels_.Run(item);
  const auto it = held_.find(item);
  if (it == held_.end()) return;
  Held held = std::move(it->second);
  held_.erase(it);
  UserConnection& connection = *held.connection;
  worker_.Adopt(std::move(held.connection));
  connection.Run(std::move(held.relay));
  connection.OnSnapshot();  // the mesh may be another one than there
}

void ConnectionMover::Drop(takeover::ItemId item) {
  tunnels_.Drop(item);
  held_.erase(item);
}

void ConnectionMover::Clear() {
  tunnels_.Clear();
  held_.clear();
  offered_.clear();
  numbers_.clear();
}

}  // namespace qanat::ztunnel
