// SPDX-License-Identifier: Apache-2.0
// Asks name servers on behalf of one pod and keeps what they say. Packets go through as they are,
// in both directions; only the id is another one on the way. Equal questions wait for one exchange.
// When the servers are silent, answers that have expired are given (RFC 8767). Lives on one
// worker's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/event/event_loop.h"
#include "ztunnel/dns/cache.h"
#include "ztunnel/dns/exchange.h"
#include "ztunnel/dns/pod_dns.h"
#include "ztunnel/pod.h"

namespace qanat::ztunnel::dns {

class Forwarder {
 public:
  enum class Origin : uint8_t {
    kCache,
    kUpstream,
    kStale,
    kFailed,  // no server answered; no bytes
    kLimit,   // too many questions are open; no bytes
  };
  using Done = std::function<void(::qanat::dns::Bytes answer, Origin origin)>;
  struct Limits {
    size_t open = 1000;     // exchanges of a pod at a time
    size_t waiting = 4000;  // clients that wait for them
    Cache::Limits cache;
  };
  // One exchange with a server has ended.
  struct Outcome {
    uint16_t type = 0;
    bool tcp = false;
    bool failed = false;
    double seconds = 0;
  };
  using Observer = std::function<void(const Outcome&)>;

  // `pod` gives the namespace; the settings must outlive this.
  Forwarder(event::EventLoop& loop, PodPtr pod, uint32_t mark, PodDnsSettings& settings,
            Observer observer, const Limits& limits);
  Forwarder(event::EventLoop& loop, PodPtr pod, uint32_t mark, PodDnsSettings& settings,
            Observer observer)
      : Forwarder(loop, std::move(pod), mark, settings, std::move(observer), Limits{}) {}
  ~Forwarder();

  // `query` is one that ReadQuery has read, with that type. Calls `done` once, perhaps at once,
  // with the query's id in the answer; not after this object's end.
  void Ask(::qanat::dns::Bytes query, uint16_t type, bool tcp, Done done);
  size_t open() const { return open_.size(); }

 private:
  struct Open;
  void Attempt(Open& open);
  void OnExchange(Open& open, bool tcp, event::TimePoint started,
                  Result<std::vector<uint8_t>> answer);
  void Finish(Open& open, const std::vector<uint8_t>& answer, Origin origin);
  // Everybody gets the expired answer, if there is one.
  bool GiveStale(Open& open);
  void Answer(Open& open, const std::vector<uint8_t>& answer, Origin origin);
  void Charge();

  event::EventLoop& loop_;
  PodPtr pod_;
  uint32_t mark_;
  PodDnsSettings& settings_;
  Observer observer_;
  Limits limits_;
  Cache cache_;
  size_t waiting_ = 0;
  MemoryCharge charge_;
  std::unordered_map<std::string, std::unique_ptr<Open>> open_;  // by the question's bytes
};

}  // namespace qanat::ztunnel::dns
