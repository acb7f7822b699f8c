// SPDX-License-Identifier: Apache-2.0
// A v1 Pod and a v1 Namespace of the Kubernetes API, as far as the agent needs them. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "agent/pods/pod.h"
#include "common/base/result.h"

namespace qanat::agent {

// Without netns and namespace_labels, which the object does not have. Addresses come sorted, IPv4
// first: the API's order is that of the cluster's families and says nothing about the pod.
Result<Pod> ParseKubePod(std::string_view json);

struct KubeNamespace {
  std::string name;
  std::map<std::string, std::string> labels;
};
Result<KubeNamespace> ParseKubeNamespace(std::string_view json);

// At most one address a family, IPv4 first.
void SortIps(std::vector<net::IpAddress>* ips);

}  // namespace qanat::agent
