// SPDX-License-Identifier: Apache-2.0
// PeerAuthentication -> Authorization, as stock istiod does it: STRICT is a DENY of callers without
// identity. Pure.
#pragma once

#include <string>
#include <vector>

#include "controlplane/model/resource.h"
#include "controlplane/model/world.h"

namespace qanat::controlplane {

inline constexpr std::string_view kStaticStrict = "istio_converted_static_strict";
inline constexpr std::string_view kConvertedPrefix = "converted_peer_authentication_";

// Adds the static strict policy (as soon as any PeerAuthentication exists) and one policy for each
// that has port-level modes which differ from its own.
void ConvertPeerAuthentications(const World& world, ResourcesByName& out);
// The names of those that this pod must list.
std::vector<std::string> PeerAuthenticationsOf(const World& world, const Pod& pod);

}  // namespace qanat::controlplane
