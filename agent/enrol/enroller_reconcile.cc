// SPDX-License-Identifier: Apache-2.0
// Upkeep: what should be there is looked at again and again; what is missing is repaired, or the
// pod is cut off and says so. Also the status files.
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "agent/enrol/entry.h"
#include "agent/redirect/own_ips.h"
#include "bpf/user/mounts.h"
#include "common/base/log.h"

namespace qanat::agent {
namespace {

// In ticks. A look at all of the proxy's descriptors takes as long as it has connections; a
// listener that is missing from its slot is seen without it.
constexpr unsigned kScanEvery = 20;
constexpr unsigned kSweepEvery = 4;
// A tick less than a second: this walks the control groups of all pods.
constexpr auto kRewritersEvery = std::chrono::milliseconds(750);

uint64_t MonotonicNs() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<uint64_t>(t.tv_sec) * 1000000000ull + static_cast<uint64_t>(t.tv_nsec);
}

}  // namespace

void Enroller::Reconcile() {
  ++ticks_;
  Status node = FollowPeers();
  WriteConfig();
  if (Status links = hooks_.EnsureNodeLinks(); !links) node = std::move(links);
  const std::string fault = node ? "" : node.error().message;
  if (!node && fault != node_fault_) LOG_ERROR("enrol", "node hooks: {}", fault);
  node_fault_ = fault;
  LookForRewriters();
  std::vector<std::string> uids;
  for (auto& [uid, entry] : entries_) uids.push_back(uid);
  for (const auto& uid : uids)
    if (Entry* entry = Find(uid)) ReconcilePod(*entry, node.has_value(), fault);
  if (ticks_ % kScanEvery == 0) ScheduleFill();
  if (ticks_ % kSweepEvery == 0) SweepGrants();
  SweepConnections();
  ServePending();
  reconcile_.Start(options_.reconcile_every);
}

void Enroller::ReconcilePod(Entry& entry, bool node_ok, const std::string& node_reason) {
  const auto now = loop_.now();
  for (auto it = entry.waiters.begin(); it != entry.waiters.end();) {
    if (it->second > now) {
      ++it;
      continue;
    }
    Waiter waiter = std::move(it->first);
    it = entry.waiters.erase(it);
    waiter(Fail(Code::kDeadlineExceeded,
                entry.reason.empty() ? "not enrolled in time" : entry.reason));
  }
  if (entry.leaving) {
    if (!OpenNs(entry)) Forget(entry);
    return;
  }
  if (entry.gone || !entry.membership.in_mesh || !entry.prepared) return;
  Status repaired = node_ok ? Repair(entry) : Fail(Code::kUnavailable, node_reason);
  if (!repaired) {
    const bool no_namespace = repaired.error().code == Code::kNotFound;
    if (no_namespace && netns::NetNs::Open(entry.pod.netns)) {  // another one at the same path
      Move(entry);
      Advance(entry);
      return;
    }
    if (node_ok && !entry.enforced()) {
      Undo(entry);
      Explain(entry, repaired.error().message);
      WriteStatus(entry);
      if (!entry.retry.armed()) entry.retry.Start(options_.reconcile_every);
      return;
    }
    if (no_namespace) {  // it has gone: the source will say
      Explain(entry, repaired.error().message);
      WriteStatus(entry);
      return;
    }
  }
  if (node_ok && entry.enforced() && (!repaired || entry.network.devices.empty())) {
    auto ns = OpenNs(entry);
    auto devices = ns ? DevicesIn(*ns) : Fail(ns.error());
    if (devices && devices->empty()) {  // as at its end: nothing gets in or out
      Explain(entry, "the pod has no network interface any more");
      WriteStatus(entry);
      return;
    }
  }
  if (!repaired) {
    if (entry.enforced()) CutOff(entry, repaired.error().message);
    return;
  }
  if (entry.enforced() && !entry.rewritten.empty()) {
    CutOff(entry, entry.rewritten);
    return;
  }
  const SlotReport slots = ReadSlots(hooks_.maps(), entry.id, entry.state.workers);
  bool lost = false;
  for (uint32_t role = 0; role < QANAT_ROLES; ++role)
    lost |= slots.filled[role] < entry.state.workers[role];
  if (lost && entry.filled) {
    LOG_WARN("enrol", "{}: the proxy's listeners are gone from their slots", entry.pod.FullName());
    entry.filled = false;
    entry.proven = false;
  }
  if (entry.enforced() && !slots.complete() && (entry.reason.empty() || !Newest()))
    Explain(entry, Newest() ? "the proxy does not listen in the pod: connections are refused"
                            : WithoutProxy(entry));
  const bool due = entry.proven && now - entry.proven_at > options_.reprove_every;
  if (due || entry.cut_off) entry.proven = false;
  if (entry.cut_off) {
    // The hooks are back and in mode CUT they refuse by themselves; the routing rule would also
    // stop the probes that must show it.
    if (auto ns = OpenNs(entry)) (void)EndCutOff(*ns);
  }
  ShowDirect(entry);
  if (!entry.retry.armed()) Advance(entry);
}

