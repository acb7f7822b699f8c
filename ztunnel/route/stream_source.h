// SPDX-License-Identifier: Apache-2.0
// Whose a stream of a shared tunnel is: what the sender says (hbone::kSourceHeader) against what
// the mesh knows. Pure. The tunnel's certificate has proven an identity; the source may only be a
// pod of that identity, one whose traffic a node proxy carries, and the tunnel must come from what
// can be the proxy of that pod's node: a pod there that is no part of the mesh, not of that
// identity, and of the account that our own proxy has. All that is known of both addresses counts,
// and what is not understood is refused.
#pragma once

#include <string>
#include <string_view>

#include "common/model/reason.h"
#include "common/route/gateways.h"
#include "common/state/snapshot.h"

namespace qanat::ztunnel {

struct StreamSource {
  model::Reason reason = model::Reason::kNone;  // or kSourceUnproven
  std::string detail;
  net::SocketAddress source;
};

// Whose the mesh's node proxies are: as our own one, so far as that is known ("": it is not).
struct NodeProxies {
  std::string_view ns, service_account;
};

// `tunnel`: the peer's proven identity, and the address that its tunnel comes from. `said`: the
// header's value.
StreamSource CheckStreamSource(const state::MeshSnapshot& snapshot, std::string_view network,
                               const route::Sender& tunnel, std::string_view said,
                               const NodeProxies& proxies = {});

}  // namespace qanat::ztunnel
