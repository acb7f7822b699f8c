// SPDX-License-Identifier: Apache-2.0
// The part of an outbound connection that goes through a tunnel: one that the pods of its identity
// share, where the peer is of our own kind, else the pod's own.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "ztunnel/proxy/outbound_connection.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {

using model::Reason;

namespace {

// Until a stream on a shared tunnel is answered. Its packets may be swallowed where those of the
// pod's own are not; and there are other endpoints to be tried, too (Attempts::ForThisTry).
constexpr auto kSharedTry = std::chrono::seconds(2);

}  // namespace

hbone::PoolKey OutboundConnection::TunnelKey() const {
  hbone::PoolKey key;
  key.source_identity = flow_.source_identity->ToString();
  key.destination_identities = route_.identities;
  key.destination = route_.to;
  key.source_ip = flow_.source.ip();
  key.source_netns = pod_->netns_cookie;
  return key;
}

hbone::ConnectRequest OutboundConnection::TunnelRequest() const {
  hbone::ConnectRequest request;
  request.authority = route_.authority;
  const std::string_view host =
      route_.service ? std::string_view(route_.service->hostname) : std::string_view();
  request.headers = {
      {"baggage", MakeBaggage(*flow_.source_workload)},
      {"forwarded", MakeForwarded(flow_.source, host)},
      {"traceparent", MakeTraceparent(worker_.Random(), worker_.Random(), worker_.Random())}};
  LOG_DEBUG("outbound", "{} from {}: trace {}", request.authority, flow_.source.ToString(),
            TraceId(request.headers.back().value));
  return request;
}

void OutboundConnection::OpenTunnel() {
  Connecting();
  asked_ = event::Clock::now();
  if (!OpenShared()) OpenOwn();
}

// The address that the stream is to have must be the pod's own: it is what the far end checks. A
// network's gateway passes the inner tunnel on to a peer that cannot check it. One pod alone gains
// nothing by a second tunnel.
bool OutboundConnection::MayShare() const {
  return worker_.environment().config.shares_own() && route_.kind == Route::Kind::kHbone &&
         pod_->netns != nullptr && pod_->HasAddress(flow_.source.ip()) &&
         worker_.PodsOf(*flow_.source_identity) > 1;
}

bool OutboundConnection::OpenShared() {
  if (own_tunnel_only_ || !MayShare()) return false;
  const hbone::PoolKey key = Sharing::KeyOf(TunnelKey());
  Sharing& sharing = worker_.sharing();
  if (!sharing.May(key, pod_->uid, worker_.loop().now())) return false;
  hbone::ConnectRequest request = TunnelRequest();
  request.headers.push_back({std::string(hbone::kSourceHeader), flow_.source.ToString()});
  pending_ = worker_.pool().TryConnect(
      key, std::move(request), [this](auto result) { OnSharedResponse(std::move(result)); });
  if (pending_ == nullptr) {
    worker_.WarmShared(key);
    return false;
  }
  sharing.Opened(key, pod_->uid, worker_.loop().now());
  shared_timer_ = std::make_unique<event::Timer>(worker_.loop(), [this] { OnSharedTimeout(); });
  shared_timer_->Start(kSharedTry);
  return true;
}

void OutboundConnection::OnSharedResponse(hbone::ClientSession::ConnectResult result) {
  const hbone::PoolKey key = Sharing::KeyOf(TunnelKey());
  if (result) worker_.sharing().Answered(key, pod_->uid);
  if (result && result->status != hbone::kMisdirected) {
    shared_timer_.reset();
    worker_.sharing().Taken(key, pod_->uid);
    worker_.metrics().shared_streams.With({"taken"})->Add();
    return OnTunnelResponse(std::move(result));
  }
  SharedFailed("refused", result ? "the peer refused the source" : result.error().error.message);
  UseOwn();
}

void OutboundConnection::OnSharedTimeout() {
  SharedFailed("timeout", "no answer in time");
  UseOwn();
}

void OutboundConnection::SharedFailed(const char* outcome, std::string_view why) {
  shared_timer_.reset();
  worker_.metrics().shared_streams.With({outcome})->Add();
  LOG_DEBUG("outbound", "{} to {}: not over a shared tunnel: {}", pod_->name, route_.to.ToString(),
            why);
  worker_.sharing().Failed(Sharing::KeyOf(TunnelKey()), pod_->uid, worker_.loop().now());
  own_tunnel_only_ = true;
}

// Nothing of the client's has been sent: what the shared tunnel could not do, the own one may.
void OutboundConnection::UseOwn() {
  const auto pending = std::move(pending_);  // we may be inside of its call
  OpenOwn();
}

void OutboundConnection::OpenOwn() {
  hbone::PoolKey key = TunnelKey();
  hbone::ConnectRequest request = TunnelRequest();
  hbone::Pool* pool = &worker_.pool();
  if (route_.kind == Route::Kind::kDoubleHbone) {
    pool = &worker_.inner_pool();
    key.through_authority = route_.authority;
    key.through_identities = std::exchange(key.destination_identities, route_.inner_identities);
    request.headers.push_back({"x-forwarded-network", flow_.source_workload->network});
  }
  pending_ = pool->Connect(key, std::move(request), [this](auto result) {
    if (MayShare()) LearnOfPeer(result);
    OnTunnelResponse(std::move(result));
  });
}

void OutboundConnection::LearnOfPeer(const hbone::ClientSession::ConnectResult& result) {
  const hbone::PoolKey own = TunnelKey(), key = Sharing::KeyOf(own);
  const event::TimePoint now = worker_.loop().now();
  Sharing& sharing = worker_.sharing();
  if (!result) return sharing.Disprove(key, pod_->uid);
  if (result->status != 200) return;
  if (sharing.Learn(key, pod_->uid, result->peer_takes_source, result->tunnel_made, now)) {
    if (sharing.May(key, pod_->uid, now)) worker_.WarmShared(key);
  } else if (!sharing.Paused(key, pod_->uid, now)) {
    // The next one is made anew, and proves that the pod may still go there.
    worker_.pool().DrainOlder(own, now - Sharing::kProofHolds);
  }
}

void OutboundConnection::OnTunnelResponse(hbone::ClientSession::ConnectResult result) {
  auto pending = std::move(pending_);
  if (!result) {
    const Error& error = result.error().error;
    return TryFailed(TunnelReasonOf(error), error.message);
  }
  // A tunnel that was not there yet: of its handshake what we waited for.
  if (result->tunnel_made > asked_) {
    SpentOn(SetupPhase::kTls, std::min(result->tunnel_handshake, result->tunnel_made - asked_));
  }
  if (result->status != 200 || result->stream == nullptr) {
    const int status = result->status;
    const std::string detail = fmt::format("http status: {}", status);
    // The far end of an inner tunnel is one endpoint: others are reached by another tunnel.
    if (status >= 500 && route_.kind == Route::Kind::kDoubleHbone) {
      worker_.inner_pool().Drain([this](const hbone::PoolKey& key) {
        return key.destination == route_.to && key.through_authority == route_.authority;
      });
    }
    if (status == 401) return Refuse(Reason::kDeniedByPeer, detail);
    // 5xx: that endpoint cannot serve it now. Anything else says that the request is wrong, and
    // it would be the same one everywhere.
    if (status >= 500) return TryFailed(Reason::kRefusedByPeer, detail);
    return Refuse(Reason::kRefusedByPeer, detail);
  }
  proven_by_ = result->stream->verified_peer();
  if (proven_by_ == nullptr) worker_.CountUntracked(Reporter::kSource);
  Reached(std::move(result->stream));
}

}  // namespace qanat::ztunnel
