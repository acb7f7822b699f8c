// SPDX-License-Identifier: Apache-2.0
// qanatctl words: what completion offers in a place, one a line. Hidden; says nothing where there
// is no mesh.
#include <fmt/format.h>

#include <set>

#include "tools/qanatctl/commands.h"
#include "tools/qanatctl/json_util.h"
#include "tools/qanatctl/local/teardown.h"
#include "tools/qanatctl/mesh_view.h"

namespace qanat::ctl {

int CmdWords(const Options& options) {
  std::set<std::string> words;
  if (options.target == "meshes") {
    for (std::string& name : local::KnownMeshes()) words.insert(std::move(name));
  } else if (const auto view = MeshView::Load(options.mesh)) {
    const bool targets = options.target == "targets";
    if (options.target == "pods" || targets) {
      for (const PodRef& pod : view->pods()) words.insert(pod.ns + "/" + pod.name);
    }
    if (targets) {
      words.insert("supervisor");
      for (const Json& p : Items(view->raw(), "programs")) words.insert(Str(p, "name"));
    }
    if (options.target == "nodes") {
      for (const NodeRef& node : view->nodes()) words.insert(node.name);
    }
    if (options.target == "namespaces") {
      for (const PodRef& pod : view->pods()) words.insert(pod.ns);
      for (const ServiceRef& service : view->services()) words.insert(service.ns);
    }
    if (options.target == "services") {
      for (const Json& service : Items(view->raw(), "services")) {
        for (const Json& port : Items(service, "ports")) {
          words.insert(fmt::format("{}.{}:{}", Str(service, "name"), Str(service, "namespace"),
                                   Int(port, "port")));
        }
      }
    }
  }
  for (const std::string& word : words) fmt::print("{}\n", word);
  return kExitOk;
}

}  // namespace qanat::ctl
