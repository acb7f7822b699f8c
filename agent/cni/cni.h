// SPDX-License-Identifier: Apache-2.0
// CNI ADD as the runtime's plugin asks for it: POST /cmdadd on a unix socket, answered when the pod
// is enrolled and proven, or with the reason why it may not start.
#pragma once

#include <functional>
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
  std::string pod_uid;  // ours sends it, a stock plugin does not
  std::vector<std::string> ips;
  bool in_mesh = false;  // the API server said so to the plugin; ours sends it
};
// {"Netns","PodName","PodNamespace","PodUID","InMesh","IPs":[{"IP":"10.91.1.5"}]}; other fields are
// ignored.
Result<AddRequest> ParseAdd(std::string_view body);

// POST /cmdadd and POST /cmdcheck. `on_add` hears of a pod before it is waited for; may be empty.
void AddRoutes(admin::Server& server, Enroller& enroller,
               std::function<void(const AddRequest&)> on_add);

}  // namespace qanat::agent::cni
