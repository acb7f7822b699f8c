// SPDX-License-Identifier: Apache-2.0
// The JSON text of one object of an API server -> the tree that the YAML reader makes of a file, so
// that both go through the same decoders. Its nodes have no lines. What the mesh never reads and
// pods are full of (managedFields, volumes, environments, ...) is left out. Pure; any thread.
#pragma once

#include <string_view>

#include "common/base/result.h"
#include "common/yaml/yaml.h"

namespace qanat::controlplane {

// Bounded: nesting, number of nodes. A duplicate key: the last counts, as everywhere in JSON.
Result<YamlNode> ParseJsonObject(std::string_view json);

}  // namespace qanat::controlplane
