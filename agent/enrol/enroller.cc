// SPDX-License-Identifier: Apache-2.0
// The steps of enrolment. Leaving: enroller_leave.cc; proxies: enroller_zds.cc; upkeep:
// enroller_reconcile.cc.
#include "agent/enrol/enroller.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "agent/enrol/entry.h"
#include "agent/redirect/dns_switch.h"
#include "agent/redirect/own_ips.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

constexpr auto kFirstRetry = std::chrono::milliseconds(100);
constexpr auto kLastRetry = std::chrono::seconds(5);

}  // namespace

Result<std::unique_ptr<Enroller>> Enroller::Create(event::EventLoop& loop, Hooks& hooks,
                                                   EnrollerOptions options) {
  QANAT_ASSIGN_OR_RETURN(netns::NetNs host, netns::NetNs::Current());
  QANAT_ASSIGN_OR_RETURN(uint64_t cookie, host.Cookie());
  std::error_code error;
  std::filesystem::create_directories(options.status_dir, error);
  if (error) return Fail(Code::kIo, "create " + options.status_dir + ": " + error.message());
  return std::unique_ptr<Enroller>(
      new Enroller(loop, hooks, std::move(options), std::move(host), cookie));
}

Enroller::Enroller(event::EventLoop& loop, Hooks& hooks, EnrollerOptions options, netns::NetNs host,
                   uint64_t host_cookie)
    : loop_(loop),
      hooks_(hooks),
      options_(std::move(options)),
      store_(options_.state_dir),
      host_(std::move(host)),
      host_cookie_(host_cookie),
      reconcile_(loop, [this] { Reconcile(); }),
      fill_(loop, [this] { FillAll(); }) {}

Enroller::~Enroller() = default;

Status Enroller::Adopt() {
  QANAT_ASSIGN_OR_RETURN(auto saved_pods, store_.Load());
  // Peers of the earlier agent count until they have come back: their connections go on.
  if (auto old = hooks_.maps().config.Lookup(0); old && *old)
    for (const auto& peer : (*old)->peers)
      if (peer.id != 0) peer_cgroups_.push_back(peer.id);
  WriteConfig();
  for (SavedPod& saved : saved_pods) {
    const std::string uid = saved.pod.uid;
    auto entry = std::make_unique<Entry>(loop_, [this, uid] {
      if (Entry* e = Find(uid)) Advance(*e);
    });
    entry->pod = std::move(saved.pod);
    entry->id = saved.id;
    entry->cookie = saved.cookie;
    entry->sysctls = std::move(saved.sysctls);
    entry->dns = saved.dns;
    entry->wishes.plain_inbound = saved.plain_inbound;
    if (auto state = hooks_.maps().pod_state.Lookup(entry->id); state && *state)
      entry->state = **state;
    entry->state.flags = 0;  // verdicts are this agent's to give
    entry->membership = {true, {}};
    entry->not_meshed = std::move(saved.not_meshed);
    // The pins may have been lost while the pod runs: closed first, explained later.
    if (saved.enforced) entry->state.mode = QANAT_MODE_ENFORCED;
    if (saved.drain_since != 0) {  // what still goes through the proxy goes on
      entry->membership = {false, "left the mesh before the agent was restarted"};
      entry->drain_since = saved.drain_since;
      entry->state.mode = QANAT_MODE_DRAIN;
    }
    if (Status done = Prepare(*entry); !done) {
      LOG_WARN("enrol", "{}: taken over, but: {}", entry->pod.FullName(), done.error().message);
      entry->reason = done.error().message;
    } else if (Status attached = Attach(*entry); !attached) {
      entry->reason = attached.error().message;
      if (entry->enforced()) CutOff(*entry, attached.error().message);
    }
    entry->shown = false;
    LOG_INFO("enrol", "{}: taken over ({})", entry->pod.FullName(),
             entry->enforced()   ? "enforced"
             : entry->draining() ? "leaving the mesh"
                                 : "not enforced");
    ShowDirect(*(entries_[uid] = std::move(entry)));
  }
  return FinishMigration();
}

// Every pod's new programs have been made above; now they and the node's come into force, and then
// those that know of this layout only.
Status Enroller::FinishMigration() {
  if (!hooks_.migrating()) return {};
  QANAT_RETURN_IF_ERROR(hooks_.FinishMigration());
  SweepGrants(/*recount=*/true);
  for (auto& [uid, entry] : entries_) {
    if (!entry->attached) continue;
    Status attached = Attach(*entry);
    if (attached) continue;
    entry->attached = false;
    entry->reason = attached.error().message;
    if (entry->enforced()) CutOff(*entry, attached.error().message);
  }
  return {};
}

