// SPDX-License-Identifier: Apache-2.0
// Services: the part of the Enforcer that keeps what the hooks draw among.
#include <map>
#include <memory>
#include <utility>

#include "agent/direct/enforcer.h"

namespace qanat::agent::direct {

// For one round of compiling: it points into `pods_`.
FindPod Enforcer::PodsByName() const {
  using Names = std::map<std::pair<std::string_view, std::string_view>, PodHere>;
  auto names = std::make_shared<Names>();
  // By serial: of two of one name the one that came last.
  for (const auto& [serial, pod] : pods_) {
    (*names)[{pod.member.facts.ns, pod.member.facts.name}] = {serial, &pod.member};
  }
  return [names](std::string_view ns, std::string_view name) {
    const auto at = names->find({ns, name});
    return at == names->end() ? PodHere{} : at->second;
  };
}

std::optional<VipEntry> Enforcer::Compile(const VipKey& key, const FindPod& find) const {
  const auto source = pods_.find(key.source);
  if (source == pods_.end()) return std::nullopt;
  VipEntry entry;
  if (snapshot_ == nullptr) {
    entry.why_not = "the mesh is not known yet";
    return entry;
  }
  return CompileVip(*snapshot_, mesh_, source->second.member, key.asked, find);
}

std::optional<VipEntry> Enforcer::JudgeVip(const VipKey& key) const {
  return Compile(key, PodsByName());
}

bool Enforcer::AnswerVip(const VipKey& key) {
  const FindPod find = PodsByName();
  return Write(vips_.Answer(key, [&](const VipKey& one) { return Compile(one, find); }));
}

// Before anything that depends on it is called enforced: who connects after that to a service which
// has a waypoint now meets the proxy. Endpoints that come and go need no waiting: their verdicts
// say whether they may be reached straight.
bool Enforcer::RecompileVips() {
  const FindPod find = PodsByName();
  const VipChanges changes = vips_.Recompile([&](const VipKey& key) { return Compile(key, find); });
  if (!Write(changes)) return false;
  return !changes.tightened || Check(kernel_.AwaitPrograms(), "wait for the kernel's programs");
}

bool Enforcer::Write(const VipChanges& changes) {
  for (const VipKey& key : changes.removed) {
    if (!Check(kernel_.Remove(key), "take a service out")) return false;
  }
  for (const auto& [key, entry] : changes.put) {
    if (!Check(kernel_.Put(key, entry), "write a service")) return false;
  }
  stats_.vips = vips_.size();
  stats_.drawn = vips_.drawn_count();
  return true;
}

}  // namespace qanat::agent::direct
