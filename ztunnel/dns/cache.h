// SPDX-License-Identifier: Apache-2.0
// Answers of name servers, kept as whole packets under the bytes of the question (without its id):
// whoever asks the very same thing gets the very same answer, with its TTLs counted down. Expired
// ones are kept for when name servers are away (RFC 8767). One pod's; lives on its worker's thread.
// Time is given.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/dns/response.h"
#include "common/event/event_loop.h"

namespace qanat::ztunnel::dns {

class Cache {
 public:
  struct Limits {
    size_t bytes = 1 << 20;  // then the least recently used ones go
    std::chrono::seconds longest{86400};
    std::chrono::seconds stale{86400};  // after expiry
  };
  Cache() : Cache(Limits{}) {}
  explicit Cache(const Limits& limits) : limits_(limits) {}

  using Packet = std::vector<uint8_t>;
  std::optional<Packet> Fresh(const std::string& key, event::TimePoint now);
  // Also one that has expired, with TTLs of 30 seconds.
  std::optional<Packet> Stale(const std::string& key, event::TimePoint now);
  // True for a while after Failed(): asking again would only make the client wait.
  bool StaleAtOnce(const std::string& key, event::TimePoint now) const;
  void Failed(const std::string& key, event::TimePoint now);
  // Keeps the answer if it may be kept; one that may not leaves what there is.
  void Put(const std::string& key, ::qanat::dns::Bytes answer, event::TimePoint now);
  size_t size() const { return entries_.size(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::string key;
    Packet packet;
    std::vector<uint16_t> ttl_at;
    event::TimePoint stored, expires, retry_at;
    size_t Cost() const { return 2 * key.size() + packet.size() + 2 * ttl_at.size() + 256; }
  };
  using List = std::list<Entry>;
  Entry* Find(const std::string& key, event::TimePoint now);
  void Erase(List::iterator it);

  Limits limits_;
  size_t bytes_ = 0;
  List entries_;  // the most recently used first
  std::unordered_map<std::string, List::iterator> by_key_;
};

}  // namespace qanat::ztunnel::dns
