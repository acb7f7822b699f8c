// SPDX-License-Identifier: Apache-2.0
// Keeps the kernel's direct path in step with the mesh: answers the hooks' questions, and when
// something is tightened takes it out of the kernel in an order in which nothing slips through,
// ends the connections that are no longer allowed, and only then calls the state enforced:
//   0. services that are not to be drawn for any more are taken out, and programs waited for that
//      still draw
//   1. verdicts that stay towards an affected pod are written anew, its floor is raised, the others
//      are taken out: no new answer is "yes"
//   2. wait for programs that still hold an old answer
//   3. their grants go, and live connections that the policies refuse now are ended
//   4. wait once more, and 3 again: a connect that had passed both hooks before 1 is seen by now
// The main thread's. It blocks that thread for two waits (some 30 ms) when something is tightened
// that was direct, and not at all otherwise.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "agent/direct/kernel_table.h"
#include "agent/direct/table.h"
#include "agent/direct/verdict.h"
#include "agent/direct/vips.h"

namespace qanat::agent::direct {

// Where a live connection's two sockets are, to end it.
enum class End { kClient, kServer };

// What the rest of the agent does for it.
struct EnforcerHooks {
  // Writes a pod's flags (qanat_pod_flag) and floor where the hooks read them.
  std::function<Status(uint32_t serial, uint32_t flags, uint32_t floor)> set_pod;
  // Resets one socket of a connection, by its cookie. kNotFound: it is gone.
  std::function<Status(uint32_t serial, const Flow& flow, End end)> destroy;
};

struct EnforcerStats {
  uint32_t generation = 0;      // what is enforced
  uint64_t policy_version = 0;  // the snapshot's, likewise
  size_t verdicts = 0, direct = 0;
  size_t vips = 0, drawn = 0;  // services asked for, by pod; those that the kernel draws for
  uint64_t answered = 0;       // questions of the hooks
  uint64_t revocations = 0;
  uint64_t ended = 0;     // connections, by a refusal
  uint64_t failures = 0;  // of the kernel's interface; the path is off until one works again
  bool leased = false;
  std::string why_off;  // where it is not
};

class Enforcer {
 public:
  Enforcer(KernelTable kernel, route::Mesh mesh, EnforcerHooks hooks);

  // A pod that is captured and proved; again when anything of it changed. `id` is its index,
  // `cookie` its namespace's.
  void PutPod(uint32_t serial, uint32_t id, uint64_t cookie, Member member);
  // It leaves: nothing new goes direct from or to it once this has returned. What lives goes on.
  void RemovePod(uint32_t serial);

  // Returns when it is enforced, unless the kernel did not take it (behind()). Nothing is direct
  // before the first one.
  void SetSnapshot(state::SnapshotPtr snapshot);
  // Something that was tightened is not in force yet; each tick tries again.
  bool behind() const { return snapshot_ != nullptr && off_; }

  // The hooks have no verdict for these.
  void Answer(const std::vector<qanat_miss>& misses);

  // Each second. `stale`: why what is known may be older than the control plane's; "" when it is
  // not. Without a call for five seconds the kernel ends the path by itself.
  void Tick(const std::string& stale);

  const EnforcerStats& stats() const { return stats_; }
  // For `why` and the admin page.
  std::optional<Verdict> Judge(const VerdictKey& key) const;
  const VerdictTable& table() const { return table_; }
  std::optional<VipEntry> JudgeVip(const VipKey& key) const;
  std::vector<std::pair<uint32_t, const Member*>> Members() const;  // by serial

 private:
  struct Known {
    uint32_t id = 0;
    uint64_t cookie = 0;
    Member member;
    uint32_t floor = 0;
  };
  VerdictTable::Judging judging() const {
    return [this](const VerdictKey& key) { return Judge(key); };
  }
  using IsVoid = std::function<bool(const qanat_grant&)>;
  // All of these: false when the kernel did not take it; the path is off then.
  bool Begin();
  bool Rejudge();
  bool Write(const TableChanges& changes);
  bool Revoke(const IsVoid& is_void);
  bool EndRefused();
  bool EndFlow(const VerdictKey& key, const Flow& flow);
  bool SetPod(uint32_t serial, Known& pod);
  // enforcer_vips.cc
  FindPod PodsByName() const;
  std::optional<VipEntry> Compile(const VipKey& key, const FindPod& find) const;
  bool AnswerVip(const VipKey& key);
  bool RecompileVips();
  bool Write(const VipChanges& changes);
  bool Check(const Status& status, const char* what);

  KernelTable kernel_;
  route::Mesh mesh_;
  EnforcerHooks hooks_;
  VerdictTable table_;
  VipTable vips_;
  std::map<uint32_t, Known> pods_;
  state::SnapshotPtr snapshot_;
  // Nothing is in the kernel: at first, and after a write that failed. The next tick begins anew.
  bool off_ = true;
  bool unfenced_ = false;  // verdicts left the kernel since the last wait that were no tightening
  EnforcerStats stats_;
};

inline constexpr std::chrono::seconds kLease{5};

}  // namespace qanat::agent::direct
