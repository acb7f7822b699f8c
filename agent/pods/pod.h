// SPDX-License-Identifier: Apache-2.0
// A pod as the agent sees it, and the rule that says whether it belongs to the mesh. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/kube/pod_dns.h"
#include "common/net/address.h"

namespace qanat::agent {

struct Pod {
  std::string uid;
  // Of a static pod: what the kubelet, the runtime and control groups call it. The API server shows
  // its mirror, which has a UID of its own. Else empty.
  std::string static_uid;
  std::string name;
  std::string ns;
  std::string service_account;
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> annotations;
  std::map<std::string, std::string> namespace_labels;
  bool host_network = false;
  std::string sidecar;              // what shows that it has one (kube::SidecarOf); "" without
  bool excluded = false;            // its namespace is kept out of the mesh on this node
  std::string netns;                // path
  std::vector<net::IpAddress> ips;  // at most one per family, as status.podIPs has it
  std::string phase;
  kube::PodDns dns;

  const std::string& KubeletUid() const { return static_uid.empty() ? uid : static_uid; }
  std::string FullName() const { return ns + "/" + name; }
  net::IpAddress Ip4() const;
  net::IpAddress Ip6() const;
  bool operator==(const Pod&) const = default;
};

// One pod file of the folder source. Every field is checked; the message says which one and why.
Result<Pod> ParsePod(std::string_view json);
// What the pod's annotation ambient.istio.io/redirection says to the rest of the mesh, or "".
std::string PublishedOf(const Pod& pod);

// Uids become file names: letters, digits, '-', '_' and inner dots only.
bool IsSafeUid(std::string_view uid);

struct Membership {
  bool in_mesh = false;
  std::string reason;    // why not
  bool refused = false;  // its labels ask for it: who set them should hear why it is not
};
// Stock agents' rule: (pod or namespace) labelled istio.io/dataplane-mode=ambient, the pod not
// opted out by "none", no sidecar, not hostNetwork, not finished. Ours: not in an excluded
// namespace, whose pods start unasked and would be open until they are enrolled.
Membership DecideMembership(const Pod& pod);

}  // namespace qanat::agent
