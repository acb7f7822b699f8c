// SPDX-License-Identifier: Apache-2.0
// A pod as the agent sees it, and the rule that says whether it belongs to the mesh. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/net/address.h"

namespace qanat::agent {

struct Pod {
  std::string uid;
  std::string name;
  std::string ns;
  std::string service_account;
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> annotations;
  std::map<std::string, std::string> namespace_labels;
  bool host_network = false;
  std::string netns;                // path
  std::vector<net::IpAddress> ips;  // at most one per family, as status.podIPs has it
  std::string phase;

  std::string FullName() const { return ns + "/" + name; }
  net::IpAddress Ip4() const;
  net::IpAddress Ip6() const;
  bool operator==(const Pod&) const = default;
};

// One pod file of the folder source. Every field is checked; the message says which one and why.
Result<Pod> ParsePod(std::string_view json);
// Uids become file names: letters, digits, '-', '_' and inner dots only.
bool IsSafeUid(std::string_view uid);

struct Membership {
  bool in_mesh = false;
  std::string reason;  // why not
};
// Stock agents' rule: (pod or namespace) labelled istio.io/dataplane-mode=ambient, the pod not
// opted out by "none", no sidecar, not hostNetwork, not finished.
Membership DecideMembership(const Pod& pod);

}  // namespace qanat::agent
