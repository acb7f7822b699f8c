// SPDX-License-Identifier: Apache-2.0
// The callers who wait: CNI ADD and CHECK. What they are answered: cni_call.h.
#include "agent/enrol/entry.h"

namespace qanat::agent {
namespace {

// `seen`: what the source last said of the pod; null when it has not shown it.
std::string NotSeen(const CniCall& call, const Membership* seen) {
  const std::string who = "pod " + call.ns + "/" + call.name;
  if (!seen) return who + " is not known to the agent (its source has not shown it)";
  if (!seen->in_mesh)
    return "the API server says that " + who +
           " is in the mesh, the agent does not see that yet: " + seen->reason;
  return who + " has no network namespace that the agent can see";
}

}  // namespace

void Enroller::AwaitEnrolled(CniCall call, Waiter done) {
  pending_.push_back(std::make_unique<Pending>(
      Pending{std::move(call), std::move(done), loop_.now() + options_.cni_timeout}));
  ServePending();
}

void Enroller::ServePending() {
  std::vector<std::unique_ptr<Pending>> waiting = std::move(pending_);
  pending_.clear();
  for (auto& pending : waiting) {
    const CniCall& call = pending->call;
    Entry* match = nullptr;
    for (auto& [uid, entry] : entries_)
      if (!entry->gone && IsMeant(call, entry->pod)) match = entry.get();
    CniFacts facts;
    facts.known = match != nullptr;
    facts.in_mesh = match && match->membership.in_mesh;
    facts.has_netns = match && !match->pod.netns.empty();
    facts.enforced = match && match->enforced();
    facts.obstacle = !obstacle_.empty();
    facts.released = !released_.empty();
    switch (NextCniStep(call, facts)) {
      case CniStep::kPass: pending->done({}); continue;
      case CniStep::kRefuse: pending->done(Fail(Code::kFailedPrecondition, obstacle_)); continue;
      case CniStep::kWait:
        if (loop_.now() >= pending->deadline)
          pending->done(Fail(Code::kNotFound, NotSeen(call, match ? &match->membership : nullptr)));
        else
          pending_.push_back(std::move(pending));
        continue;
      case CniStep::kEnrol: break;
    }
    if (!call.netns.empty()) {
      auto asked = netns::NetNs::Open(call.netns);
      auto known = netns::NetNs::Open(match->pod.netns);
      if (!asked || !known || asked->id() != known->id()) {
        pending->done(Fail(Code::kInvalidArgument, "network namespace " + call.netns +
                                                       " is not that of the pod (" +
                                                       match->pod.netns + ")"));
        continue;
      }
    }
    if (match->enforced() && match->proven) {
      pending->done({});
      continue;
    }
    match->waiters.emplace_back(std::move(pending->done), pending->deadline);
  }
}

Status Enroller::CheckEnrolled(const std::string& ns, const std::string& name) const {
  for (const auto& [uid, entry] : entries_) {
    if (entry->gone || entry->pod.ns != ns || entry->pod.name != name) continue;
    if (!entry->membership.in_mesh || (entry->enforced() && entry->proven)) return {};
    return Fail(Code::kFailedPrecondition,
                entry->reason.empty() ? "its capture is being proven" : entry->reason);
  }
  return Fail(Code::kNotFound, "the agent does not know the pod");
}

void Enroller::Notify(Entry& entry, const Status& status) {
  auto waiters = std::move(entry.waiters);
  entry.waiters.clear();
  for (auto& [waiter, deadline] : waiters) waiter(status);
}

}  // namespace qanat::agent
