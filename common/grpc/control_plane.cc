// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/control_plane.h"

#include <algorithm>

namespace qanat::grpc {
namespace {

ChannelOptions To(const ControlPlane& at, const std::string& address, const std::string& root_ca,
                  const std::string& alternative_name, const Metadata& headers) {
  ChannelOptions options;
  options.endpoint = address;
  options.root_ca = root_ca;
  options.alternative_server_name = alternative_name;
  options.metadata = TokenMetadata(at.auth_token, at.cluster_id, headers);
  return options;
}

// What gRPC takes as the name of a text header; those of its own are not to be had.
bool IsHeaderName(std::string_view name) {
  if (name.empty() || name.starts_with("grpc-") || name.ends_with("-bin")) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  });
}

bool IsHeaderValue(std::string_view value) {
  return std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; });
}

Status ReadHeader(std::string_view entry, std::string_view prefix, Metadata& out) {
  if (!entry.starts_with(prefix)) return {};
  const size_t eq = entry.find('=');
  if (eq == std::string_view::npos) return {};
  std::string name(entry.substr(prefix.size(), eq - prefix.size()));
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  const std::string_view value = entry.substr(eq + 1);
  if (!IsHeaderName(name) || !IsHeaderValue(value)) {
    return Fail(Code::kInvalidArgument,
                std::string(entry.substr(0, eq)) + ": expected a header's name behind " +
                    std::string(prefix) +
                    " (letters, digits, - _ .) and a value of printable ASCII");
  }
  out.emplace_back(std::move(name), value);
  return {};
}

}  // namespace

Status ControlPlane::ReadHeaders(const std::vector<std::string>& environment) {
  for (const std::string& entry : environment) {
    QANAT_RETURN_IF_ERROR(ReadHeader(entry, "XDS_HEADER_", xds_headers));
    QANAT_RETURN_IF_ERROR(ReadHeader(entry, "CA_HEADER_", ca_headers));
  }
  return {};
}

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
  return To(*this, xds_address, xds_root_ca, alt_xds_hostname, xds_headers);
}

ChannelOptions ControlPlane::Ca() const {
  ChannelOptions options = To(*this, ca_address, ca_root_ca, alt_ca_hostname, ca_headers);
  options.idle_timeout = std::chrono::seconds(60);
  return options;
}

}  // namespace qanat::grpc
