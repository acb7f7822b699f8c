// SPDX-License-Identifier: Apache-2.0
// May this pod start, or must the node agent enrol it first? Pure: what is known goes in.
#pragma once

#include <optional>
#include <string>

namespace qanat::plugin {

struct Known {
  bool kubernetes = true;     // a kubelet asks: pod and namespace have names
  bool excluded = false;      // its namespace is one of excludeNamespaces
  bool host_network = false;  // its network namespace is the node's
  // Is the pod in the mesh? Nothing: the source cannot say.
  std::optional<bool> api;
  std::string api_error;  // why the API server could not
  std::optional<bool> cache;
  std::string cache_error;
};

enum class Verdict {
  kPass,     // not in the mesh: goes on as it is
  kEnrol,    // in the mesh: the agent must say yes
  kUnknown,  // nobody knows: the agent must say yes, it may know better
};
struct Decision {
  Verdict verdict = Verdict::kUnknown;
  std::string why;
};

// The API server's word counts before the cache's. What nobody knows is held: an enrolled pod that
// starts open is worse than a pod that starts late.
inline Decision Decide(const Known& k) {
  if (!k.kubernetes) return {Verdict::kPass, "not a pod of a kubelet"};
  if (k.excluded) return {Verdict::kPass, "its namespace is excluded"};
  if (k.host_network) return {Verdict::kPass, "it uses the node's network"};
  if (k.api)
    return *k.api ? Decision{Verdict::kEnrol, "the API server says it is in the mesh"}
                  : Decision{Verdict::kPass, "the API server says it is not in the mesh"};
  if (k.cache)
    return *k.cache ? Decision{Verdict::kEnrol, "the node's cache says it is in the mesh"}
                    : Decision{Verdict::kPass, "the node's cache says it is not in the mesh"};
  return {Verdict::kUnknown, "whether it is in the mesh is not known. API server: " + k.api_error +
                                 "; cache: " + k.cache_error};
}

}  // namespace qanat::plugin
