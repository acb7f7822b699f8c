// SPDX-License-Identifier: Apache-2.0
// `why` questions answered with the very functions that decide real connections. Main thread.
#pragma once

#include <functional>
#include <string>

#include "common/base/result.h"
#include "common/route/identify.h"
#include "common/state/snapshot.h"
#include "ztunnel/pods.h"

namespace qanat::ztunnel {

struct WhyContext {
  const state::MeshSnapshot& snapshot;
  const route::Mesh& mesh;
  const Pods& pods;
  bool one_pass = true;
  bool enforce_waypoint = true;
  bool socks = false;  // one more port is the proxy's
  // Why nothing new is taken for that pod at present; "": it is.
  std::function<std::string(const Pod&)> memory_full = {};
};

// Where would a connection from this pod (uid, ns/name or address) to ip:port or host:port go?
Result<std::string> WhyOutboundAnswer(const WhyContext& context, const std::string& source,
                                      const std::string& destination);

// Would this pod take a connection on this port from that identity ("" = plaintext)?
Result<std::string> WhyInboundAnswer(const WhyContext& context, const std::string& destination,
                                     const std::string& port, const std::string& source_identity,
                                     const std::string& source_ip);

}  // namespace qanat::ztunnel
