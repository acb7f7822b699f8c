// SPDX-License-Identifier: Apache-2.0
#include "common/lb/outliers.h"

#include <algorithm>

namespace qanat::lb {

std::string Outliers::Key(std::string_view client, std::string_view uid, uint16_t port) {
  return EndpointKey(uid, port).append(" for ").append(client);
}

std::string Outliers::EndpointKey(std::string_view uid, uint16_t port) {
  return std::string(uid).append(":").append(std::to_string(port));
}

bool Outliers::Failed(std::string_view key, TimePoint now) {
  auto it = entries_.find(key);
  if (it == entries_.end()) {
    if (entries_.size() >= kMaxEntries) Forget(now);
    it = entries_.emplace(key, Entry{0, now, 0, TimePoint::min()}).first;
  }
  Entry& entry = it->second;
  if (now < entry.until) return false;  // tried all the same, as nothing else was left
  // Long after its last ejection it starts as any other.
  if (entry.ejections > 0 && now - entry.until > kLongestEjection) entry.ejections = 0;
  if (now - entry.since > kWindow) {
    entry.failures = 0;
    entry.since = now;
  }
  if (++entry.failures < kFailures) return false;
  entry.failures = 0;
  const unsigned doublings = std::min(entry.ejections, 8u);
  entry.until = now + std::min<Duration>(kFirstEjection * (1u << doublings), kLongestEjection);
  ++entry.ejections;
  return true;
}

void Outliers::Good(std::string_view key) {
  if (const auto it = entries_.find(key); it != entries_.end()) entries_.erase(it);
}

bool Outliers::Ejected(std::string_view key, TimePoint now) const {
  const auto it = entries_.find(key);
  return it != entries_.end() && now < it->second.until;
}

std::vector<std::string> Outliers::AllEjected(std::string_view client, TimePoint now) const {
  const std::string end = std::string(" for ").append(client);
  std::vector<std::string> out;
  for (const auto& [key, entry] : entries_) {
    if (now < entry.until && key.ends_with(end))
      out.push_back(key.substr(0, key.size() - end.size()));
  }
  return out;
}

// Pods come and go under new names; what has not failed for a while is not kept for ever.
void Outliers::Forget(TimePoint now) {
  std::erase_if(entries_, [now](const auto& item) {
    return now >= item.second.until && now - item.second.since > kWindow;
  });
  if (entries_.size() >= kMaxEntries) entries_.clear();
}

}  // namespace qanat::lb
