// SPDX-License-Identifier: Apache-2.0
// Wire bytes to model values. Pure; the only place of the data plane that reads the generated
// classes of workload xDS.
#pragma once

#include <string_view>
#include <variant>

#include "common/base/result.h"
#include "common/model/authorization.h"
#include "common/model/workload.h"

namespace qanat::state {

// An istio.workload.Address. Fails as a whole on what would change where traffic goes (addresses
// of a wrong length, ports out of range, an unknown tunnel protocol); applies the protocol's
// defaults (trust domain "cluster.local", service account "default", capacity 1).
Result<std::variant<model::Workload, model::Service>> DecodeAddress(std::string_view bytes);

// An istio.security.Authorization. Fails only when it is no such message or has no name;
// everything else that is wrong ends up as "not understood" parts with Policy::problems filled.
Result<model::Policy> DecodeAuthorization(std::string_view bytes);

}  // namespace qanat::state
