// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/local_config.h"

#include <functional>

#include "common/proto/authorization.pb.h"
#include "common/proto/workload.pb.h"
#include "common/state/decode.h"
#include "ztunnel/local_reader.h"

namespace qanat::ztunnel {
namespace {

namespace wds = istio::workload;
namespace sec = istio::security;

std::string BytesOf(const net::IpAddress& ip) {
  return {reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size()};
}

template <typename Value>
struct Choice {
  const char* name;
  Value value;
};
template <typename Value, size_t N>
Value Choose(LocalReader& in, const char* key, Value otherwise, const Choice<Value> (&choices)[N]) {
  const YamlNode* node = in.Find(key);
  if (node == nullptr) return otherwise;
  std::string names;
  for (const Choice<Value>& choice : choices) {
    if (node->is_scalar() && node->text == choice.name) return choice.value;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", choice.name);
  }
  in.Bad(*node, fmt::format("{}: expected one of {}", key, names));
  return otherwise;
}

// "network/10.0.0.1", "network/10.0.0.0/8"; the network may be empty.
bool ReadNetworkAddress(const YamlNode& node, wds::NetworkAddress& out) {
  const size_t slash = node.text.find('/');
  if (!node.is_scalar() || slash == std::string::npos) return false;
  const std::string address = node.text.substr(slash + 1);
  const auto block = net::Cidr::Parse(address);
  if (!block) return false;
  out.set_network(node.text.substr(0, slash));
  out.set_address(BytesOf(block->ip()));
  if (address.find('/') != std::string::npos) out.set_length(block->length());
  return true;
}

void ReadGateway(LocalReader& in, const char* key, LocalErrors& errors,
                 const std::function<wds::GatewayAddress*()>& make) {
  const YamlNode* node = in.Find(key);
  if (node == nullptr) return;
  LocalReader gateway(*node, key, errors);
  wds::GatewayAddress& out = *make();
  const YamlNode* destination = gateway.Find("destination");
  if (destination == nullptr || destination->text.find('/') == std::string::npos) {
    return gateway.Bad(*node, "destination: expected network/address or namespace/hostname");
  }
  if (!ReadNetworkAddress(*destination, *out.mutable_address())) {
    const size_t slash = destination->text.find('/');
    out.mutable_hostname()->set_namespace_(destination->text.substr(0, slash));
    out.mutable_hostname()->set_hostname(destination->text.substr(slash + 1));
  }
  out.set_hbone_mtls_port(gateway.Number("hboneMtlsPort", 15008, 65535));
  gateway.End();
}

// {80: 8080}
template <typename AddPort>
void ReadPorts(LocalReader& in, const YamlNode& map, AddPort add) {
  if (!map.is_map()) return in.Bad(map, "ports: expected a map of service port to target port");
  for (const YamlEntry& entry : map.entries) {
    YamlNode key;
    key.kind = YamlNode::Kind::kScalar;
    key.text = entry.key;
    key.line = entry.line;
    auto* port = add();
    port->set_service_port(in.NumberOf(key, "a service port", 65535));
    port->set_target_port(in.NumberOf(entry.value, "a target port", 65535));
  }
}

void ReadWorkload(const YamlNode& node, LocalErrors& errors, wds::Workload& w) {
  LocalReader in(node, "workload", errors);
  w.set_uid(in.Needed("uid"));
  w.set_name(in.Needed("name"));
  w.set_namespace_(in.Needed("namespace"));
  w.set_trust_domain(in.Text("trustDomain"));
  w.set_service_account(in.Text("serviceAccount"));
  w.set_network(in.Text("network"));
  w.set_workload_name(in.Text("workloadName"));
  w.set_canonical_name(in.Text("canonicalName"));
  w.set_canonical_revision(in.Text("canonicalRevision"));
  w.set_hostname(in.Text("hostname"));
  w.set_node(in.Text("node"));
  w.set_cluster_id(in.Text("clusterId"));
  w.set_native_tunnel(in.Bool("nativeTunnel", false));
  in.List("workloadIps", [&](const YamlNode& item) {
    const auto ip = net::IpAddress::Parse(item.text);
    if (!item.is_scalar() || !ip) return in.Bad(item, "workloadIps: expected IP addresses");
    w.add_addresses(BytesOf(*ip));
  });
  w.set_tunnel_protocol(Choose<wds::TunnelProtocol>(in, "protocol", wds::NONE,
                                                    {{"HBONE", wds::HBONE}, {"TCP", wds::NONE}}));
  w.set_workload_type(Choose<wds::WorkloadType>(in, "workloadType", wds::DEPLOYMENT,
                                                {{"deployment", wds::DEPLOYMENT},
                                                 {"cronjob", wds::CRONJOB},
                                                 {"pod", wds::POD},
                                                 {"job", wds::JOB}}));
  w.set_status(Choose<wds::WorkloadStatus>(
      in, "status", wds::HEALTHY, {{"Healthy", wds::HEALTHY}, {"Unhealthy", wds::UNHEALTHY}}));
  w.set_network_mode(
      Choose<wds::NetworkMode>(in, "networkMode", wds::STANDARD,
                               {{"Standard", wds::STANDARD}, {"HostNetwork", wds::HOST_NETWORK}}));
  ReadGateway(in, "waypoint", errors, [&] { return w.mutable_waypoint(); });
  ReadGateway(in, "networkGateway", errors, [&] { return w.mutable_network_gateway(); });
  if (const YamlNode* tunnel = in.Find("applicationTunnel")) {
    LocalReader inner(*tunnel, "applicationTunnel", errors);
    using Protocol = wds::ApplicationTunnel::Protocol;
    w.mutable_application_tunnel()->set_protocol(Choose<Protocol>(
        inner, "protocol", wds::ApplicationTunnel::NONE,
        {{"PROXY", wds::ApplicationTunnel::PROXY}, {"NONE", wds::ApplicationTunnel::NONE}}));
    w.mutable_application_tunnel()->set_port(inner.Number("port", 0, 65535));
    inner.End();
  }
  if (const YamlNode* locality = in.Find("locality")) {
    LocalReader inner(*locality, "locality", errors);
    w.mutable_locality()->set_region(inner.Text("region"));
    w.mutable_locality()->set_zone(inner.Text("zone"));
    w.mutable_locality()->set_subzone(inner.Text("subzone"));
    inner.End();
  }
  in.List("authorizationPolicies", [&](const YamlNode& item) {
    if (!item.is_scalar()) return in.Bad(item, "authorizationPolicies: expected namespace/name");
    w.add_authorization_policies(item.text);
  });
  in.Map("services", [&](const YamlEntry& entry) {
    wds::PortList& ports = (*w.mutable_services())[entry.key];
    ReadPorts(in, entry.value, [&] { return ports.add_ports(); });
  });
  w.mutable_capacity()->set_value(in.Number("capacity", 1, UINT32_MAX));
  in.End();
}

void ReadLoadBalancer(LocalReader& outer, LocalErrors& errors, wds::Service& s) {
  const YamlNode* node = outer.Find("loadBalancer");
  if (node == nullptr) return;
  LocalReader in(*node, "loadBalancer", errors);
  using Lb = wds::LoadBalancing;
  auto& out = *s.mutable_load_balancing();
  out.set_mode(Choose<Lb::Mode>(in, "mode", Lb::UNSPECIFIED_MODE,
                                {{"Standard", Lb::UNSPECIFIED_MODE},
                                 {"Strict", Lb::STRICT},
                                 {"Failover", Lb::FAILOVER},
                                 {"Passthrough", Lb::PASSTHROUGH}}));
  out.set_health_policy(
      Choose<Lb::HealthPolicy>(in, "healthPolicy", Lb::ONLY_HEALTHY,
                               {{"OnlyHealthy", Lb::ONLY_HEALTHY}, {"AllowAll", Lb::ALLOW_ALL}}));
  in.List("routingPreferences", [&](const YamlNode& item) {
    static constexpr Choice<Lb::Scope> kScopes[] = {
        {"Region", Lb::REGION}, {"Zone", Lb::ZONE},       {"Subzone", Lb::SUBZONE},
        {"Node", Lb::NODE},     {"Cluster", Lb::CLUSTER}, {"Network", Lb::NETWORK}};
    for (const auto& scope : kScopes) {
      if (item.text == scope.name) return out.add_routing_preference(scope.value);
    }
    in.Bad(item, "routingPreferences: expected Region, Zone, Subzone, Node, Cluster or Network");
  });
  in.End();
}

void ReadService(const YamlNode& node, LocalErrors& errors, wds::Service& s) {
  LocalReader in(node, "service", errors);
  s.set_name(in.Needed("name"));
  s.set_namespace_(in.Needed("namespace"));
  s.set_hostname(in.Needed("hostname"));
  for (const char* key : {"vips", "cidrVips"}) {
    in.List(key, [&](const YamlNode& item) {
      if (!ReadNetworkAddress(item, *s.add_addresses())) {
        in.Bad(item, fmt::format("{}: expected network/address, as \"/10.96.0.10\"", key));
      }
    });
  }
  if (const YamlNode* ports = in.Find("ports")) {
    ReadPorts(in, *ports, [&] { return s.add_ports(); });
  }
  in.List("subjectAltNames", [&](const YamlNode& item) {
    if (!item.is_scalar()) return in.Bad(item, "subjectAltNames: expected texts");
    s.add_subject_alt_names(item.text);
  });
  ReadGateway(in, "waypoint", errors, [&] { return s.mutable_waypoint(); });
  ReadLoadBalancer(in, errors, s);
  s.set_ip_families(Choose<wds::IPFamilies>(
      in, "ipFamilies", wds::AUTOMATIC,
      {{"IPv4", wds::IPV4_ONLY}, {"IPv6", wds::IPV6_ONLY}, {"Dual", wds::DUAL}}));
  s.set_canonical(in.Bool("canonical", false));
  s.set_visibility(Choose<wds::Service::Visibility>(
      in, "visibility", wds::Service::PUBLIC,
      {{"Public", wds::Service::PUBLIC}, {"Namespace", wds::Service::NAMESPACE}}));
  in.Find("endpoints");  // of a dump: they follow from the workloads
  in.End();
}

void ReadStrings(LocalReader& in, const char* key, LocalErrors& errors,
                 const std::function<sec::StringMatch*()>& add) {
  in.List(key, [&](const YamlNode& item) {
    LocalReader one(item, key, errors);
    sec::StringMatch& out = *add();
    if (item.entries.size() != 1)
      return one.Bad(item, "expected one of Exact, Prefix, Suffix, Presence");
    if (one.Find("Presence") != nullptr) return void(out.mutable_presence());
    if (one.Find("Exact") != nullptr) out.set_exact(one.Text("Exact"));
    if (one.Find("Prefix") != nullptr) out.set_prefix(one.Text("Prefix"));
    if (one.Find("Suffix") != nullptr) out.set_suffix(one.Text("Suffix"));
    if (out.match_type_case() == sec::StringMatch::MATCH_TYPE_NOT_SET) one.Bad(item, "no value");
    one.End();
  });
}

void ReadBlocks(LocalReader& in, const char* key, const std::function<sec::Address*()>& add) {
  in.List(key, [&](const YamlNode& item) {
    const auto block = net::Cidr::Parse(item.text);
    if (!item.is_scalar() || !block) {
      return in.Bad(item, fmt::format("{}: expected an address or a block", key));
    }
    sec::Address& out = *add();
    out.set_address(BytesOf(block->ip()));
    out.set_length(block->length());
  });
}

void ReadAccounts(LocalReader& in, const char* key, LocalErrors& errors,
                  const std::function<sec::ServiceAccountMatch*()>& add) {
  in.List(key, [&](const YamlNode& item) {
    LocalReader one(item, key, errors);
    sec::ServiceAccountMatch& out = *add();
    out.set_namespace_(one.Needed("namespace"));
    out.set_serviceaccount(one.Needed("serviceAccount"));
    one.End();
  });
}

void ReadMatch(const YamlNode& node, LocalErrors& errors, sec::Match& m) {
  LocalReader in(node, "match", errors);
  ReadStrings(in, "namespaces", errors, [&] { return m.add_namespaces(); });
  ReadStrings(in, "notNamespaces", errors, [&] { return m.add_not_namespaces(); });
  ReadStrings(in, "principals", errors, [&] { return m.add_principals(); });
  ReadStrings(in, "notPrincipals", errors, [&] { return m.add_not_principals(); });
  ReadAccounts(in, "serviceAccounts", errors, [&] { return m.add_service_accounts(); });
  ReadAccounts(in, "notServiceAccounts", errors, [&] { return m.add_not_service_accounts(); });
  ReadBlocks(in, "sourceIps", [&] { return m.add_source_ips(); });
  ReadBlocks(in, "notSourceIps", [&] { return m.add_not_source_ips(); });
  ReadBlocks(in, "destinationIps", [&] { return m.add_destination_ips(); });
  ReadBlocks(in, "notDestinationIps", [&] { return m.add_not_destination_ips(); });
  in.List("destinationPorts", [&](const YamlNode& item) {
    m.add_destination_ports(in.NumberOf(item, "destinationPorts", 65535));
  });
  in.List("notDestinationPorts", [&](const YamlNode& item) {
    m.add_not_destination_ports(in.NumberOf(item, "notDestinationPorts", 65535));
  });
  in.End();
}

// rules: a list (any) of lists (all) of lists (any) of matches.
void ReadPolicy(const YamlNode& node, LocalErrors& errors, sec::Authorization& p) {
  LocalReader in(node, "policy", errors);
  p.set_name(in.Needed("name"));
  p.set_namespace_(in.Needed("namespace"));
  in.Needed("action");
  in.Needed("scope");
  p.set_action(
      Choose<sec::Action>(in, "action", sec::DENY, {{"Allow", sec::ALLOW}, {"Deny", sec::DENY}}));
  p.set_scope(Choose<sec::Scope>(in, "scope", sec::NAMESPACE,
                                 {{"Global", sec::GLOBAL},
                                  {"Namespace", sec::NAMESPACE},
                                  {"WorkloadSelector", sec::WORKLOAD_SELECTOR}}));
  p.set_dry_run(in.Bool("dryRun", false));
  in.List("rules", [&](const YamlNode& rule) {
    sec::Rule& out = *p.add_rules();
    if (!rule.is_sequence()) return in.Bad(rule, "rules: each rule is a list of lists of matches");
    for (const YamlNode& clause : rule.items) {
      sec::Clause& to = *out.add_clauses();
      if (!clause.is_sequence()) return in.Bad(clause, "rules: expected a list of matches");
      for (const YamlNode& match : clause.items) ReadMatch(match, errors, *to.add_matches());
    }
  });
  in.End();
}

// Puts it under its name if the decoder that the control plane's resources go through takes it too.
void Take(const YamlNode& node, const std::string& name, std::string bytes, Status decoded,
          LocalErrors& errors, std::map<std::string, std::string>& into) {
  if (!decoded) errors.Add(node, decoded.error().message);
  if (!into.emplace(name, std::move(bytes)).second) {
    errors.Add(node, fmt::format("\"{}\" is there twice", name));
  }
}

template <typename T>
Status Only(const Result<T>& result) {
  return result ? Status() : Fail(result.error());
}

}  // namespace

Result<LocalResources> ParseLocalConfig(std::string_view yaml) {
  const YamlFile file = ParseYaml(yaml);
  LocalErrors errors;
  if (!file.errors.empty()) {
    return Fail(Code::kInvalidArgument,
                fmt::format("line {}: {}", file.errors.front().line, file.errors.front().message));
  }
  LocalResources out;
  for (const YamlNode& document : file.documents) {
    LocalReader in(document, "local configuration", errors);
    in.MayBeEmpty();
    in.List("workloads", [&](const YamlNode& node) {
      wds::Address address;
      ReadWorkload(node, errors, *address.mutable_workload());
      if (!errors.ok()) return;
      std::string bytes = address.SerializeAsString();
      const Status decoded = Only(state::DecodeAddress(bytes));
      Take(node, address.workload().uid(), std::move(bytes), decoded, errors, out.addresses);
    });
    in.List("services", [&](const YamlNode& node) {
      wds::Address address;
      ReadService(node, errors, *address.mutable_service());
      if (!errors.ok()) return;
      std::string bytes = address.SerializeAsString();
      const Status decoded = Only(state::DecodeAddress(bytes));
      const auto& service = address.service();
      Take(node, service.namespace_() + "/" + service.hostname(), std::move(bytes), decoded, errors,
           out.addresses);
    });
    in.List("policies", [&](const YamlNode& node) {
      sec::Authorization policy;
      ReadPolicy(node, errors, policy);
      if (!errors.ok()) return;
      std::string bytes = policy.SerializeAsString();
      const Status decoded = Only(state::DecodeAuthorization(bytes));
      Take(node, policy.namespace_() + "/" + policy.name(), std::move(bytes), decoded, errors,
           out.policies);
    });
    in.End();
  }
  QANAT_RETURN_IF_ERROR(errors.status());
  return out;
}

}  // namespace qanat::ztunnel
