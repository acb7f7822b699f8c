// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/table.h"

#include <set>

namespace qanat::agent::direct {

TableEntry VerdictTable::EntryOf(const Verdict& verdict) {
  TableEntry entry;
  entry.direct = verdict.direct;
  entry.allowed = verdict.allowed;
  entry.generation = generation_;
  entry.why_not = verdict.why_not;
  if (!verdict.policy.empty()) {
    const auto [at, fresh] = numbers_.emplace(verdict.policy, static_cast<uint32_t>(names_.size()));
    if (fresh) names_.push_back(verdict.policy);
    entry.policy = at->second;
  }
  return entry;
}

void VerdictTable::Set(const VerdictKey& key, TableEntry entry) {
  TableEntry& kept = entries_[key];
  direct_ += static_cast<size_t>(entry.direct);
  direct_ -= static_cast<size_t>(kept.direct);
  kept = std::move(entry);
}

void VerdictTable::Erase(std::map<VerdictKey, TableEntry>::iterator at) {
  direct_ -= static_cast<size_t>(at->second.direct);
  entries_.erase(at);
}

void VerdictTable::MakeRoom(TableChanges& changes) {
  if (entries_.size() < capacity_) return;
  for (auto at = entries_.begin(); at != entries_.end();) {
    const auto here = at++;
    if (here->second.direct) continue;
    changes.removed.push_back(here->first);
    Erase(here);
  }
  if (entries_.size() < capacity_) return;
  // Keys are in the order of their sources.
  auto begin = entries_.begin(), longest = begin;
  size_t run = 0, most = 0;
  for (auto at = entries_.begin(); at != entries_.end(); ++at) {
    if (at->first.source != begin->first.source) {
      begin = at;
      run = 0;
    }
    if (++run > most) {
      most = run;
      longest = begin;
    }
  }
  changes.forgot_direct = true;
  for (const uint32_t source = longest->first.source;
       longest != entries_.end() && longest->first.source == source;) {
    const auto here = longest++;
    changes.removed.push_back(here->first);
    Erase(here);
  }
}

TableChanges VerdictTable::Answer(const VerdictKey& key, const Judging& judging) {
  TableChanges changes;
  changes.generation = generation_;
  const auto verdict = judging(key);
  if (!verdict) {
    changes.removed.push_back(key);  // the question itself lies in the map
    return changes;
  }
  if (entries_.find(key) == entries_.end()) MakeRoom(changes);
  TableEntry entry = EntryOf(*verdict);
  changes.put.emplace_back(key, entry);
  Set(key, std::move(entry));
  return changes;
}

TableChanges VerdictTable::Rejudge(const Judging& judging) {
  ++generation_;
  TableChanges changes;
  changes.generation = generation_;
  std::set<uint32_t> floors;
  std::vector<std::pair<VerdictKey, TableEntry>> still;  // direct, as before
  for (auto at = entries_.begin(); at != entries_.end();) {
    const auto here = at++;
    const VerdictKey& key = here->first;
    const auto verdict = judging(key);
    const bool was_direct = here->second.direct;
    if (!verdict) {
      if (was_direct) floors.insert(key.destination);
      changes.removed.push_back(key);
      Erase(here);
      continue;
    }
    TableEntry entry = EntryOf(*verdict);
    if (was_direct && !entry.direct) {
      floors.insert(key.destination);
      changes.tightened.emplace_back(key, entry);
    } else if (was_direct) {
      // Another policy is named in records from now on; else nothing is to be said.
      if (here->second.policy != entry.policy) changes.put.emplace_back(key, entry);
      still.emplace_back(key, entry);
    } else {
      const TableEntry& old = here->second;
      if (old.direct != entry.direct || old.allowed != entry.allowed) {
        changes.put.emplace_back(key, entry);
      }
    }
    Set(key, std::move(entry));
  }
  // A floor makes older verdicts towards a pod void, so what stays good towards it is written with
  // the new generation before; where there is none, only what records tell of it can be new.
  for (auto& [key, entry] : still) {
    if (floors.count(key.destination) == 0) continue;
    changes.put.emplace_back(key, std::move(entry));
  }
  changes.floors.assign(floors.begin(), floors.end());
  return changes;
}

TableChanges VerdictTable::Forget(uint32_t serial) {
  TableChanges changes;
  changes.generation = generation_;
  for (auto at = entries_.begin(); at != entries_.end();) {
    const auto here = at++;
    if (here->first.source != serial && here->first.destination != serial) continue;
    changes.removed.push_back(here->first);
    Erase(here);
  }
  return changes;
}

const TableEntry* VerdictTable::Find(const VerdictKey& key) const {
  const auto at = entries_.find(key);
  return at == entries_.end() ? nullptr : &at->second;
}

const std::string& VerdictTable::PolicyName(uint32_t number) const {
  return number < names_.size() ? names_[number] : names_.front();
}

}  // namespace qanat::agent::direct