void Enroller::Start() {
  AdvanceAll();
  reconcile_.Start(options_.reconcile_every);
}

Enroller::Entry* Enroller::Find(const std::string& uid) {
  auto it = entries_.find(uid);
  return it == entries_.end() ? nullptr : it->second.get();
}

void Enroller::AdvanceAll() {
  std::vector<std::string> uids;
  for (auto& [uid, entry] : entries_) uids.push_back(uid);
  for (const auto& uid : uids)
    if (Entry* entry = Find(uid)) Advance(*entry);
}

Facts Enroller::FactsOf(const Entry& e) const {
  const zds::Peer* newest = Newest();
  Facts f;
  f.gone = e.gone;
  f.wanted = e.membership.in_mesh;
  f.blocked = !obstacle_.empty();
  f.prepared = e.prepared;
  f.attached = e.attached;
  f.proxy = newest != nullptr;
  f.adding = e.adding;
  f.acked = newest != nullptr && e.acked_by.count(newest->id) > 0;
  f.filled = e.filled;
  f.proving = e.proof != nullptr;
  f.proven = e.proven;
  f.enforced = e.enforced();
  f.draining = e.draining();
  return f;
}

void Enroller::Advance(Entry& entry) {
  if (entry.leaving) return;  // the reconciler watches its namespace
  for (int guard = 0; guard < 16; ++guard) {
    const Step step = NextStep(FactsOf(entry));
    entry.step = step;
    switch (step) {
      case Step::kNone:
        if (!entry.gone && !entry.membership.in_mesh) {
          Explain(entry, entry.membership.reason);
          Notify(entry, {});
        }
        if (entry.enforced() && !Newest()) Explain(entry, WithoutProxy(entry));
        if (entry.enforced() && entry.proven && !entry.cut_off) {
          Explain(entry, entry.own_stack);
          Notify(entry, {});
        }
        WriteStatus(entry);
        return;
      case Step::kAwaitProxy:
        Explain(entry, "no proxy (ztunnel) is connected to the ZDS socket");
        WriteStatus(entry);
        return;
      case Step::kBlocked:
        Explain(entry, obstacle_);
        Notify(entry, Fail(Code::kFailedPrecondition, obstacle_));
        WriteStatus(entry);
        return;
      case Step::kAwaitAck:
      case Step::kAwaitProof: WriteStatus(entry); return;
      case Step::kFill:
        ScheduleFill();
        WriteStatus(entry);
        return;
      case Step::kRestore:
        if (!Drained(entry)) return;
        break;
      case Step::kLeave: Leave(entry); return;
      case Step::kForget: Forget(entry); return;
      case Step::kPrepare:
      case Step::kAttach:
      case Step::kAdd:
      case Step::kProve:
      case Step::kFlip: break;
    }
    Status done = Execute(entry, step);
    if (done) continue;
    const bool began = step == Step::kPrepare || step == Step::kAttach;
    if (!entry.enforced() && (began || !OpenNs(entry))) Undo(entry);
    Explain(entry, std::string(StepName(step)) + ": " + done.error().message);
    WriteStatus(entry);
    entry.backoff = entry.backoff == event::Duration{}
                        ? event::Duration(kFirstRetry)
                        : std::min<event::Duration>(entry.backoff * 2, kLastRetry);
    entry.retry.Start(entry.backoff);
    return;
  }
}

Status Enroller::Execute(Entry& entry, Step step) {
  switch (step) {
    case Step::kPrepare: return Prepare(entry);
    case Step::kAttach: return Attach(entry);
    case Step::kAdd: return Add(entry);
    case Step::kProve: return Prove(entry);
    case Step::kFlip: return Flip(entry);
    case Step::kRestore: return Restore(entry);
    case Step::kNone:
    case Step::kBlocked:
    case Step::kAwaitProxy:
    case Step::kAwaitAck:
    case Step::kFill:
    case Step::kAwaitProof:
    case Step::kLeave:
    case Step::kForget: break;
  }
  return {};
}

Result<netns::NetNs> Enroller::OpenNs(const Entry& entry) const {
  if (entry.pod.netns.empty())
    return Fail(Code::kFailedPrecondition, "the pod has no network namespace yet");
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, netns::NetNs::Open(entry.pod.netns));
  if (ns.id() == host_.id())
    return Fail(Code::kInvalidArgument, entry.pod.netns + " is the node's own network namespace");
  if (entry.cookie != 0) {
    QANAT_ASSIGN_OR_RETURN(uint64_t cookie, ns.Cookie());
    if (cookie != entry.cookie)
      return Fail(Code::kNotFound, "the namespace at " + entry.pod.netns + " is another one now");
  }
  return ns;
}

