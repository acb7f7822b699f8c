// SPDX-License-Identifier: Apache-2.0
// The node's ends of a pod's veths: which they are, what may come out of them, and the proof that
// the direct path rests on.
#include <algorithm>

#include "agent/enrol/entry.h"
#include "agent/redirect/own_ips.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

constexpr auto kRetryPath = std::chrono::seconds(1);

bool IsIn(const net::IpAddress& ip, const std::vector<net::IpAddress>& ips) {
  return std::find(ips.begin(), ips.end(), ip) != ips.end();
}

}  // namespace

// The interfaces themselves are asked only when those of the pod have changed.
Status Enroller::FindEnds(Entry& entry, const netns::NetNs& ns) {
  if (hooks_.guard() == Guard::kNone || entry.network.interfaces == entry.ends_of) return {};
  QANAT_ASSIGN_OR_RETURN(HostEnds ends, FindHostEnds(ns, entry.network.interfaces));
  entry.ends_of = entry.network.interfaces;
  if (ends == entry.ends) return {};
  if (!ends.missing.empty())
    LOG_INFO("enrol", "{}: only its inside is guarded: {}", entry.pod.FullName(), ends.missing);
  entry.ends = std::move(ends);
  PathIs(entry, false, "its devices have changed");
  return {};
}

// What else than its own address a pod may send from: what its namespace has besides, but for what
// is another pod's of this node or the node's. A process with NET_ADMIN gives itself any address.
std::vector<net::IpAddress> Enroller::SourcesOf(const Entry& entry) const {
  std::vector<net::IpAddress> sources = entry.network.others;
  if (sources.empty()) return sources;
  std::vector<net::IpAddress> taken;
  for (const auto& [uid, other] : entries_)
    if (other.get() != &entry && !other->gone)
      taken.insert(taken.end(), other->pod.ips.begin(), other->pod.ips.end());
  if (auto addresses = rtnl::Addresses())
    for (const auto& address : *addresses) taken.push_back(address.ip);
  else
    return {};
  std::erase_if(sources, [&](const net::IpAddress& ip) { return IsIn(ip, taken); });
  return sources;
}

Status Enroller::KeepSources(Entry& entry) {
  std::vector<net::IpAddress> sources = SourcesOf(entry);
  if (sources == entry.sources && HasSourceIps(hooks_.maps(), entry.id, sources)) return {};
  QANAT_RETURN_IF_ERROR(SyncSourceIps(hooks_.maps(), entry.id, sources));
  entry.sources = std::move(sources);
  return {};
}

// Addresses of other pods at whose doors a probe is seen.
std::vector<net::IpAddress> Enroller::OtherEndsOf(const Entry& entry) const {
  std::vector<net::IpAddress> others;
  for (const auto& [uid, other] : entries_) {
    const bool seen = other->attached && !other->gone && !other->leaving &&
                      !other->ends.devices.empty() && other->ends.missing.empty();
    if (other.get() != &entry && seen)
      others.insert(others.end(), other->pod.ips.begin(), other->pod.ips.end());
  }
  return others;
}

void Enroller::BeginPath(Entry& entry, const netns::NetNs& ns) {
  if (entry.path) return;
  entry.path_at = loop_.now();
  std::vector<net::IpAddress> others = OtherEndsOf(entry);
  // Another one each time: what holds towards one need not towards all.
  if (!others.empty())
    std::rotate(others.begin(), others.begin() + static_cast<ptrdiff_t>(ticks_ % others.size()),
                others.end());
  const std::string uid = entry.pod.uid;
  entry.path = std::make_unique<direct::PathProbe>(
      loop_, hooks_.maps(),
      direct::PathPod{entry.pod.ips, entry.ends.devices, entry.ends.missing,
                      TargetOf(entry, &ns).any_source},
      ns, others, [this, uid](direct::PathProof proof) { OnPath(uid, std::move(proof)); });
}

void Enroller::PathIs(Entry& entry, bool proved, std::string why_not) {
  entry.path_proved = proved;
  entry.path_why = std::move(why_not);
  if (proved || entry.direct) ShowDirect(entry);
}

void Enroller::OnPath(const std::string& uid, direct::PathProof proof) {
  Entry* entry = Find(uid);
  if (!entry) return;
  // The probe calls us: it dies after this round.
  loop_.Post([probe = std::shared_ptr<direct::PathProbe>(std::move(entry->path))] {});
  entry->path.reset();
  if (!entry->attached) return;
  if (proof.sign_crosses) {
    if (auto ns = OpenNs(*entry))
      if (Status done = hooks_.RequireSign(TargetOf(*entry, &*ns)); !done)
        LOG_WARN("enrol", "{}: {}", entry->pod.FullName(), done.error().message);
  }
  if (proof.why_not != entry->path_why && !proof.why_not.empty())
    LOG_INFO("enrol", "{}: no direct connections: {}", entry->pod.FullName(), proof.why_not);
  entry->path_v4 = proof.v4;
  entry->path_v6 = proof.v6;
  PathIs(*entry, proof.proved, std::move(proof.why_not));
}

// A proof towards pods of one family says nothing of another's: who came since is tried first.
void Enroller::DoubtPathsTo(const Entry& newcomer) {
  for (auto& [uid, other] : entries_) {
    if (other.get() == &newcomer || !other->path_proved) continue;
    if ((newcomer.pod.Ip4().is_set() && other->pod.Ip4().is_set() && !other->path_v4) ||
        (newcomer.pod.Ip6().is_set() && other->pod.Ip6().is_set() && !other->path_v6)) {
      other->path_at = {};
      PathIs(*other, false, "another pod came");
    }
  }
}

void Enroller::RetryPath(Entry& entry, const netns::NetNs& ns) {
  if (!entry.attached || entry.path || entry.path_proved) return;
  if (loop_.now() - entry.path_at < kRetryPath) return;
  // Alone on the node, or of a kind that never will be: with the next proof is often enough.
  if (entry.ends.devices.empty() || !entry.ends.missing.empty() || OtherEndsOf(entry).empty())
    return;
  BeginPath(entry, ns);
}

}  // namespace qanat::agent
