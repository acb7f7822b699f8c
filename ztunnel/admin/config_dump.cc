// SPDX-License-Identifier: Apache-2.0
// /config_dump, /debug/connections and /debug/dns. Key names are stock ztunnel's, since other tools
// read them.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/route/identify.h"
#include "common/tls/crypto.h"
#include "ztunnel/admin/json.h"
#include "ztunnel/admin/policy_json.h"

namespace qanat::ztunnel {
namespace {

using nlohmann::ordered_json;

std::string Time(identity::SystemTime time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(time)));
}

ordered_json Gateway(const model::GatewayAddress& gateway) {
  std::string destination;
  if (const auto* host = std::get_if<model::NamespacedHostname>(&gateway.destination)) {
    destination = host->Key();
  } else {
    const auto& address = std::get<model::NetworkAddress>(gateway.destination);
    destination = address.network + "/" + address.ip.ToString();
  }
  return {{"destination", destination}, {"hboneMtlsPort", gateway.hbone_port}};
}

ordered_json Ports(const model::PortList& ports) {
  ordered_json out = ordered_json::object();
  for (const model::Port& port : ports) out[std::to_string(port.service_port)] = port.target_port;
  return out;
}

ordered_json WorkloadJson(const model::Workload& w) {
  ordered_json out;
  out["workloadIps"] = ordered_json::array();
  for (const auto& ip : w.addresses) out["workloadIps"].push_back(ip.ToString());
  if (w.waypoint) out["waypoint"] = Gateway(*w.waypoint);
  if (w.network_gateway) out["networkGateway"] = Gateway(*w.network_gateway);
  out["protocol"] = w.protocol == model::TunnelProtocol::kHbone ? "HBONE" : "TCP";
  out["networkMode"] =
      w.network_mode == model::NetworkMode::kHostNetwork ? "HostNetwork" : "Standard";
  out["uid"] = w.uid;
  out["name"] = w.name();
  out["namespace"] = w.ns;
  out["trustDomain"] = w.trust_domain;
  out["serviceAccount"] = w.service_account;
  out["network"] = w.network;
  out["workloadName"] = w.workload_name;
  out["workloadType"] = ToString(w.type);
  out["canonicalName"] = w.canonical_name;
  out["canonicalRevision"] = w.canonical_revision;
  out["hostname"] = w.hostname;
  out["node"] = w.node;
  out["nativeTunnel"] = w.native_tunnel;
  if (w.application_tunnel) {
    out["applicationTunnel"] = {
        {"protocol", w.application_tunnel->proxy_protocol ? "PROXY" : "NONE"},
        {"port", w.application_tunnel->port}};
  }
  out["authorizationPolicies"] = w.authorization_policies;
  out["status"] = w.healthy ? "Healthy" : "Unhealthy";
  out["clusterId"] = w.cluster_id;
  out["locality"] = {
      {"region", w.locality.region}, {"zone", w.locality.zone}, {"subzone", w.locality.subzone}};
  out["services"] = ordered_json::array();
  for (const auto& [key, ports] : w.services) out["services"].push_back(key);
  out["capacity"] = w.capacity;
  return out;
}

std::string_view ScopeName(model::LbScope scope) {
  switch (scope) {
    case model::LbScope::kUnspecified: return "Unspecified";
    case model::LbScope::kRegion: return "Region";
    case model::LbScope::kZone: return "Zone";
    case model::LbScope::kSubzone: return "Subzone";
    case model::LbScope::kNode: return "Node";
    case model::LbScope::kCluster: return "Cluster";
    case model::LbScope::kNetwork: return "Network";
  }
  return "";
}

std::string_view ModeName(model::LbMode mode) {
  switch (mode) {
    case model::LbMode::kUnspecified: return "Standard";
    case model::LbMode::kStrict: return "Strict";
    case model::LbMode::kFailover: return "Failover";
    case model::LbMode::kPassthrough: return "Passthrough";
  }
  return "";
}

ordered_json FamiliesName(model::IpFamilies families) {
  switch (families) {
    case model::IpFamilies::kAutomatic: return nullptr;  // null, as stock
    case model::IpFamilies::kIpv4Only: return "IPv4";
    case model::IpFamilies::kIpv6Only: return "IPv6";
    case model::IpFamilies::kDual: return "Dual";
  }
  return nullptr;
}

ordered_json EndpointJson(const model::Workload& workload, const std::string& service,
                          const model::PortList& ports) {
  return {{"workloadUid", workload.uid},
          {"service", service},
          {"port", Ports(ports)},
          {"status", workload.healthy ? "Healthy" : "Unhealthy"}};
}

