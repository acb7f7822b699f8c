// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/vips.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

#include "bpf/include/abi.h"
#include "common/lb/draw.h"
#include "common/lb/pick_cache.h"

namespace qanat::agent::direct {
namespace {

VipEntry ProxyPicks(std::string why) {
  VipEntry entry;
  entry.why_not = std::move(why);
  return entry;
}

// Why the proxy does something else with this service than to pick an endpoint of it.
std::string Peculiar(const model::Service& service, const model::Workload& source,
                     const net::SocketAddress& asked) {
  if (service.waypoint || !service.weighted_waypoints.empty()) return "it has a waypoint";
  if (service.load_balancing.mode == model::LbMode::kPassthrough) {
    return "its connections go where they are sent to";
  }
  // Such endpoints refuse more often than others, and the proxy tries again.
  if (service.load_balancing.allow_unhealthy) return "endpoints that are not ready serve it, too";
  if (!service.HasAddress(source.network, asked.ip())) return "it has a block of addresses";
  return {};
}

VipEndpoint EndpointOf(const state::MeshSnapshot& snapshot, const route::Mesh& mesh,
                       const model::Service& service, const model::Workload& from,
                       const Member& source, const net::SocketAddress& asked,
                       const model::Workload& workload, uint16_t port, const FindPod& find) {
  VipEndpoint endpoint;
  if (source.proxy_reads_draws) endpoint.code = lb::DrawCode(workload.uid);
  if (workload.network != from.network || workload.waypoint) return endpoint;
  const PodHere here = find(workload.ns, workload.name());
  if (here.member == nullptr || here.member == &source) return endpoint;
  const net::IpAddress ip = lb::ChooseAddress(workload, asked.ip(), service.ip_families);
  if (!ip.is_set() || ip.family() != asked.ip().family()) return endpoint;
  const auto& own = source.facts.addresses;
  const auto source_ip = std::find_if(own.begin(), own.end(),
                                      [&](const auto& one) { return one.family() == ip.family(); });
  if (source_ip == own.end()) return endpoint;
  const net::SocketAddress target(ip, port);
  if (!Judge(snapshot, mesh, source, *source_ip, *here.member, target).direct) return endpoint;
  endpoint.destination = here.serial;
  endpoint.target = target;
  return endpoint;
}

}  // namespace

VipEntry CompileVip(const state::MeshSnapshot& snapshot, const route::Mesh& mesh,
                    const Member& source, const net::SocketAddress& asked, const FindPod& find) {
  const route::Identified from = route::IdentifyPod(snapshot, mesh, source.facts);
  if (from.reason != model::Reason::kNone) return ProxyPicks(from.detail);
  if (snapshot.freshness() != state::Freshness::kLive) {
    return ProxyPicks("no control plane has confirmed what is known of the mesh");
  }
  const model::Workload& client = *from.workload;
  // In the order of route::DecideOutbound.
  if (const auto workload = snapshot.WorkloadByAddress(client.network, asked.ip())) {
    return ProxyPicks(fmt::format("it is the address of {}", workload->uid));
  }
  const auto service = snapshot.ServiceByVip(client.network, asked.ip(), client.ns);
  if (service == nullptr) return ProxyPicks("no service has this address");
  if (std::string why = Peculiar(*service, client, asked); !why.empty()) {
    return ProxyPicks(fmt::format("{}: {}", service->Key(), why));
  }

  const model::EndpointList& endpoints = snapshot.EndpointsOf(*service);
  const lb::Prepared prepared(*service, endpoints, client, asked.port());
  const auto& choices = prepared.choices();
  const auto proxy_picks = [&](std::string_view why) {
    return ProxyPicks(fmt::format("{} port {}: {}", service->Key(), asked.port(), why));
  };
  if (choices.empty()) return proxy_picks("there is no endpoint");
  if (choices.size() > QANAT_VIP_ENDPOINTS) return proxy_picks("there are too many endpoints");
  if (choices.back().until > std::numeric_limits<uint32_t>::max()) {
    return proxy_picks("the weights of its endpoints are too large");
  }
  VipEntry entry;
  std::set<uint32_t> codes;
  size_t direct = 0;
  for (const auto& choice : choices) {
    VipEndpoint endpoint = EndpointOf(snapshot, mesh, *service, client, source, asked,
                                      *endpoints[choice.endpoint].workload, choice.port, find);
    endpoint.until = static_cast<uint32_t>(choice.until);
    direct += static_cast<size_t>(endpoint.destination != 0);
    codes.insert(endpoint.code);
    entry.endpoints.push_back(endpoint);
  }
  if (direct == 0) return proxy_picks("none of its endpoints can be reached straight");
  if (!source.proxy_reads_draws && direct < choices.size()) {
    return proxy_picks("not all of its endpoints can be reached straight");
  }
  if (source.proxy_reads_draws && codes.size() < choices.size()) {
    return proxy_picks("two of its endpoints have the same code");
  }
  return entry;
}

void VipTable::Set(const VipKey& key, VipEntry entry) {
  VipEntry& kept = entries_[key];
  drawn_ += static_cast<size_t>(!entry.endpoints.empty());
  drawn_ -= static_cast<size_t>(!kept.endpoints.empty());
  kept = std::move(entry);
}

void VipTable::Erase(std::map<VipKey, VipEntry>::iterator at) {
  drawn_ -= static_cast<size_t>(!at->second.endpoints.empty());
  entries_.erase(at);
}

VipChanges VipTable::Answer(const VipKey& key, const Compiling& compiling) {
  VipChanges changes;
  auto entry = compiling(key);
  const bool known = entries_.contains(key);
  if (entry && !known && entries_.size() >= capacity_) {
    for (auto at = entries_.begin(); at != entries_.end();) {
      const auto here = at++;
      if (!here->second.endpoints.empty()) continue;
      changes.removed.push_back(here->first);
      Erase(here);
    }
  }
  // Its pod is gone, or every place is taken by something better: the question itself lies there.
  if (!entry || (!known && entries_.size() >= capacity_)) {
    changes.removed.push_back(key);
    return changes;
  }
  changes.put.emplace_back(key, *entry);
  Set(key, std::move(*entry));
  return changes;
}

VipChanges VipTable::Recompile(const Compiling& compiling) {
  VipChanges changes;
  for (auto at = entries_.begin(); at != entries_.end();) {
    const auto here = at++;
    auto entry = compiling(here->first);
    if (!entry) {
      changes.removed.push_back(here->first);
      Erase(here);
      continue;
    }
    const VipEntry& old = here->second;
    changes.tightened |= !old.endpoints.empty() && entry->endpoints.empty();
    if (old.endpoints != entry->endpoints) changes.put.emplace_back(here->first, *entry);
    Set(here->first, std::move(*entry));
  }
  return changes;
}

const VipEntry* VipTable::Find(const VipKey& key) const {
  const auto at = entries_.find(key);
  return at == entries_.end() ? nullptr : &at->second;
}

}  // namespace qanat::agent::direct
