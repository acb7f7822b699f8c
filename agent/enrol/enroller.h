// SPDX-License-Identifier: Apache-2.0
// Brings each pod of the node into the state it should have: captured and proven, or plain. Steps
// come from decision.h; what fails is retried with backoff and says why in the pod's status. Once
// enforced, a pod is never open: what cannot be repaired is cut off.
//
// One loop, one thread. Owned by App; the ZDS server and the pod source call into it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/direct/path_probe.h"
#include "agent/direct/verdict.h"
#include "agent/enrol/cni_call.h"
#include "agent/enrol/decision.h"
#include "agent/enrol/state_store.h"
#include "agent/pods/annotations.h"
#include "agent/pods/source.h"
#include "agent/redirect/hooks.h"
#include "agent/redirect/host_link.h"
#include "agent/redirect/listeners.h"
#include "agent/redirect/proof.h"
#include "agent/redirect/sock_diag.h"
#include "agent/zds/server.h"
#include "common/event/event_loop.h"

namespace qanat::agent {

struct EnrollerOptions {
  std::string status_dir;
  std::string state_dir;
  std::string cgroup_root;
  std::vector<std::string> pod_roots;  // cgroup directories below which pods live
  bool dns_capture = true;  // where the pod does not say, and the proxy has a DNS listener
  direct::Wish same_node = direct::Wish::kDirect;  // where neither pod nor namespace says
  // Asked before a pod that is not enforced is touched: an error keeps it as it is.
  std::function<Status(const netns::NetNs&)> check_pod;
  // Ids of programs at connect() that are not ours: when they change, check_pod is asked of
  // enforced pods too. One that fails then is cut off.
  std::function<std::vector<uint32_t>()> connect_programs;
  event::Duration reconcile_every = std::chrono::milliseconds(500);
  event::Duration reprove_every = std::chrono::seconds(10);
  event::Duration cni_timeout = std::chrono::seconds(30);
  // How long connections of a pod that leaves the mesh may go on through the proxy, and how long it
  // is waited at least: others may still send it tunnels.
  event::Duration drain_at_most = std::chrono::hours(1);
  event::Duration drain_at_least = std::chrono::seconds(2);
};

// What /pods shows and status files say.
struct PodView {
  std::string uid, name, ns, redirection, reason, step, netns;
  std::vector<std::string> ips;
  uint32_t id = 0;
  uint64_t cookie = 0;
  bool enforced = false, cut_off = false, leaving = false, blocked = false;
  bool refused = false;  // by what the pod is: its labels ask for the mesh, and it cannot be in it
  uint32_t dns = 0;      // qanat_dns_families that go to the proxy
  bool uncapturable = false;  // the reason says why; also of one that is enforced
  // How it connects to pods of its node: "direct", "proxy", "encrypt", or "proxy: WHY" of one that
  // would be direct. "" where the direct path has not heard of it.
  std::string same_node;
  std::vector<std::string> notes;  // what its annotations ask for and do not get, and the like
  std::string published;  // the annotation ambient.istio.io/redirection, as the source shows it
  SlotReport slots;
  ProofReport proof;
  event::Duration proof_age{}, proof_took{};  // of the last one, when that has steps
  std::vector<uint32_t> devices;              // of the pod, each with a second guard
  bool draining = false;                      // leaves the mesh: new connections are plain
  size_t captured = 0;                        // ... and so many still go through the proxy
  std::vector<std::string> outside;  // what of its traffic was seen that capture is not for
  size_t not_meshed = 0;             // connections from before the capture
  std::vector<uint32_t> host_ends;   // node's interfaces at the other ends of its veths
  std::string no_host_end;           // which of its devices has none, and why
  bool path_proved = false;          // direct connections cannot be forged, and arrive
  std::string path_why;              // why not
};

// A pod's connections that are not as those of its state: from before the capture, or, while it
// leaves the mesh, still captured.
struct PodConnections {
  std::string ns, name;
  bool draining = false;
  size_t captured = 0;
  std::vector<TcpSocket> not_meshed;
};
enum class Ended { kNotMeshed, kDraining };  // which of them are to end

class Enroller final : public PodListener, public zds::Owner {
 public:
  using Waiter = std::function<void(Status)>;
  static Result<std::unique_ptr<Enroller>> Create(event::EventLoop& loop, Hooks& hooks,
                                                  EnrollerOptions options);
  ~Enroller();

