// SPDX-License-Identifier: Apache-2.0
#include "controlplane/debug/pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/proto/authorization.pb.h"
#include "controlplane/ads/object_status.h"
#include "controlplane/translate/authorization.h"
#include "controlplane/translate/status.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

// Users' text may hold bytes that are not UTF-8: never throw for that.
std::string Dump(const json& value) {
  return value.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

json ConditionJson(const StatusCondition& c) {
  return {{"type", c.type},
          {"status", c.status ? "True" : "False"},
          {"reason", c.reason},
          {"message", c.message}};
}

const char* WaypointState(WaypointRef::State state) {
  using State = WaypointRef::State;
  switch (state) {
    case State::kNone: return "";
    case State::kReady: return "ready";
    case State::kNotReady: return "not ready";
    case State::kMissing: return "missing";
    case State::kNotAllowed: return "not allowed";
    case State::kWrongTraffic: return "not for this traffic";
    case State::kNotAWaypoint: return "not a waypoint";
  }
  return "";
}

json WaypointJson(const WaypointRef& ref) {
  if (ref.state == WaypointRef::State::kNone) return nullptr;
  return {{"gateway", ref.gateway.ToString()}, {"state", WaypointState(ref.state)}};
}

json Addresses(const std::vector<net::IpAddress>& list) {
  json out = json::array();
  for (const net::IpAddress& ip : list) out.push_back(ip.ToString());
  return out;
}

}  // namespace

std::string StatusPage(AdsHub& hub, const std::vector<Issue>& issues) {
  json out = {{"objects", json::array()}, {"errors", json::array()}};
  if (hub.snapshot() == nullptr) return Dump(out);
  const World& world = *hub.snapshot()->world;
  const std::vector<ObjectStatus> objects = ObjectStatuses(hub);
  for (const ObjectStatus& object : objects) {
    json conditions = json::array();
    for (const StatusCondition& c : object.conditions) conditions.push_back(ConditionJson(c));
    out["objects"].push_back({{"kind", object.kind},
                              {"namespace", object.name.ns},
                              {"name", object.name.name},
                              {"file", object.location.file},
                              {"line", object.location.line},
                              {"conditions", std::move(conditions)}});
  }
  std::vector<Issue> all = issues;
  for (Issue& issue : CheckWorld(world)) all.push_back(std::move(issue));
  for (const Issue& issue : all) {
    out["errors"].push_back(
        {{"file", issue.file},
         {"line", issue.line},
         {"object", issue.object},
         {"message", issue.message},
         {"remedy", issue.remedy},
         {"severity", issue.severity == Issue::Severity::kError ? "error" : "warning"}});
  }
  return Dump(out);
}

std::string ClientsPage(const AdsHub& hub) {
  json out = {{"clients", json::array()}};
  for (const AdsHub::Client& client : hub.Clients()) {
    json types = json::array();
    json states = json::array();
    if (client.session != nullptr) {
      for (const auto& [type, state] : client.session->types()) {
        types.push_back(type);
        states.push_back({{"type", type},
                          {"wildcard", state.wildcard},
                          {"names", state.names.size()},
                          {"resources", state.known.size()},
                          {"pushes", state.pushes},
                          {"acks", state.acks},
                          {"rejects", state.nacks},
                          {"waitingForAnswer", !state.sent_nonce.empty()},
                          {"ackedNonce", state.acked_nonce},
                          {"lastError", state.last_error},
                          {"lastSizeBytes", state.last_size}});
      }
    }
    out["clients"].push_back({{"id", client.id},
                              {"type", client.type},
                              {"address", client.peer},
                              {"namespace", client.caller.ns},
                              {"pod", client.caller.pod_name},
                              {"serviceAccount", client.caller.service_account},
                              {"nodeName", client.node},
                              {"gateway", client.waypoint},
                              {"version", client.version},
                              {"connectedAt", tls::FormatTime(client.connected_at)},
                              {"synced", client.session != nullptr && client.session->synced()},
                              {"generation", client.generation},
                              {"types", std::move(types)},
                              {"state", std::move(states)}});
  }
  return Dump(out);
}

std::string WorkloadsPage(const World& world) {
  json out = {{"workloads", json::array()}};
  for (const Pod& pod : world.objects().pods) {
    if (pod.terminal() || pod.ips.empty()) continue;
    json services = json::array();
    for (const Service* service : world.ServicesOfPod(pod)) services.push_back(service->hostname);
    out["workloads"].push_back({{"uid", world.WorkloadUid(pod)},
                                {"name", pod.meta.name},
                                {"namespace", pod.meta.ns},
                                {"addresses", Addresses(pod.ips)},
                                {"node", pod.node},
                                {"serviceAccount", pod.service_account},
                                {"identity", world.IdentityOf(pod)},
                                {"workload", world.WorkloadName(pod)},
                                {"protocol", world.TakesHbone(pod) ? "HBONE" : "TCP"},
                                {"hostNetwork", pod.host_network},
                                {"healthy", pod.ready && !pod.terminating},
                                {"waypoint", WaypointJson(world.WaypointOf(pod))},
                                {"services", std::move(services)},
                                {"policies", PoliciesOf(world, pod)}});
  }
  return Dump(out);
}

