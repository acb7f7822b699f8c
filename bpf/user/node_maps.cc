// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/node_maps.h"

#include <cstring>

namespace qanat::bpf {

Result<NodeMaps> NodeMaps::Open(const std::string& dir) {
  NodeMaps maps;
  auto open = [&](auto& map, const char* name) -> Status {
    using M = std::remove_reference_t<decltype(map)>;
    QANAT_ASSIGN_OR_RETURN(map, M::OpenPinned(dir + "/" + name));
    return {};
  };
  QANAT_RETURN_IF_ERROR(open(maps.abi, "abi"));
  QANAT_RETURN_IF_ERROR(open(maps.config, "config"));
  QANAT_RETURN_IF_ERROR(open(maps.pods, "pods"));
  QANAT_RETURN_IF_ERROR(open(maps.pod_ips, "pod_ips"));
  QANAT_RETURN_IF_ERROR(open(maps.own_ips, "own_ips"));
  QANAT_RETURN_IF_ERROR(open(maps.pod_state, "pod_state"));
  QANAT_RETURN_IF_ERROR(open(maps.listeners, "listeners"));
  QANAT_RETURN_IF_ERROR(open(maps.grants, "grants"));
  QANAT_RETURN_IF_ERROR(open(maps.budgets, "budgets"));
  QANAT_RETURN_IF_ERROR(open(maps.probes, "probes"));
  QANAT_RETURN_IF_ERROR(open(maps.dns_tables, "dns_tables"));
  QANAT_RETURN_IF_ERROR(open(maps.dns_on, "dns_on"));
  QANAT_RETURN_IF_ERROR(open(maps.early_cookies, "early_cookies"));
  QANAT_RETURN_IF_ERROR(open(maps.counters, "counters"));
  QANAT_RETURN_IF_ERROR(open(maps.direct, "direct"));
  QANAT_RETURN_IF_ERROR(open(maps.verdicts, "verdicts"));
  QANAT_RETURN_IF_ERROR(open(maps.vips, "vips"));
  QANAT_RETURN_IF_ERROR(open(maps.suspended, "suspended"));
  QANAT_RETURN_IF_ERROR(open(maps.asked, "asked"));
  QANAT_RETURN_IF_ERROR(open(maps.flows, "flows"));
  QANAT_RETURN_IF_ERROR(open(maps.host_ends, "host_ends"));
  QANAT_RETURN_IF_ERROR(open(maps.source_ips, "source_ips"));
  return maps;
}

Result<qanat_counters> NodeMaps::CountersOf(uint32_t pod_id) const {
  auto values = counters.Lookup(pod_id);
  if (!values) return tl::unexpected(std::move(values).error());
  qanat_counters sum{};
  for (const qanat_counters& cpu : *values)
    for (int i = 0; i < QANAT_COUNTERS; ++i) sum.value[i] += cpu.value[i];
  return sum;
}

Status NodeMaps::EndLease() {
  QANAT_ASSIGN_OR_RETURN(auto value, direct.Lookup(0));
  qanat_direct off = value.value_or(qanat_direct{});
  off.lease_until = 0;
  off.on = 0;
  return direct.Update(0, off);
}

Result<uint32_t> NodeMaps::TakeSerial() {
  QANAT_ASSIGN_OR_RETURN(auto value, direct.Lookup(0));
  qanat_direct next = value.value_or(qanat_direct{});
  const uint32_t serial = ++next.next_serial;
  QANAT_RETURN_IF_ERROR(direct.Update(0, next));
  return serial;
}

qanat_ip ToKernel(const net::IpAddress& ip) {
  qanat_ip out{};
  if (ip.is_v4()) {
    out.word[2] = __builtin_bswap32(0x0000ffff);
    std::memcpy(&out.word[3], ip.bytes().data(), 4);
  } else if (ip.is_v6()) {
    std::memcpy(out.word, ip.bytes().data(), 16);
  }
  return out;
}

net::IpAddress FromKernel(const qanat_ip& ip) {
  uint8_t bytes[16];
  std::memcpy(bytes, ip.word, 16);
  const bool mapped =
      ip.word[0] == 0 && ip.word[1] == 0 && ip.word[2] == __builtin_bswap32(0x0000ffff);
  if (mapped) return net::IpAddress::FromBytes({bytes + 12, 4});
  if ((ip.word[0] | ip.word[1] | ip.word[2] | ip.word[3]) == 0) return {};
  return net::IpAddress::FromBytes({bytes, 16});
}

qanat_tuple ToKernel(const net::SocketAddress& source, const net::SocketAddress& destination) {
  return {ToKernel(source.ip()), ToKernel(destination.ip()), source.port(), destination.port()};
}

}  // namespace qanat::bpf
