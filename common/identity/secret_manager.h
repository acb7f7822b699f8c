// SPDX-License-Identifier: Apache-2.0
// All workload certificates of one process: fetched once per identity however many ask, renewed at
// half of their life, the old one kept until it expires, backing off per identity when the CA
// fails. Lives on the main thread; workers get snapshots through the update callback.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/identity/ca_client.h"
#include "common/identity/certificate.h"

namespace qanat::identity {

// Ordered: a real-time request overtakes the others in the queue.
enum class Priority : uint8_t { kBackground, kWarmup, kRealTime };

// Time as the manager needs it; the real one is MakeClock(loop), tests have a simulated one.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual SystemTime Now() = 0;
  // One alarm: replaces an earlier one; fires once, never from inside the call.
  virtual void SetAlarm(SystemTime when, std::function<void()> fire) = 0;
  virtual void ClearAlarm() = 0;
};
std::unique_ptr<Clock> MakeClock(event::EventLoop& loop);

class SecretManager {
 public:
  // The new certificate, or the same one believing other roots, or nullptr: forgotten or expired
  // without a successor.
  using OnUpdate = std::function<void(const model::Identity& identity, CertificatePtr certificate)>;
  using Ready = std::function<void(Result<CertificatePtr>)>;

  struct Options {
    size_t concurrency = 8;  // fetches at one time, as stock ztunnel
    std::chrono::milliseconds backoff_first{1000};
    std::chrono::milliseconds backoff_max{150000};
    double backoff_jitter = 0.2;
    // The least time between a fetch and a Renew(), and from one Renew() to the next.
    std::chrono::milliseconds renew_fresh{5000};
    std::chrono::milliseconds renew_again{300000};
    uint32_t seed = 0;  // of the jitter; 0: random
    // How long a root is believed that the CA no longer names: as long as certificates below it may
    // still be presented.
    std::chrono::seconds root_grace{86400};
  };

  SecretManager(Clock& clock, CaClient& ca, OnUpdate on_update, Options options);
  SecretManager(Clock& clock, CaClient& ca, OnUpdate on_update);
  ~SecretManager();

  // Wants the identity from now on (until Forget) and calls `ready` once: at once when there is a
  // valid certificate; at once with the last error while it backs off without one; else after the
  // fetch. `ready` may be empty. Requests for one identity share one fetch; the highest priority
  // counts.
  void Request(const model::Identity& identity, Priority priority, Ready ready = {});
  // The valid certificate of an identity, or nullptr. Does not ask for one.
  CertificatePtr Find(const model::Identity& identity) const;
  // A new certificate is wanted before its time (this one is revoked, or there are new roots); the
  // present one serves meanwhile. Not at once when it is new itself or this was asked just before.
  void Renew(const model::Identity& identity);
  // No longer wanted: dropped, not renewed; waiting requests get kCancelled.
  void Forget(const model::Identity& identity);
  // The CA may be well again (its channel reconnected): those that back off are tried now.
  void RetryNow();

  enum class State { kFetching, kAvailable, kUnavailable };
  struct Entry {
    model::Identity identity;
    State state = State::kFetching;
    CertificatePtr certificate;  // may be there in every state
    std::string error;           // of the last attempt, "" after a success
    SystemTime next_attempt;     // renewal or retry
  };
  std::vector<Entry> Dump() const;  // sorted by identity; for config_dump
  struct Counters {
    uint64_t fetches = 0;
    uint64_t failures = 0;
    size_t wanted = 0;
    size_t in_flight = 0;
    size_t queued = 0;
  };
  Counters counters() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::identity