ordered_json ServiceJson(const model::Service& s, const model::EndpointList& endpoints) {
  ordered_json out;
  out["name"] = s.name;
  out["namespace"] = s.ns;
  out["hostname"] = s.hostname;
  out["vips"] = ordered_json::array();
  out["cidrVips"] = ordered_json::array();
  for (const auto& address : s.addresses) {
    out[address.host ? "vips" : "cidrVips"].push_back(
        address.network + "/" +
        (address.host ? address.cidr.ip().ToString() : address.cidr.ToString()));
  }
  out["ports"] = Ports(s.ports);
  out["endpoints"] = ordered_json::object();
  for (const auto& endpoint : endpoints) {
    out["endpoints"][endpoint.workload->uid] =
        EndpointJson(*endpoint.workload, s.Key(), *endpoint.ports);
  }
  out["subjectAltNames"] = s.subject_alt_names;
  if (s.waypoint) out["waypoint"] = Gateway(*s.waypoint);
  if (!s.weighted_waypoints.empty()) {
    out["weightedWaypoints"] = ordered_json::array();
    for (const auto& weighted : s.weighted_waypoints) {
      out["weightedWaypoints"].push_back(
          {{"destination", Gateway(weighted.destination)}, {"weight", weighted.weight}});
    }
  }
  ordered_json preferences = ordered_json::array();
  for (const auto scope : s.load_balancing.routing_preference) {
    preferences.push_back(ScopeName(scope));
  }
  out["loadBalancer"] = {
      {"routingPreferences", preferences},
      {"mode", ModeName(s.load_balancing.mode)},
      {"healthPolicy", s.load_balancing.allow_unhealthy ? "AllowAll" : "OnlyHealthy"}};
  out["ipFamilies"] = FamiliesName(s.ip_families);
  out["canonical"] = s.canonical;
  out["visibility"] = s.namespace_only ? "Namespace" : "Public";
  return out;
}

ordered_json Certificates(const std::vector<identity::CertificateInfo>& list) {
  ordered_json out = ordered_json::array();
  for (const auto& info : list) {
    out.push_back({{"pem", tls::Base64Encode(info.pem)},
                   {"serialNumber", info.serial},
                   {"validFrom", Time(info.not_before)},
                   {"expirationTime", Time(info.not_after)}});
  }
  return out;
}

ordered_json CertificateJson(const identity::SecretManager::Entry& entry) {
  ordered_json out = {{"identity", entry.identity.ToString()}};
  switch (entry.state) {
    case identity::SecretManager::State::kFetching: out["state"] = "Initializing"; break;
    case identity::SecretManager::State::kAvailable: out["state"] = "Available"; break;
    case identity::SecretManager::State::kUnavailable:
      out["state"] = "Unavailable: " + entry.error;
      break;
  }
  out["certChain"] = ordered_json::array();
  out["rootCerts"] = ordered_json::array();
  if (entry.certificate) {
    out["certChain"] = Certificates(entry.certificate->chain);
    out["rootCerts"] = Certificates(entry.certificate->roots);
  }
  return out;
}

const char* ProtocolName(const Flow& flow) { return flow.mutual_tls ? "HBONE" : "TCP"; }
const net::SocketAddress& TargetOf(const Flow& flow) {
  return flow.target.is_set() ? flow.target : flow.destination;
}

// Outbound: what the application dialled, and whom we dialled for it. Inbound: the service that was
// asked for, which is a name or null, and the application's address.
ordered_json StockConnectionJson(const ConnectionInfo& info) {
  const Flow& flow = info.flow;
  ordered_json out = {{"src", flow.source.ToString()}};
  if (flow.reporter == Reporter::kSource) {
    out["originalDst"] = info.dialled.ToString();
    out["actualDst"] = flow.destination.ToString();
  } else {
    out["originalDst"] = flow.service ? ordered_json(flow.service->hostname) : ordered_json();
    out["actualDst"] = TargetOf(flow).ToString();
  }
  out["protocol"] = ProtocolName(flow);
  return out;
}

ordered_json ConfigJson(const Config& config) {
  return {{"network", config.network},
          {"localNode", config.node_name},
          {"clusterId", config.control_plane.cluster_id},
          {"xdsAddress", config.control_plane.xds_address},
          {"caAddress", config.control_plane.ca_address},
          {"inpodUds", config.inpod_uds},
          {"packetMark", config.packet_mark},
          {"onePass", config.one_pass},
          {"sharedTunnels", config.shares_own()},
          {"sharedTunnelsTaken", config.shared_tunnels},
          {"tlsResumption", config.tls_resumption},
          {"earlyData", config.early_data},
          {"ipv6Enabled", config.ipv6},
          {"workerThreads", config.workers},
          {"windowSize", config.stream_window},
          {"connectionWindowSize", config.connection_window},
          {"frameSize", config.frame_size},
          {"poolMaxStreamsPerConn", config.pool_max_streams}};
}

