// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/verdict.h"

#include <fmt/format.h>

#include "bpf/include/abi.h"
#include "common/policy/policy.h"
#include "common/route/outbound.h"
#include "common/route/required_waypoint.h"

namespace qanat::agent::direct {
namespace {

constexpr uint16_t kDnsPort = 15053;  // the proxy's, in each pod

Verdict ByProxy(std::string why) {
  Verdict verdict;
  verdict.why_not = std::move(why);
  return verdict;
}

Verdict Refused(model::Reason reason, std::string policy, std::string why) {
  Verdict verdict = ByProxy(std::move(why));
  verdict.allowed = false;
  verdict.reason = reason;
  verdict.policy = std::move(policy);
  return verdict;
}

bool IsOurs(uint16_t port) {
  return route::IsProxyPort(port, true) || port == kDnsPort || port == QANAT_PORT_PROBE;
}

// Not announced (yet, or any more) is no reason to end what lives, as it is none for the proxy; an
// address or an account that others have is.
Verdict NotIdentified(const route::Identified& who, const route::PodFacts& pod) {
  if (who.reason == model::Reason::kSourceUnknown) return ByProxy(who.detail);
  return Refused(who.reason, {}, fmt::format("pod {}/{}: {}", pod.ns, pod.name, who.detail));
}

Verdict WithinWishes(const Member& source, const Member& destination) {
  for (const Member* member : {&source, &destination}) {
    const route::PodFacts& pod = member->facts;
    if (member->wish != Wish::kDirect) {
      return ByProxy(fmt::format("pod {}/{} asks for \"{}\" (qanat.io/same-node)", pod.ns, pod.name,
                                 ToString(member->wish)));
    }
    if (!member->path_proved) {
      return ByProxy(
          fmt::format("pod {}/{}: that its device carries its address and no other has "
                      "not been seen",
                      pod.ns, pod.name));
    }
  }
  Verdict verdict;
  verdict.direct = true;
  return verdict;
}

}  // namespace

std::string_view ToString(Wish wish) {
  switch (wish) {
    case Wish::kDirect: return "direct";
    case Wish::kProxy: return "proxy";
    case Wish::kEncrypt: return "encrypt";
  }
  return "";
}

Wish ParseWish(std::string_view text, bool* understood) {
  if (understood != nullptr) *understood = true;
  for (const Wish wish : {Wish::kDirect, Wish::kProxy, Wish::kEncrypt}) {
    if (text == ToString(wish)) return wish;
  }
  if (understood != nullptr) *understood = false;
  return Wish::kProxy;
}

Verdict Judge(const state::MeshSnapshot& snapshot, const route::Mesh& mesh, const Member& source,
              const net::IpAddress& source_ip, const Member& destination,
              const net::SocketAddress& target) {
  // Who is who, and may they: in this order, so that what is refused is told apart from what only
  // takes another way.
  const route::Identified from = route::IdentifyPod(snapshot, mesh, source.facts);
  if (from.reason != model::Reason::kNone) return NotIdentified(from, source.facts);
  const route::Identified to = route::IdentifyPod(snapshot, mesh, destination.facts);
  if (to.reason != model::Reason::kNone) return NotIdentified(to, destination.facts);
  if (!source.facts.HasAddress(source_ip)) {
    return ByProxy(fmt::format("{} is not an address of pod {}/{}", source_ip.ToString(),
                               source.facts.ns, source.facts.name));
  }

  const model::Identity identity = from.workload->identity();
  const policy::Decision decision = policy::Evaluate(
      snapshot.PoliciesFor(*to.workload), {identity, source_ip, target.ip(), target.port()});
  if (!decision.allowed) {
    return Refused(decision.reason, decision.policy, std::string(ToString(decision.reason)));
  }
  const route::RequiredWaypoint required =
      route::CheckRequiredWaypoint(snapshot, *to.workload, target, {identity, source_ip});
  if (required.reason != model::Reason::kNone) {
    return Refused(required.reason, {}, required.detail);
  }

  // Allowed. Whether it is the kernel's:
  if (snapshot.freshness() != state::Freshness::kLive) {
    return ByProxy("no control plane has confirmed what is known of the mesh");
  }
  if (IsOurs(target.port())) return ByProxy("the target is a port of the proxy");
  if (!decision.dry_run.empty()) {
    return ByProxy(
        fmt::format("policy {} is tried out (dry run): the proxy writes what it would "
                    "refuse",
                    decision.dry_run));
  }
  const route::Route route = route::DecideOutbound(snapshot, *from.workload, target, [] {
    return uint64_t{0};  // nothing is drawn for the address of a workload
  });
  if (const route::OnePass pass = route::DecideOnePass(route, &destination.facts); !pass.possible) {
    return ByProxy(pass.why_not);
  }
  if (route.destination->uid != to.workload->uid || route.target != target) {
    return ByProxy(
        fmt::format("{} is the address of {} too", target.ToString(), route.destination->uid));
  }
  Verdict verdict = WithinWishes(source, destination);
  verdict.policy = decision.policy;
  return verdict;
}

}  // namespace qanat::agent::direct
