// SPDX-License-Identifier: Apache-2.0
// networking.istio.io: ServiceEntry.
#include <fmt/format.h>

#include "controlplane/source/decode.h"

namespace qanat::controlplane {
namespace {

ServiceEntry::Endpoint ReadEntryEndpoint(const YamlNode* node, ReadContext& context) {
  MapReader reader(node, "spec.endpoints", context);
  ServiceEntry::Endpoint out;
  out.address = reader.String("address");
  if (const YamlNode* ports = reader.Take("ports"); ports != nullptr && ports->is_map()) {
    MapReader port_reader(ports, "spec.endpoints.ports", context);
    for (const YamlEntry& entry : ports->entries) {
      out.ports.emplace_back(entry.key, port_reader.Port(entry.key));
    }
  }
  out.labels = reader.StringMap("labels");
  out.locality = reader.String("locality");
  out.weight = static_cast<uint32_t>(reader.Int("weight", 0, 1'000'000).value_or(0));
  out.service_account = reader.String("serviceAccount");
  out.network = reader.String("network");
  reader.Finish();
  return out;
}

}  // namespace

AnyObject DecodeServiceEntry(ObjectMeta meta, MapReader& root) {
  ServiceEntry out;
  out.meta = std::move(meta);
  MapReader spec = root.Map("spec");
  out.hosts = spec.Strings("hosts");
  out.addresses = spec.Strings("addresses");
  for (const YamlNode* node : spec.Items("ports")) {
    ServicePort port = ReadServicePort(node, "spec.ports", root.context());
    if (port.port == 0) {
      if (!root.context().failed) spec.Bad(node->line, "ports", "a port number is missing");
      continue;
    }
    out.ports.push_back(std::move(port));
  }
  out.mesh_internal = spec.String("location") == "MESH_INTERNAL";
  const std::string resolution = spec.String("resolution");
  if (resolution == "STATIC") {
    out.resolution = ServiceEntry::Resolution::kStatic;
  } else if (resolution == "DNS") {
    out.resolution = ServiceEntry::Resolution::kDns;
  } else if (resolution == "DNS_ROUND_ROBIN") {
    out.resolution = ServiceEntry::Resolution::kDnsRoundRobin;
  } else if (resolution == "DYNAMIC_DNS") {
    out.resolution = ServiceEntry::Resolution::kDynamicDns;
  } else if (!resolution.empty() && resolution != "NONE") {
    spec.Bad(spec.line(), "resolution", fmt::format("\"{}\" is not a way to resolve", resolution),
             "use NONE, STATIC, DNS or DNS_ROUND_ROBIN");
  }
  for (const YamlNode* node : spec.Items("endpoints")) {
    out.endpoints.push_back(ReadEntryEndpoint(node, root.context()));
  }
  MapReader selector = spec.Map("workloadSelector");
  if (selector.present()) {
    LabelSelector s;
    s.match_labels = selector.StringMap("labels");
    selector.Finish();
    out.workload_selector = std::move(s);
  }
  out.export_to = spec.Strings("exportTo");
  out.subject_alt_names = spec.Strings("subjectAltNames");
  spec.Finish();
  if (out.hosts.empty()) spec.Bad(spec.line(), "hosts", "is missing", "name at least one host");
  MapReader status = root.Map("status");
  for (const YamlNode* node : status.Items("addresses")) {
    MapReader address(node, "status.addresses", root.context());
    out.status_addresses.push_back(address.String("value"));
  }
  return out;
}

}  // namespace qanat::controlplane
