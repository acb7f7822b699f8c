// SPDX-License-Identifier: Apache-2.0
// Pieces of Envoy's configuration that listeners and clusters share.
#pragma once

#include <string>

#include "controlplane/envoy/scope.h"

namespace envoy::extensions::transport_sockets::tls::v3 {
class CommonTlsContext;
}
namespace envoy::extensions::filters::network::tcp_proxy::v3 {
class TcpProxy;
}

namespace qanat::controlplane {

// Both ends of HBONE: TLS 1.3, h2, own certificate and roots from SDS, a peer of the trust domain.
void FillHboneTls(const std::string& trust_domain,
                  envoy::extensions::transport_sockets::tls::v3::CommonTlsContext* tls);

// Where a TCP port's connections go: the VirtualService's tcp routes, else the service.
void FillTcpTargets(Scope& scope, const ServedPort& served,
                    envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy* proxy);

}  // namespace qanat::controlplane
