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

}  // namespace

Status SyncOwnIps(bpf::NodeMaps& maps, uint32_t pod_id, const std::vector<net::IpAddress>& ips) {
  const std::vector<qanat_own_ip> wanted = Keys(pod_id, ips);
  for (const qanat_own_ip& key : maps.own_ips.Keys()) {
    if (key.pod_id != pod_id) continue;
    const bool keep = std::any_of(wanted.begin(), wanted.end(), [&](const qanat_own_ip& other) {
      return std::memcmp(&key, &other, sizeof key) == 0;
    });
    if (!keep) (void)maps.own_ips.Erase(key);
  }
  for (const qanat_own_ip& key : wanted)
    if (Status done = maps.own_ips.Update(key, 1); !done)
      return Fail(done.error().Annotate("a further address of the pod"));
  return {};
}

bool HasOwnIps(const bpf::NodeMaps& maps, uint32_t pod_id, const std::vector<net::IpAddress>& ips) {
  const std::vector<qanat_own_ip> wanted = Keys(pod_id, ips);
  return std::all_of(wanted.begin(), wanted.end(), [&](const qanat_own_ip& key) {
    auto found = maps.own_ips.Lookup(key);
    return found && *found;
  });
}

}  // namespace qanat::agent
