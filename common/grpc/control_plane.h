// SPDX-License-Identifier: Apache-2.0
// How a proxy reaches its control plane: the addresses, trust roots and token that stock proxies
// take from their environment, with stock's defaults. A value.
#pragma once

#include <string>
#include <vector>

#include "common/base/environment.h"
#include "common/grpc/channel.h"

namespace qanat::grpc {

struct ControlPlane {
  std::string xds_address = "https://istiod.istio-system.svc:15012";  // "" = none
  std::string ca_address = "https://istiod.istio-system.svc:15012";
  std::string xds_root_ca = "./var/run/secrets/istio/root-cert.pem";
  std::string ca_root_ca = "./var/run/secrets/istio/root-cert.pem";
  std::string alt_xds_hostname, alt_ca_hostname;
  std::string auth_token = "./var/run/secrets/tokens/istio-token";
  std::string cluster_id = "Kubernetes";  // sent with the token
  Metadata xds_headers, ca_headers;       // sent with every call

  // XDS_ADDRESS, CA_ADDRESS, XDS_ROOT_CA, CA_ROOT_CA, ALT_XDS_HOSTNAME, ALT_CA_HOSTNAME,
  // AUTH_TOKEN, CLUSTER_ID, ISTIO_META_CLUSTER_ID.
  void Read(EnvironmentReader& reader);

  // XDS_HEADER_<name> and CA_HEADER_<name>, from the whole environment as NAME=value.
  Status ReadHeaders(const std::vector<std::string>& environment);

  ChannelOptions Xds() const;
  ChannelOptions Ca() const;  // given up while nothing is asked for
};

}  // namespace qanat::grpc
