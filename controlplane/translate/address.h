// SPDX-License-Identifier: Apache-2.0
// World -> istio.workload.Address resources: workloads and services as node proxies know them.
// Pure: same World, same bytes. Wire facts: stock istiod's derivation (names, aliases, fields).
#pragma once

#include "controlplane/model/resource.h"
#include "controlplane/model/world.h"

namespace qanat::controlplane {

struct AddressTable {
  // Names: a workload's uid, or "namespace/hostname" of a service. Aliases: "network/ip".
  ResourcesByName resources;
  // Name of a service -> names of its workloads: who asks for a service on demand gets these too.
  std::map<std::string, std::vector<std::string>, std::less<>> members;
};
AddressTable TranslateAddresses(const World& world);

}  // namespace qanat::controlplane
