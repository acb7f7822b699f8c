// SPDX-License-Identifier: Apache-2.0
// Compiled policies as Envoy's RBAC, for HTTP routes and for TCP chains.
#pragma once

#include "controlplane/envoy/policy.h"

namespace envoy::config::listener::v3 {
class FilterChain;
}
namespace envoy::config::route::v3 {
class VirtualHost;
}
namespace envoy::extensions::filters::network::http_connection_manager::v3 {
class HttpConnectionManager;
}

namespace qanat::controlplane {

// The three HTTP filters, which by themselves let nothing through.
void AddHttpRbacFilters(
    envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager* hcm);

// What the filters are to do for this virtual host.
void OverrideRbac(const CompiledPolicies& policies, envoy::config::route::v3::VirtualHost* host);

void AddNetworkRbacFilters(const CompiledPolicies& policies, const std::string& chain_name,
                           envoy::config::listener::v3::FilterChain* chain);

}  // namespace qanat::controlplane
