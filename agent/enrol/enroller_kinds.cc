// SPDX-License-Identifier: Apache-2.0
// Pods of which capture does not hold all that it promises, and how that is said.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>

#include "agent/enrol/entry.h"
#include "common/base/log.h"

namespace qanat::agent {

std::vector<std::string> Enroller::NotesOf(const Entry& entry) const {
  if (!entry.membership.in_mesh) return {};
  std::vector<std::string> notes = entry.wishes.notes;
  const size_t others = entry.network.others.size();
  if (others > QANAT_OWN_IPS_PER_POD)
    notes.push_back(
        fmt::format("it has {} further addresses: by those after the first {} the "
                    "proxy does not reach the application",
                    others, QANAT_OWN_IPS_PER_POD));
  return notes;
}

// A proof walks the kernel's own sockets: it passes in a pod whose workload does not use them. What
// gives that away is the second guard, which drops what such a pod sends, together with the packet
// socket or tap device that it comes from. Either of them alone is no sign: a port scanner sends
// raw packets, tcpdump only listens.
void Enroller::LookForUncaptured(Entry& entry, const netns::NetNs& ns) {
  if (!entry.enforced()) return;
  auto counters = hooks_.maps().CountersOf(entry.id);
  if (!counters) return;
  const uint64_t dropped = counters->value[QANAT_CNT_GUARD_DROPPED];
  const bool more = dropped > entry.guard_dropped;
  entry.guard_dropped = dropped;
  if (!more && entry.own_stack.empty()) return;
  auto sign = LookForOwnStack(ns);
  if (!sign || (sign->empty() && entry.own_stack.empty())) return;
  std::string said;
  if (!sign->empty())
    said =
        "cannot be captured: connections leave it past the kernel's sockets, by " + *sign +
        " (gVisor, Kata?): they are dropped, and what comes in that way is not policed. Label it "
        "istio.io/dataplane-mode=none, or run it with the default runtime";
  if (said == entry.own_stack) return;
  entry.own_stack = std::move(said);
  if (entry.proven && !entry.cut_off) Explain(entry, entry.own_stack);
  WriteStatus(entry);
}

void Enroller::RestoreFiles() {
  const auto lost = [](const std::string& path) { return ::access(path.c_str(), F_OK) != 0; };
  std::error_code ignored;
  for (const std::string& dir : {options_.status_dir, store_.dir()})
    if (lost(dir)) std::filesystem::create_directories(dir, ignored);
  for (auto& [uid, entry] : entries_) {
    if (entry->gone) continue;
    if (!entry->written.empty() && lost(options_.status_dir + "/" + uid + ".json")) {
      entry->written.clear();
      WriteStatus(*entry);
    }
    if (entry->id != 0 && lost(store_.dir() + "/" + uid + ".json")) Save(*entry);
  }
}

}  // namespace qanat::agent
