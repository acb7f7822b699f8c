// SPDX-License-Identifier: Apache-2.0
// One worker's counters of traffic by who talks to whom: found without locks, written by nobody
// else.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "common/metrics/shard.h"
#include "ztunnel/telemetry/metrics.h"

namespace qanat::ztunnel {

// The counters of one label set: opened, sent and received only of the one without a flag, failed
// only of those with one.
struct Series {
  using Handle = metrics::Shard<metrics::Counter>::Handle;
  Handle opened, closed, failed, sent, received;
};

// One worker's way to the counters of a flow. What a connection usually costs is one lookup by the
// addresses of its workloads and service; label texts are built when these were not seen since the
// last snapshot.
class SeriesCache {
 public:
  explicit SeriesCache(Metrics& metrics);
  // The reference is good until the next call of any function here.
  const Series& For(const Flow& flow, model::Reason reason);
  // A new snapshot: lets go of the old one's workloads and services.
  void ForgetPointers() { by_pointer_.clear(); }
  // Series were removed from the families: a handle kept here would count where nobody looks.
  void ForgetRemoved();

 private:
  struct Key {
    const model::Workload* source = nullptr;
    const model::Workload* destination = nullptr;
    const model::Service* service = nullptr;
    uint32_t rest = 0;  // reporter, reason, TLS, which identities are proven
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  struct Held {
    Series series;
    // Keep the key's addresses from being used again.
    model::WorkloadPtr source, destination;
    model::ServicePtr service;
  };

  static std::optional<Key> KeyOf(const Flow& flow, model::Reason reason);
  const Series& ByLabels(const Flow& flow, model::Reason reason);

  const metrics::Family<metrics::Counter>& all_closed_;
  metrics::Shard<metrics::Counter> opened_, closed_, failed_, sent_, received_, overflow_;
  std::unordered_map<Key, Held, KeyHash> by_pointer_;
  std::unordered_map<std::string, Series> by_labels_;
};

}  // namespace qanat::ztunnel
