// SPDX-License-Identifier: Apache-2.0
// Kubernetes' own kinds. Their many other fields are the API server's business: not complained
// about.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "controlplane/source/decode.h"

namespace qanat::controlplane {
namespace {

net::IpAddress ReadIp(MapReader& reader, std::string_view key) {
  const YamlNode* node = reader.Take(key);
  if (node == nullptr || node->text.empty()) return {};
  Result<net::IpAddress> ip = net::IpAddress::Parse(node->text);
  if (ip) return *ip;
  reader.Bad(node->line, key, fmt::format("\"{}\" is not an IP address", node->text));
  return {};
}

Protocol ReadProtocol(MapReader& reader) {
  const std::string text = reader.String("protocol");
  if (text == "UDP") return Protocol::kUdp;
  if (text == "SCTP") return Protocol::kSctp;
  if (!text.empty() && text != "TCP") {
    reader.Bad(reader.line(), "protocol", fmt::format("\"{}\" is not a protocol", text),
               "use TCP, UDP or SCTP");
  }
  return Protocol::kTcp;
}

AppProtocol AppProtocolOf(std::string_view word) {
  if (word == "http" || word == "kubernetes.io/ws") return AppProtocol::kHttp1;
  if (word == "http2" || word == "kubernetes.io/h2c") return AppProtocol::kHttp2;
  if (word == "grpc" || word == "grpc-web") return AppProtocol::kGrpc;
  if (word == "https" || word == "tls" || word == "kubernetes.io/wss") return AppProtocol::kTls;
  if (word == "tcp" || word == "mysql" || word == "mongo" || word == "redis") {
    return AppProtocol::kTcp;
  }
  return AppProtocol::kUnknown;
}

// The port's name says the protocol when appProtocol does not: "http", "http-api".
AppProtocol AppProtocolFromName(std::string_view name) {
  if (name == "grpc-web" || name.starts_with("grpc-web-")) return AppProtocol::kGrpc;
  return AppProtocolOf(name.substr(0, name.find('-')));
}

void ReadContainers(MapReader& spec, std::string_view key, Pod& pod) {
  for (const YamlNode* node : spec.Items(key)) {
    MapReader container(node, spec.PathOf(key), spec.context());
    for (const YamlNode* port_node : container.Items("ports")) {
      MapReader port(port_node, container.PathOf("ports"), spec.context());
      ContainerPort out;
      out.name = port.String("name");
      out.port = port.Port("containerPort");
      out.protocol = ReadProtocol(port);
      if (out.port != 0) pod.ports.push_back(std::move(out));
    }
  }
}

}  // namespace

AnyObject DecodeNamespace(ObjectMeta meta, MapReader& root) {
  if (const std::string* label = meta.Label("istio-injection");
      label && *label == "enabled" && !meta.Label("istio.io/dataplane-mode")) {
    root.context().Warn(meta.location.line,
                        "label istio-injection: enabled has no effect: there are no sidecars",
                        "label the namespace istio.io/dataplane-mode: ambient instead");
  }
  return Namespace{std::move(meta)};
}

AnyObject DecodeNode(ObjectMeta meta, MapReader& root) {
  Node node{std::move(meta), {}};
  MapReader status = root.Map("status");
  for (const YamlNode* item : status.Items("addresses")) {
    MapReader address(item, status.PathOf("addresses"), root.context());
    if (address.String("type") != "InternalIP") continue;
    if (const net::IpAddress ip = ReadIp(address, "address"); ip.is_set()) {
      node.addresses.push_back(ip);
    }
  }
  return node;
}

AnyObject DecodePod(ObjectMeta meta, MapReader& root) {
  Pod pod;
  pod.terminating = meta.terminating;
  pod.meta = std::move(meta);
  MapReader spec = root.Map("spec");
  pod.node = spec.String("nodeName");
  pod.service_account = spec.String("serviceAccountName");
  if (pod.service_account.empty()) pod.service_account = spec.String("serviceAccount");
  if (pod.service_account.empty()) pod.service_account = "default";
  if (!ValidName(pod.service_account)) {
    spec.Bad(spec.line(), "serviceAccountName",
             fmt::format("\"{}\" is not a valid name", pod.service_account));
  }
  pod.host_network = spec.Bool("hostNetwork");
  ReadContainers(spec, "containers", pod);
  ReadContainers(spec, "initContainers", pod);
  MapReader status = root.Map("status");
  pod.phase = status.String("phase");
  pod.host_ip = ReadIp(status, "hostIP");
  for (const YamlNode* item : status.Items("podIPs")) {
    MapReader entry(item, status.PathOf("podIPs"), root.context());
    if (const net::IpAddress ip = ReadIp(entry, "ip"); ip.is_set()) pod.ips.push_back(ip);
  }
  if (pod.ips.empty()) {
    if (const net::IpAddress ip = ReadIp(status, "podIP"); ip.is_set()) pod.ips.push_back(ip);
  }
  for (const YamlNode* item : status.Items("conditions")) {
    MapReader condition(item, status.PathOf("conditions"), root.context());
    if (condition.String("type") == "Ready") pod.ready = condition.String("status") == "True";
  }
  return pod;
}

ServicePort ReadServicePort(const YamlNode* node, const std::string& path, ReadContext& context) {
  MapReader reader(node, path, context);
  ServicePort port;
  port.line = reader.line();
  port.name = reader.String("name");
  if (node != nullptr && node->Find("number") != nullptr) {  // ServiceEntry's spelling
    port.port = reader.Port("number");
  } else {
    port.port = reader.Port("port");
  }
  const std::string protocol = reader.String("protocol");
  if (protocol == "UDP") port.protocol = Protocol::kUdp;
  if (protocol == "SCTP") port.protocol = Protocol::kSctp;
  const std::string app_protocol = reader.String("appProtocol");
  port.app_protocol = AppProtocolOf(app_protocol);
  if (app_protocol.empty()) port.app_protocol = AppProtocolFromName(port.name);
  if (const YamlNode* target = reader.Take("targetPort")) {
    if (target->is_scalar() && !target->text.empty() &&
        std::all_of(target->text.begin(), target->text.end(),
                    [](char c) { return c >= '0' && c <= '9'; })) {
      unsigned long number = 0;
      for (char c : target->text)
        number = std::min(number * 10 + static_cast<unsigned>(c - '0'), 100000ul);
      if (number == 0 || number > 65535) {
        reader.Bad(target->line, "targetPort", fmt::format("{} is out of range", target->text),
                   "use a number from 1 to 65535, or the name of a container port");
      } else {
        port.target.number = static_cast<uint16_t>(number);
      }
    } else if (target->is_scalar()) {
      port.target.name = target->text;
    } else {
      reader.Bad(target->line, "targetPort", "must be a number or a name");
    }
  }
  if (port.target.number == 0 && port.target.name.empty()) port.target.number = port.port;
  return port;
}

AnyObject DecodeService(ObjectMeta meta, MapReader& root) {
  Service service;
  service.meta = std::move(meta);
  MapReader spec = root.Map("spec");
  const std::string type = spec.String("type");
  if (type == "NodePort") service.type = Service::Type::kNodePort;
  if (type == "LoadBalancer") service.type = Service::Type::kLoadBalancer;
  if (type == "ExternalName") service.type = Service::Type::kExternalName;
  service.external_name = spec.String("externalName");
  service.selector = spec.StringMap("selector");
  service.ip_families = spec.Strings("ipFamilies");
  service.publish_not_ready = spec.Bool("publishNotReadyAddresses");
  service.internal_traffic_local = spec.String("internalTrafficPolicy") == "Local";
  std::string distribution = spec.String("trafficDistribution");
  if (const std::string* note =
          service.meta.Annotation("networking.istio.io/traffic-distribution")) {
    distribution = *note;
  }
  if (distribution == "PreferClose") {
    service.distribution = Service::TrafficDistribution::kPreferClose;
  } else if (distribution == "PreferSameZone") {
    service.distribution = Service::TrafficDistribution::kPreferSameZone;
  } else if (distribution == "PreferSameNode") {
    service.distribution = Service::TrafficDistribution::kPreferSameNode;
  } else if (!distribution.empty() && distribution != "Any") {
    root.context().Warn(
        spec.line(), fmt::format("traffic distribution \"{}\" is not known: ignored", distribution),
        "use PreferClose, PreferSameZone or PreferSameNode");
  }
  const std::string cluster_ip = spec.String("clusterIP");
  service.headless = cluster_ip == "None";
  if (!service.headless) {
    std::vector<std::string> texts = spec.Strings("clusterIPs");
    if (texts.empty() && !cluster_ip.empty()) texts.push_back(cluster_ip);
    for (const std::string& text : texts) {
      if (Result<net::IpAddress> ip = net::IpAddress::Parse(text)) {
        service.cluster_ips.push_back(*ip);
      } else {
        spec.Bad(spec.line(), "clusterIPs", fmt::format("\"{}\" is not an IP address", text));
      }
    }
  }
  std::set<std::pair<uint16_t, Protocol>> numbers;
  std::set<std::string> names;
  for (const YamlNode* node : spec.Items("ports")) {
    ServicePort port = ReadServicePort(node, spec.PathOf("ports"), root.context());
    if (port.port == 0) {
      if (!root.context().failed) spec.Bad(node->line, "ports", "a port number is missing");
      continue;
    }
    if (!numbers.emplace(port.port, port.protocol).second) {
      spec.Bad(node->line, "ports", fmt::format("port {} is given twice", port.port),
               "give each port once");
    }
    if (!port.name.empty() && !names.insert(port.name).second) {
      spec.Bad(node->line, "ports", fmt::format("the name {} is given twice", port.name),
               "give each port its own name");
    }
    service.ports.push_back(std::move(port));
  }
  return service;
}

AnyObject DecodeEndpointSlice(ObjectMeta meta, MapReader& root) {
  EndpointSlice slice;
  slice.meta = std::move(meta);
  if (const std::string* name = slice.meta.Label("kubernetes.io/service-name")) {
    slice.service = *name;
  }
  slice.address_type = root.String("addressType");
  for (const YamlNode* node : root.Items("ports")) {
    MapReader reader(node, "ports", root.context());
    EndpointSlice::Port port;
    port.name = reader.String("name");
    port.port = reader.Port("port");
    port.protocol = ReadProtocol(reader);
    slice.ports.push_back(std::move(port));
  }
  for (const YamlNode* node : root.Items("endpoints")) {
    MapReader reader(node, "endpoints", root.context());
    EndpointSlice::Endpoint endpoint;
    endpoint.addresses = reader.Strings("addresses");
    endpoint.ready = reader.Map("conditions").Bool("ready", true);
    endpoint.node = reader.String("nodeName");
    endpoint.zone = reader.String("zone");
    MapReader target = reader.Map("targetRef");
    endpoint.target_kind = target.String("kind");
    endpoint.target_namespace = target.String("namespace");
    endpoint.target_name = target.String("name");
    endpoint.target_uid = target.String("uid");
    slice.endpoints.push_back(std::move(endpoint));
  }
  return slice;
}

}  // namespace qanat::controlplane
