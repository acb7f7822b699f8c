// SPDX-License-Identifier: Apache-2.0
#include "common/lb/lb.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "common/lb/judge.h"

namespace qanat::lb {
namespace {

using model::LbMode;
using model::LbScope;
using model::Reason;

bool Same(LbScope scope, const model::Workload& a, const model::Workload& b) {
  switch (scope) {
    case LbScope::kUnspecified: return true;
    case LbScope::kRegion: return a.locality.region == b.locality.region;
    case LbScope::kZone: return a.locality.zone == b.locality.zone;
    case LbScope::kSubzone: return a.locality.subzone == b.locality.subzone;
    case LbScope::kNode: return a.node == b.node;
    case LbScope::kCluster: return a.cluster_id == b.cluster_id;
    case LbScope::kNetwork: return a.network == b.network;
  }
  return false;
}

int LeadingMatches(std::span<const LbScope> preferences, const model::Workload& source,
                   const model::Workload& endpoint) {
  int matched = 0;
  for (const LbScope scope : preferences) {
    if (!Same(scope, source, endpoint)) break;
    ++matched;
  }
  return matched;
}

bool Reachable(const model::Workload& workload, const model::Workload& source) {
  if (!workload.addresses.empty() || !workload.hostname.empty()) return true;
  return workload.network != source.network && workload.network_gateway.has_value();
}

}  // namespace

uint16_t TargetPort(const model::Service& service, const model::PortList* endpoint_ports,
                    uint16_t service_port) {
  if (endpoint_ports != nullptr) {
    for (const model::Port& port : *endpoint_ports) {
      if (port.service_port == service_port && port.target_port != 0) return port.target_port;
    }
  }
  const model::Port* port = service.FindPort(service_port);
  return port == nullptr ? 0 : port->target_port;
}

net::IpAddress ChooseAddress(const model::Workload& workload, const net::IpAddress& asked,
                             model::IpFamilies families) {
  if (asked.is_set() && workload.HasAddress(asked)) return asked;
  auto usable = [&](const net::IpAddress& ip) {
    return families == model::IpFamilies::kIpv4Only   ? ip.is_v4()
           : families == model::IpFamilies::kIpv6Only ? ip.is_v6()
                                                      : true;
  };
  net::IpAddress first;
  for (const net::IpAddress& ip : workload.addresses) {
    if (!usable(ip)) continue;
    if (!asked.is_set() || ip.family() == asked.family()) return ip;
    if (!first.is_set()) first = ip;
  }
  if (first.is_set() || workload.addresses.empty()) return first;
  return workload.addresses.front();
}

int Rank(const model::LoadBalancing& lb, const model::Workload& source,
         const model::Workload& endpoint) {
  const std::span<const LbScope> preferences = lb.routing_preference;
  switch (lb.mode) {
    case LbMode::kUnspecified:
    case LbMode::kPassthrough: return 0;
    case LbMode::kStrict:
      return LeadingMatches(preferences, source, endpoint) == static_cast<int>(preferences.size())
                 ? 0
                 : -1;
    case LbMode::kFailover: break;
  }
  // Stock ztunnel: with NETWORK first, endpoints of other networks are still ranked among
  // themselves by the rest, and those of ours come before all of them.
  if (!preferences.empty() && preferences.front() == LbScope::kNetwork) {
    const auto rest = preferences.subspan(1);
    const int rank = LeadingMatches(rest, source, endpoint);
    return Same(LbScope::kNetwork, source, endpoint) ? rank + 1 + static_cast<int>(rest.size())
                                                     : rank;
  }
  return LeadingMatches(preferences, source, endpoint);
}

Candidate Judge(const model::Service& service, const model::Endpoint& endpoint,
                const model::Workload& source, uint16_t service_port, const Avoid& avoid) {
  const model::Workload& workload = *endpoint.workload;
  Candidate out;
  const auto unfit = [&out](Fit fit) {
    out.fit = fit;
    return out;
  };
  if (!workload.healthy && !service.load_balancing.allow_unhealthy) return unfit(Fit::kUnhealthy);
  out.port = TargetPort(service, endpoint.ports, service_port);
  // A waypoint behind a PROXY tunnel takes every port of the service it stands for.
  if (out.port == 0 && workload.application_tunnel) out.port = service_port;
  if (out.port == 0) return unfit(Fit::kNoPort);
  if (!Reachable(workload, source)) return unfit(Fit::kUnreachable);
  out.rank = Rank(service.load_balancing, source, workload);
  if (out.rank < 0) return unfit(Fit::kTooFar);
  if (avoid.Tried(workload)) return unfit(Fit::kTried);
  return out;
}

bool Avoid::Tried(const model::Workload& workload) const {
  return std::find(tried.begin(), tried.end(), workload.uid) != tried.end();
}

Pick PickEndpoint(const model::Service& service, std::span<const model::Endpoint> endpoints,
                  const model::Workload& source, uint16_t service_port, const net::IpAddress& asked,
                  const Random& random, const Avoid& avoid) {
  // Those that keep failing are left out, the first of them up to half of what could be used.
  size_t may_eject = 0;
  if (avoid.ejected) {
    for (const model::Endpoint& endpoint : endpoints) {
      if (Judge(service, endpoint, source, service_port, avoid).fit == Fit::kUsable) ++may_eject;
    }
    may_eject /= 2;
  }
  int best = -1;
  uint64_t total = 0;
  std::array<size_t, kFits> counts{};
  size_t ejected = 0;
  // One pass: a candidate replaces the pick with probability capacity / total so far, which is the
  // weighted choice among all candidates of the best rank.
  const model::Endpoint* picked = nullptr;
  uint16_t picked_port = 0;
  for (const model::Endpoint& endpoint : endpoints) {
    const model::Workload& workload = *endpoint.workload;
    const Candidate candidate = Judge(service, endpoint, source, service_port, avoid);
    ++counts[static_cast<size_t>(candidate.fit)];
    if (candidate.fit != Fit::kUsable || candidate.rank < best || workload.capacity == 0) continue;
    if (ejected < may_eject && avoid.ejected(workload, candidate.port)) {
      ++ejected;
      continue;
    }
    if (candidate.rank > best) {
      best = candidate.rank;
      total = 0;
    }
    total += workload.capacity;
    if (total == workload.capacity || random() % total < workload.capacity) {
      picked = &endpoint;
      picked_port = candidate.port;
    }
  }
  if (picked == nullptr && ejected > 0) {
    return PickEndpoint(service, endpoints, source, service_port, asked, random,
                        {avoid.tried, nullptr, nullptr});
  }
  Pick pick;
  if (picked == nullptr) {
    const auto count = [&counts](Fit fit) { return counts[static_cast<size_t>(fit)]; };
    const bool ports_only = count(Fit::kNoPort) > 0 && count(Fit::kNoPort) == endpoints.size();
    pick.reason = ports_only || (endpoints.empty() && service.FindPort(service_port) == nullptr)
                      ? Reason::kNoSuchPort
                      : Reason::kNoHealthyUpstream;
    pick.detail = fmt::format(
        "{} port {}: {} endpoints, {} not ready, {} without this port, {} without an address, {} "
        "excluded by traffic distribution",
        service.Key(), service_port, endpoints.size(), count(Fit::kUnhealthy), count(Fit::kNoPort),
        count(Fit::kUnreachable), count(Fit::kTooFar));
    if (count(Fit::kTried) > 0) pick.detail += fmt::format(", {} tried", count(Fit::kTried));
    return pick;
  }
  pick.target.workload = picked->workload;
  pick.target.target_port = picked_port;
  pick.target.ip = ChooseAddress(*picked->workload, asked, service.ip_families);
  return pick;
}

int PickWeighted(std::span<const uint32_t> weights, uint64_t random) {
  uint64_t total = 0;
  for (const uint32_t weight : weights) total += weight;
  if (total == 0) return -1;
  uint64_t at = random % total;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (at < weights[i]) return static_cast<int>(i);
    at -= weights[i];
  }
  return -1;
}

}  // namespace qanat::lb
