// SPDX-License-Identifier: Apache-2.0
// Whether the kernel may let one pod of this node connect to another one straight, without a proxy.
// Pure, and the same functions that the node proxy decides with: where they would send a connection
// in one pass, and the destination's policies say yes, the answer is yes; everything else goes
// through the proxy, which decides again and says why.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/model/reason.h"
#include "common/net/address.h"
#include "common/route/identify.h"
#include "common/route/pod_facts.h"
#include "common/state/snapshot.h"

namespace qanat::agent::direct {

// What a pod, its namespace or the installation asks for (qanat.io/same-node).
enum class Wish : uint8_t {
  kDirect,   // by the kernel where it may be
  kProxy,    // through the node proxy, in one pass where it may be
  kEncrypt,  // through the node proxy and its tunnel, also to a pod of this node
};
std::string_view ToString(Wish wish);
// "direct", "proxy" or "encrypt". Anything else is kProxy, and `understood` false: what nobody
// understands does not take the proxy away.
Wish ParseWish(std::string_view text, bool* understood = nullptr);

// An enrolled pod of this node.
struct Member {
  route::PodFacts facts;
  Wish wish = Wish::kDirect;
  // That its capture holds, and that its veth carries addresses as they are, and nobody else's, was
  // seen (proof, path probe).
  bool path_proved = false;
  // Its proxy heeds what the kernel has drawn (vips.h): our own does, no other.
  bool proxy_reads_draws = false;
  bool operator==(const Member&) const = default;
};

struct Verdict {
  bool direct = false;  // the kernel may let it through
  // A connection that goes straight already may go on. It is `false` only where the proxy would
  // close one of its own: a refusal by policy or a required waypoint, or another identity.
  bool allowed = true;
  model::Reason reason = model::Reason::kNone;  // where `allowed` is false
  std::string policy;                           // which policy decided: "namespace/name", or ""
  std::string why_not;                          // where `direct` is false
};

// `source_ip` and `target` are of one family; `target` is the destination pod's own address.
Verdict Judge(const state::MeshSnapshot& snapshot, const route::Mesh& mesh, const Member& source,
              const net::IpAddress& source_ip, const Member& destination,
              const net::SocketAddress& target);

}  // namespace qanat::agent::direct