  // Takes over what an earlier agent left: enforced pods are closed before anything else happens.
  Status Adopt();
  // Once, before the first proxy can connect.
  void SetZds(zds::Server* zds) { zds_ = zds; }
  void Start();  // begins the periodic reconciliation

  // For CNI ADD: calls `done` when the pod is enrolled and proven, at once when it is not in the
  // mesh, with the reason when it takes too long.
  void AwaitEnrolled(CniCall call, Waiter done);

  // For CNI CHECK: an error says why the pod, which should be, is not enrolled and proven now.
  Status CheckEnrolled(const std::string& ns, const std::string& name) const;

  void OnPod(const Pod& pod) override;
  void OnPodGone(const std::string& uid) override;
  void OnSynced() override;  // pods of an earlier agent that were not shown are gone

  Status OnPeer(const zds::Peer& peer) override;
  std::vector<zds::SnapshotItem> Snapshot() override;
  void OnSnapshotAck(const zds::Peer& peer, const std::string& uid, const Status& status) override;
  void OnPeerReady(const zds::Peer& peer) override;
  void OnPeerGone(uint64_t peer_id) override;

  // Who keeps the direct path (agent/direct) hears of each captured pod: at once, again and again
  // in case anything of it changed, and, before its capture is broken or given up, that it is none
  // any more.
  struct DirectPath {
    std::function<void(uint32_t serial, uint32_t id, uint64_t cookie, direct::Member)> put;
    std::function<void(uint32_t serial)> remove;
  };
  void SetDirectPath(DirectPath path) { direct_ = std::move(path); }  // before Adopt()
  // For it: writes flags (qanat_pod_flag) and floor of a pod that was put.
  Status SetDirect(uint32_t serial, uint32_t flags, uint32_t floor);
  Result<netns::NetNs> NamespaceOf(uint32_t serial) const;

  // Why no pod may be enrolled on this node now ("" = nothing): pods that are enforced stay so, the
  // others stay as they are and say why, and a CNI ADD fails with it.
  void SetObstacle(const std::string& reason);
  // Called when nothing may be kept for a pod any more: it left the mesh, or is gone, or has
  // another namespace.
  void SetOnReleased(std::function<void(const std::string& uid)> released) {
    on_released_ = std::move(released);
  }
  // Of the network namespace of a pod that is in the mesh and lives; 0: of no such pod.
  uint64_t CookieOf(const std::string& uid) const;
  // Whose serial that is, for what is told of its connections; nullptr: of no pod that is here.
  const Pod* PodOf(uint32_t serial) const;
  // That pod's, with their bytes.
  Result<std::vector<TcpSocket>> SocketsOf(uint32_t serial) const;
  // Called whenever a pod's status file would change; a pod that is gone has redirection "".
  using Observer = std::function<void(const PodView&)>;
  void SetObserver(Observer observer) { observer_ = std::move(observer); }
  // Plain networking for every pod, for good: the mesh is being taken off this node.
  void ReleaseAll(const std::string& why);

  // Status and state files that somebody has removed are written again.
  void RestoreFiles();

  std::vector<PodView> View() const;
  // Looked at now.
  std::vector<PodConnections> Connections();
  // Resets connections of a pod, by choice; says how many. Of a pod that leaves the mesh this also
  // ends the waiting for them.
  Result<size_t> EndConnections(const std::string& ns, const std::string& name, Ended which);
  uint64_t repairs() const { return repairs_ + hooks_.reattached(); }
  uint64_t proofs_failed() const { return proofs_failed_; }

 private:
  struct Entry;
  struct Pending;
  Enroller(event::EventLoop& loop, Hooks& hooks, EnrollerOptions options, netns::NetNs host,
           uint64_t host_cookie);

  void Advance(Entry& entry);
  void AdvanceAll();
  Status Execute(Entry& entry, Step step);
  Facts FactsOf(const Entry& entry) const;

