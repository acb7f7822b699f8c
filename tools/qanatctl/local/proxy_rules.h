// SPDX-License-Identifier: Apache-2.0
// kube-proxy's part: one nft table in each node's namespace that turns a ClusterIP and port into a
// ready endpoint. Only the text is made here (pure); one `nft -f -` replaces the table atomically.
#pragma once

#include <string>
#include <vector>

#include "common/net/address.h"

namespace qanat::local {

struct ServiceRoute {
  net::IpAddress ip;
  uint16_t port = 0;
  bool udp = false;
  std::string comment;                        // "shop/backend:http"
  std::vector<net::SocketAddress> endpoints;  // of ip's family; empty: connections are refused
};

// `local_pods`: addresses of the node's own pods; a pod that reaches itself through a ClusterIP is
// masqueraded (a reply to itself would otherwise never pass the NAT).
std::string RenderProxyRules(const std::vector<ServiceRoute>& routes,
                             const std::vector<net::IpAddress>& local_pods);

inline constexpr char kProxyTable[] = "qanat_services";

}  // namespace qanat::local