// Programs at connect() that came after a pod was enrolled. Each pod is tried anew when their set
// changes, and as long as something is wrong with it.
void Enroller::LookForRewriters() {
  const auto now = loop_.now();
  if (!options_.connect_programs || !options_.check_pod || now < look_for_rewriters_at_) return;
  look_for_rewriters_at_ = now + kRewritersEvery;
  std::vector<uint32_t> ids = options_.connect_programs();
  const bool changed = ids != connect_programs_;
  connect_programs_ = std::move(ids);
  for (auto& [uid, entry] : entries_) {
    if (!entry->enforced() || !entry->prepared || entry->gone) continue;
    if (!changed && entry->rewritten.empty()) continue;
    auto ns = OpenNs(*entry);
    if (!ns) continue;
    const Status fine = options_.check_pod(*ns);
    entry->rewritten = fine ? "" : fine.error().message;
  }
}

std::string Enroller::WithoutProxy(const Entry& entry) const {
  // Its listeners go on without a ZDS connection, as after a restart of ours; or we keep them.
  if (ReadSlots(hooks_.maps(), entry.id).complete())
    return "no proxy is connected to this agent: one that was goes on serving the pod, or, if it "
           "has died, new connections wait for the next one";
  return "no proxy is connected: connections are refused";
}

// Everything of the pod that can be put back is. The error says what could not.
Status Enroller::Repair(Entry& entry) {
  QANAT_ASSIGN_OR_RETURN(netns::NetNs ns, OpenNs(entry));
  auto network = InspectPod(ns, entry.pod.ips);
  if (network) {
    entry.network.devices = network->devices;
    entry.network.interfaces = std::move(network->interfaces);
    if (entry.network.others != network->others) {
      entry.network.others = network->others;
      QANAT_RETURN_IF_ERROR(SyncOwnIps(hooks_.maps(), entry.id, entry.network.others));
    }
  } else {
    // Without one of its addresses each interface is guarded all the same.
    if (auto devices = DevicesIn(ns)) entry.network.devices = std::move(*devices);
    const bool own_stack = network.error().code == Code::kUnimplemented;
    if (!entry.enforced() || own_stack) {
      entry.uncapturable = own_stack;
      return tl::unexpected(network.error());
    }
  }
  QANAT_RETURN_IF_ERROR(FindEnds(entry, ns));
  QANAT_RETURN_IF_ERROR(KeepSources(entry));
  LookForUncaptured(entry, ns);
  // The programs first: they hold whatever the rest is like.
  Hooks::PodTarget target = TargetOf(entry, &ns);
  if (Status attached = hooks_.CheckPod(target); !attached && entry.attached) {
    PathIs(entry, false, attached.error().message);
    entry.ends_of.clear();  // or the interface there is another one
    QANAT_RETURN_IF_ERROR(FindEnds(entry, ns));
    target = TargetOf(entry, &ns);
    if (Status done = hooks_.AttachPod(target); !done) {
      // An interface may go between the look and the repair.
      QANAT_ASSIGN_OR_RETURN(entry.network.devices, DevicesIn(ns));
      if (entry.network.devices == target.devices) return done;
      target = TargetOf(entry, &ns);
      QANAT_RETURN_IF_ERROR(hooks_.AttachPod(target));
    }
    ++repairs_;
    LOG_WARN("enrol", "{}: repaired: {}", entry.pod.FullName(), attached.error().message);
    entry.proven = false;
  }
  if (Status present = CheckPodNetwork(ns, entry.pod.ips); !present) {
    ++repairs_;
    LOG_WARN("enrol", "{}: repaired: {}", entry.pod.FullName(), present.error().message);
    QANAT_RETURN_IF_ERROR(ApplyPodNetwork(ns, entry.pod.ips, &entry.sysctls));
    QANAT_RETURN_IF_ERROR(CheckPodNetwork(ns, entry.pod.ips));  // there, and of no use?
  }
  RetryPath(entry, ns);
  // Who came beside our programs since the last proof may undo what they decide: only a proof
  // tells.
  if (entry.proven)
    if (auto programs = hooks_.ProgramsAt(target); programs && *programs != entry.programs)
      entry.proven = false;
  QANAT_ASSIGN_OR_RETURN(const bool dns, KeepDns(entry, ns));
  if (dns) {
    ++repairs_;
    LOG_WARN("enrol", "{}: repaired: the redirection of its DNS", entry.pod.FullName());
  }
  return RepairMaps(entry);
}

