// SPDX-License-Identifier: Apache-2.0
// A tunnel with all of its streams and their applications' sockets, as one item for another
// process: TLS, HTTP/2, whose it is, and each stream's connection. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/hbone/pool.h"
#include "common/hbone/saved_session.h"
#include "common/takeover/session.h"
#include "common/tls/tls_handover.h"
#include "ztunnel/takeover/connection_state.h"

namespace qanat::ztunnel {

struct SavedTunnel {
  // One that comes to a pod.
  struct Inbound {
    net::SocketAddress peer, local;
    std::string own_identity, peer_identity;
  };
  // One of the pool, made for a pod; or shared by several, of which each stream names its own.
  struct Outbound {
    hbone::PoolKey key;
    bool leaving = false;  // takes no new streams
  };
  struct Stream {
    SavedConnection connection;
    RelayState::Way up, down;
    Fd socket;  // the application's
  };
  std::string pod_uid;             // "" and 0: shared
  uint64_t netns_cookie = 0;       // of its namespace
  std::optional<Inbound> inbound;  // or
  std::optional<Outbound> outbound;
  tls::TlsHandover tls;
  hbone::SavedSession session;
  std::vector<Stream> streams;  // as in `session`
};

// Whether the state of an item of Sort::kConnections is a tunnel's.
bool HoldsTunnel(const takeover::Parcel& parcel);
// With copies of the sockets; fails where there are no more descriptors.
Result<takeover::Parcel> EncodeTunnel(const SavedTunnel& from);
Result<SavedTunnel> DecodeTunnel(takeover::Parcel parcel);

}  // namespace qanat::ztunnel