  Status Prepare(Entry& entry);
  std::vector<std::string> NotesOf(const Entry& entry) const;
  void LookForUncaptured(Entry& entry, const netns::NetNs& ns);
  void Undo(Entry& entry);
  Status TakeOver(Entry& entry, uint64_t cookie);
  Status FinishMigration();
  Status Attach(Entry& entry);
  Status Add(Entry& entry);
  Status Prove(Entry& entry);
  Status Flip(Entry& entry);
  // True: the pod's DNS goes elsewhere than before.
  Result<bool> SwitchDns(Entry& entry, const std::vector<FoundDns>& found);
  Result<bool> KeepDns(Entry& entry, const netns::NetNs& ns);
  void ShowDirect(Entry& entry);
  void HideDirect(Entry& entry);
  direct::Wish WishOf(const Entry& entry) const;
  std::string SameNodeOf(const Entry& entry) const;
  Entry* FindBySerial(uint32_t serial) const;
  Status FindEnds(Entry& entry, const netns::NetNs& ns);
  std::vector<net::IpAddress> OtherEndsOf(const Entry& entry) const;
  std::vector<net::IpAddress> SourcesOf(const Entry& entry) const;
  Status KeepSources(Entry& entry);
  void BeginPath(Entry& entry, const netns::NetNs& ns);
  void RetryPath(Entry& entry, const netns::NetNs& ns);
  void PathIs(Entry& entry, bool proved, std::string why_not);
  void OnPath(const std::string& uid, direct::PathProof proof);
  void DoubtPathsTo(const Entry& newcomer);
  bool MayRestore(Entry& entry);
  Status BeginDrain(Entry& entry);
  bool Drained(Entry& entry);
  bool DrainIsOver(Entry& entry);
  Result<std::vector<TcpSocket>> SocketsOf(const Entry& entry) const;
  std::vector<TcpSocket> LookAtNotMeshed(Entry& entry);
  void NoteConnecting(const Entry& entry);
  void NoteNotMeshed(Entry& entry);
  size_t EndSockets(const Entry& entry, const std::vector<TcpSocket>& sockets) const;
  void SweepConnections();
  void LookAtOutside(Entry& entry);
  Status Restore(Entry& entry);
  void Leave(Entry& entry);
  void Forget(Entry& entry);  // destroys the entry
  void ReleaseKernelState(Entry& entry);

  void ScheduleFill();
  void FillAll();
  void OnProof(const std::string& uid, ProofReport report);

  void Reconcile();
  void ReconcilePod(Entry& entry, bool node_ok, const std::string& node_reason);
  Status Repair(Entry& entry);
  Status RepairMaps(Entry& entry);
  // The pod has another network namespace: nothing of the old one may be used for it.
  void Move(Entry& entry);
  void CutOff(Entry& entry, const std::string& why);
  void EndCutOffIfProven(Entry& entry);
  void LookForRewriters();
  void SweepGrants(bool recount = false);
  std::string WithoutProxy(const Entry& entry) const;
  void WriteConfig();
  Result<uint64_t> CgroupOfPeer(pid_t pid) const;
  void PreferPeer(uint64_t cgroup);
  Status FollowPeers();

  bool SameNamespace(const Entry& entry, const std::string& path) const;
  Result<netns::NetNs> OpenNs(const Entry& entry) const;
  Hooks::PodTarget TargetOf(const Entry& entry, const netns::NetNs* ns) const;
  Result<uint32_t> AllocateId() const;
  Status SetMode(Entry& entry, qanat_mode mode);
  void Save(const Entry& entry);
  void Explain(Entry& entry, std::string reason);
  void WriteStatus(Entry& entry);
  void Notify(Entry& entry, const Status& status);
  void ServePending();
  Entry* Find(const std::string& uid);
  PodView ViewOf(const Entry& entry) const;
  const zds::Peer* Newest() const { return zds_ ? zds_->newest_peer() : nullptr; }

  event::EventLoop& loop_;
  Hooks& hooks_;
  EnrollerOptions options_;
  StateStore store_;
  netns::NetNs host_;
  uint64_t host_cookie_;
  zds::Server* zds_ = nullptr;
  std::map<std::string, std::unique_ptr<Entry>> entries_;  // by uid
  std::vector<uint64_t> peer_cgroups_;                     // newest first
  std::map<pid_t, uint64_t> peers_;                        // where each was seen last
  std::vector<std::unique_ptr<Pending>> pending_;          // CNI calls for pods not known yet
  event::Timer reconcile_;
  event::Timer fill_;
  event::Duration fill_backoff_{};
  std::string obstacle_;
  std::string released_;  // not empty: no pod is in the mesh any more, and why
  Observer observer_;
  DirectPath direct_;
  std::function<void(const std::string&)> on_released_;
  unsigned ticks_ = 0;
  std::string node_fault_;
  std::vector<uint32_t> connect_programs_;
  event::TimePoint look_for_rewriters_at_{};
  event::TimePoint connections_swept_{};
  uint64_t repairs_ = 0;
  uint64_t proofs_failed_ = 0;
};

}  // namespace qanat::agent
