// SPDX-License-Identifier: Apache-2.0
// What a waypoint Gateway's status says: Accepted, Programmed, addresses, listeners. A waypoint
// counts as there once it has addresses (stock's rule), so these come with the first ready pod and
// stay while the Service does. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/yaml/yaml.h"
#include "controlplane/kube/writer.h"
#include "controlplane/model/world.h"
#include "controlplane/translate/status.h"

namespace qanat::controlplane {

struct GatewayState {
  StatusCondition accepted;
  StatusCondition programmed;
  std::vector<std::pair<std::string, std::string>> addresses;  // type, value
};

// Why no waypoint is deployed for a Gateway of a class of ours: it asks for what we do not do, and
// must not get something else in silence. nullopt: nothing stands against it.
std::optional<StatusCondition> RefusalOf(const Gateway& gateway, const GatewayClass& gateway_class);

// `refusal` as above, of this Gateway. `taken`: kinds of objects of this name that are not ours.
// `service` may be nullptr.
GatewayState StateOf(const Gateway& gateway, const World& world,
                     const std::optional<StatusCondition>& refusal,
                     const std::vector<std::string>& taken, const Service* service);

// nullopt: the API server has it so already.
std::optional<Write> GatewayStatusWrite(const Gateway& gateway, const GatewayState& state,
                                        const YamlNode* observed, const std::string& now);
// For a Gateway that is no longer ours: takes back what we said. nullopt: nothing of ours is there.
std::optional<Write> GatewayStatusRetreat(const Gateway& gateway, const std::string& hostname,
                                          const YamlNode* observed);

}  // namespace qanat::controlplane
