// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/cache.h"

#include <algorithm>

namespace qanat::ztunnel::dns {
namespace {

namespace wire = ::qanat::dns;

constexpr uint32_t kStaleTtl = 30;                   // RFC 8767 §4
constexpr auto kRecheck = std::chrono::seconds(30);  // §5: failure recheck timer
// A negative answer must not hide a new name for longer (RFC 2308 §5 advises one to three hours).
constexpr uint32_t kLongestNegative = 3600;

bool Positive(wire::Bytes answer) {
  const auto header = wire::ReadHeader(answer);
  return header && header->rcode() == 0 && header->answers != 0;
}

}  // namespace

Cache::Entry* Cache::Find(const std::string& key, event::TimePoint now) {
  const auto it = by_key_.find(key);
  if (it == by_key_.end()) return nullptr;
  if (now - it->second->expires > limits_.stale) {
    Erase(it->second);
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, it->second);
  return &entries_.front();
}

std::optional<Cache::Packet> Cache::Fresh(const std::string& key, event::TimePoint now) {
  const Entry* entry = Find(key, now);
  if (entry == nullptr || now >= entry->expires) return std::nullopt;
  Packet out = entry->packet;
  const auto age = std::chrono::duration_cast<std::chrono::seconds>(now - entry->stored);
  wire::AgeTtls(out, entry->ttl_at, static_cast<uint32_t>(age.count()), 1);
  return out;
}

std::optional<Cache::Packet> Cache::Stale(const std::string& key, event::TimePoint now) {
  const Entry* entry = Find(key, now);
  if (entry == nullptr) return std::nullopt;
  Packet out = entry->packet;
  wire::SetTtls(out, entry->ttl_at, kStaleTtl);
  return out;
}

bool Cache::StaleAtOnce(const std::string& key, event::TimePoint now) const {
  const auto it = by_key_.find(key);
  return it != by_key_.end() && now < it->second->retry_at;
}

void Cache::Failed(const std::string& key, event::TimePoint now) {
  if (Entry* entry = Find(key, now)) entry->retry_at = now + kRecheck;
}

void Cache::Put(const std::string& key, wire::Bytes answer, event::TimePoint now) {
  wire::Lifetime life = wire::LifetimeOf(answer);
  if (!life.cacheable) return;
  if (const auto it = by_key_.find(key); it != by_key_.end()) Erase(it->second);
  uint32_t seconds = std::min(life.seconds, static_cast<uint32_t>(limits_.longest.count()));
  if (!Positive(answer)) seconds = std::min(seconds, kLongestNegative);
  entries_.push_front(Entry{key,
                            Packet(answer.begin(), answer.end()),
                            std::move(life.ttl_at),
                            now,
                            now + std::chrono::seconds(seconds),
                            {}});
  by_key_[key] = entries_.begin();
  bytes_ += entries_.front().Cost();
  while (bytes_ > limits_.bytes && !entries_.empty()) Erase(std::prev(entries_.end()));
}

void Cache::Erase(List::iterator it) {
  bytes_ -= it->Cost();
  by_key_.erase(it->key);
  entries_.erase(it);
}

}  // namespace qanat::ztunnel::dns
