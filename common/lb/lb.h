// SPDX-License-Identifier: Apache-2.0
// Which endpoint of a service a new connection goes to. Pure: the caller brings the randomness, so
// the kernel's direct path and the proxy pick from the same distribution.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/model/reason.h"
#include "common/model/workload.h"

namespace qanat::lb {

// Any value of 64 bits, uniformly.
using Random = std::function<uint64_t()>;

struct Target {
  model::WorkloadPtr workload;
  net::IpAddress ip;         // none: the workload has only a hostname, or is behind a gateway
  uint16_t target_port = 0;  // what the application listens on
};

struct Pick {
  model::Reason reason = model::Reason::kNone;  // kNone: `target` is set
  std::string detail;                           // for the log when refused
  Target target;
};

// What a choice leaves out.
struct Avoid {
  // Endpoints (uids) that this connection has tried already: never picked again.
  std::vector<std::string> tried;
  // Endpoints that keep failing at the port in question (outliers.h). At most half of those that
  // could be used are left out for it, and none when nothing else remains. Empty: nobody is.
  std::function<bool(const model::Workload&, uint16_t target_port)> ejected;
  // All for which it says so, as Outliers::EndpointKey makes them; none: not known. Outlives this.
  const std::vector<std::string>* all_ejected = nullptr;
  bool Tried(const model::Workload& workload) const;
};

// How a service port becomes the endpoint's port: the endpoint's own map, then the service's
// target port; 0 = not served there.
uint16_t TargetPort(const model::Service& service, const model::PortList* endpoint_ports,
                    uint16_t service_port);

// The address of `workload` to use for a connection that was asked for as `asked` (may be none):
// that very address if it is one of its own, else one of the same family, else the first.
net::IpAddress ChooseAddress(const model::Workload& workload, const net::IpAddress& asked,
                             model::IpFamilies families = model::IpFamilies::kAutomatic);

// Higher is nearer; -1 = may not be used (STRICT). See reference: locality FAILOVER and STRICT.
int Rank(const model::LoadBalancing& lb, const model::Workload& source,
         const model::Workload& endpoint);

// Weighted by capacity among the usable endpoints of the nearest rank.
Pick PickEndpoint(const model::Service& service, std::span<const model::Endpoint> endpoints,
                  const model::Workload& source, uint16_t service_port, const net::IpAddress& asked,
                  const Random& random, const Avoid& avoid = {});

// One of `weights` by weight; -1 when all are 0.
int PickWeighted(std::span<const uint32_t> weights, uint64_t random);

}  // namespace qanat::lb
