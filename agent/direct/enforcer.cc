// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/enforcer.h"

#include <algorithm>
#include <set>

#include "common/base/log.h"

namespace qanat::agent::direct {
namespace {

const net::IpAddress* AddressOf(const Member& member, bool v6) {
  for (const net::IpAddress& ip : member.facts.addresses) {
    if (ip.is_v6() == v6) return &ip;
  }
  return nullptr;
}

uint32_t FlagsOf(const Member& member) {
  return member.path_proved && member.wish == Wish::kDirect ? QANAT_DIRECT_FROM | QANAT_DIRECT_TO
                                                            : 0;
}

}  // namespace

Enforcer::Enforcer(KernelTable kernel, route::Mesh mesh, EnforcerHooks hooks)
    : kernel_(std::move(kernel)),
      mesh_(std::move(mesh)),
      hooks_(std::move(hooks)),
      table_(QANAT_MAX_VERDICTS),
      vips_(QANAT_MAX_VIPS) {
  stats_.why_off = "the mesh is not known yet";
}

bool Enforcer::Check(const Status& status, const char* what) {
  if (status) return true;
  ++stats_.failures;
  off_ = true;
  stats_.leased = false;
  std::string why = std::string(what) + ": " + status.error().message;
  if (why != stats_.why_off) LOG_ERROR("direct", "{}; the direct path is off", why);
  stats_.why_off = std::move(why);
  (void)kernel_.EndLease();  // if this fails too, the lease runs out
  return false;
}

std::optional<Verdict> Enforcer::Judge(const VerdictKey& key) const {
  const auto from = pods_.find(key.source), to = pods_.find(key.destination);
  if (from == pods_.end() || to == pods_.end()) return std::nullopt;
  Verdict verdict;
  const net::IpAddress* source = AddressOf(from->second.member, key.v6);
  const net::IpAddress* target = AddressOf(to->second.member, key.v6);
  if (snapshot_ == nullptr || source == nullptr || target == nullptr) {
    verdict.why_not = snapshot_ == nullptr ? "the mesh is not known yet"
                                           : "one of the pods has no address of this family";
    return verdict;
  }
  return direct::Judge(*snapshot_, mesh_, from->second.member, *source, to->second.member,
                       net::SocketAddress(*target, key.port));
}

std::vector<std::pair<uint32_t, const Member*>> Enforcer::Members() const {
  std::vector<std::pair<uint32_t, const Member*>> members;
  for (const auto& [serial, pod] : pods_) members.emplace_back(serial, &pod.member);
  return members;
}

bool Enforcer::SetPod(uint32_t serial, Known& pod) {
  return Check(hooks_.set_pod(serial, FlagsOf(pod.member), pod.floor), "write a pod's state");
}

void Enforcer::PutPod(uint32_t serial, uint32_t id, uint64_t cookie, Member member) {
  Known& pod = pods_[serial];
  const bool fresh = pod.id == 0;
  if (pod.id == id && pod.cookie == cookie && pod.member == member) return;
  pod.id = id;
  pod.cookie = cookie;
  pod.member = std::move(member);
  if (fresh) pod.floor = table_.generation();
  if (off_) return;
  // A pod of an earlier agent, or one that was cut off: it may have connections of then.
  if (fresh && (!Check(kernel_.Answered(id), "answer the hooks") || !EndRefused())) return;
  // Off first, on last: between the two its verdicts are put right.
  if (FlagsOf(pod.member) == 0 && !SetPod(serial, pod)) return;
  if (fresh ? !RecompileVips() : !Rejudge()) return;
  if (FlagsOf(pod.member) != 0) SetPod(serial, pod);
}

void Enforcer::RemovePod(uint32_t serial) {
  const auto at = pods_.find(serial);
  if (at == pods_.end()) return;
  const Known pod = std::move(at->second);
  pods_.erase(at);
  const size_t direct = table_.direct_count();
  const TableChanges changes = table_.Forget(serial);
  // Its entry may be gone with its namespace: then nothing can be written, and nothing need be.
  (void)hooks_.set_pod(serial, 0, table_.generation());
  if (off_ || !RecompileVips() || !Write(changes) || table_.direct_count() == direct) return;
  Revoke([&pod](const qanat_grant& grant) {
    return grant.source == pod.cookie || grant.pod_id == pod.id;
  });
}

void Enforcer::SetSnapshot(state::SnapshotPtr snapshot) {
  const bool same = snapshot_ != nullptr && snapshot != nullptr &&
                    snapshot_->version() == snapshot->version() &&
                    snapshot_->freshness() == snapshot->freshness();
  snapshot_ = std::move(snapshot);
  if (same || snapshot_ == nullptr) return;
  if (off_)
    Begin();
  else
    Rejudge();
}

bool Enforcer::Rejudge() {
  const TableChanges changes = table_.Rejudge(judging());
  if (!Check(kernel_.KeepGeneration(changes.generation), "keep the generation")) return false;
  if (!RecompileVips() || !Write(changes)) return false;
  if (changes.floors.empty()) {
    // What was forgotten for want of room may still be held by a program.
    if (unfenced_ && !Check(kernel_.AwaitPrograms(), "wait for the kernel's programs")) {
      return false;
    }
    if (!EndRefused()) return false;
  } else {
    std::map<uint32_t, uint32_t> floors;  // by pod index
    for (const uint32_t serial : changes.floors) {
      if (const auto pod = pods_.find(serial); pod != pods_.end()) {
        floors[pod->second.id] = changes.generation;
      }
    }
    const bool done = Revoke([&floors](const qanat_grant& grant) {
      const auto floor = floors.find(grant.pod_id);
      return floor != floors.end() && grant.verdict < floor->second;
    });
    if (!done) return false;
  }
  unfenced_ = false;
  stats_.generation = changes.generation;
  stats_.policy_version = snapshot_ == nullptr ? 0 : snapshot_->policy_version();
  return true;
}

bool Enforcer::Write(const TableChanges& changes) {
  for (const auto& [key, entry] : changes.put) {
    if (!Check(kernel_.Put(key, entry), "write a verdict")) return false;
  }
  for (const uint32_t serial : changes.floors) {
    const auto pod = pods_.find(serial);
    if (pod == pods_.end()) continue;  // gone, and its flags with it
    pod->second.floor = changes.generation;
    if (!SetPod(serial, pod->second)) return false;
  }
  for (const auto& [key, entry] : changes.tightened) {
    if (!Check(kernel_.Put(key, entry), "write a verdict")) return false;
  }
  for (const VerdictKey& key : changes.removed) {
    if (!Check(kernel_.Remove(key), "take a verdict out")) return false;
  }
  stats_.verdicts = table_.size();
  stats_.direct = table_.direct_count();
  return true;
}

bool Enforcer::Revoke(const IsVoid& is_void) {
  ++stats_.revocations;
  for (int round = 0; round < 2; ++round) {
    if (!Check(kernel_.AwaitPrograms(), "wait for the kernel's programs")) return false;
    if (!Check(kernel_.RemoveGrants(is_void), "take grants out")) return false;
    if (!EndRefused()) return false;
  }
  return true;
}

// Each live connection by itself: it may have outlived its verdict.
bool Enforcer::EndRefused() {
  std::map<VerdictKey, bool> allowed;
  for (const Flow& flow : kernel_.Flows()) {
    const VerdictKey key = flow.Key();
    auto known = allowed.find(key);
    if (known == allowed.end()) {
      const auto verdict = Judge(key);
      known = allowed.emplace(key, !verdict || verdict->allowed).first;
    }
    if (known->second) continue;
    if (!EndFlow(key, flow)) return false;
  }
  return true;
}

// The end of one of its sockets is the other's, too: a namespace that cannot be entered any more
// is no failure then.
bool Enforcer::EndFlow(const VerdictKey& key, const Flow& flow) {
  bool ended = false;
  Status failed;
  for (const End end : {End::kClient, End::kServer}) {
    const uint32_t serial = end == End::kClient ? key.source : key.destination;
    Status done = hooks_.destroy(serial, flow, end);
    ended = ended || done.has_value();
    if (!done && done.error().code != Code::kNotFound) failed = std::move(done);
  }
  stats_.ended += static_cast<uint64_t>(ended);
  if (ended) return true;
  if (!failed) return Check(failed, "end a connection that is no longer allowed");
  // Neither socket is there: its end went unseen while the hooks were away.
  return Check(kernel_.RemoveFlow(flow), "forget a connection that has ended");
}

void Enforcer::Answer(const std::vector<qanat_miss>& misses) {
  if (off_) return;  // the next beginning takes the questions out, and they are asked again
  std::set<uint32_t> answered;
  for (const qanat_miss& miss : misses) {
    const VerdictKey key = FromKernel(miss.key);
    if (const auto pod = pods_.find(key.source); pod != pods_.end()) {
      answered.insert(pod->second.id);
    }
    ++stats_.answered;
    if (const auto vip = VipOf(miss)) {
      if (!AnswerVip(*vip)) return;
      continue;
    }
    const TableChanges changes = table_.Answer(key, judging());
    unfenced_ = unfenced_ || changes.forgot_direct;
    if (!Write(changes)) return;
  }
  for (const uint32_t id : answered) {
    if (!Check(kernel_.Answered(id), "answer the hooks")) return;
  }
}

bool Enforcer::Begin() {
  auto first = kernel_.Clear();
  if (!first) return Check(tl::unexpected(first.error()), "clear the verdicts");
  table_ = VerdictTable(QANAT_MAX_VERDICTS, *first);
  vips_ = VipTable(QANAT_MAX_VIPS);
  for (auto& [serial, pod] : pods_) {
    pod.floor = *first;
    if (!SetPod(serial, pod)) return false;
  }
  // What an earlier agent let through, or this one before it lost its hold, is judged anew.
  if (!Check(kernel_.AwaitPrograms(), "wait for the kernel's programs") || !EndRefused()) {
    return false;
  }
  off_ = false;
  stats_.generation = *first;
  stats_.policy_version = snapshot_->policy_version();
  return true;
}

void Enforcer::Tick(const std::string& stale) {
  const std::string why = snapshot_ == nullptr ? "the mesh is not known yet" : stale;
  if (!why.empty()) {
    stats_.leased = false;
    stats_.why_off = why;
    if (!off_) Check(kernel_.EndLease(), "end the lease");
    return;
  }
  if (off_ && !Begin()) return;
  if (!Check(kernel_.Lease(kLease), "renew the lease")) return;
  stats_.leased = true;
  stats_.why_off.clear();
}

}  // namespace qanat::agent::direct
