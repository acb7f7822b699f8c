// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/control_plane.h"

namespace qanat::grpc {

void ControlPlane::Read(EnvironmentReader& reader) {
  reader.Url("XDS_ADDRESS", xds_address);
  reader.Url("CA_ADDRESS", ca_address);
  reader.Text("XDS_ROOT_CA", xds_root_ca);
  reader.Text("CA_ROOT_CA", ca_root_ca);
  reader.Text("ALT_XDS_HOSTNAME", alt_xds_hostname);
  reader.Text("ALT_CA_HOSTNAME", alt_ca_hostname);
  reader.Text("AUTH_TOKEN", auth_token);
  reader.Text("CLUSTER_ID", cluster_id);
  reader.Text("ISTIO_META_CLUSTER_ID", cluster_id);
}

ChannelOptions ControlPlane::Xds() const {
  ChannelOptions options;
  options.endpoint = xds_address;
  options.root_ca = xds_root_ca;
  options.alternative_server_name = alt_xds_hostname;
  options.metadata = TokenMetadata(auth_token, cluster_id);
  return options;
}

ChannelOptions ControlPlane::Ca() const {
  ChannelOptions options;
  options.endpoint = ca_address;
  options.root_ca = ca_root_ca;
  options.alternative_server_name = alt_ca_hostname;
  options.metadata = TokenMetadata(auth_token, cluster_id);
  options.idle_timeout = std::chrono::seconds(60);
  return options;
}

}  // namespace qanat::grpc
