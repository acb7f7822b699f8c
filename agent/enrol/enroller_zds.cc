// SPDX-License-Identifier: Apache-2.0
// Proxies: who they are, what they are sent, and their listeners.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "agent/enrol/entry.h"
#include "bpf/user/mounts.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

constexpr auto kFillDelay = std::chrono::milliseconds(0);
constexpr auto kFillRetry = std::chrono::milliseconds(100);
constexpr auto kFillRetryLast = std::chrono::seconds(2);

bool Below(const std::string& path, const std::string& ancestor) {
  return path == ancestor || path.rfind(ancestor + "/", 0) == 0;
}

}  // namespace

// The connect hook knows the proxy's sockets by cgroup, so the cgroup must be the proxy's alone.
Result<uint64_t> Enroller::CgroupOfPeer(pid_t pid) const {
  if (pid <= 0)
    return Fail(Code::kFailedPrecondition,
                "its cgroup cannot be read across pid namespaces: run the agent with hostPID");
  QANAT_ASSIGN_OR_RETURN(std::string path, bpf::CgroupOfProcess(pid));
  auto own = bpf::CgroupOfProcess(static_cast<int>(::getpid()));
  if (path == "/" || path.rfind("/..", 0) == 0)
    return Fail(Code::kFailedPrecondition,
                "it runs in the root cgroup (or outside our cgroup namespace), where its sockets "
                "cannot be told from applications': start it in a cgroup of its own");
  if (own && Below(*own, path))
    return Fail(Code::kFailedPrecondition,
                "it shares cgroup " + path + " with the agent: start it in a cgroup of its own");
  const std::string dir = options_.cgroup_root + path;
  for (const std::string& root : options_.pod_roots)
    if (Below(root, dir))
      return Fail(Code::kFailedPrecondition, "its cgroup " + path + " contains the pods' cgroups");
  return bpf::CgroupId(dir);
}

Status Enroller::OnPeer(const zds::Peer& peer) {
  QANAT_ASSIGN_OR_RETURN(const uint64_t id, CgroupOfPeer(peer.pid));
  PreferPeer(id);
  peers_[peer.pid] = id;
  WriteConfig();
  return {};
}

void Enroller::PreferPeer(uint64_t id) {
  peer_cgroups_.erase(std::remove(peer_cgroups_.begin(), peer_cgroups_.end(), id),
                      peer_cgroups_.end());
  peer_cgroups_.insert(peer_cgroups_.begin(), id);
  if (peer_cgroups_.size() > QANAT_MAX_PEERS) peer_cgroups_.resize(QANAT_MAX_PEERS);
}

// A proxy may be moved to another cgroup while it runs. To one where its sockets cannot be told
// from applications' its own connections would come back to it: an error, and the pods are cut off.
Status Enroller::FollowPeers() {
  if (!zds_) return {};
  const std::set<pid_t> pids = zds_->Pids();
  std::erase_if(peers_, [&](const auto& peer) { return !pids.count(peer.first); });
  for (pid_t pid : pids) {
    auto id = CgroupOfPeer(pid);
    if (!id) {
      if (id.error().code != Code::kFailedPrecondition) continue;  // it has just ended
      return Fail(id.error().Annotate("the proxy (process " + std::to_string(pid) + ")"));
    }
    uint64_t& known = peers_[pid];
    if (known == *id) continue;
    LOG_WARN("enrol", "the proxy (process {}) runs in another control group now", pid);
    known = *id;
    PreferPeer(*id);
  }
  return {};
}

void Enroller::WriteConfig() {
  qanat_config config{};
  config.host_cookie = host_cookie_;
  for (size_t i = 0; i < peer_cgroups_.size() && i < QANAT_MAX_PEERS; ++i)
    config.peers[i].id = peer_cgroups_[i];
  size_t n = 0;
  for (const std::string& root : options_.pod_roots) {
    auto id = bpf::CgroupId(root);  // may not exist yet; looked up again at every reconciliation
    if (id && n < QANAT_MAX_POD_ROOTS) config.pod_roots[n++].id = *id;
  }
  if (Status done = hooks_.maps().config.Update(0, config); !done)
    LOG_ERROR("enrol", "write the kernel's config: {}", done.error().message);
}

uint64_t Enroller::CookieOf(const std::string& uid) const {
  const auto it = entries_.find(uid);
  if (it == entries_.end()) return 0;
  const Entry& entry = *it->second;
  const bool served = entry.membership.in_mesh || entry.draining();
  return entry.gone || entry.leaving || !served ? 0 : entry.cookie;
}

std::vector<zds::SnapshotItem> Enroller::Snapshot() {
  std::vector<zds::SnapshotItem> items;
  for (auto& [uid, entry] : entries_) {
    // A pod of an earlier agent that the source has not shown yet is in it: while the source is
    // away (an API server that does not answer) it counts as living.
    // One that leaves the mesh has connections that go on.
    if (entry->gone || (!entry->membership.in_mesh && !entry->draining())) continue;
    if (!entry->prepared && !entry->enforced()) continue;
    zds::SnapshotItem item;
    item.workload = {uid, entry->pod.name, entry->pod.ns, entry->pod.service_account};
    if (auto ns = OpenNs(*entry)) item.netns.Reset(::fcntl(ns->fd(), F_DUPFD_CLOEXEC, 0));
    entry->adding = true;
    entry->snapshot_attempt = entry->attempt;
    entry->filled = false;
    entry->proven = false;
    items.push_back(std::move(item));
  }
  return items;
}

