// SPDX-License-Identifier: Apache-2.0
#include "controlplane/translate/status.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/proto/authorization.pb.h"
#include "controlplane/translate/authorization.h"

namespace qanat::controlplane {
namespace {

ObjectStatus For(const ObjectMeta& meta) {
  return {meta.kind, meta.key(), meta.location, meta.generation, {}};
}

// "shop/reviews (shop.yaml:3)"
std::string Placed(const ObjectMeta& meta) {
  const std::string place = meta.location.ToString();
  return place.empty() ? meta.key().ToString() : meta.key().ToString() + " (" + place + ")";
}

std::string Join(const std::vector<std::string>& list) {
  return fmt::format("{}", fmt::join(list, ", "));
}

StatusCondition WaypointCondition(const WaypointRef& ref, std::string_view what) {
  using State = WaypointRef::State;
  StatusCondition c{"istio.io/WaypointBound", false, "", ""};
  const std::string gateway = ref.gateway.ToString();
  switch (ref.state) {
    case State::kNone: break;
    case State::kReady:
      c = {c.type, true, "WaypointAccepted",
           fmt::format("Successfully attached to waypoint {}", gateway)};
      break;
    case State::kNotReady:
      c.reason = "WaypointIsNotReady";
      c.message = fmt::format(
          "waypoint \"{}\" is not ready: it has no address yet; traffic to this "
          "{} is refused until it has",
          gateway, what);
      break;
    case State::kMissing:
      c.reason = "WaypointIsMissing";
      c.message = fmt::format(
          "waypoint \"{}\" does not exist; traffic to this {} is refused. Create "
          "the Gateway (class qanat-waypoint), or remove the label "
          "istio.io/use-waypoint{}",
          gateway, what, ref.named_by_namespace ? " of the namespace" : "");
      break;
    case State::kNotAllowed:
      c.reason = "AttachmentDenied";
      c.message = fmt::format(
          "waypoint \"{}\" does not admit this namespace; traffic is refused. "
          "Set allowedRoutes.namespaces.from: All (or Selector) on its listener",
          gateway);
      break;
    case State::kWrongTraffic:
      c.reason = "TrafficTypeNotSupported";
      c.message = fmt::format(
          "waypoint \"{}\" is not for traffic to a {} (label "
          "istio.io/waypoint-for); traffic goes directly",
          gateway, what);
      break;
    case State::kNotAWaypoint:
      c.reason = "NotAWaypoint";
      c.message = fmt::format(
          "Gateway \"{}\" is not of class qanat-waypoint or istio-waypoint; "
          "traffic to this {} is refused",
          gateway, what);
      break;
  }
  return c;
}

void Services(const World& world, std::vector<ObjectStatus>& out) {
  for (const Service& service : world.objects().services) {
    if (service.synthetic) continue;
    ObjectStatus status = For(service.meta);
    const WaypointRef ref = world.WaypointOf(service);
    // The namespace's choice does not concern a service that the waypoint is not for.
    const bool moot = ref.state == WaypointRef::State::kWrongTraffic && ref.named_by_namespace;
    if (ref.state != WaypointRef::State::kNone && !moot) {
      status.conditions.push_back(WaypointCondition(ref, "service"));
    }
    if (service.type == Service::Type::kExternalName) {
      status.conditions.push_back({"Accepted", true, "ExternalName",
                                   "left to DNS; the mesh sees the name that it stands for"});
    }
    out.push_back(std::move(status));
  }
}

void Gateways(const World& world, std::vector<ObjectStatus>& out) {
  for (const Gateway& gateway : world.objects().gateways) {
    ObjectStatus status = For(gateway.meta);
    if (!world.IsWaypoint(gateway)) {
      status.conditions.push_back(
          {"Accepted", false, "UnsupportedClass",
           fmt::format("class \"{}\" is not served: use qanat-waypoint or istio-waypoint",
                       gateway.class_name)});
    } else {
      status.conditions.push_back({"Accepted", true, "Accepted", "served as a waypoint"});
      const bool ready = !gateway.status_addresses.empty();
      status.conditions.push_back(
          {"Programmed", ready, ready ? "Programmed" : "AddressNotAssigned",
           ready ? fmt::format("address {}, {} services use it", Join(gateway.status_addresses),
                               world.ServicesUsing(gateway.meta.key()).size())
                 : "the waypoint has no address yet: traffic of those who use it is refused"});
    }
    out.push_back(std::move(status));
  }
}

StatusCondition TargetCondition(const World& world, const ObjectMeta& meta,
                                const TargetRef& target) {
  const std::string what = fmt::format("{} {}/{}", target.kind, meta.ns, target.name);
  StatusCondition c{"WaypointAccepted", false, "TargetNotFound",
                    fmt::format("{} does not exist", what)};
  if (!target.ns.empty() && target.ns != meta.ns) {
    c.reason = "Invalid";
    c.message = "targetRefs cannot name another namespace";
  } else if (target.kind == "Service" && target.group.empty()) {
    const Service* service = world.FindService({meta.ns, target.name});
    if (service == nullptr) return c;
    const WaypointRef ref = world.WaypointOf(*service);
    if (ref.state == WaypointRef::State::kReady || ref.state == WaypointRef::State::kNotReady) {
      return {c.type, true, "Accepted",
              fmt::format("bound to {} at waypoint {}", what, ref.gateway.ToString())};
    }
    c.reason = "AncestorNotBound";
    c.message = fmt::format(
        "{} has no waypoint, so nobody enforces this policy: label it "
        "istio.io/use-waypoint, or use selector instead of targetRefs",
        what);
  } else if (target.kind == "Gateway") {
    const Gateway* gateway = world.FindGateway({meta.ns, target.name});
    if (gateway == nullptr) return c;
    if (world.IsWaypoint(*gateway))
      return {c.type, true, "Accepted", fmt::format("bound to {}", what)};
    c.reason = "AncestorNotBound";
    c.message = fmt::format("{} is not a waypoint", what);
  } else if (target.kind == "GatewayClass") {
    if (meta.ns == world.mesh().root_namespace) {
      return {c.type, true, "Accepted",
              fmt::format("bound to every waypoint of class {}", target.name)};
    }
    c.reason = "Invalid";
    c.message = fmt::format("a GatewayClass can be targeted only from namespace {}",
                            world.mesh().root_namespace);
  } else {
    c.reason = "Invalid";
    c.message =
        fmt::format("targets of kind {} are not served: use Service or Gateway", target.kind);
  }
  return c;
}

StatusCondition ZtunnelCondition(const AuthorizationPolicy& policy, const PolicyOutcome& outcome) {
  using Action = AuthorizationPolicy::Action;
  StatusCondition c{"ZtunnelAccepted", true, "Accepted", "enforced at the node proxies"};
  if (!outcome.not_understood.empty()) {
    c.status = false;
    c.reason = "Invalid";
    c.message = fmt::format("not understood, so it fails closed ({}): {}",
                            outcome.denies_all ? "everything that it selects is denied"
                            : policy.action == Action::kAllow ? "the part never allows"
                                                              : "the part always denies",
                            Join(outcome.not_understood));
    return c;
  }
  if (policy.action == Action::kAudit) {
    return {c.type, false, "UnsupportedValue", "node proxies do not support the AUDIT action"};
  }
  if (policy.action == Action::kCustom) {
    return {c.type, false, "UnsupportedValue",
            "node proxies do not support the CUSTOM action: what it would ask about is denied"};
  }
  if (!outcome.http_attributes.empty()) {
    c.reason = "UnsupportedValue";
    c.message = fmt::format(
        "node proxies do not see HTTP (found: {}). {} Use targetRefs with a waypoint to enforce "
        "HTTP "
        "rules.",
        Join(outcome.http_attributes),
        policy.action == Action::kAllow
            ? fmt::format("{} of {} rules are left out: they allow nothing.", outcome.rules_dropped,
                          policy.rules.size())
            : "The policy is enforced without them, which is more restrictive than asked for.");
  }
  if (policy.dry_run) c.message += " Dry run: decisions are logged, not enforced.";
  return c;
}

void Policies(const World& world, std::vector<ObjectStatus>& out) {
  for (const AuthorizationPolicy& policy : world.objects().authorization_policies) {
    ObjectStatus status = For(policy.meta);
    if (policy.targets.empty()) {
      istio::security::Authorization ignored;
      PolicyOutcome outcome;
      ConvertPolicy(policy, world.mesh(), ignored, outcome);
      status.conditions.push_back(ZtunnelCondition(policy, outcome));
    }
    for (const TargetRef& target : policy.targets) {
      status.conditions.push_back(TargetCondition(world, policy.meta, target));
    }
    out.push_back(std::move(status));
  }
  for (const RequestAuthentication& policy : world.objects().request_authentications) {
    ObjectStatus status = For(policy.meta);
    if (policy.targets.empty()) {
      status.conditions.push_back(
          {"WaypointAccepted", false, "UnsupportedValue",
           "tokens are checked at waypoints only: use targetRefs with a Gateway or Service instead "
           "of selector"});
    }
    for (const TargetRef& target : policy.targets) {
      status.conditions.push_back(TargetCondition(world, policy.meta, target));
    }
    out.push_back(std::move(status));
  }
  for (const PeerAuthentication& policy : world.objects().peer_authentications) {
    ObjectStatus status = For(policy.meta);
    const char* mode = "UNSET";
    switch (policy.mode) {
      case MtlsMode::kUnset: break;
      case MtlsMode::kDisable: mode = "DISABLE (as PERMISSIVE: the mesh still encrypts)"; break;
      case MtlsMode::kPermissive: mode = "PERMISSIVE"; break;
      case MtlsMode::kStrict: mode = "STRICT"; break;
    }
    status.conditions.push_back(
        {"ZtunnelAccepted", true, "Accepted",
         fmt::format("{} for {}", mode,
                     policy.has_selector()                           ? "the selected workloads"
                     : policy.meta.ns == world.mesh().root_namespace ? "the whole mesh"
                                                                     : "the namespace")});
    out.push_back(std::move(status));
  }
}

// Does a waypoint carry out L7 rules for this service? "" when it does.
std::string WhyNoL7(const World& world, const Service& service) {
  const WaypointRef ref = world.WaypointOf(service);
  if (ref.state == WaypointRef::State::kReady || ref.state == WaypointRef::State::kNotReady)
    return "";
  return fmt::format(
      "Service {} has no waypoint, which is what carries out HTTP rules: create a Gateway of class "
      "qanat-waypoint and label the service (or its namespace) istio.io/use-waypoint: NAME",
      service.meta.key().ToString());
}

void HostCondition(const World& world, const std::vector<std::string>& hosts, const std::string& ns,
                   ObjectStatus& status) {
  for (const std::string& host : hosts) {
    const std::string fqdn = world.ResolveHost(host, ns);
    if (fqdn.starts_with('*')) continue;
    const Service* service = world.FindServiceByHostname(fqdn);
    StatusCondition c{"Applied", true, "Applied", ""};
    if (service == nullptr) {
      c = {c.type, false, "HostNotFound",
           fmt::format("no Service {}: write the name of a Service in namespace {}, or "
                       "NAME.NAMESPACE.svc.{}",
                       fqdn, ns, world.mesh().domain)};
    } else if (std::string why = WhyNoL7(world, *service); !why.empty()) {
      c = {c.type, false, "NoWaypoint", std::move(why)};
    } else {
      c.message = fmt::format("applied to {} at waypoint {}", fqdn,
                              world.WaypointOf(*service).gateway.ToString());
    }
    status.conditions.push_back(std::move(c));
  }
}

void Routes(const World& world, std::vector<ObjectStatus>& out) {
  for (const VirtualService& route : world.objects().virtual_services) {
    ObjectStatus status = For(route.meta);
    if (!route.applies_to_mesh()) {
      status.conditions.push_back(
          {"Applied", false, "GatewayNotServed",
           "spec.gateways names only ingress gateways, which are not served "
           "yet: add \"mesh\", or use a Gateway and an HTTPRoute"});
    } else {
      HostCondition(world, route.hosts, route.meta.ns, status);
      for (const std::string& host : route.hosts) {
        const Service* service =
            world.FindServiceByHostname(world.ResolveHost(host, route.meta.ns));
        if (service == nullptr) continue;
        const WaypointRef ref = world.WaypointOf(*service);
        const VirtualService* winner = world.VirtualServiceFor(*service, ref.gateway);
        if (winner != nullptr && winner != &route && ref.effective()) {
          status.conditions.push_back(
              {"Applied", false, "Shadowed",
               fmt::format("VirtualService {} is older and has the same host {}: only one counts",
                           Placed(winner->meta), host)});
        }
      }
    }
    out.push_back(std::move(status));
  }
  for (const DestinationRule& rule : world.objects().destination_rules) {
    ObjectStatus status = For(rule.meta);
    HostCondition(world, {rule.host}, rule.meta.ns, status);
    out.push_back(std::move(status));
  }
  for (const HttpRoute& route : world.objects().http_routes) {
    ObjectStatus status = For(route.meta);
    for (const ParentRef& parent : route.parents) {
      StatusCondition c{"Accepted", false, "NoMatchingParent", ""};
      const std::string what = fmt::format("{} {}/{}", parent.kind, parent.ns, parent.name);
      if (parent.kind != "Service") {
        c.message = fmt::format(
            "{} is not served: give a Service as parent (group \"\", kind "
            "Service)",
            what);
      } else if (const Service* service = world.FindService({parent.ns, parent.name});
                 service == nullptr) {
        c.message = fmt::format("{} does not exist", what);
      } else if (parent.ns != route.meta.ns) {
        c.message = fmt::format(
            "{} is in another namespace: only the owner of a service may route "
            "it; move the route to namespace {}",
            what, parent.ns);
      } else if (std::string why = WhyNoL7(world, *service); !why.empty()) {
        c.reason = "NoWaypoint";
        c.message = std::move(why);
      } else {
        c = {c.type, true, "Accepted", fmt::format("applied to {}", what)};
      }
      status.conditions.push_back(std::move(c));
    }
    if (route.parents.empty()) {
      status.conditions.push_back({"Accepted", false, "NoMatchingParent", "parentRefs is missing"});
    }
    out.push_back(std::move(status));
  }
}

}  // namespace

std::vector<ObjectStatus> BuildStatus(const World& world) {
  std::vector<ObjectStatus> out;
  Gateways(world, out);
  Services(world, out);
  Policies(world, out);
  Routes(world, out);
  return out;
}

}  // namespace qanat::controlplane
