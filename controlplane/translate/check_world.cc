// SPDX-License-Identifier: Apache-2.0
// Problems that only show when objects are seen together.
#include <fmt/format.h>

#include <algorithm>

#include "controlplane/translate/status.h"

namespace qanat::controlplane {
namespace {

Issue Warn(const ObjectMeta& meta, int line, std::string message, std::string remedy) {
  return {
      Issue::Severity::kWarning,
      meta.location.file,
      line == 0 ? meta.location.line : line,
      meta.ns.empty() ? meta.kind + " " + meta.name : meta.kind + " " + meta.ns + "/" + meta.name,
      std::move(message),
      std::move(remedy)};
}

void CheckServices(const World& world, std::vector<Issue>& out) {
  for (const Service& service : world.objects().services) {
    if (service.selector.empty() || service.synthetic) continue;
    const std::vector<const Pod*> pods = world.PodsMatching(service.meta.ns, service.selector);
    if (pods.empty()) continue;
    for (const ServicePort& port : service.ports) {
      if (port.target.number != 0) continue;
      const bool any = std::any_of(pods.begin(), pods.end(), [&](const Pod* pod) {
        return world.TargetPort(*pod, port).has_value();
      });
      if (any) continue;
      Issue issue =
          Warn(service.meta, port.line,
               fmt::format("port {}: no pod of the service has a container port named "
                           "\"{}\", so the port leads nowhere",
                           port.port, port.target.name),
               fmt::format("name a containerPort \"{}\" in the pods, or give targetPort as "
                           "a number",
                           port.target.name));
      issue.severity = Issue::Severity::kError;
      out.push_back(std::move(issue));
    }
  }
}

void CheckDestination(const World& world, const ObjectMeta& meta, const Destination& destination,
                      int line, std::vector<Issue>& out) {
  const std::string fqdn = world.ResolveHost(destination.host, meta.ns);
  const Service* service = world.FindServiceByHostname(fqdn);
  if (service == nullptr) {
    out.push_back(Warn(meta, line, fmt::format("destination {}: no such Service", fqdn),
                       "requests that take this route get 503; correct the host"));
    return;
  }
  if (destination.subset.empty()) return;
  for (const DestinationRule* rule : world.DestinationRulesFor(*service)) {
    for (const Subset& subset : rule->subsets) {
      if (subset.name == destination.subset) return;
    }
  }
  out.push_back(Warn(
      meta, line,
      fmt::format("subset {} of {} is defined by no DestinationRule", destination.subset, fqdn),
      fmt::format("requests that take this route get 503; add the subset to a "
                  "DestinationRule with host: {}",
                  destination.host)));
}

}  // namespace

std::vector<Issue> CheckWorld(const World& world) {
  std::vector<Issue> out;
  CheckServices(world, out);
  for (const VirtualService& route : world.objects().virtual_services) {
    if (!route.applies_to_mesh()) continue;
    for (const VirtualHttpRoute& http : route.http) {
      for (const HttpRouteDestination& d : http.route) {
        CheckDestination(world, route.meta, d.destination, http.line, out);
      }
    }
  }
  for (const DestinationRule& rule : world.objects().destination_rules) {
    const Service* service =
        world.FindServiceByHostname(world.ResolveHost(rule.host, rule.meta.ns));
    if (service == nullptr || service->selector.empty()) continue;
    const std::vector<const Pod*> pods = world.PodsMatching(service->meta.ns, service->selector);
    for (const Subset& subset : rule.subsets) {
      const bool any = std::any_of(pods.begin(), pods.end(), [&](const Pod* pod) {
        return LabelsContain(pod->meta.labels, subset.labels);
      });
      if (any || pods.empty()) continue;
      out.push_back(Warn(rule.meta, subset.line,
                         fmt::format("subset {} selects none of the {} pods of {}", subset.name,
                                     pods.size(), service->hostname),
                         "correct the labels of the subset or of the pods"));
    }
  }
  return out;
}

}  // namespace qanat::controlplane
