// SPDX-License-Identifier: Apache-2.0
// A policy as /config_dump shows it. Pure. The types are those that istioctl's ztunnel-config reads
// (its configdump/api.go): one value of another type and it prints nothing of the whole dump. So
// what is not understood never stands in a typed list; each object says under "problems" what it
// lacks.
#pragma once

#include <nlohmann/json.hpp>

#include "common/model/authorization.h"

namespace qanat::ztunnel {

nlohmann::ordered_json PolicyJson(const model::Policy& policy);

}  // namespace qanat::ztunnel
