// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/own_ips.h"

#include <algorithm>
#include <cstring>

namespace qanat::agent {
namespace {

std::vector<qanat_own_ip> Keys(uint32_t pod_id, const std::vector<net::IpAddress>& ips) {
  std::vector<qanat_own_ip> keys;
  for (const auto& ip : ips) {
    if (keys.size() >= QANAT_OWN_IPS_PER_POD) break;
    keys.push_back({pod_id, bpf::ToKernel(ip)});
  }
  return keys;
}

using IpMap = bpf::Map<qanat_own_ip, __u8>;

Status Sync(IpMap& map, uint32_t pod_id, const std::vector<net::IpAddress>& ips) {
  const std::vector<qanat_own_ip> wanted = Keys(pod_id, ips);
  for (const qanat_own_ip& key : map.Keys()) {
    if (key.pod_id != pod_id) continue;
    const bool keep = std::any_of(wanted.begin(), wanted.end(), [&](const qanat_own_ip& other) {
      return std::memcmp(&key, &other, sizeof key) == 0;
    });
    if (!keep) (void)map.Erase(key);
  }
  for (const qanat_own_ip& key : wanted)
    if (Status done = map.Update(key, 1); !done)
      return Fail(done.error().Annotate("a further address of the pod"));
  return {};
}

bool Has(const IpMap& map, uint32_t pod_id, const std::vector<net::IpAddress>& ips) {
  const std::vector<qanat_own_ip> wanted = Keys(pod_id, ips);
  return std::all_of(wanted.begin(), wanted.end(), [&](const qanat_own_ip& key) {
    auto found = map.Lookup(key);
    return found && *found;
  });
}

}  // namespace

Status SyncOwnIps(bpf::NodeMaps& maps, uint32_t pod_id, const std::vector<net::IpAddress>& ips) {
  return Sync(maps.own_ips, pod_id, ips);
}

bool HasOwnIps(const bpf::NodeMaps& maps, uint32_t pod_id, const std::vector<net::IpAddress>& ips) {
  return Has(maps.own_ips, pod_id, ips);
}

Status SyncSourceIps(bpf::NodeMaps& maps, uint32_t pod_id, const std::vector<net::IpAddress>& ips) {
  return Sync(maps.source_ips, pod_id, ips);
}

bool HasSourceIps(const bpf::NodeMaps& maps, uint32_t pod_id,
                  const std::vector<net::IpAddress>& ips) {
  return Has(maps.source_ips, pod_id, ips);
}

}  // namespace qanat::agent
