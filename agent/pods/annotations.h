// SPDX-License-Identifier: Apache-2.0
// What a pod's annotations ask of its capture. Pure. What is not understood never opens a pod: it
// stays captured, and its status says what was asked for and not done.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/pods/pod.h"

namespace qanat::agent {

struct Wishes {
  // ambient.istio.io/bypass-inbound-capture: what comes in from the wire reaches the application
  // (an ingress gateway that knows its clients itself). HBONE and what goes out stay the proxy's.
  bool plain_inbound = false;
  std::optional<bool> dns_capture;  // ambient.istio.io/dns-capture
  // qanat.io/same-node: label or annotation of the pod, else the label of its namespace; "direct",
  // "proxy" or "encrypt". What is not understood is "proxy". "": nobody says.
  std::string same_node;
  std::vector<std::string> notes;  // one sentence each, for the pod's status
};
Wishes ReadWishes(const Pod& pod);

// As Go's strconv.ParseBool, by which a stock agent reads them.
std::optional<bool> ParseGoBool(std::string_view text);

}  // namespace qanat::agent
