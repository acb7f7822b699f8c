// SPDX-License-Identifier: Apache-2.0
// What a waypoint Gateway is made of in a cluster: a ServiceAccount, a Service and a Deployment of
// its name, with stock's labels (reference: the stock waypoint template). Pure: same Gateway and
// settings, same JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "controlplane/model/world.h"

namespace qanat::controlplane {

struct WaypointSettings {
  std::string image;
  std::string xds_address;  // https://HOST:PORT as a waypoint in any namespace reaches it
  std::string ca_address;
};

inline constexpr std::string_view kManagedLabel = "gateway.istio.io/managed";
inline constexpr std::string_view kGatewayNameLabel = "gateway.networking.k8s.io/gateway-name";
inline constexpr std::string_view kSpecHash = "qanat.io/spec-hash";  // annotation

// The value of kManagedLabel for a class.
std::string_view ManagedBy(const std::string& class_name);

// Each carries the annotation kSpecHash: the hash of everything else in it.
nlohmann::json WaypointServiceAccount(const Gateway& gateway);
nlohmann::json WaypointService(const Gateway& gateway);
nlohmann::json WaypointDeployment(const Gateway& gateway, const MeshConfig& mesh,
                                  const WaypointSettings& settings);
std::string SpecHashOf(const nlohmann::json& object);

}  // namespace qanat::controlplane