Status Enroller::RepairMaps(Entry& entry) {
  const qanat_pod want = entry.kernel_pod();
  auto have = hooks_.maps().pods.Lookup(entry.cookie);
  if (!have || !*have || std::memcmp(&**have, &want, sizeof want) != 0) {
    ++repairs_;
    LOG_WARN("enrol", "{}: repaired: its entry in the pods map", entry.pod.FullName());
    QANAT_RETURN_IF_ERROR(hooks_.maps().pods.Update(entry.cookie, want));
  }
  if (!HasOwnIps(hooks_.maps(), entry.id, entry.network.others)) {
    ++repairs_;
    LOG_WARN("enrol", "{}: repaired: its further addresses in the kernel", entry.pod.FullName());
    QANAT_RETURN_IF_ERROR(SyncOwnIps(hooks_.maps(), entry.id, entry.network.others));
  }
  auto state = hooks_.maps().pod_state.Lookup(entry.id);
  if (!state || !*state || std::memcmp(&**state, &entry.state, sizeof entry.state) != 0) {
    ++repairs_;
    LOG_WARN("enrol", "{}: repaired: its state in the kernel", entry.pod.FullName());
    QANAT_RETURN_IF_ERROR(hooks_.maps().pod_state.Update(entry.id, entry.state));
  }
  for (const auto& ip : entry.pod.ips) {
    const auto owner = hooks_.maps().pod_ips.Lookup(bpf::ToKernel(ip));
    if (owner && *owner && **owner == entry.cookie) continue;
    // A pod that was deleted may still have the address that the next one got.
    const bool others =
        owner && *owner && std::any_of(entries_.begin(), entries_.end(), [&](auto& e) {
          return e.second->prepared && e.second->cookie == **owner;
        });
    if (others) continue;
    ++repairs_;
    LOG_WARN("enrol", "{}: repaired: the entry of {} in the pod_ips map", entry.pod.FullName(),
             ip.ToString());
    QANAT_RETURN_IF_ERROR(hooks_.maps().pod_ips.Update(bpf::ToKernel(ip), entry.cookie));
  }
  return {};
}

void Enroller::CutOff(Entry& entry, const std::string& why) {
  Explain(entry, "cut off: " + why);
  if (!entry.cut_off)
    LOG_ERROR("enrol", "{}: cut off, its capture is broken: {}", entry.pod.FullName(), why);
  entry.cut_off = true;
  HideDirect(entry);
  (void)SetMode(entry, QANAT_MODE_CUT);
  if (auto ns = OpenNs(entry))
    if (Status cut = CutOffTcp(*ns); !cut)
      LOG_ERROR("enrol", "{}: {}", entry.pod.FullName(), cut.error().message);
  WriteStatus(entry);
}

void Enroller::EndCutOffIfProven(Entry& entry) {
  if (!entry.cut_off || !entry.proven || !entry.rewritten.empty()) return;
  if (Status mode = SetMode(entry, QANAT_MODE_ENFORCED); !mode) return;
  if (auto ns = OpenNs(entry)) (void)EndCutOff(*ns);
  entry.cut_off = false;
  LOG_INFO("enrol", "{}: capture works again, no longer cut off", entry.pod.FullName());
}

