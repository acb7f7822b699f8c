// SPDX-License-Identifier: Apache-2.0
// The names that tie listeners, routes, clusters and endpoints together (README.md, "Names"), and
// the fixed ones that a stock Envoy knows.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "controlplane/model/security.h"

namespace qanat::controlplane::envoy_names {

inline constexpr std::string_view kConnectTerminate = "connect_terminate";
inline constexpr std::string_view kMainInternal = "main_internal";
inline constexpr std::string_view kConnectOriginate = "connect_originate";
inline constexpr uint16_t kHbonePort = 15008;

// Filter state objects (istiod's waypoints use the same keys).
inline constexpr std::string_view kPeerPrincipal = "io.istio.peer_principal";
inline constexpr std::string_view kLocalPrincipal = "io.istio.local_principal";
inline constexpr std::string_view kConnectAuthority = "io.istio.connect_authority";
// Well known to Envoy: what the original_dst listener filter restores on an internal connection,
// and which names a TLS connection to an upstream must prove.
inline constexpr std::string_view kOriginalDstLocal =
    "envoy.filters.listener.original_dst.local_ip";
inline constexpr std::string_view kOriginalDstRemote =
    "envoy.filters.listener.original_dst.remote_ip";
inline constexpr std::string_view kUpstreamSans = "envoy.network.upstream_subject_alt_names";

// Metadata namespaces of endpoints, clusters and routes.
inline constexpr std::string_view kOriginalDstMetadata = "envoy.filters.listener.original_dst";
inline constexpr std::string_view kTransportSocketMatch = "envoy.transport_socket_match";
inline constexpr std::string_view kIstioMetadata = "istio";
inline constexpr std::string_view kQanatMetadata = "qanat";

// HTTP filters that routes override by name.
inline constexpr std::string_view kRbacAudit = "envoy.filters.http.rbac.audit";
inline constexpr std::string_view kRbacDeny = "envoy.filters.http.rbac.deny";
inline constexpr std::string_view kRbacAllow = "envoy.filters.http.rbac.allow";
inline constexpr std::string_view kFault = "envoy.filters.http.fault";
inline constexpr std::string_view kCors = "envoy.filters.http.cors";
inline constexpr std::string_view kRouter = "envoy.filters.http.router";

// Secrets, by the names that bootstraps use.
inline constexpr std::string_view kOwnCertificate = "default";
inline constexpr std::string_view kRoots = "ROOTCA";

// "inbound-vip|80|http/v1|backend.shop.svc.cluster.local"; filter chain, RDS and cluster name.
inline std::string InboundVip(uint16_t port, bool http, std::string_view subset,
                              std::string_view host) {
  std::string name = "inbound-vip|" + std::to_string(port) + (http ? "|http" : "|tcp");
  if (!subset.empty()) name.append("/").append(subset);
  return name.append("|").append(host);
}

// "outbound|80|v1|payments-v1.shop.svc.cluster.local": a service that is not this waypoint's.
inline std::string Outbound(uint16_t port, std::string_view subset, std::string_view host) {
  std::string name = "outbound|" + std::to_string(port) + "|";
  return name.append(subset).append("|").append(host);
}

inline std::string PolicyRule(const ObjectMeta& policy, std::string_view rule) {
  std::string name = "ns[" + policy.ns + "]-policy[" + policy.name + "]-rule[";
  return name.append(rule).append("]");
}

}  // namespace qanat::controlplane::envoy_names
