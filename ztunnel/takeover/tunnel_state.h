// SPDX-License-Identifier: Apache-2.0
// A tunnel with all of its streams and their applications' sockets, as one item for another
// process: TLS, HTTP/2, whose it is, and each stream's connection; of a stream that carries a
// tunnel by itself (inner_tunnels.h) the same of that one. Pure.
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
  // One of ours inside of this one.
  struct Inner {
    uint32_t stream = 0;  // of `session`: what it goes through
    hbone::PoolKey key;
    bool leaving = false;
    tls::TlsHandover tls;  // without a socket
    hbone::SavedSession session;
  };
  std::string pod_uid;             // "" and 0: shared
  uint64_t netns_cookie = 0;       // of its namespace
  std::optional<Inbound> inbound;  // or
  std::optional<Outbound> outbound;
  tls::TlsHandover tls;
  hbone::SavedSession session;
  std::vector<Inner> inner;
  // As in `session`, without those that carry a tunnel; then as in each inner one's.
  std::vector<Stream> streams;

  // Where in `inner` the one is that goes through that stream; none: `inner.size()`.
  size_t InnerOf(uint32_t stream) const;
};

// Whether the state of an item of Sort::kConnections is a tunnel's.
bool HoldsTunnel(const takeover::Parcel& parcel);
// With copies of the sockets; fails where there are no more descriptors.
Result<takeover::Parcel> EncodeTunnel(const SavedTunnel& from);
Result<SavedTunnel> DecodeTunnel(takeover::Parcel parcel);

}  // namespace qanat::ztunnel
