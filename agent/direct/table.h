// SPDX-License-Identifier: Apache-2.0
// The verdicts that lie in the kernel: which there are, and what has to be done to them when the
// mesh changes. Pure; the main thread's. What it says is carried out by others, in the order of
// design.md: nothing that was tightened is reported as in force before no program can still act on
// the old answer.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "agent/direct/verdict.h"

namespace qanat::agent::direct {

// As in qanat_verdict_key: serials are of pods, never given out twice.
struct VerdictKey {
  uint32_t source = 0;
  uint32_t destination = 0;
  uint16_t port = 0;
  bool v6 = false;
  auto operator<=>(const VerdictKey&) const = default;
};

struct TableEntry {
  bool direct = false;
  bool allowed = true;
  uint32_t generation = 0;
  uint32_t policy = 0;  // a number for the kernel: PolicyName() gives the name back
  std::string why_not;
  bool operator==(const TableEntry&) const = default;
};

// What is to be written to the kernel. First `put`, then the rest in the order of its fields.
struct TableChanges {
  uint32_t generation = 0;                             // whom all of it belongs to
  std::vector<std::pair<VerdictKey, TableEntry>> put;  // new, or as good as before
  std::vector<uint32_t> floors;                        // destinations: older verdicts are void
  std::vector<std::pair<VerdictKey, TableEntry>> tightened;  // were direct and are not any more
  std::vector<VerdictKey> removed;
  bool forgot_direct = false;  // some of these, though nothing speaks against them: for room
  bool empty() const {
    return put.empty() && floors.empty() && tightened.empty() && removed.empty();
  }
};

class VerdictTable {
 public:
  // What is true of a key now; nullopt: one of its pods is not there any more.
  using Judging = std::function<std::optional<Verdict>(const VerdictKey&)>;

  // `capacity`: how many verdicts the kernel's map takes. Some of its room stays with the hooks'
  // questions.
  explicit VerdictTable(size_t capacity, uint32_t first_generation = 1)
      : capacity_(capacity - capacity / 8), generation_(first_generation) {}

  // The hooks asked. Nothing to do where the pods are gone. When the table is full, all that go
  // through the proxy anyway are forgotten first, then those of the pod that has the most of them:
  // who still connects asks again.
  TableChanges Answer(const VerdictKey& key, const Judging& judging);

  // The mesh, or a pod's facts, changed: every verdict is given anew. Of connections that live
  // nothing is said here: one may outlive its verdict, so each is judged by itself.
  TableChanges Rejudge(const Judging& judging);

  // That pod is gone, or leaves the direct path for good.
  TableChanges Forget(uint32_t serial);

  const TableEntry* Find(const VerdictKey& key) const;
  const std::string& PolicyName(uint32_t number) const;
  uint32_t generation() const { return generation_; }
  size_t size() const { return entries_.size(); }
  size_t direct_count() const { return direct_; }

 private:
  TableEntry EntryOf(const Verdict& verdict);
  void Set(const VerdictKey& key, TableEntry entry);
  void Erase(std::map<VerdictKey, TableEntry>::iterator at);
  void MakeRoom(TableChanges& changes);

  size_t capacity_;
  std::map<VerdictKey, TableEntry> entries_;
  std::map<std::string, uint32_t, std::less<>> numbers_;
  std::vector<std::string> names_ = {""};
  uint32_t generation_;
  size_t direct_ = 0;
};

}  // namespace qanat::agent::direct
