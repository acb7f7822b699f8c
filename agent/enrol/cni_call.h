// SPDX-License-Identifier: Apache-2.0
// What the agent answers to CNI ADD, as a pure function. The runtime's plugin may be ahead of our
// own source: it asked the API server a moment ago, we follow it by a watch. So our view alone
// never lets a pod of the mesh start outside it.
#pragma once

#include <string>

#include "agent/pods/pod.h"

namespace qanat::agent {

struct CniCall {
  std::string ns, name;
  std::string uid;       // as the kubelet says; "" from a plugin that does not tell
  std::string netns;     // "" : not compared
  bool in_mesh = false;  // the API server just said so to the plugin
};

// A pod of the same name with another UID is another pod, the last one or the next.
inline bool IsMeant(const CniCall& call, const Pod& pod) {
  return call.ns == pod.ns && call.name == pod.name &&
         (call.uid.empty() || call.uid == pod.KubeletUid());
}

struct CniFacts {
  bool known = false;  // the source has shown this very pod
  bool in_mesh = false;
  bool has_netns = false;
  bool enforced = false;
  bool obstacle = false;  // no pod may be enrolled on this node now
  bool released = false;  // the mesh is being taken off this node
};

enum class CniStep {
  kPass,    // not in the mesh
  kRefuse,  // the obstacle is the answer
  kWait,    // for the source, until the call's deadline
  kEnrol,   // compare the namespace, then wait until the pod is enforced and proven
};

inline CniStep NextCniStep(const CniCall& call, const CniFacts& f) {
  if (!f.known) return CniStep::kWait;
  if (!f.in_mesh) return call.in_mesh && !f.released ? CniStep::kWait : CniStep::kPass;
  if (f.obstacle && !f.enforced) return CniStep::kRefuse;
  return f.has_netns ? CniStep::kEnrol : CniStep::kWait;
}

}  // namespace qanat::agent
