// SPDX-License-Identifier: Apache-2.0
// The part of an outbound connection that goes through a tunnel: one that the pods of its identity
// share, where the peer is of our own kind, else the pod's own.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "ztunnel/proxy/outbound_connection.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/route/described.h"
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
  key.destination_identities = setup_->route.identities;
  key.destination = setup_->route.to;
  key.source_ip = flow_.source.ip();
  key.source_netns = pod_->netns_cookie;
  return key;
}

hbone::ConnectRequest OutboundConnection::TunnelRequest() const {
  hbone::ConnectRequest request;
  request.authority = setup_->route.authority;
  const std::string_view host = setup_->route.service
                                    ? std::string_view(setup_->route.service->hostname)
                                    : std::string_view();
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
  setup_->asked = event::Clock::now();
  if (!OpenShared()) OpenOwn();
}

// The address that the stream is to have must be the pod's own: it is what the far end checks. A
// network's gateway passes the inner tunnel on to a peer that cannot check it. One pod alone gains
// nothing by a second tunnel.
bool OutboundConnection::MayShare() const {
  return worker_.environment().config.shares_own() &&
         setup_->route.kind == route::Route::Kind::kHbone && pod_->netns != nullptr &&
         pod_->HasAddress(flow_.source.ip()) && worker_.PodsOf(*flow_.source_identity) > 1;
}

bool OutboundConnection::OpenShared() {
  if (setup_->own_tunnel_only || !MayShare()) return false;
  const hbone::PoolKey key = Sharing::KeyOf(TunnelKey());
  Sharing& sharing = worker_.sharing();
  if (!sharing.May(key, pod_->uid, worker_.loop().now())) return false;
  hbone::ConnectRequest request = TunnelRequest();
  request.headers.push_back({std::string(hbone::kSourceHeader), flow_.source.ToString()});
  setup_->pending = worker_.pool().TryConnect(
      key, std::move(request), [this](auto result) { OnSharedResponse(std::move(result)); });
  if (setup_->pending == nullptr) {
    worker_.WarmShared(key);
    return false;
  }
  sharing.Opened(key, pod_->uid, worker_.loop().now());
  setup_->shared_timer =
      std::make_unique<event::Timer>(worker_.loop(), [this] { OnSharedTimeout(); });
  setup_->shared_timer->Start(kSharedTry);
  return true;
}

void OutboundConnection::OnSharedResponse(hbone::ClientSession::ConnectResult result) {
  const hbone::PoolKey key = Sharing::KeyOf(TunnelKey());
  if (result) worker_.sharing().Answered(key, pod_->uid);
  if (result && result->status != hbone::kMisdirected) {
    setup_->shared_timer.reset();
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
  setup_->shared_timer.reset();
  worker_.metrics().shared_streams.With({outcome})->Add();
  LOG_DEBUG("outbound", "{} to {}: not over a shared tunnel: {}", pod_->name,
            setup_->route.to.ToString(), why);
  worker_.sharing().Failed(Sharing::KeyOf(TunnelKey()), pod_->uid, worker_.loop().now());
  setup_->own_tunnel_only = true;
}

// Nobody has anything of the client's: what the shared tunnel could not do, the own one may.
void OutboundConnection::UseOwn() {
  const auto pending = std::move(setup_->pending);  // we may be inside of its call
  OpenOwn();
}

void OutboundConnection::OpenOwn() {
  hbone::PoolKey key = TunnelKey();
  hbone::ConnectRequest request = TunnelRequest();
  // A shared tunnel gets none: what it swallows is to go over the own one.
  if (worker_.environment().config.early_data) {
    request.early = [this] { return setup_->early.Give(fd_.get()); };
    request.early_dropped = [this] { EarlyEnded("dropped"); };
  }
  hbone::Pool* pool = &worker_.pool();
  if (setup_->route.kind == route::Route::Kind::kDoubleHbone) {
    pool = &worker_.inner_pool();
    key.through_authority = setup_->route.authority;
    key.through_identities =
        std::exchange(key.destination_identities, setup_->route.inner_identities);
    request.headers.push_back({"x-forwarded-network", flow_.source_workload->network});
  }
  setup_->pending = pool->Connect(key, std::move(request), [this](auto result) {
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

// Only behind another network's gateway are we told who took the call: elsewhere the endpoint was
// chosen here. What it says of itself is believed because it came through the configured gateway
// and from one of the expected identities, and then for labels and the log only.
void OutboundConnection::NameFarEnd(std::string_view baggage) {
  if (!flow_.destination_identity && proven_by_ != nullptr) {
    for (const std::string& uri : proven_by_->sans.uri) {
      const auto& expected = setup_->route.inner_identities;
      if (std::find(expected.begin(), expected.end(), uri) == expected.end()) continue;
      if (auto identity = model::Identity::Parse(uri)) {
        flow_.destination_identity = worker_.Shared(*identity);
      }
      break;
    }
  }
  if (baggage.empty()) return;
  flow_.destination_workload = Described(
      setup_->route.destination ? std::string_view(setup_->route.destination->network) : "",
      baggage);
}

// Any answer but 200 says that the client's first bytes were dropped; 200 is the last one.
void OutboundConnection::NoteAnswer(const hbone::ClientSession::ConnectResult& result) {
  if (result && result->status == 200) return EarlyEnded("taken");
  EarlyEnded(result || result.error().retry_safe ? "dropped" : "unknown");
}

void OutboundConnection::EarlyEnded(std::string_view how) {
  if (!setup_->early.given()) return;
  worker_.metrics().early_data.With({std::string(how)})->Add();
  if (how != "unknown") setup_->early.Dropped();
}

void OutboundConnection::OnTunnelResponse(hbone::ClientSession::ConnectResult result) {
  auto pending = std::move(setup_->pending);
  NoteAnswer(result);
  if (!result) {
    const Error& error = result.error().error;
    return TryFailed(TunnelReasonOf(error), error.message);
  }
  // A tunnel that was not there yet: of its handshake what we waited for.
  if (result->tunnel_made > setup_->asked) {
    SpentOn(SetupPhase::kTls,
            std::min(result->tunnel_handshake, result->tunnel_made - setup_->asked));
  }
  if (result->status != 200 || result->stream == nullptr) {
    const int status = result->status;
    const std::string detail = fmt::format("http status: {}", status);
    // The far end of an inner tunnel is one endpoint: others are reached by another tunnel.
    if (status >= 500 && setup_->route.kind == route::Route::Kind::kDoubleHbone) {
      worker_.inner_pool().Drain([this](const hbone::PoolKey& key) {
        return key.destination == setup_->route.to &&
               key.through_authority == setup_->route.authority;
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
  if (setup_->route.kind == route::Route::Kind::kDoubleHbone)
    NameFarEnd(hbone::Find(result->headers, "baggage"));
  Reached(std::move(result->stream), result->early);
}

}  // namespace qanat::ztunnel