Hooks::PodTarget Enroller::TargetOf(const Entry& entry, const netns::NetNs* ns) const {
  return {entry.id,
          entry.pod.Ip4(),
          entry.pod.Ip6(),
          ns,
          entry.network.devices,
          entry.wishes.plain_inbound,
          entry.ends.devices,
          entry.cookie,
          entry.network.others.size() > QANAT_OWN_IPS_PER_POD};
}

Result<uint32_t> Enroller::AllocateId() const {
  std::set<uint32_t> used;
  for (const auto& [uid, entry] : entries_) used.insert(entry->id);
  for (uint32_t id : hooks_.PinnedPods()) used.insert(id);
  for (uint32_t id = 1; id < QANAT_MAX_PODS; ++id)
    if (!used.count(id)) return id;
  return Fail(Code::kResourceExhausted,
              "all " + std::to_string(QANAT_MAX_PODS - 1) +
                  " pod slots of this node are taken: move pods to another node, or label some "
                  "istio.io/dataplane-mode=none");
}

Status Enroller::Prepare(Entry& entry) {
  if (entry.pod.ips.empty()) return Fail(Code::kFailedPrecondition, "the pod has no address yet");
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, OpenNs(entry));
  QANAT_ASSIGN_OR_RETURN(uint64_t cookie, ns.Cookie());
  for (const auto& [uid, other] : entries_)
    if (other.get() != &entry && other->prepared && other->cookie == cookie)
      return Fail(Code::kAlreadyExists, "its network namespace belongs to pod " +
                                            other->pod.FullName() + " (" + uid + ")");
  auto inspected = InspectPod(ns, entry.pod.ips);
  entry.uncapturable = !inspected && inspected.error().code == Code::kUnimplemented;
  if (!inspected) return tl::unexpected(inspected.error());
  entry.network = std::move(*inspected);
  if (entry.id == 0) QANAT_RETURN_IF_ERROR(TakeOver(entry, cookie));
  entry.refused = false;
  if (options_.check_pod && !entry.enforced()) {
    Status allowed = options_.check_pod(ns);
    entry.refused = !allowed;
    QANAT_RETURN_IF_ERROR(std::move(allowed));
  }
  bpf::NodeMaps& maps = hooks_.maps();
  if (entry.id == 0) {
    QANAT_ASSIGN_OR_RETURN(entry.id, AllocateId());
    auto left = maps.pod_state.Lookup(entry.id);
    entry.state = {};
    // Grants that named the slot's last owner are void.
    entry.state.generation = left && *left ? (*left)->generation + 1 : 1;
    if (entry.closed) entry.state.mode = QANAT_MODE_ENFORCED;
    EmptySlots(maps, entry.id);
    ForgetDns(maps, entry.id);
    entry.dns = 0;
    (void)maps.counters.Zero(entry.id);
  }
  entry.cookie = cookie;
  QANAT_RETURN_IF_ERROR(maps.pod_state.Update(entry.id, entry.state));
  Status network = ApplyPodNetwork(ns, entry.pod.ips, &entry.sysctls);
  Save(entry);  // also after a failure: what was changed must be known to be undone
  QANAT_RETURN_IF_ERROR(std::move(network));
  QANAT_RETURN_IF_ERROR(KeepDns(entry, ns));
  if (entry.serial == 0) {
    // A pod that an earlier agent enrolled keeps its serial (the first version gave none); every
    // other gets one that is new.
    QANAT_ASSIGN_OR_RETURN(const auto earlier, maps.pods.Lookup(cookie));
    if (earlier && earlier->id == entry.id && earlier->serial != 0) {
      entry.serial = earlier->serial;
    } else {
      QANAT_ASSIGN_OR_RETURN(entry.serial, maps.TakeSerial());
    }
  }
  Status known = maps.pods.Update(cookie, entry.kernel_pod());
  for (const auto& ip : entry.pod.ips)
    if (known) known = maps.pod_ips.Update(bpf::ToKernel(ip), cookie);
  if (known) known = SyncOwnIps(maps, entry.id, entry.network.others);
  if (known) known = KeepSources(entry);
  if (known) known = FindEnds(entry, ns);
  if (!known)
    return Fail(known.error().Annotate(
        "tell the kernel of the pod (more pods than a node has room for? fewer of them, or a label "
        "istio.io/dataplane-mode=none, help)"));
  entry.prepared = true;
  return {};
}

