// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/dns_switch.h"

#include <arpa/inet.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "agent/redirect/rtnetlink.h"

namespace qanat::agent {
namespace {

constexpr uint8_t kPrefixLength = 96;

Result<qanat_dns_table> NewTable() {
  qanat_dns_table table{};
  if (::getrandom(table.prefix, sizeof table.prefix, 0) != sizeof table.prefix)
    return FailErrno("getrandom");
  table.prefix[0] = htonl((ntohl(table.prefix[0]) & 0x00ffffffu) | 0xfd000000u);
  // Questions that are on their way have their answers.
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  table.wire_until_ns = static_cast<uint64_t>(now.tv_sec) * 1000000000ull +
                        static_cast<uint64_t>(now.tv_nsec) + QANAT_DNS_ANSWER_NS;
  return table;
}

net::IpAddress PrefixOf(const qanat_dns_table& table) {
  qanat_ip ip{};
  std::memcpy(ip.word, table.prefix, sizeof table.prefix);
  return bpf::FromKernel(ip);
}

// This prefix and no other one of ours.
Result<bool> EnsureRoute(const net::IpAddress& prefix) {
  QANAT_ASSIGN_OR_RETURN(const auto present, rtnl::LocalPrefixes(kPrefixLength));
  bool there = false;
  for (const auto& other : present) {
    if (other == prefix)
      there = true;
    else
      QANAT_RETURN_IF_ERROR(rtnl::DeleteLocalPrefix(other, kPrefixLength));
  }
  if (there) return false;
  QANAT_ASSIGN_OR_RETURN(const auto loopback, net::IpAddress::Parse("::1"));
  QANAT_RETURN_IF_ERROR(rtnl::AddLocalPrefix(prefix, kPrefixLength, loopback));
  return true;
}

}  // namespace

Result<bool> EnsureDns(bpf::NodeMaps& maps, uint32_t pod_id, const netns::NetNs& ns,
                       uint32_t families) {
  bool done = false;
  if (families != 0) {
    QANAT_ASSIGN_OR_RETURN(auto table, maps.dns_tables.Lookup(pod_id));
    if (!table) {
      QANAT_ASSIGN_OR_RETURN(table, NewTable());
      QANAT_RETURN_IF_ERROR(maps.dns_tables.Update(pod_id, *table));
      done = true;
    }
    if (families & QANAT_DNS_V6) {
      QANAT_RETURN_IF_ERROR(ns.Run([&]() -> Status {
        QANAT_ASSIGN_OR_RETURN(const bool added, EnsureRoute(PrefixOf(*table)));
        done |= added;
        return {};
      }));
    }
  }
  if (DnsFamilies(maps, pod_id) != families) {
    QANAT_RETURN_IF_ERROR(maps.dns_on.Update(pod_id, families));
    done = true;
  }
  return done;
}

void ForgetDns(bpf::NodeMaps& maps, uint32_t pod_id) {
  (void)maps.dns_on.Update(pod_id, 0);
  (void)maps.dns_tables.Erase(pod_id);
}

uint32_t DnsFamilies(const bpf::NodeMaps& maps, uint32_t pod_id) {
  const auto on = maps.dns_on.Lookup(pod_id);
  return on && *on ? **on : 0;
}

Status RemoveDnsRoutes() {
  if (::access("/proc/sys/net/ipv6", F_OK) != 0) return {};
  QANAT_ASSIGN_OR_RETURN(const auto present, rtnl::LocalPrefixes(kPrefixLength));
  for (const auto& prefix : present)
    QANAT_RETURN_IF_ERROR(rtnl::DeleteLocalPrefix(prefix, kPrefixLength));
  return {};
}

}  // namespace qanat::agent
