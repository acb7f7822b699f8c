// SPDX-License-Identifier: Apache-2.0
// The status overlay: what API server, scheduler and kubelet would have filled in, as YAML files
// (JSON text, which is YAML) that the control plane reads beside the user's folder. And the pod
// file that the agent reads. Pure.
#pragma once

#include <string>
#include <vector>

#include "common/net/address.h"
#include "tools/qanatctl/local/env.h"
#include "tools/qanatctl/local/plan.h"

namespace qanat::local {

struct PodStatus {
  PodFacts facts;
  Owner owner;
  std::vector<std::pair<std::string, std::vector<ContainerPort>>> containers;
  std::string hostname;
  std::string subdomain;
  std::string phase = "Pending";  // Pending, Running, Succeeded, Failed
  bool initialized = false;
  bool ready = false;
  bool terminating = false;
  bool host_network = false;
  std::string reason;       // when not ready
  std::string created;      // RFC 3339
  std::string redirection;  // "enabled" is shown as the annotation istioctl looks for
};

std::string RenderPodOverlay(const PodStatus& pod);
std::string RenderNodeOverlay(const NodePlan& node);
// For a Service of the user's YAML only what the API server adds; `whole` for one that we make.
std::string RenderServiceOverlay(const ServiceSpec& service,
                                 const std::vector<net::IpAddress>& cluster_ips, bool whole);
std::string RenderGatewayOverlay(const GatewayPlan& gateway,
                                 const std::vector<net::IpAddress>& addresses);

// R/nodes/N/pods/UID.json of the contract with the agent. `spec` is the pod's as written, of which
// dnsPolicy and dnsConfig are passed on.
std::string RenderAgentPod(const PodStatus& pod, const Json& spec,
                           const StringMap& namespace_labels, const std::string& netns_path);

// A pod belongs to the mesh when its own label says so, else when its namespace's does (Istio's
// istio.io/dataplane-mode: ambient | none).
bool WantsMesh(const StringMap& pod_labels, const StringMap& namespace_labels);

}  // namespace qanat::local
