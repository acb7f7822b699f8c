// SPDX-License-Identifier: Apache-2.0
// CNI ADD as the runtime's plugin asks for it: POST /cmdadd on a unix socket, answered when the pod
// is enrolled and proven, or with the reason why it may not start.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "agent/enrol/enroller.h"
#include "common/admin/server.h"

namespace qanat::agent::cni {

struct AddRequest {
  std::string netns;
  std::string pod_name;
  std::string pod_namespace;
  std::vector<std::string> ips;
};
// {"Netns","PodName","PodNamespace","IPs":[{"IP":"10.91.1.5"}]}; other fields are ignored.
Result<AddRequest> ParseAdd(std::string_view body);

void AddRoutes(admin::Server& server, Enroller& enroller);

}  // namespace qanat::agent::cni
