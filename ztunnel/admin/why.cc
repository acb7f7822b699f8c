// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/admin/why.h"

#include <fmt/format.h>

#include <charconv>
#include <random>

#include "common/policy/policy.h"
#include "common/route/outbound.h"
#include "common/route/required_waypoint.h"
#include "ztunnel/admin/json.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

Result<uint16_t> ParsePort(std::string_view text) {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port == 0) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not a port", text));
  }
  return port;
}

// A service's name as an application writes it: in full or with the search domains left out.
model::ServicePtr FindService(const state::MeshSnapshot& snapshot, const std::string& host,
                              const std::string& client_ns) {
  for (const std::string& name :
       {host, fmt::format("{}.{}.svc.cluster.local", host, client_ns),
        fmt::format("{}.svc.cluster.local", host), fmt::format("{}.cluster.local", host)}) {
    if (auto service = snapshot.ServiceByHostname(name, client_ns)) return service;
  }
  return nullptr;
}

Result<net::SocketAddress> ResolveDestination(const state::MeshSnapshot& snapshot,
                                              const model::Workload& source,
                                              const std::string& text) {
  if (auto address = net::SocketAddress::Parse(text)) return *address;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not ip:port or host:port", text));
  }
  QANAT_ASSIGN_OR_RETURN(const uint16_t port, ParsePort(std::string_view(text).substr(colon + 1)));
  const std::string host = text.substr(0, colon);
  const auto service = FindService(snapshot, host, source.ns);
  if (service == nullptr) {
    return Fail(Code::kNotFound, fmt::format("no service is called {}", host));
  }
  for (const auto& address : service->addresses) {
    if (address.host && address.network == source.network) {
      return net::SocketAddress(address.cidr.ip(), port);
    }
  }
  // Headless: its name resolves to its pods.
  for (const auto& endpoint : snapshot.EndpointsOf(*service)) {
    if (!endpoint.workload->addresses.empty()) {
      return net::SocketAddress(endpoint.workload->addresses.front(), port);
    }
  }
  return Fail(Code::kNotFound, fmt::format("{} has neither an address nor endpoints", host));
}

std::string MemoryFull(const WhyContext& context, const Pod& pod) {
  return context.memory_full ? context.memory_full(pod) : std::string();
}

}  // namespace

Result<std::string> WhyOutboundAnswer(const WhyContext& context, const std::string& source,
                                      const std::string& destination) {
  const PodPtr pod = context.pods.Find(source);
  if (pod == nullptr) {
    return Fail(Code::kNotFound, fmt::format("\"{}\" is not a proxied pod of this node", source));
  }
  WhyOutbound why;
  why.source = pod->ns + "/" + pod->name;
  const route::Identified identified = route::IdentifyPod(context.snapshot, context.mesh, *pod);
  if (identified.workload == nullptr) {
    why.route.reason = identified.reason;
    why.route.detail = identified.detail;
    return WhyOutboundJson(why);
  }
  why.source = identified.workload->uid.str();
  QANAT_ASSIGN_OR_RETURN(const net::SocketAddress to,
                         ResolveDestination(context.snapshot, *identified.workload, destination));
  if (std::string full = MemoryFull(context, *pod); !full.empty()) {
    why.route.reason = Reason::kMemoryExhausted;
    why.route.detail = std::move(full);
    return WhyOutboundJson(why);
  }
  std::mt19937_64 random(std::random_device{}());
  route::OutboundOptions options;
  options.waypoints_of_endpoints = context.enforce_waypoint;
  options.socks = context.socks;
  why.route = route::DecideOutbound(
      context.snapshot, *identified.workload, to, [&random] { return random(); }, options);
  if (why.route.kind == route::Route::Kind::kHbone) {
    const PodPtr far = context.pods.Find(
        fmt::format("{}/{}", why.route.destination->ns, why.route.destination->name()));
    route::OnePass one_pass =
        route::DecideOnePass(why.route, context.one_pass ? far.get() : nullptr);
    if (one_pass.possible) {
      const route::Identified both = route::IdentifyPod(context.snapshot, context.mesh, *far);
      if (both.workload == nullptr) one_pass = {false, both.detail};
    }
    if (one_pass.possible) why.one_pass_pod = far;
    why.one_pass_why_not = std::move(one_pass.why_not);
  }
  return WhyOutboundJson(why);
}

Result<std::string> WhyInboundAnswer(const WhyContext& context, const std::string& destination,
                                     const std::string& port, const std::string& source_identity,
                                     const std::string& source_ip) {
  policy::Request request;
  QANAT_ASSIGN_OR_RETURN(request.destination_port, ParsePort(port));
  if (!source_identity.empty()) {
    request.source = model::Identity::Parse(source_identity);
    if (!request.source) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("\"{}\" is not of the form spiffe://TRUST-DOMAIN/ns/NS/sa/SA",
                              source_identity));
    }
  }
  if (!source_ip.empty()) {
    QANAT_ASSIGN_OR_RETURN(request.source_ip, net::IpAddress::Parse(source_ip));
  }
  if (auto ip = net::IpAddress::Parse(destination)) request.destination_ip = *ip;
  const auto refused = [](Reason reason, const std::string& detail) {
    return WhyInboundJson({}, reason, detail);
  };
  const PodPtr pod = context.pods.Find(destination);
  if (pod == nullptr) {
    return refused(Reason::kDestinationUnknown,
                   fmt::format("\"{}\" is not a proxied pod of this node", destination));
  }
  if (!request.destination_ip.is_set() && !pod->addresses.empty()) {
    request.destination_ip = pod->addresses.front();
  }
  const route::Identified identified = route::IdentifyPod(context.snapshot, context.mesh, *pod);
  if (identified.workload == nullptr) {
    const Reason reason = identified.reason == Reason::kSourceUnknown ? Reason::kDestinationUnknown
                                                                      : identified.reason;
    return refused(reason, identified.detail);
  }
  if (const std::string full = MemoryFull(context, *pod); !full.empty()) {
    return refused(Reason::kMemoryExhausted, full);
  }
  if (route::IsProxyPort(request.destination_port, context.socks)) {
    return refused(Reason::kSelfCall, fmt::format("{} is a port of the proxy", port));
  }
  const auto explanation =
      policy::Explain(context.snapshot.PoliciesFor(*identified.workload), request);
  if (explanation.decision.allowed && context.enforce_waypoint) {
    route::RequiredWaypoint required = route::CheckRequiredWaypoint(
        context.snapshot, *identified.workload, {request.destination_ip, request.destination_port},
        {request.source, request.source_ip});
    if (required.reason != Reason::kNone) {
      return WhyInboundJson(explanation, required.reason, required.detail);
    }
  }
  return WhyInboundJson(explanation, Reason::kNone, "");
}

}  // namespace qanat::ztunnel
