// SPDX-License-Identifier: Apache-2.0
// Asking the mesh's programs: one answer a node, and what could not be asked.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/qanatctl/mesh_view.h"

namespace qanat::ctl {

struct NodeAnswer {
  std::string node;
  Json json;
};

struct Collected {
  std::vector<NodeAnswer> answers;
  std::vector<std::string> failures;  // "node2: connect to 127.0.0.1:15000: Connection refused"
};

// A value in a query of a path.
std::string Encode(const std::string& text);

// GET 127.0.0.1:port/path on each node, parsed as JSON.
Result<Collected> AskNodes(const MeshView& view, const std::string& node, uint16_t port,
                           const std::string& path);
// GET of the control plane's debug endpoint: of the first replica that answers ...
Result<Json> AskControlPlane(const MeshView& view, const std::string& path);
// ... or of all of them, their lists under `list` put together: each has clients of its own.
Result<Json> AskControlPlanes(const MeshView& view, const std::string& path, const char* list);

// Prints the failures to stderr; true when there are none.
bool TellFailures(const Collected& collected);

// The union of the nodes' lists under `list`, by the fields that make an entry's key, sorted.
std::vector<Json> Merge(const Collected& collected, const char* list,
                        const std::vector<const char*>& key);

}  // namespace qanat::ctl
