// SPDX-License-Identifier: Apache-2.0
// The worker's outgoing tunnels: its pools, in whose name and in which namespace a tunnel is made,
// and when it ends with its pod.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <thread>

#include "common/base/log.h"
#include "common/hbone/patience.h"
#include "ztunnel/proxy/inner_tunnels.h"
#include "ztunnel/proxy/pod_entry.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {

void Worker::MakePools() {
  const Config& config = environment_.config;
  hbone::PoolOptions options;
  options.session.stream_window = config.stream_window;
  options.session.connection_window = config.connection_window;
  options.session.max_frame_size = config.frame_size;
  options.session.patience = hbone::Patience::kUsual;
  options.max_streams = config.pool_max_streams;
  options.idle_release = config.pool_idle;
  options.counters = environment_.pools->direct();
  // Peers take each tunnel to another of their workers; more than there are cores gains nothing.
  options.stripes = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, 4);
  const auto plan = [this](const hbone::PoolKey& key) { return PlanDial(key); };
  pool_ = std::make_unique<hbone::Pool>(loop(), options,
                                        hbone::MakeTlsDial(loop(), plan, options.connect_timeout));
  hbone::PoolOptions inner = options;
  inner.counters = environment_.pools->inner();
  inner.stripes = 1;  // those of the tunnel outside will do
  inner_pool_ = std::make_unique<hbone::Pool>(
      loop(), inner,
      MakeInnerDial(*pool_, plan, [this](const auto& key) { return GatewayHeaders(key); }));
}

// What a network's gateway is told of the stream that an inner tunnel is made in: the source as in
// any other request, but for the port, for the tunnel is not of one connection.
hbone::Headers Worker::GatewayHeaders(const hbone::PoolKey& key) {
  hbone::Headers out;
  for (const auto& [uid, entry] : pods_) {
    if (entry->pod->netns_cookie != key.source_netns) continue;
    if (const auto source = Identify(*entry->pod).workload) {
      out.push_back({"baggage", MakeBaggage(*source)});
    }
    break;
  }
  const std::string_view authority = key.through_authority;
  out.push_back({"forwarded", MakeForwarded(net::SocketAddress(key.source_ip, 0),
                                            authority.substr(0, authority.rfind(':')))});
  out.push_back({"traceparent", MakeTraceparent(Random(), Random(), Random())});
  return out;
}

Result<hbone::DialPlan> Worker::PlanDial(const hbone::PoolKey& key) const {
  const auto identity = model::Identity::Parse(key.source_identity);
  const auto certificate = identity ? FindCertificate(*identity) : nullptr;
  if (certificate == nullptr) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("no valid certificate for {}", key.source_identity));
  }
  hbone::DialPlan plan;
  plan.context = certificate->client;
  plan.connect.mark = environment_.config.packet_mark;
  plan.connect.keepalive = environment_.config.keepalive;
  plan.handshakes = handshakes_.get();
  if (key.shared) return plan;  // from our own namespace: it outlives every pod's
  for (const auto& [uid, entry] : pods_) {
    if (entry->pod->netns_cookie != key.source_netns) continue;
    plan.connect.netns = entry->pod->netns.get();
    return plan;
  }
  return Fail(Code::kUnavailable, "the pod is no longer here");
}

void Worker::CountPods() {
  pods_of_.clear();
  for (const auto& [uid, entry] : pods_) ++pods_of_[entry->identity];
}

size_t Worker::PodsOf(const model::Identity& identity) const {
  const auto it = pods_of_.find(identity);
  return it == pods_of_.end() ? 0 : it->second;
}

void Worker::WarmShared(const hbone::PoolKey& shared) {
  if (sharing_.MayDial(shared, loop().now())) pool_->Warm(shared);
}

void Worker::EndTunnelsOf(const Pod& pod) {
  for (hbone::Pool* pool : {inner_pool_.get(), pool_.get()}) {
    pool->Close(
        [&](const hbone::PoolKey& key) {
          return !key.shared && key.source_netns == pod.netns_cookie;
        },
        "the pod was removed");
  }
  sharing_.ForgetPod(pod.uid);
  // Of an identity that no pod here has any more nobody may use a tunnel.
  std::set<std::string> here;
  for (const auto& [identity, count] : pods_of_) here.insert(identity.ToString());
  pool_->Drain(
      [&](const hbone::PoolKey& key) { return key.shared && !here.contains(key.source_identity); });
}

hbone::PoolStats Worker::pool_stats() const { return pool_->stats(); }

}  // namespace qanat::ztunnel
