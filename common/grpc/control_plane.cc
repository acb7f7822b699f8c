// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/control_plane.h"

namespace qanat::grpc {
namespace {

ChannelOptions To(const ControlPlane& at, const std::string& address, const std::string& root_ca,
                  const std::string& alternative_name) {
  ChannelOptions options;
  options.endpoint = address;
  options.root_ca = root_ca;
  options.alternative_server_name = alternative_name;
  options.metadata = TokenMetadata(at.auth_token, at.cluster_id);
  return options;
}

}  // namespace

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
  return To(*this, xds_address, xds_root_ca, alt_xds_hostname);
}

ChannelOptions ControlPlane::Ca() const {
  ChannelOptions options = To(*this, ca_address, ca_root_ca, alt_ca_hostname);
  options.idle_timeout = std::chrono::seconds(60);
  return options;
}

}  // namespace qanat::grpc
