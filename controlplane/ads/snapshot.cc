// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ads/snapshot.h"

#include "controlplane/translate/address.h"
#include "controlplane/translate/authorization.h"

namespace qanat::controlplane {

std::shared_ptr<const ConfigSnapshot> BuildSnapshot(std::shared_ptr<const World> world,
                                                    uint64_t generation) {
  auto out = std::make_shared<ConfigSnapshot>();
  out->generation = generation;
  AddressTable addresses = TranslateAddresses(*world);
  for (const auto& [name, resource] : addresses.resources) {
    std::vector<std::string> brings = {name};
    if (const auto it = addresses.members.find(name); it != addresses.members.end()) {
      brings.insert(brings.end(), it->second.begin(), it->second.end());
    }
    for (const std::string& alias : resource.aliases) {
      std::vector<std::string>& known = out->answers[alias];
      known.insert(known.end(), brings.begin(), brings.end());
    }
    if (brings.size() > 1) out->answers[name] = std::move(brings);
  }
  out->resources[std::string(kAddressType)] = std::move(addresses.resources);
  out->resources[std::string(kAuthorizationType)] = TranslateAuthorizations(*world);
  out->world = std::move(world);
  return out;
}

}  // namespace qanat::controlplane
