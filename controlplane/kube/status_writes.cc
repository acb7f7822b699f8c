// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/status_writes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "controlplane/kube/conditions.h"
#include "controlplane/kube/kinds.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;

constexpr std::string_view kUnderstood = "qanat.io/Understood";

// Their status is a list of conditions, and nobody else writes it. Of a ServiceEntry others give it
// addresses, and ours says only whether it was understood: no waypoint serves one yet.
constexpr auto kPlainKinds =
    std::to_array<std::string_view>({"AuthorizationPolicy", "DestinationRule", "PeerAuthentication",
                                     "RequestAuthentication", "ServiceEntry", "VirtualService"});

bool IsPlain(std::string_view kind) {
  return std::find(kPlainKinds.begin(), kPlainKinds.end(), kind) != kPlainKinds.end();
}

struct Target {
  std::string kind;
  NamespacedName key;
  std::string Place() const { return kind + " " + (key.ns.empty() ? key.name : key.ToString()); }
};

// "AuthorizationPolicy shop/deny"; nullopt for anything that is not about one object.
std::optional<Target> ParsePlace(std::string_view place) {
  const size_t space = place.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  Target out;
  out.kind = place.substr(0, space);
  const std::string_view rest = place.substr(space + 1);
  const size_t slash = rest.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  out.key = {std::string(rest.substr(0, slash)), std::string(rest.substr(slash + 1))};
  return out;
}

class Builder {
 public:
  Builder(const World& world, const Observed& observed, const std::string& now)
      : world_(world), observed_(observed), now_(now) {}

  void Conditions(const Target& target, int64_t generation,
                  const std::vector<StatusCondition>& conditions) {
    const YamlNode* there = At(observed_(target.kind, target.key), "conditions");
    json wanted = ConditionsJson(OnePerType(conditions), generation, there, now_);
    if (ConditionsThere(wanted, there)) return;
    json status = {{"conditions", std::move(wanted)}};
    if (generation > 0 && IsPlain(target.kind)) status["observedGeneration"] = generation;
    Add(target, std::move(status));
  }

  // It can be read now: what was said before goes, and nothing is written where nothing was.
  void Understood(const Target& target, int64_t generation) {
    const YamlNode* there = At(observed_(target.kind, target.key), "conditions");
    if (there == nullptr) return;
    const bool said = std::any_of(there->items.begin(), there->items.end(), [](const auto& item) {
      return TextAt(&item, "type") == kUnderstood;
    });
    if (said) Conditions(target, generation, {});
  }

  void Route(const HttpRoute& route, const ObjectStatus& status) {
    const Target target{"HTTPRoute", route.meta.key()};
    const YamlNode* there = At(observed_(target.kind, target.key), "parents");
    std::vector<StatusCondition> accepted;
    std::vector<StatusCondition> others;
    for (const StatusCondition& c : status.conditions) {
      (c.type == "Accepted" ? accepted : others).push_back(c);
    }
    if (std::none_of(others.begin(), others.end(),
                     [](const StatusCondition& c) { return c.type == "ResolvedRefs"; })) {
      others.push_back({"ResolvedRefs", true, "ResolvedRefs", "every reference was found"});
    }
    json parents = json::array();
    bool same = true;
    size_t ours_before = 0;
    // What other controllers say about their parents stays.
    if (there != nullptr) {
      for (const YamlNode& item : there->items) {
        if (TextAt(&item, "controllerName") == kControllerName) {
          ++ours_before;
        } else {
          parents.push_back(ToJson(item));
        }
      }
    }
    size_t ours = 0;
    for (size_t i = 0; i < route.parents.size() && i < accepted.size(); ++i) {
      const ParentRef& parent = route.parents[i];
      if (!Ours(parent)) continue;
      ++ours;
      json ref = {{"group", parent.group}, {"kind", parent.kind}, {"name", parent.name}};
      if (parent.ns != route.meta.ns) ref["namespace"] = parent.ns;
      if (!parent.section.empty()) ref["sectionName"] = parent.section;
      if (parent.port != 0) ref["port"] = parent.port;
      const YamlNode* before = FindParent(there, ref, route.meta.ns);
      std::vector<StatusCondition> conditions = {accepted[i]};
      conditions.insert(conditions.end(), others.begin(), others.end());
      json wanted =
          ConditionsJson(OnePerType(conditions), status.generation, At(before, "conditions"), now_);
      same = same && before != nullptr && ConditionsThere(wanted, At(before, "conditions"));
      parents.push_back({{"parentRef", std::move(ref)},
                         {"controllerName", kControllerName},
                         {"conditions", std::move(wanted)}});
    }
    if (same && ours == ours_before) return;
    Add(target, {{"parents", std::move(parents)}});
  }

  Writes Take() { return std::move(out_); }

 private:
  // A Service is the mesh's business; a Gateway that is no waypoint is another controller's.
  bool Ours(const ParentRef& parent) const {
    if (parent.kind == "Service" && (parent.group.empty() || parent.group == "core")) return true;
    if (parent.kind != "Gateway") return false;
    const Gateway* gateway = world_.FindGateway({parent.ns, parent.name});
    return gateway != nullptr && world_.IsWaypoint(*gateway);
  }

