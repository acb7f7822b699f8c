// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/names.h"

#include <algorithm>
#include <optional>

#include "common/dns/message.h"

namespace qanat::ztunnel::dns {
namespace {

struct Name {
  std::string text;
  std::string stripped;  // the name without its search domain, where one was taken off
};

size_t Labels(std::string_view host) {
  return host.empty() ? 0 : 1 + static_cast<size_t>(std::count(host.begin(), host.end(), '.'));
}

// "name" without ".domain" at its end; "" where it does not end so.
std::string_view Without(std::string_view name, std::string_view domain) {
  if (domain.empty() || name.size() <= domain.size() + 1 || !name.ends_with(domain)) return {};
  name.remove_suffix(domain.size());
  if (name.back() != '.') return {};
  name.remove_suffix(1);
  return name;
}

// The full name of a service in the cluster that a short name of one to four labels may mean.
std::string Expanded(std::string_view host, std::string_view ns, std::string_view domain) {
  std::string out(host);
  const bool svc = host.ends_with(".svc");
  switch (Labels(host)) {
    case 1:  // name
      out.append(".").append(ns).append(".svc.");
      break;
    case 2:  // name.ns
      out.append(".svc.");
      break;
    case 3:  // name.ns.svc, or pod.name.ns
    case 4:  // pod.name.ns.svc
      if (!svc && Labels(host) == 4) return {};
      out.append(svc ? "." : ".svc.");
      break;
    default: return {};
  }
  return out.append(domain);
}

// What the question may mean, the likeliest first.
std::vector<Name> NamesFor(std::string_view host, std::string_view ns, const Scope& scope) {
  std::vector<Name> out;
  const auto add = [&out](std::string_view text, std::string_view stripped) {
    if (text.empty()) return;
    if (std::any_of(out.begin(), out.end(), [&](const Name& n) { return n.text == text; })) return;
    out.push_back({std::string(text), std::string(stripped)});
  };
  add(host, {});
  add(Expanded(host, ns, scope.cluster_domain), {});
  for (const std::string& domain : scope.search) {
    const std::string_view stripped = Without(host, domain);
    if (stripped.empty()) continue;
    add(stripped, stripped);
    add(Expanded(stripped, ns, scope.cluster_domain), stripped);
  }
  return out;
}

bool HasVip(const model::Service& service) {
  return std::any_of(service.addresses.begin(), service.addresses.end(),
                     [](const model::ServiceAddress& address) { return address.host; });
}

bool InCluster(std::string_view host, std::string_view domain) {
  return Without(host, domain).ends_with(".svc");
}

struct Question {
  const state::MeshSnapshot& snapshot;
  const model::Workload& client;
  const Scope& scope;
  bool v4;
};

model::ServicePtr ByHostname(const Question& q, std::string_view name) {
  return q.snapshot.ServiceByHostname(name, q.client.ns, q.scope.preferred_ns);
}

bool FamilyAllowed(const Question& q, const model::Service& service) {
  if (!q.v4 && !q.scope.ipv6) return false;
  if (service.ip_families == model::IpFamilies::kIpv4Only) return q.v4;
  if (service.ip_families == model::IpFamilies::kIpv6Only) return !q.v4;
  return true;
}

void AddWorkload(const Question& q, const model::Workload& workload,
                 std::vector<net::IpAddress>& out) {
  for (const net::IpAddress& ip : workload.addresses) {
    if (ip.is_v4() == q.v4 && std::find(out.begin(), out.end(), ip) == out.end()) {
      out.push_back(ip);
    }
  }
}

// An endpoint that a client may call by its address.
bool Usable(const Question& q, const model::Service& service, const model::Workload& workload) {
  return workload.network == q.client.network &&
         (workload.healthy || service.load_balancing.allow_unhealthy);
}

std::vector<net::IpAddress> AddressesOf(const Question& q, const model::Service& service) {
  std::vector<net::IpAddress> out;
  if (!FamilyAllowed(q, service)) return out;
  if (HasVip(service)) {
    for (const model::ServiceAddress& address : service.addresses) {
      if (address.host && address.network == q.client.network &&
          address.cidr.ip().is_v4() == q.v4) {
        out.push_back(address.cidr.ip());
      }
    }
    return out;
  }
  for (const model::Endpoint& endpoint : q.snapshot.EndpointsOf(service)) {
    if (Usable(q, service, *endpoint.workload)) AddWorkload(q, *endpoint.workload, out);
  }
  return out;
}

// "10-0-0-1" or "fd00--1": what cluster DNS calls a pod without a name of its own.
bool IsDashed(std::string_view label, const net::IpAddress& ip) {
  std::string text = ip.ToString();
  std::replace(text.begin(), text.end(), ip.is_v4() ? '.' : ':', '-');
  return text == label;
}

// A pod of a headless service: <pod>.<service>.<ns>.svc.<domain>.
struct PodName {
  model::ServicePtr service;
  std::vector<model::WorkloadPtr> pods;
};
std::optional<PodName> FindPod(const Question& q, std::string_view name) {
  const size_t dot = name.find('.');
  if (dot == std::string_view::npos || !InCluster(name, q.scope.cluster_domain)) return {};
  const std::string_view label = name.substr(0, dot);
  PodName out{ByHostname(q, name.substr(dot + 1)), {}};
  if (out.service == nullptr || HasVip(*out.service)) return {};
  for (const model::Endpoint& endpoint : q.snapshot.EndpointsOf(*out.service)) {
    const model::Workload& pod = *endpoint.workload;
    if (pod.ns != out.service->ns || !Usable(q, *out.service, pod)) continue;
    if (pod.name() == label || std::any_of(pod.addresses.begin(), pod.addresses.end(),
                                           [&](const auto& ip) { return IsDashed(label, ip); })) {
      out.pods.push_back(endpoint.workload);
    }
  }
  // A pod may have another host name than its own: only the cluster's name server knows.
  if (out.pods.empty()) return {};
  return out;
}

// Whether this service's name is answered at all.
bool Answerable(const Question& q, const model::ServicePtr& service) {
  return service != nullptr &&
         (HasVip(*service) || InCluster(service->hostname, q.scope.cluster_domain));
}

struct Found {
  bool wildcard = false;
  std::vector<net::IpAddress> addresses;
};
std::optional<Found> Find(const Question& q, std::string_view name) {
  if (const auto service = ByHostname(q, name)) {
    // Known without an address, such as a ServiceEntry that resolves: the world knows the name.
    if (!Answerable(q, service)) return {};
    return Found{false, AddressesOf(q, *service)};
  }
  if (const auto pod = FindPod(q, name)) {
    Found found;
    if (FamilyAllowed(q, *pod->service)) {
      for (const auto& workload : pod->pods) AddWorkload(q, *workload, found.addresses);
    }
    return found;
  }
  std::string wildcard;
  for (size_t dot = name.find('.'); dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
    wildcard.assign("*").append(name.substr(dot));
    const auto service = ByHostname(q, wildcard);
    if (service == nullptr) continue;
    if (!Answerable(q, service)) return {};
    return Found{true, AddressesOf(q, *service)};
  }
  return {};
}

}  // namespace

Match LookUp(const state::MeshSnapshot& snapshot, const model::Workload& client, const Scope& scope,
             std::string_view host, uint16_t type) {
  namespace type_of = ::qanat::dns::type;
  const bool address = type == type_of::kA || type == type_of::kAaaa;
  const Question q{snapshot, client, scope, type != type_of::kAaaa};
  for (const Name& name : NamesFor(host, client.ns, scope)) {
    auto found = Find(q, name.text);
    if (!found) continue;
    Match match;
    match.known = true;
    if (!address) return match;
    match.kind = Match::Kind::kAnswer;
    if (!found->wildcard) match.alias = name.stripped;
    match.addresses = std::move(found->addresses);
    return match;
  }
  return {};
}

}  // namespace qanat::ztunnel::dns
