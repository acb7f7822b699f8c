// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/gateway_status.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "controlplane/kube/conditions.h"
#include "controlplane/kube/kinds.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr uint16_t kHbonePort = 15008;
constexpr size_t kLongestLabel = 63;

Write StatusWrite(const Gateway& gateway, json status) {
  const kube::Resource& resource = *FindKind("Gateway");
  const json body = {{"apiVersion", resource.ApiVersion()},
                     {"kind", resource.kind},
                     {"metadata", {{"name", gateway.meta.name}, {"namespace", gateway.meta.ns}}},
                     {"status", std::move(status)}};
  Write write;
  write.request = kube::Apply(resource, gateway.meta.ns, gateway.meta.name, ToText(body),
                              kFieldManager, /*force=*/true, "status");
  return write;
}

const YamlNode* FindListener(const YamlNode* list, const std::string& name) {
  if (list == nullptr) return nullptr;
  for (const YamlNode& item : list->items) {
    if (TextAt(&item, "name") == name) return &item;
  }
  return nullptr;
}

bool AddressesThere(const GatewayState& state, const YamlNode* list) {
  const size_t there = list == nullptr ? 0 : list->items.size();
  if (there != state.addresses.size()) return false;
  for (size_t i = 0; i < there; ++i) {
    if (TextAt(&list->items[i], "type") != state.addresses[i].first ||
        TextAt(&list->items[i], "value") != state.addresses[i].second) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::optional<StatusCondition> RefusalOf(const Gateway& gateway,
                                         const GatewayClass& gateway_class) {
  const auto refuse = [](const char* reason, std::string message) {
    return StatusCondition{"Accepted", false, reason, std::move(message)};
  };
  if (!gateway.spec_addresses.empty()) {
    return refuse("UnsupportedAddress",
                  "spec.addresses is not served: a waypoint's address is the ClusterIP that its "
                  "Service is given; remove spec.addresses");
  }
  if (gateway.has_parameters) {
    return refuse("InvalidParameters",
                  "spec.infrastructure.parametersRef is not served: remove it; labels and "
                  "annotations of spec.infrastructure are passed on");
  }
  if (gateway_class.has_parameters) {
    return refuse(
        "InvalidParameters",
        fmt::format("GatewayClass {} has a parametersRef, which is not served: remove it, "
                    "or use class qanat-waypoint",
                    gateway_class.meta.name));
  }
  const std::string& name = gateway.meta.name;
  if (name.size() > kLongestLabel || name.find('.') != std::string::npos || name[0] < 'a') {
    return refuse("Invalid",
                  "a waypoint's Service has the Gateway's name, which must therefore be of at most "
                  "63 letters, digits and '-', and begin with a letter: make the Gateway anew "
                  "under such a name");
  }
  return std::nullopt;
}

GatewayState StateOf(const Gateway& gateway, const World& world,
                     const std::optional<StatusCondition>& refusal,
                     const std::vector<std::string>& taken, const Service* service) {
  GatewayState out;
  out.accepted =
      refusal.value_or(StatusCondition{"Accepted", true, "Accepted", "served as a waypoint"});
  out.programmed = {"Programmed", false, "Pending", ""};
  // What was deployed before it was refused goes on, and Programmed says how it is.
  if (refusal && service == nullptr) {
    out.programmed.reason = "Invalid";
    out.programmed.message = "no waypoint is deployed: see Accepted";
    return out;
  }
  if (!taken.empty()) {
    out.programmed.reason = "NameTaken";
    out.programmed.message = fmt::format(
        "{} {} exists and was not made by Qanat, so no waypoint is deployed: give the "
        "Gateway another name, or remove what is in its place",
        fmt::join(taken, ", "), gateway.meta.key().ToString());
    return out;
  }
  if (service == nullptr || service->cluster_ips.empty()) {
    out.programmed.reason = "AddressNotAssigned";
    out.programmed.message = "the waypoint's Service has no ClusterIP yet";
    return out;
  }
  std::set<std::string> all;  // a pod may have several addresses
  std::set<std::string> ready;
  for (const ServicePort& port : service->ports) {
    if (port.port != kHbonePort) continue;
    for (const Endpoint& endpoint : world.EndpointsOf(*service, port)) {
      all.insert(endpoint.workload_uid);
      if (endpoint.healthy) ready.insert(endpoint.workload_uid);
    }
  }
  const size_t healthy = ready.size();
  // An address that was published stays: those who use the waypoint know it, and a pod that is
  // being replaced is no reason to tell everybody.
  if (healthy > 0 || !gateway.status_addresses.empty()) {
    out.addresses.emplace_back("Hostname", service->hostname);
    for (const net::IpAddress& ip : service->cluster_ips) {
      out.addresses.emplace_back("IPAddress", ip.ToString());
    }
  }
  out.programmed.status = healthy > 0;
  out.programmed.reason = healthy > 0 ? "Programmed" : "NoResources";
  out.programmed.message =
      healthy > 0 ? fmt::format("{} of {} waypoint pods are ready", healthy, all.size())
                  : fmt::format(
                        "none of {} waypoint pods is ready: traffic of those who use the "
                        "waypoint is refused until one is",
                        all.size());
  return out;
}

std::optional<Write> GatewayStatusWrite(const Gateway& gateway, const GatewayState& state,
                                        const YamlNode* observed, const std::string& now) {
  const int64_t generation = gateway.meta.generation;
  const YamlNode* there = At(observed, "conditions");
  json conditions = ConditionsJson({state.accepted, state.programmed}, generation, there, now);
  bool same =
      ConditionsThere(conditions, there) && AddressesThere(state, At(observed, "addresses"));
  json listeners = json::array();
  const YamlNode* listeners_there = At(observed, "listeners");
  for (const Gateway::Listener& listener : gateway.listeners) {
    const YamlNode* before = FindListener(listeners_there, listener.name);
    json own = ConditionsJson({{"Accepted", true, "Accepted", ""},
                               {"Programmed", state.programmed.status, "Programmed", ""},
                               {"ResolvedRefs", true, "ResolvedRefs", ""}},
                              generation, At(before, "conditions"), now);
    if (!state.programmed.status) own[1]["reason"] = "Pending";
    same = same && before != nullptr && ConditionsThere(own, At(before, "conditions"));
    listeners.push_back({{"name", listener.name},
                         {"attachedRoutes", 0},
                         {"supportedKinds", json::array()},
                         {"conditions", std::move(own)}});
  }
  if (same) return std::nullopt;
  std::string meaning =
      fmt::format("{} {} {} {} {} ", generation, state.accepted.message, state.programmed.status,
                  state.programmed.reason, state.programmed.message);
  json addresses = json::array();
  for (const auto& [type, value] : state.addresses) {
    addresses.push_back({{"type", type}, {"value", value}});
    meaning += value + " ";
  }
  json status = {{"conditions", std::move(conditions)}, {"listeners", std::move(listeners)}};
  if (!addresses.empty()) status["addresses"] = std::move(addresses);
  Write write = StatusWrite(gateway, std::move(status));
  write.meaning = std::move(meaning);
  return write;
}

std::optional<Write> GatewayStatusRetreat(const Gateway& gateway, const std::string& hostname,
                                          const YamlNode* observed) {
  const YamlNode* addresses = At(observed, "addresses");
  if (addresses == nullptr ||
      std::none_of(addresses->items.begin(), addresses->items.end(),
                   [&](const YamlNode& item) { return TextAt(&item, "value") == hostname; })) {
    return std::nullopt;
  }
  Write write = StatusWrite(gateway, json::object());
  write.meaning = "retreat";
  return write;
}

}  // namespace qanat::controlplane