// A pod that an earlier agent captured and of which no saved state tells (a full disk, a wiped
// /run): a slot of its own would begin open. It keeps the one that the kernel knows it by.
Status Enroller::TakeOver(Entry& entry, uint64_t cookie) {
  bpf::NodeMaps& maps = hooks_.maps();
  QANAT_ASSIGN_OR_RETURN(const auto pod, maps.pods.Lookup(cookie));
  if (!pod || pod->id == 0 || pod->id >= QANAT_MAX_PODS) return {};
  for (const auto& [uid, other] : entries_)
    if (other->id == pod->id) return {};
  QANAT_ASSIGN_OR_RETURN(const auto state, maps.pod_state.Lookup(pod->id));
  if (!state || state->mode == QANAT_MODE_OFF) return {};
  entry.id = pod->id;
  entry.state = *state;
  entry.state.flags = 0;
  entry.dns = DnsFamilies(maps, pod->id);
  LOG_WARN("enrol", "{}: captured by an earlier agent whose state is lost: it stays closed",
           entry.pod.FullName());
  return {};
}

Status Enroller::Attach(Entry& entry) {
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, OpenNs(entry));
  QANAT_RETURN_IF_ERROR(hooks_.AttachPod(TargetOf(entry, &ns)));
  entry.attached = true;
  return {};
}

Status Enroller::Prove(Entry& entry) {
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, OpenNs(entry));
  const std::string uid = entry.pod.uid;
  QANAT_RETURN_IF_ERROR(KeepDns(entry, ns));
  if (auto programs = hooks_.ProgramsAt(TargetOf(entry, &ns)))
    entry.programs = std::move(*programs);
  entry.proving_since = event::Clock::now();
  entry.proof = std::make_unique<Proof>(
      loop_, hooks_.maps(),
      ProofPod{entry.id, entry.pod.ips, entry.dns, hooks_.guard() != Guard::kNone,
               entry.network.spoof_low, entry.network.spoof_high},
      ns, [this, uid](ProofReport report) { OnProof(uid, std::move(report)); });
  BeginPath(entry, ns);
  return {};
}

void Enroller::OnProof(const std::string& uid, ProofReport report) {
  Entry* entry = Find(uid);
  if (!entry) return;
  // The proof calls us: it dies after this round.
  loop_.Post([proof = std::shared_ptr<Proof>(std::move(entry->proof))] {});
  entry->proof.reset();
  entry->report = std::move(report);
  entry->proof_began = entry->proving_since;
  entry->proof_ended = event::Clock::now();
  if (entry->report.passed()) {
    entry->proven = true;
    entry->proven_at = loop_.now();
    entry->backoff = {};
    EndCutOffIfProven(*entry);
    Advance(*entry);
    if (Entry* still = Find(uid)) ShowDirect(*still);
    return;
  }
  ++proofs_failed_;
  const std::string failure = entry->report.FirstFailure();
  LOG_WARN("enrol", "{}: proof failed: {}", entry->pod.FullName(), failure);
  Explain(*entry, "proof failed: " + failure);
  if (entry->enforced() && !entry->report.captured()) {
    // Not captured is worse than not served: repair, and if there is nothing to repair, cut off.
    const uint64_t before = repairs();
    Status node = hooks_.EnsureNodeLinks();
    Status repaired = node ? Repair(*entry) : std::move(node);
    if (!repaired)
      CutOff(*entry, repaired.error().message);
    else if (repairs() == before)
      CutOff(*entry, failure);
  }
  entry->proven = false;
  WriteStatus(*entry);
  entry->backoff = entry->backoff == event::Duration{}
                       ? event::Duration(kFirstRetry)
                       : std::min<event::Duration>(entry->backoff * 2, kLastRetry);
  entry->retry.Start(entry->backoff);
}

Status Enroller::SetMode(Entry& entry, qanat_mode mode) {
  qanat_pod_state next = entry.state;
  next.mode = mode;
  QANAT_RETURN_IF_ERROR(hooks_.maps().pod_state.Update(entry.id, next));
  entry.state = next;
  return {};
}

Status Enroller::Flip(Entry& entry) {
  // Saved first: an agent that dies in between comes back and closes the pod, never forgets it.
  qanat_pod_state flipped = entry.state;
  flipped.mode = QANAT_MODE_ENFORCED;
  entry.drain_since = 0;
  std::swap(entry.state, flipped);
  Save(entry);
  std::swap(entry.state, flipped);
  NoteConnecting(entry);
  QANAT_RETURN_IF_ERROR(SetMode(entry, QANAT_MODE_ENFORCED));
  NoteNotMeshed(entry);
  DoubtPathsTo(entry);
  Explain(entry, "");
  LOG_INFO("enrol", "{}: enrolled (id {}, proof passed)", entry.pod.FullName(), entry.id);
  Notify(entry, {});
  return {};
}

}  // namespace qanat::agent
