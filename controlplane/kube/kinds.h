// SPDX-License-Identifier: Apache-2.0
// The API server's resources that the mesh reads and writes. Pure.
#pragma once

#include <string_view>
#include <vector>

#include "common/kube/resource.h"

namespace qanat::controlplane {

// What the folder source knows and translates, in the version that is asked for.
const std::vector<kube::Resource>& WatchedKinds();
// nullptr when the kind is not one of WatchedKinds().
const kube::Resource* FindKind(std::string_view kind);

// Of these nothing is read into the model.
const kube::Resource& Secrets();
const kube::Resource& ConfigMaps();
const kube::Resource& Deployments();
const kube::Resource& Leases();

// The name under which the control plane applies its fields, and what marks an object as ours.
inline constexpr std::string_view kFieldManager = "qanat-controlplane";
inline constexpr std::string_view kPartOf = "app.kubernetes.io/part-of";
inline constexpr std::string_view kPartOfQanat = "qanat";

}  // namespace qanat::controlplane
