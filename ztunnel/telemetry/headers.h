// SPDX-License-Identifier: Apache-2.0
// The headers that travel with an HBONE CONNECT: baggage (who the sender is, for labels only, never
// for decisions), forwarded, traceparent. Formats of stock ztunnel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/model/workload.h"

namespace qanat::ztunnel {

// k8s.cluster.name=...,k8s.namespace.name=...,k8s.<type>.name=...,service.name=...,
// service.version=...,cloud.region=...,cloud.availability_zone=...; empty ones are left out.
std::string MakeBaggage(const model::Workload& workload);

struct Baggage {
  std::string cluster, ns, workload, workload_type, service, version, region, zone;
  bool operator==(const Baggage&) const = default;
};
constexpr size_t kMaxBaggageValue = 256;  // bytes; what is longer is skipped
// Lenient: what is not understood is skipped. Bounded work whatever comes.
Baggage ParseBaggage(std::string_view header);

// for="10.91.1.5:40000"  or  for="...";host=backend.shop.svc.cluster.local
std::string MakeForwarded(const net::SocketAddress& source, std::string_view service_host);
std::string ForwardedHost(std::string_view header);  // "" when absent

// 00-<32 hex>-<16 hex>-00
std::string MakeTraceparent(uint64_t high, uint64_t low, uint64_t span);
std::string TraceId(std::string_view traceparent);  // the 32 hex digits; "" when malformed

}  // namespace qanat::ztunnel