  static const YamlNode* FindParent(const YamlNode* list, const json& wanted,
                                    const std::string& ns) {
    if (list == nullptr) return nullptr;
    for (const YamlNode& item : list->items) {
      if (TextAt(&item, "controllerName") != kControllerName) continue;
      const YamlNode* ref = At(&item, "parentRef");
      std::string there_ns = TextAt(ref, "namespace");
      if (there_ns.empty()) there_ns = ns;
      const auto text = [&](const char* key) {
        if (!wanted.contains(key)) return std::string();
        return wanted[key].is_string() ? wanted[key].get<std::string>() : wanted[key].dump();
      };
      const std::string wanted_ns = wanted.contains("namespace") ? text("namespace") : ns;
      if (TextAt(ref, "kind") == text("kind") && TextAt(ref, "name") == text("name") &&
          there_ns == wanted_ns && TextAt(ref, "sectionName") == text("sectionName") &&
          TextAt(ref, "port") == text("port")) {
        return &item;
      }
    }
    return nullptr;
  }

  void Add(const Target& target, json status) {
    const kube::Resource* resource = FindKind(target.kind);
    if (resource == nullptr) return;
    json body = {{"apiVersion", resource->ApiVersion()},
                 {"kind", resource->kind},
                 {"metadata", {{"name", target.key.name}}},
                 {"status", std::move(status)}};
    if (resource->namespaced) body["metadata"]["namespace"] = target.key.ns;
    Write write;
    write.request =
        kube::Apply(*resource, target.key.ns, target.key.name, ToText(body), kFieldManager,
                    /*force=*/true, "status");
    Timeless(body);
    write.meaning = ToText(body);
    out_[target.Place()] = std::move(write);
  }

  static void Timeless(json& value) {
    if (value.is_object()) value.erase("lastTransitionTime");
    for (json& child : value) {
      if (child.is_structured()) Timeless(child);
    }
  }

  const World& world_;
  const Observed& observed_;
  const std::string& now_;
  Writes out_;
};

// What could not be understood, as a condition, by "Kind ns/name".
std::map<std::string, StatusCondition> NotUnderstood(const std::vector<Issue>& issues) {
  std::map<std::string, StatusCondition> out;
  for (const Issue& issue : issues) {
    if (issue.severity != Issue::Severity::kError || issue.object.empty()) continue;
    const std::string text =
        issue.remedy.empty() ? issue.message : fmt::format("{} ({})", issue.message, issue.remedy);
    const auto [it, fresh] = out.try_emplace(
        issue.object, StatusCondition{std::string(kUnderstood), false, "Invalid", text});
    if (!fresh) it->second.message += "; " + text;
  }
  return out;
}

}  // namespace

Writes StatusWrites(const World& world, const std::vector<ObjectStatus>& statuses,
                    const std::vector<Issue>& issues, const Observed& observed,
                    const std::string& now) {
  Builder builder(world, observed, now);
  std::map<std::string, StatusCondition> broken = NotUnderstood(issues);
  std::map<NamespacedName, const HttpRoute*> routes;
  for (const HttpRoute& route : world.objects().http_routes) routes[route.meta.key()] = &route;
  for (const ObjectStatus& status : statuses) {
    const Target target{status.kind, status.name};
    std::vector<StatusCondition> conditions = status.conditions;
    if (const auto it = broken.find(target.Place()); it != broken.end()) {
      conditions.push_back(it->second);
      broken.erase(it);
    }
    if (IsPlain(status.kind)) {
      builder.Conditions(target, status.generation, conditions);
    } else if (status.kind == "Service") {
      std::erase_if(conditions, [](const StatusCondition& c) {
        return c.type != "istio.io/WaypointBound";  // the rest says what Kubernetes says itself
      });
      builder.Conditions(target, 0, conditions);
    } else if (status.kind == "HTTPRoute") {
      const auto route = routes.find(status.name);
      ObjectStatus whole = status;
      whole.conditions = std::move(conditions);
      if (route != routes.end()) builder.Route(*route->second, whole);
    }
  }
  for (const ServiceEntry& entry : world.objects().service_entries) {
    const Target target{"ServiceEntry", entry.meta.key()};
    if (!broken.contains(target.Place())) builder.Understood(target, entry.meta.generation);
  }
  // Objects that never were understood are not in the World.
  for (const auto& [place, condition] : broken) {
    const std::optional<Target> target = ParsePlace(place);
    if (target && IsPlain(target->kind)) builder.Conditions(*target, 0, {condition});
  }
  for (const GatewayClass& c : world.objects().gateway_classes) {
    // Ours, and a user's that names us as its controller.
    const std::string* part_of = c.meta.Label(kPartOf);
    const bool ours = part_of != nullptr && *part_of == kPartOfQanat;
    if (!ours && c.controller != kControllerName) continue;
    StatusCondition accepted{"Accepted", true, "Accepted", "Qanat deploys Gateways of this class"};
    if (c.has_parameters) {
      accepted = {"Accepted", false, "InvalidParameters",
                  "spec.parametersRef is not served: remove it"};
    }
    builder.Conditions({"GatewayClass", {"", c.meta.name}}, c.meta.generation, {accepted});
  }
  return builder.Take();
}

}  // namespace qanat::controlplane