void Enroller::OnSnapshotAck(const zds::Peer& peer, const std::string& uid, const Status& status) {
  Entry* entry = Find(uid);
  if (!entry || entry->attempt != entry->snapshot_attempt) return;
  entry->adding = false;
  if (status) {
    entry->acked_by.insert(peer.id);
    entry->backoff = {};
  } else {
    Explain(*entry, "proxy: " + status.error().message);
    if (!entry->retry.armed()) entry->retry.Start(kFillRetry * 10);
    WriteStatus(*entry);
    return;
  }
  Advance(*entry);
}

void Enroller::OnPeerReady(const zds::Peer& peer) {
  LOG_INFO("enrol", "proxy {} has acknowledged the snapshot", peer.id);
  AdvanceAll();
}

void Enroller::OnPeerGone(uint64_t peer_id) {
  for (auto& [uid, entry] : entries_) {
    entry->acked_by.erase(peer_id);
    entry->adding = false;
    entry->filled = false;  // whoever is the newest now has other listeners
    entry->proven = false;
  }
  AdvanceAll();
}

Status Enroller::Add(Entry& entry) {
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, OpenNs(entry));
  Fd copy(::fcntl(ns.fd(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return FailErrno("duplicate the namespace's fd");
  const zds::Peer* newest = Newest();
  if (!newest) return Fail(Code::kUnavailable, "no proxy is connected");
  const std::string uid = entry.pod.uid;
  entry.adding = true;
  zds_->Add({uid, entry.pod.name, entry.pod.ns, entry.pod.service_account}, std::move(copy),
            [this, uid, peer_id = newest->id, attempt = entry.attempt](Status status) {
              Entry* e = Find(uid);
              if (!e || e->attempt != attempt) return;
              e->adding = false;
              if (status) {
                e->acked_by.insert(peer_id);
                e->backoff = {};
                loop_.Post([this, uid] {
                  if (Entry* again = Find(uid)) Advance(*again);
                });
                return;
              }
              Explain(*e, "proxy: " + status.error().message);
              WriteStatus(*e);
              e->backoff =
                  e->backoff == event::Duration{} ? event::Duration(kFillRetry) : e->backoff * 2;
              if (e->backoff > std::chrono::seconds(5)) e->backoff = std::chrono::seconds(5);
              e->retry.Start(e->backoff);
            });
  return {};
}

void Enroller::ScheduleFill() {
  if (!fill_.armed()) fill_.Start(kFillDelay);
}

// One scan of the proxy's descriptors serves every pod that waits for it.
void Enroller::FillAll() {
  const zds::Peer* peer = Newest();
  if (!peer) return;
  std::vector<FoundDns> found_dns;
  auto found = TakeListeners(*peer, &found_dns);
  std::vector<std::string> advance;
  bool missing = false;
  for (auto& [uid, entry] : entries_) {
    if (entry->gone || !entry->prepared || !entry->acked_by.count(peer->id)) continue;
    if (!found) {
      Explain(*entry, "fill: " + found.error().message);
      WriteStatus(*entry);
      missing = true;
      continue;
    }
    const qanat_pod_state before = entry->state;
    auto report = FillSlots(hooks_.maps(), entry->id, entry->cookie, *found, &entry->state);
    if (!report || !report->complete()) {
      entry->filled = false;
      missing = true;
      Explain(*entry, report ? "fill: the proxy acknowledged the pod but does not listen on 15001, "
                               "15006 and 15008 in it"
                             : "fill: " + report.error().message);
      WriteStatus(*entry);
      continue;
    }
    if (std::exchange(entry->reads_draws, report->reads_draws) != report->reads_draws)
      ShowDirect(*entry);
    const auto dns = SwitchDns(*entry, found_dns);
    if (!dns) {
      entry->filled = false;
      missing = true;
      Explain(*entry, "fill: " + dns.error().message);
      WriteStatus(*entry);
      continue;
    }
    if (entry->filled && !*dns &&
        std::equal(before.workers, before.workers + QANAT_ROLES, entry->state.workers))
      continue;
    entry->filled = true;
    entry->proven = false;
    advance.push_back(uid);
  }
  if (found) found->clear();  // no listener is kept alive by us a moment longer than needed
  for (const auto& uid : advance)
    if (Entry* entry = Find(uid)) Advance(*entry);
  fill_backoff_ = !missing ? event::Duration{}
                  : fill_backoff_ == event::Duration{}
                      ? event::Duration(kFillRetry)
                      : std::min<event::Duration>(fill_backoff_ * 2, kFillRetryLast);
  if (missing) fill_.Start(fill_backoff_);
}

}  // namespace qanat::agent
