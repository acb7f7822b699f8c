// SPDX-License-Identifier: Apache-2.0
// The proxy's metrics: Istio's names and labels for traffic, our own for what stock proxies leave
// uncounted (refusals by reason, tunnels). One object per process; each worker has a SeriesCache,
// so that a connection costs a lookup without locks.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "common/metrics/registry.h"
#include "ztunnel/telemetry/flow.h"

namespace qanat::ztunnel {

struct Metrics {
  explicit Metrics(metrics::Registry& registry);

  metrics::Family<metrics::Counter>& opened;
  metrics::Family<metrics::Counter>& closed;
  metrics::Family<metrics::Counter>& failed;
  metrics::Family<metrics::Counter>& sent;
  metrics::Family<metrics::Counter>& received;
  metrics::Family<metrics::Gauge>& sockets_open;      // reporter
  metrics::Family<metrics::Counter>& refused;         // reporter, reason
  metrics::Family<metrics::Counter>& one_pass;        // outcome: taken, denied
  metrics::Family<metrics::Counter>& shared_streams;  // outcome: taken, refused
  metrics::Family<metrics::Counter>& early_data;      // outcome: taken, dropped, unknown
  metrics::Family<metrics::Counter>& tunnel_errors;   // reason: of inbound tunnels before a CONNECT
  metrics::Family<metrics::Gauge>& active_proxies;
  metrics::Family<metrics::Gauge>& pending_proxies;
  metrics::Family<metrics::Counter>& proxies_started;
  metrics::Family<metrics::Counter>& proxies_stopped;
  metrics::Family<metrics::Counter>& xds_terminations;  // reason
  metrics::Family<metrics::Counter>& xds_messages;      // url
  metrics::Family<metrics::Counter>& xds_bytes;         // url
  metrics::Family<metrics::Counter>& certificate_failures;
  metrics::Family<metrics::Histogram>& setup;  // reporter, phase
  metrics::Family<metrics::Counter>& accept_paused;
  metrics::Family<metrics::Counter>& connect_retries;  // reason: why the endpoint before failed
  metrics::Family<metrics::Counter>& ejections;
  metrics::Family<metrics::Counter>& forwarded_network_ignored;
  metrics::Family<metrics::Counter>& series_overflow;  // flows counted without their own labels
  metrics::Family<metrics::Counter>& crl_rejections;   // reporter
  metrics::Family<metrics::Counter>& crl_untracked;    // reporter
  metrics::Family<metrics::Counter>& resumptions;      // role
  metrics::Family<metrics::Counter>& handshakes;       // role, outcome
  metrics::Family<metrics::Histogram>& handshake_duration;  // role
  // Of the DNS proxy, by DnsLabelNames().
  metrics::Family<metrics::Counter>& dns_requests;
  metrics::Family<metrics::Counter>& dns_upstream_requests;
  metrics::Family<metrics::Counter>& dns_upstream_failures;
  metrics::Family<metrics::Histogram>& dns_upstream_duration;
  metrics::Family<metrics::Counter>& dns_answers;    // origin
  metrics::Family<metrics::Counter>& on_demand_dns;  // OnDemandDnsLabelNames()
};

// request_query_type, request_protocol, source_canonical_service, source_canonical_revision.
const metrics::LabelNames& DnsLabelNames();
// How the last two are shown.
inline std::string DnsLabel(const std::string& name) { return name.empty() ? "unknown" : name; }
// What a destination that is known by name only was resolved for: the source_* of a flow, hostname.
const metrics::LabelNames& OnDemandDnsLabelNames();
metrics::LabelValues OnDemandDnsLabels(const Flow& flow, const std::string& hostname);

// What the time until a connection is relayed goes into.
enum class SetupPhase : uint8_t {
  kQueue,    // until it is known whose it is and where it goes
  kDns,      // resolving a destination that is known by name only
  kPolicy,   // the destination's policies
  kConnect,  // to the other end, with a tunnel's handshake where there is none yet
};

// One worker's handles of the histograms of one reporter.
class SetupTimes {
 public:
  SetupTimes(Metrics& metrics, const std::string& reporter);
  void Observe(SetupPhase phase, std::chrono::steady_clock::duration time) {
    phases_[static_cast<size_t>(phase)]->Observe(std::chrono::duration<double>(time).count());
  }

 private:
  std::array<std::shared_ptr<metrics::Histogram>, 4> phases_;
};

// The counters of one label set: opened, sent and received only of the one without a flag, failed
// only of those with one.
struct Series {
  std::shared_ptr<metrics::Counter> opened, closed, failed, sent, received;
};

// One worker's way to the counters of a flow. What a connection usually costs is one lookup by the
// addresses of its workloads and service; label texts are built when these were not seen since the
// last snapshot.
class SeriesCache {
 public:
  explicit SeriesCache(Metrics& metrics) : metrics_(metrics) {}
  // The reference is good until the next call of any function here.
  const Series& For(const Flow& flow, model::Reason reason);
  // A new snapshot: lets go of the old one's workloads and services.
  void ForgetPointers() { by_pointer_.clear(); }
  // Series were removed from the families: a handle kept here would count where nobody looks.
  void Forget();
  Metrics& metrics() { return metrics_; }

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

  Metrics& metrics_;
  std::unordered_map<Key, Held, KeyHash> by_pointer_;
  std::unordered_map<std::string, Series> by_labels_;
};

}  // namespace qanat::ztunnel
