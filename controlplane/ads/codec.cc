// SPDX-License-Identifier: Apache-2.0
#include "controlplane/ads/codec.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include "common/proto/ca.pb.h"
#include "envoy/service/discovery/v3/discovery.pb.h"

namespace qanat::controlplane {
namespace {

constexpr int kMaxNames = 200'000;  // of one request

void Field(google::protobuf::io::CodedOutputStream& out, uint32_t number, std::string_view bytes) {
  out.WriteTag(number << 3 | 2);
  out.WriteVarint32(static_cast<uint32_t>(bytes.size()));
  out.WriteRaw(bytes.data(), static_cast<int>(bytes.size()));
}

}  // namespace

Result<DeltaRequest> DecodeDeltaRequest(std::string_view bytes) {
  envoy::service::discovery::v3::DeltaDiscoveryRequest message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Fail(Code::kInvalidArgument, "not a DeltaDiscoveryRequest");
  }
  if (message.resource_names_subscribe_size() > kMaxNames ||
      message.resource_names_unsubscribe_size() > kMaxNames) {
    return Fail(Code::kResourceExhausted, "too many resource names in one request");
  }
  DeltaRequest out;
  if (message.has_node() && !message.node().id().empty()) {
    NodeInfo node;
    node.id = message.node().id();
    for (const auto& [key, value] : message.node().metadata().fields()) {
      if (value.kind_case() == google::protobuf::Value::kStringValue) {
        node.metadata[key] = value.string_value();
      }
    }
    out.node = std::move(node);
  }
  out.type_url = message.type_url();
  out.subscribe.assign(message.resource_names_subscribe().begin(),
                       message.resource_names_subscribe().end());
  out.unsubscribe.assign(message.resource_names_unsubscribe().begin(),
                         message.resource_names_unsubscribe().end());
  out.initial_versions.insert(message.initial_resource_versions().begin(),
                              message.initial_resource_versions().end());
  out.nonce = message.response_nonce();
  if (message.has_error_detail()) out.error = message.error_detail().message();
  return out;
}

std::string EncodeDeltaResponse(std::string_view system_version, std::string_view type_url,
                                std::string_view nonce,
                                const std::vector<const Resource*>& resources,
                                const std::vector<std::string>& removed) {
  size_t size = system_version.size() + type_url.size() + nonce.size() + 64;
  for (const Resource* resource : resources) size += resource->wire->size() + 12;
  for (const std::string& name : removed) size += name.size() + 12;
  std::string bytes;
  bytes.reserve(size);
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream out(&stream);
  Field(out, 1, system_version);
  for (const Resource* resource : resources) Field(out, 2, *resource->wire);
  Field(out, 4, type_url);
  Field(out, 5, nonce);
  for (const std::string& name : removed) Field(out, 6, name);
  out.Trim();
  return bytes;
}

Result<CertificateRequest> DecodeCertificateRequest(std::string_view bytes) {
  istio::v1::auth::IstioCertificateRequest message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Fail(Code::kInvalidArgument, "not an IstioCertificateRequest");
  }
  CertificateRequest out;
  out.csr = message.csr();
  out.validity_seconds = message.validity_duration();
  const auto& fields = message.metadata().fields();
  if (const auto it = fields.find("ImpersonatedIdentity"); it != fields.end()) {
    if (it->second.kind_case() != google::protobuf::Value::kStringValue ||
        it->second.string_value().empty()) {
      return Fail(Code::kInvalidArgument, "ImpersonatedIdentity must be a SPIFFE id");
    }
    out.impersonated = it->second.string_value();
  }
  return out;
}

std::string EncodeCertificateResponse(const std::vector<std::string>& chain) {
  istio::v1::auth::IstioCertificateResponse message;
  for (const std::string& pem : chain) message.add_cert_chain(pem);
  return message.SerializeAsString();
}

std::optional<NodeId> ParseNodeId(std::string_view id) {
  std::vector<std::string> parts;
  while (true) {
    const size_t at = id.find('~');
    parts.emplace_back(id.substr(0, at));
    if (at == std::string_view::npos) break;
    id.remove_prefix(at + 1);
  }
  if (parts.size() != 4) return std::nullopt;
  const size_t dot = parts[2].rfind('.');
  if (dot == std::string::npos || dot == 0 || dot + 1 == parts[2].size()) return std::nullopt;
  return NodeId{parts[0], parts[1], parts[2].substr(0, dot), parts[2].substr(dot + 1)};
}

}  // namespace qanat::controlplane
