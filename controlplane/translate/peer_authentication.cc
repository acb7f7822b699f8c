// SPDX-License-Identifier: Apache-2.0
#include "controlplane/translate/peer_authentication.h"

#include "common/proto/authorization.pb.h"
#include "controlplane/translate/authorization.h"

namespace qanat::controlplane {
namespace {

namespace pb = istio::security;

// The oldest one without a selector counts for its namespace.
const PeerAuthentication* OfNamespace(const World& world, const std::string& ns) {
  const PeerAuthentication* best = nullptr;
  for (const PeerAuthentication& candidate : world.objects().peer_authentications) {
    if (candidate.meta.ns != ns || candidate.has_selector()) continue;
    if (best == nullptr || OlderThan(candidate.meta, best->meta)) best = &candidate;
  }
  return best;
}

const PeerAuthentication* OfPod(const World& world, const Pod& pod) {
  const PeerAuthentication* best = nullptr;
  for (const PeerAuthentication& candidate : world.objects().peer_authentications) {
    if (candidate.meta.ns != pod.meta.ns || !candidate.has_selector()) continue;
    if (!LabelsContain(pod.meta.labels, *candidate.selector)) continue;
    if (best == nullptr || OlderThan(candidate.meta, best->meta)) best = &candidate;
  }
  return best;
}

// Mesh < namespace; what is not said is inherited, and in the end PERMISSIVE.
MtlsMode NamespaceMode(const World& world, const std::string& ns) {
  const PeerAuthentication* own = OfNamespace(world, ns);
  if (own != nullptr && own->mode != MtlsMode::kUnset) return own->mode;
  const PeerAuthentication* mesh = OfNamespace(world, world.mesh().root_namespace);
  if (mesh != nullptr && mesh->mode != MtlsMode::kUnset) return mesh->mode;
  return MtlsMode::kPermissive;
}

MtlsMode ModeOf(const World& world, const PeerAuthentication& policy) {
  return policy.mode != MtlsMode::kUnset ? policy.mode : NamespaceMode(world, policy.meta.ns);
}

void NoIdentity(pb::Rule& rule) {
  rule.add_clauses()->add_matches()->add_not_principals()->mutable_presence();
}

// False when the ports say nothing that the mode does not say already.
bool ConvertPorts(const World& world, const PeerAuthentication& policy, pb::Authorization& out) {
  const bool strict = ModeOf(world, policy) == MtlsMode::kStrict;
  pb::Rule exempting;
  NoIdentity(exempting);
  bool exempt = false;
  for (const auto& [port, mode] : policy.port_modes) {
    if (mode == MtlsMode::kUnset) continue;
    const bool port_strict = mode == MtlsMode::kStrict;
    if (strict && !port_strict) {
      exempting.add_clauses()->add_matches()->add_not_destination_ports(port);
      exempt = true;
    } else if (!strict && port_strict) {
      pb::Rule* rule = out.add_rules();
      NoIdentity(*rule);
      rule->add_clauses()->add_matches()->add_destination_ports(port);
    }
  }
  if (exempt) *out.add_rules() = std::move(exempting);
  if (out.rules_size() == 0) return false;
  out.set_name(std::string(kConvertedPrefix) + policy.meta.name);
  out.set_namespace_(policy.meta.ns);
  out.set_scope(pb::WORKLOAD_SELECTOR);
  out.set_action(pb::DENY);
  return true;
}

}  // namespace

MtlsMode EffectiveMode(const World& world, const Pod& pod) {
  const PeerAuthentication* own = OfPod(world, pod);
  return own != nullptr ? ModeOf(world, *own) : NamespaceMode(world, pod.meta.ns);
}

void ConvertPeerAuthentications(const World& world, ResourcesByName& out) {
  if (world.objects().peer_authentications.empty()) return;
  pb::Authorization strict;
  strict.set_name(std::string(kStaticStrict));
  strict.set_namespace_(world.mesh().root_namespace);
  strict.set_scope(pb::WORKLOAD_SELECTOR);
  strict.set_action(pb::DENY);
  NoIdentity(*strict.add_rules());
  std::string name = world.mesh().root_namespace + "/" + std::string(kStaticStrict);
  out.insert_or_assign(name, MakeResource(kAuthorizationType, name, {}, strict));
  for (const PeerAuthentication& policy : world.objects().peer_authentications) {
    if (!policy.has_selector()) continue;
    pb::Authorization converted;
    if (!ConvertPorts(world, policy, converted)) continue;
    std::string key = policy.meta.ns + "/" + converted.name();
    out.insert_or_assign(key, MakeResource(kAuthorizationType, key, {}, converted));
  }
}

std::vector<std::string> PeerAuthenticationsOf(const World& world, const Pod& pod) {
  const PeerAuthentication* own = OfPod(world, pod);
  const bool strict = EffectiveMode(world, pod) == MtlsMode::kStrict;
  bool exempts = false;  // then the converted policy carries the strictness with its exceptions
  std::vector<std::string> out;
  if (own != nullptr) {
    pb::Authorization converted;
    if (ConvertPorts(world, *own, converted)) {
      exempts = strict;
      out.push_back(pod.meta.ns + "/" + converted.name());
    }
  }
  if (strict && !exempts) {
    out.insert(out.begin(), world.mesh().root_namespace + "/" + std::string(kStaticStrict));
  }
  return out;
}

}  // namespace qanat::controlplane
