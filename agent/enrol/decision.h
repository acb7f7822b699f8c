// SPDX-License-Identifier: Apache-2.0
// The state machine of one pod as a pure function: what is true now -> what to do next. The
// enroller executes steps until there is nothing to do or something must be waited for.
#pragma once

#include <string_view>

namespace qanat::agent {

struct Facts {
  bool gone = false;      // the source no longer has the pod
  bool wanted = false;    // in the mesh
  bool blocked = false;   // something on the node would make enrolment wrong
  bool prepared = false;  // namespace opened and compared, map entries, rules, route, sysctls
  bool attached = false;  // sk_lookup and second guard
  bool proxy = false;     // a proxy has said Hello
  bool adding = false;    // AddWorkload in flight
  bool acked = false;     // ... acknowledged by the newest proxy
  bool filled = false;    // live listeners for all three roles
  bool proving = false;   // a proof runs
  bool proven = false;    // for the present listeners
  bool enforced = false;  // captured
  bool draining = false;  // was captured: new connections are plain, old ones still go through
};

enum class Step {
  kNone,
  kBlocked,  // stays as it is until the obstacle is gone
  kPrepare,
  kAttach,
  kAwaitProxy,  // nothing to do until a proxy connects
  kAdd,
  kAwaitAck,
  kFill,
  kProve,
  kAwaitProof,
  kFlip,
  kRestore,  // plain networking back: the pod left the mesh
  kLeave,    // the pod is gone: stay closed until its namespace is
  kForget,
};

inline std::string_view StepName(Step step) {
  switch (step) {
    case Step::kNone: return "none";
    case Step::kBlocked: return "blocked";
    case Step::kPrepare: return "prepare";
    case Step::kAttach: return "attach";
    case Step::kAwaitProxy: return "await proxy";
    case Step::kAdd: return "add";
    case Step::kAwaitAck: return "await ack";
    case Step::kFill: return "fill";
    case Step::kProve: return "prove";
    case Step::kAwaitProof: return "await proof";
    case Step::kFlip: return "flip";
    case Step::kRestore: return "restore";
    case Step::kLeave: return "leave";
    case Step::kForget: return "forget";
  }
  return "unknown";
}

inline Step NextStep(const Facts& f) {
  const bool held = f.prepared || f.attached || f.enforced || f.draining;
  if (f.gone) return held ? Step::kLeave : Step::kForget;
  if (!f.wanted) return held ? Step::kRestore : Step::kNone;
  // What is enforced stays so: an obstacle is no reason to open anything.
  if (f.blocked && !f.enforced) return Step::kBlocked;
  if (!f.prepared) return Step::kPrepare;
  if (!f.attached) return Step::kAttach;
  // From here on nothing of the pod's traffic changes until the flip. An enforced pod walks the
  // same steps whenever a proxy comes, and stays closed meanwhile.
  if (!f.proxy) return f.enforced ? Step::kNone : Step::kAwaitProxy;
  if (f.adding) return Step::kAwaitAck;
  if (!f.acked) return Step::kAdd;
  if (!f.filled) return Step::kFill;
  if (f.proving) return Step::kAwaitProof;
  if (!f.proven) return Step::kProve;
  return f.enforced ? Step::kNone : Step::kFlip;
}

}  // namespace qanat::agent