std::string ServicesPage(const World& world) {
  json out = {{"services", json::array()}};
  for (const Service& service : world.objects().services) {
    json ports = json::array();
    for (const ServicePort& port : service.ports) {
      size_t healthy = 0;
      const std::vector<Endpoint> endpoints = world.EndpointsOf(service, port);
      for (const Endpoint& endpoint : endpoints) healthy += endpoint.healthy ? 1 : 0;
      ports.push_back({{"name", port.name},
                       {"port", port.port},
                       {"target", port.target.name.empty() ? std::to_string(port.target.number)
                                                           : port.target.name},
                       {"endpoints", endpoints.size()},
                       {"healthy", healthy}});
    }
    out["services"].push_back({{"namespace", service.meta.ns},
                               {"name", service.meta.name},
                               {"hostname", service.hostname},
                               {"addresses", Addresses(service.cluster_ips)},
                               {"headless", service.headless},
                               {"ports", std::move(ports)},
                               {"waypoint", WaypointJson(world.WaypointOf(service))}});
  }
  return Dump(out);
}

std::string PoliciesPage(const World& world) {
  json out = {{"policies", json::array()}};
  std::map<std::pair<std::string, NamespacedName>, json> conditions;
  for (const ObjectStatus& status : BuildStatus(world)) {
    json& list = conditions[{status.kind, status.name}];
    list = json::array();
    for (const StatusCondition& c : status.conditions) list.push_back(ConditionJson(c));
  }
  for (const AuthorizationPolicy& policy : world.objects().authorization_policies) {
    istio::security::Authorization converted;
    PolicyOutcome outcome;
    const bool sent = ConvertPolicy(policy, world.mesh(), converted, outcome);
    const char* action = "ALLOW";
    switch (policy.action) {
      case AuthorizationPolicy::Action::kAllow: break;
      case AuthorizationPolicy::Action::kDeny: action = "DENY"; break;
      case AuthorizationPolicy::Action::kAudit: action = "AUDIT"; break;
      case AuthorizationPolicy::Action::kCustom: action = "CUSTOM"; break;
    }
    json targets = json::array();
    for (const TargetRef& target : policy.targets)
      targets.push_back(target.kind + "/" + target.name);
    json selected = json::array();
    if (policy.has_selector()) {
      for (const Pod& pod : world.objects().pods) {
        const bool in_scope =
            pod.meta.ns == policy.meta.ns || policy.meta.ns == world.mesh().root_namespace;
        if (in_scope && LabelsContain(pod.meta.labels, *policy.selector)) {
          selected.push_back(pod.meta.key().ToString());
        }
      }
    }
    out["policies"].push_back(
        {{"kind", policy.meta.kind},
         {"namespace", policy.meta.ns},
         {"name", policy.meta.name},
         {"file", policy.meta.location.file},
         {"line", policy.meta.location.line},
         {"action", action},
         {"scope", sent ? istio::security::Scope_Name(converted.scope()) : "WAYPOINT"},
         {"rules", policy.rules.size()},
         {"rulesSent", converted.rules_size()},
         {"sentToNodes", sent},
         {"dryRun", policy.dry_run},
         {"targets", std::move(targets)},
         {"selects", std::move(selected)},
         {"failsClosed", outcome.not_understood},
         {"httpAttributes", outcome.http_attributes},
         {"conditions", conditions[{policy.meta.kind, policy.meta.key()}]}});
  }
  for (const PeerAuthentication& policy : world.objects().peer_authentications) {
    out["policies"].push_back({{"kind", policy.meta.kind},
                               {"namespace", policy.meta.ns},
                               {"name", policy.meta.name},
                               {"file", policy.meta.location.file},
                               {"line", policy.meta.location.line},
                               {"conditions", conditions[{policy.meta.kind, policy.meta.key()}]}});
  }
  return Dump(out);
}

std::string WaypointPage(AdsHub& hub, const WaypointKey& key) {
  json out = json::object();
  if (hub.snapshot() == nullptr) return Dump(out);
  const WaypointConfig& config = hub.Waypoint(key);
  for (const auto& [type, resources] : config.resources) {
    json& list = out[type] = json::object();
    for (const auto& [name, resource] : resources) list[name] = resource.version;
  }
  return Dump(out);
}

}  // namespace qanat::controlplane
