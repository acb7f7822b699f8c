// SPDX-License-Identifier: Apache-2.0
// The /debug pages as JSON text, for qanatctl and for people. On the control plane's loop.
#pragma once

#include <string>
#include <vector>

#include "controlplane/ads/hub.h"
#include "controlplane/source/issue.h"

namespace qanat::controlplane {

// {"objects":[{kind,namespace,name,file,line,conditions}], "errors":[{file,line,object,message,
// remedy,severity}]}. `issues` are those of the source; what only shows between objects is added.
std::string StatusPage(AdsHub& hub, const std::vector<Issue>& issues);
// {"clients":[{id,type,address,namespace,pod,nodeName,synced,types:[...]}]}
std::string ClientsPage(const AdsHub& hub);
std::string WorkloadsPage(const World& world);
std::string ServicesPage(const World& world);
std::string PoliciesPage(const World& world);
// Names and versions of what one waypoint is sent: {"type":{"name":"version"}}.
std::string WaypointPage(AdsHub& hub, const WaypointKey& key);

}  // namespace qanat::controlplane
