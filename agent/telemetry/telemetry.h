// SPDX-License-Identifier: Apache-2.0
// Reads the kernel's records of closed connections and keeps what they say. The kernel wakes nobody
// up for one: it is looked each 10 ms while there are any, each 200 ms while there are none. The
// main thread's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "agent/pods/pod.h"
#include "agent/redirect/sock_diag.h"
#include "agent/telemetry/direct_log.h"
#include "agent/telemetry/series.h"
#include "bpf/user/node_maps.h"
#include "bpf/user/ring.h"
#include "common/admin/server.h"
#include "common/event/event_loop.h"
#include "common/metrics/registry.h"
#include "common/state/snapshot.h"

namespace qanat::agent::telemetry {

// What the rest of the agent knows.
struct World {
  std::function<const Pod*(uint32_t serial)> pod;  // nullptr: gone
  std::function<state::SnapshotPtr()> snapshot;    // may be null
  std::string network;
  std::function<uint64_t()> lost;  // records that found the ring full, of all times
  // Direct connections that live now.
  std::function<std::vector<std::pair<qanat_tuple, qanat_flow>>()> flows;
  // The sockets of that pod, with their bytes.
  std::function<Result<std::vector<TcpSocket>>(uint32_t serial)> sockets;
};

struct LiveDirect {
  qanat::telemetry::Flow flow;
  std::string pod_uid;  // the client's
  uint64_t bytes_up = 0, bytes_down = 0;
};

class Telemetry {
 public:
  // `map_dir`: the pinned maps.
  static Result<std::unique_ptr<Telemetry>> Open(event::EventLoop& loop, const std::string& map_dir,
                                                 World world, metrics::Registry& registry);
  ~Telemetry();
  void Start();

  const SeriesTable& table() const { return table_; }
  uint64_t records() const { return records_; }
  uint64_t lost() const { return world_.lost(); }
  std::vector<LiveDirect> Live();  // blocks for a walk over the sockets of each pod that has one

 private:
  struct Target;
  struct Known {
    Ends ends;
    std::shared_ptr<Target> target;
  };
  struct CacheKey {
    uint32_t serial = 0, peer = 0;
    qanat_ip far{};
    uint32_t path = 0;
    bool operator==(const CacheKey& other) const;
  };
  struct CacheHash {
    size_t operator()(const CacheKey& key) const;
  };

  Telemetry(event::EventLoop& loop, World world, metrics::Registry& registry);
  void Read();
  void Take(const qanat_record& record);
  Known& KnownOf(const qanat_record& record, const Figures& figures);
  const Pod* PodOf(uint32_t serial);
  void Sweep();

  World world_;
  SeriesTable table_;
  DirectLog direct_;
  metrics::Family<metrics::Histogram>& connect_;
  metrics::Family<metrics::Histogram>& srtt_;
  metrics::Family<metrics::Histogram>& response_;
  const uint64_t tick_us_;
  std::unique_ptr<bpf::Ring> ring_;
  event::Timer timer_;
  event::Timer sweep_;
  uint64_t records_ = 0;
  state::SnapshotPtr snapshot_;  // what `known_` was made with
  std::unordered_map<CacheKey, Known, CacheHash> known_;
  std::unordered_map<uint32_t, Pod> pods_;  // by serial; never given to another pod
};

// For World, out of the kernel's maps.
uint64_t RecordsLost(const bpf::NodeMaps& maps);
std::vector<std::pair<qanat_tuple, qanat_flow>> LiveFlows(const bpf::NodeMaps& maps);
// /debug/health: what is known of each pair; /debug/connections: what the kernel lets past the
// proxy now, as the proxy shows its own.
void AddRoutes(admin::Server& server, Telemetry& telemetry);
// qanat_tcp_* of what the table holds, beside the histograms.
void AddMetrics(metrics::Registry& registry, const Telemetry& telemetry);

}  // namespace qanat::agent::telemetry