std::string Print(const ordered_json& json) {
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string ConfigDumpJson(const DumpInput& input) {
  ordered_json out;
  // Sorted, so that two dumps can be compared.
  std::map<std::string, ordered_json> workloads, services, policies;
  // Of services that were not announced: by their key, then by workload.
  std::map<std::string, std::map<std::string, ordered_json>> staged;
  input.snapshot.ForEachWorkload([&](const model::WorkloadPtr& w) {
    workloads[w->uid.str()] = WorkloadJson(*w);
    for (const auto& [key, ports] : w->services) {
      if (input.snapshot.ServiceByKey(key) == nullptr) {
        staged[key][w->uid.str()] = EndpointJson(*w, key, ports);
      }
    }
  });
  input.snapshot.ForEachService([&](const model::ServicePtr& s) {
    services[s->Key()] = ServiceJson(*s, input.snapshot.EndpointsOf(*s));
  });
  input.snapshot.ForEachPolicy(
      [&](const model::PolicyPtr& p) { policies[p->Key()] = PolicyJson(*p); });
  const auto values = [](std::map<std::string, ordered_json>& map) {
    ordered_json list = ordered_json::array();
    for (auto& [key, value] : map) list.push_back(std::move(value));
    return list;
  };
  out["workloads"] = values(workloads);
  out["services"] = values(services);
  out["policies"] = values(policies);
  out["stagedServices"] = ordered_json::object();
  for (auto& [key, endpoints] : staged) out["stagedServices"][key] = std::move(endpoints);
  // Without a control plane all that there is came from the file.
  const Config& config = input.config;
  const bool from_file = config.control_plane.xds_address.empty() &&
                         !(config.local_xds.empty() && config.local_xds_path.empty());
  for (const char* kind : {"workloads", "policies", "services"}) {
    out["staticConfig"][kind] = from_file ? out[kind] : ordered_json::array();
  }
  out["version"] = {{"version", QANAT_VERSION}, {"buildStatus", "qanat"}};
  out["config"] = ConfigJson(input.config);
  const state::Freshness freshness = input.snapshot.freshness();
  out["meshState"] = {{"freshness", ToString(freshness)}};
  if (freshness != state::Freshness::kLive) {
    out["meshState"]["currentAt"] = Time(input.snapshot.current_at());
    out["meshState"]["ageSeconds"] =
        std::chrono::duration_cast<std::chrono::seconds>(input.now - input.snapshot.current_at())
            .count();
  }
  out["certificates"] = ordered_json::array();
  for (const auto& entry : input.certificates)
    out["certificates"].push_back(CertificateJson(entry));
  out["workloadState"] = ordered_json::object();
  for (const auto& [uid, entry] : input.pods) {
    ordered_json inbound = ordered_json::array();
    ordered_json outbound = ordered_json::array();
    for (const ConnectionInfo& info : input.connections) {
      if (info.pod_uid != uid) continue;
      (info.flow.reporter == Reporter::kSource ? outbound : inbound)
          .push_back(StockConnectionJson(info));
    }
    const route::Identified known = route::IdentifyPod(
        input.snapshot, {input.config.network, input.config.control_plane.cluster_id}, *entry.pod);
    out["workloadState"][uid] = {
        {"state", entry.up ? "Up" : "Pending"},
        {"connections", {{"inbound", inbound}, {"outbound", outbound}}},
        {"info",
         {{"name", entry.pod->name},
          {"namespace", entry.pod->ns},
          {"trustDomain", known.workload ? known.workload->trust_domain : ""},
          {"serviceAccount", entry.pod->service_account}}}};
    if (!entry.error.empty()) out["workloadState"][uid]["error"] = entry.error;
  }
  return Print(out);
}

std::string DnsJson(const std::vector<std::pair<PodPtr, dns::PodDns>>& pods) {
  ordered_json out = ordered_json::array();
  for (const auto& [pod, dns] : pods) {
    ordered_json one = {{"podUid", pod->uid}, {"namespace", pod->ns}, {"name", pod->name}};
    one["nameservers"] = ordered_json::array();
    for (const dns::NameServer& server : dns.servers) {
      one["nameservers"].push_back(
          {{"address", server.address.ToString()}, {"askedFrom", server.in_pod ? "pod" : "proxy"}});
    }
    one["search"] = dns.search;
    out.push_back(std::move(one));
  }
  return Print(out);
}

std::string ConnectionsJson(const std::vector<ConnectionInfo>& connections) {
  ordered_json out = ordered_json::array();
  for (const ConnectionInfo& info : connections) {
    const Flow& flow = info.flow;
    ordered_json one = {{"src", flow.source.ToString()},
                        {"originalDst", info.dialled.ToString()},
                        {"actualDst", TargetOf(flow).ToString()},
                        {"protocol", ProtocolName(flow)}};
    one["direction"] = flow.reporter == Reporter::kSource ? "outbound" : "inbound";
    one["path"] = info.path;
    one["podUid"] = info.pod_uid;
    one["srcWorkload"] = flow.source_workload ? flow.source_workload->uid : "";
    one["dstWorkload"] = flow.destination_workload ? flow.destination_workload->uid : "";
    one["srcIdentity"] = flow.source_identity ? flow.source_identity->ToString() : "";
    one["dstIdentity"] = flow.destination_identity ? flow.destination_identity->ToString() : "";
    one["dstService"] = flow.service ? flow.service->hostname : "";
    one["bytesUp"] = info.bytes_up;
    one["bytesDown"] = info.bytes_down;
    out.push_back(std::move(one));
  }
  return Print(out);
}

}  // namespace qanat::ztunnel