// Grants whose connect neither succeeded nor failed in time (the source's namespace died with it).
void Enroller::SweepGrants(bool recount) {
  bpf::NodeMaps& maps = hooks_.maps();
  const uint64_t now = MonotonicNs();
  std::map<uint64_t, uint32_t> live;
  bool removed = false;
  for (const qanat_tuple& tuple : maps.grants.Keys()) {
    auto grant = maps.grants.Lookup(tuple);
    if (!grant || !*grant) continue;
    if (now > (*grant)->time_ns && now - (*grant)->time_ns > 5 * QANAT_GRANT_LIFETIME_NS) {
      (void)maps.grants.Erase(tuple);
      removed = true;
    } else {
      ++live[(*grant)->source];
    }
  }
  if (!removed && !recount) return;
  for (uint64_t source : maps.budgets.Keys()) {
    auto budget = maps.budgets.Lookup(source);
    if (!budget || !*budget) continue;
    qanat_budget corrected = **budget;
    corrected.in_flight = live[source];
    (void)maps.budgets.Update(source, corrected);
  }
}

void Enroller::Save(const Entry& entry) {
  // An agent that does not know of draining closes the pod rather than forget it.
  SavedPod saved{entry.pod,
                 entry.id,
                 entry.cookie,
                 entry.enforced() || entry.draining(),
                 entry.sysctls,
                 entry.dns,
                 entry.wishes.plain_inbound,
                 entry.drain_since,
                 entry.not_meshed};
  if (Status done = store_.Save(saved); !done)
    LOG_ERROR("enrol", "{}: its state is not saved: {}", entry.pod.FullName(),
              done.error().message);
}

void Enroller::Explain(Entry& entry, std::string reason) {
  if (entry.reason == reason) return;
  entry.reason = std::move(reason);
  if (!entry.reason.empty() && (entry.membership.in_mesh || entry.membership.refused))
    LOG_INFO("enrol", "{}: {}", entry.pod.FullName(), entry.reason);
}

PodView Enroller::ViewOf(const Entry& e) const {
  PodView v;
  v.uid = e.pod.uid;
  v.name = e.pod.name;
  v.ns = e.pod.ns;
  v.netns = e.pod.netns;
  for (const auto& ip : e.pod.ips) v.ips.push_back(ip.ToString());
  v.id = e.id;
  v.cookie = e.cookie;
  v.enforced = e.enforced();
  v.dns = e.dns;
  v.cut_off = e.cut_off;
  v.draining = e.draining();
  v.captured = e.captured;
  v.not_meshed = e.not_meshed.size();
  v.outside = e.outside;
  v.leaving = e.leaving;
  v.host_ends = e.ends.devices;
  v.no_host_end = e.ends.missing;
  v.path_proved = e.path_proved;
  v.path_why = e.path_why;
  const bool leaves = !e.membership.in_mesh && !e.gone;
  v.refused = e.membership.refused;
  v.redirection = e.enforced() && !leaves             ? "enabled"
                  : e.membership.in_mesh || v.refused ? "pending"
                                                      : "disabled";
  v.blocked = e.step == Step::kBlocked || e.refused || v.refused;
  v.uncapturable = e.uncapturable || !e.own_stack.empty();
  v.notes = NotesOf(e);
  v.same_node = SameNodeOf(e);
  v.published = PublishedOf(e.pod);
  v.reason = e.reason;
  v.step = StepName(e.step);
  v.proof = e.report;
  v.proof_age = event::Clock::now() - e.proof_ended;
  v.proof_took = e.proof_ended - e.proof_began;
  v.devices = e.network.devices;
  if (e.id != 0) v.slots = ReadSlots(hooks_.maps(), e.id);
  return v;
}

std::vector<PodView> Enroller::View() const {
  std::vector<PodView> out;
  for (const auto& [uid, entry] : entries_) out.push_back(ViewOf(*entry));
  return out;
}

void Enroller::WriteStatus(Entry& entry) {
  if (entry.gone) return;
  nlohmann::json proof = nlohmann::json::object();
  for (const ProofStep& step : entry.report.steps)
    proof[step.name] = step.passed ? "passed" : step.detail;
  const PodView view = ViewOf(entry);
  nlohmann::json json = {{"uid", view.uid},
                         {"redirection", view.redirection},
                         {"reason", view.reason},
                         {"proof", std::move(proof)}};
  if (!view.notes.empty()) json["notes"] = view.notes;
  std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text == entry.written) return;
  if (Status done = WriteFileAtomically(options_.status_dir + "/" + view.uid + ".json", text);
      !done) {
    LOG_WARN("enrol", "{}", done.error().message);
    return;
  }
  entry.written = std::move(text);
  if (observer_ && entry.shown) observer_(view);  // else what it published before is not known
}

}  // namespace qanat::agent
