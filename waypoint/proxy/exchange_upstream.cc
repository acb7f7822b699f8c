// SPDX-License-Identifier: Apache-2.0
// The router: picks cluster and endpoint, makes attempts, relays the answer, decides on retries.
#include <fmt/format.h>

#include "waypoint/proxy/exchange.h"
#include "waypoint/proxy/request_head.h"

namespace qanat::waypoint {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kCloseDelay{1000};

// RFC 9110 9.2.2: what a proxy may repeat on its own.
bool Idempotent(const std::string& method) {
  return method == "GET" || method == "HEAD" || method == "OPTIONS" || method == "TRACE";
}

}  // namespace

FailureReply ReplyFor(UpstreamFailure failure, std::string_view detail) {
  // Envoy's words: people grep for them.
  constexpr std::string_view kPrefix =
      "upstream connect error or disconnect/reset before headers. reset reason: ";
  switch (failure) {
    case UpstreamFailure::kConnectFailure:
      return {
          503,
          fmt::format("{}remote connection failure, transport failure reason: {}", kPrefix, detail),
          fmt::format("upstream_reset_before_response_started{{remote_connection_failure|{}}}",
                      detail),
          Flag::kUpstreamConnectionFailure, model::Reason::kConnectFailed};
    case UpstreamFailure::kRefusedStream:
      return {503, std::string(kPrefix) + "remote refused stream reset",
              "upstream_reset_before_response_started{remote_refused_stream_reset}",
              Flag::kUpstreamReset, model::Reason::kReset};
    case UpstreamFailure::kReset:
      return {503, std::string(kPrefix) + "connection termination",
              "upstream_reset_before_response_started{connection_termination}",
              Flag::kUpstreamTermination, model::Reason::kReset};
    case UpstreamFailure::kPerTryTimeout:
      return {504, "upstream request timeout", "upstream_per_try_timeout", Flag::kUpstreamTimeout,
              model::Reason::kTimeout};
  }
  return {503, "", "", Flag::kUpstreamReset, model::Reason::kInternal};
}

bool Exchange::ResolveCluster() {
  std::string name;
  if (!forward_->cluster_header.empty()) {
    name = head_.headers.GetJoined(forward_->cluster_header).value_or("");
  } else {
    weight_ = PickCluster(*forward_, context_.random());
    if (weight_) name = weight_->cluster;
  }
  auto cluster = context_.clusters.Find(*context_.snapshot, name);
  if (!cluster) {
    record_.Set(Flag::kNoCluster);
    record_.reason = model::Reason::kNoRoute;
    LocalReply(static_cast<int>(forward_->cluster_not_found_status), "", "cluster_not_found");
    return false;
  }
  record_.cluster = cluster->config_ptr();
  if (!cluster->RequestAllowed()) {
    record_.Set(Flag::kUpstreamOverflow);
    record_.reason = model::Reason::kResourceExhausted;
    LocalReply(
        503, "upstream connect error or disconnect/reset before headers. reset reason: overflow",
        "upstream_reset_before_response_started{overflow}", {{"x-envoy-overloaded", "true"}});
    return false;
  }
  cluster_ = std::move(cluster);
  ++cluster_->active_requests;
  return true;
}

void Exchange::BuildUpstreamHead() {
  upstream_head_ = head_;
  HeaderFormatContext context = FormatContext();
  std::string address = record_.peer->address.ToString(),
              ip = record_.peer->address.ip().ToString();
  context.downstream_address = address;
  context.downstream_ip = ip;
  context.upstream_cluster = cluster_->config().name;
  ForEachOps(*table_, *effective_.choice.host, effective_.choice.route, weight_,
             [&](const HeaderOps& ops) {
               ApplyHeaderOps(ops.request_add, ops.request_remove, context, upstream_head_.headers);
             });
  std::string path = RewritePath(*forward_, effective_.choice.route->match.path, head_.path);
  if (path != head_.path) {
    upstream_head_.headers.Set("x-envoy-original-path", head_.path);
    upstream_head_.path = std::move(path);
  }
  std::string host;
  if (weight_ && !weight_->host_rewrite.empty()) host = weight_->host_rewrite;
  if (host.empty()) host = forward_->host_rewrite;
  if (host.empty() && !forward_->host_rewrite_header.empty()) {
    host = head_.headers.GetJoined(forward_->host_rewrite_header).value_or("");
  }
  if (!host.empty()) {
    if (forward_->append_x_forwarded_host) {
      upstream_head_.headers.Add("x-forwarded-host", head_.authority);
    }
    upstream_head_.authority = std::move(host);
  }
  if (upstream_head_.scheme.empty()) upstream_head_.scheme = "http";
}

void Exchange::StartAttempt() {
  if (finished_ || client_ == nullptr) return;
  const ClusterConfig& config = cluster_->config();
  const bool avoid = retry_policy_ && retry_policy_->avoid_previous_hosts;
  auto pick = cluster_->PickEndpoint([this] { return context_.random(); }, context_.loop.now(),
                                     avoid ? tried_ : std::vector<net::SocketAddress>{},
                                     avoid ? retry_policy_->host_selection_attempts : 1);
  if (!pick) {
    record_.Set(Flag::kNoHealthyUpstream);
    record_.reason = model::Reason::kNoHealthyUpstream;
    return LocalReply(503, "no healthy upstream", "no_healthy_upstream");
  }
  pick_ = std::move(*pick);
  ++pick_.state->active;
  ++record_.attempts;
  record_.endpoint = pick_.endpoint;
  record_.endpoint_owner = pick_.owner;
  tried_.push_back(pick_.endpoint->address);
  attempt_started_ = event::Clock::now();
  upstream_started_ = reused_ = false;
  if (effective_.choice.host->include_request_attempt_count) {
    upstream_head_.headers.Set("x-envoy-attempt-count", std::to_string(record_.attempts));
  }
  if (forward_->auto_host_rewrite && !pick_.endpoint->hostname.empty()) {
    upstream_head_.authority = pick_.endpoint->hostname;
  }
  const bool http2 = config.protocol == UpstreamProtocol::kHttp2 ||
                     (config.protocol == UpstreamProtocol::kLikeDownstream &&
                      head_.version == http::Version::kHttp2);
  UpstreamPool::Limits limits;
  limits.connect_timeout = config.connect_timeout;
  limits.idle_timeout = config.idle_timeout;
  limits.max_requests = config.max_requests_per_connection;
  limits.max_connections = config.max_connections;
  limits.max_pending = config.max_pending;
  lease_ = context_.upstream.Acquire(
      *pick_.endpoint, http2, limits,
      [this](Result<UpstreamPool::Grant> grant) { ConnectionReady(std::move(grant)); });
}

void Exchange::ConnectionReady(Result<UpstreamPool::Grant> grant) {
  context_.loop.DeferDelete(std::move(lease_));  // it called us from inside itself
  if (finished_ || client_ == nullptr) return;
  if (!grant) {
    const Error& error = grant.error();
    context_.telemetry.families().upstream_connections.With({"failed"})->Add();
    record_.upstream_failure = error.message;
    if (error.code == Code::kResourceExhausted) {
      EndAttempt(false);
      record_.Set(Flag::kUpstreamOverflow);
      record_.reason = model::Reason::kResourceExhausted;
      return LocalReply(
          503, "upstream connect error or disconnect/reset before headers. reset reason: overflow",
          "upstream_reset_before_response_started{overflow}", {{"x-envoy-overloaded", "true"}});
    }
    if (error.code == Code::kPermissionDenied) record_.reason = model::Reason::kDeniedByPeer;
    return AttemptFailed(UpstreamFailure::kConnectFailure, error.message);
  }
  const bool body_empty = body_.empty() && request_ended_ && !trailers_;
  http::Stream* stream = grant->connection->Open(upstream_head_, body_empty, &upstream_events_);
  if (stream == nullptr) {
    return AttemptFailed(UpstreamFailure::kRefusedStream, "the connection takes no more requests");
  }
  upstream_ = stream;
  upstream_started_ = true;
  reused_ = grant->reused;
  upstream_paused_ = false;
  SendBufferedBody();
  if (request_ended_) RequestComplete();
}

void Exchange::SendBufferedBody() {
  const bool end = request_ended_ && !trailers_;
  if (!body_.empty()) upstream_->SendData(body_, end);
  if (trailers_) upstream_->SendTrailers(*trailers_);
  if (!keep_body_) body_ = {};
  if (client_paused_ && !upstream_->Overfull()) {
    client_paused_ = false;
    client_->PauseReading(false);
  }
}

// The client has said all: from here the route's timeout and the attempt's run (as in Envoy).
void Exchange::RequestComplete() {
  if (response_started_) return;
  if (request_completed_ == event::TimePoint{}) {
    request_completed_ = event::Clock::now();
    timeout_timer_.Stop();  // the listener's request_timeout
    if (forward_->timeout.count() > 0) timeout_timer_.Start(forward_->timeout);
  }
  if (upstream_ && retry_policy_ && retry_policy_->per_try_timeout.count() > 0) {
    try_timer_.Start(retry_policy_->per_try_timeout);
  }
}

void Exchange::Upstream::OnInformational(http::ResponseHead head) {
  x.Touch();
  // 100 was answered by us; 101 needs an upgrade, which never got here.
  if (head.status == 103 && x.client_ && !x.response_started_) {
    x.client_->SendInformational(head.status, head.headers);
  }
}

void Exchange::Upstream::OnResponse(http::ResponseHead head, bool end) {
  x.Touch();
  x.HandleResponse(std::move(head), end);
}

void Exchange::HandleResponse(http::ResponseHead head, bool end) {
  try_timer_.Stop();
  cluster_->Report(pick_, head.status, context_.loop.now());
  std::string grpc_status;
  if (auto status = head.headers.Get("grpc-status")) grpc_status = std::string(*status);
  // Asked in any case, to learn whether the limit was the obstacle; without the whole body there
  // is nothing to send again.
  const bool whole_body = keep_body_ || record_.bytes_received == 0;
  const bool granted =
      retry_->OnResponse(static_cast<uint32_t>(head.status), grpc_status, HeadView(head));
  if (granted && whole_body && Retry()) return;
  if (retry_->limit_exceeded()) record_.Set(Flag::kRetryLimitExceeded);
  keep_body_ = false;
  body_ = {};
  timeout_timer_.Stop();
  if (forward_->timeout.count() > 0 && request_completed_ != event::TimePoint{}) {
    // Envoy: the route's timeout covers the whole response.
    auto spent = event::Clock::now() - request_completed_;
    auto left = forward_->timeout - spent;
    timeout_timer_.Start(std::max<event::Duration>(left, milliseconds(0)));
  }
  auto from = request_completed_ == event::TimePoint{} ? attempt_started_ : request_completed_;
  record_.upstream_service_ms =
      std::chrono::duration_cast<milliseconds>(event::Clock::now() - from).count();
  record_.status = head.status;
  record_.grpc_status = grpc_status;
  record_.details = "via_upstream";
  head.headers.Set("x-envoy-upstream-service-time", std::to_string(record_.upstream_service_ms));
  FinishResponseHead(head);
  response_started_ = true;
  client_->SendResponse(head, end);
  if (end) ResponseEnded();
}

void Exchange::Upstream::OnData(std::string_view data, bool end) {
  if (x.client_ == nullptr || !x.response_started_) return;
  x.Touch();
  x.record_.bytes_sent += data.size();
  x.client_->SendData(data, end);
  if (end) return x.ResponseEnded();
  if (!x.upstream_paused_ && x.client_->Overfull()) {
    x.upstream_paused_ = true;
    x.upstream_->PauseReading(true);
  }
}

void Exchange::Upstream::OnTrailers(http::HeaderList trailers) {
  if (x.client_ == nullptr || !x.response_started_) return;
  x.Touch();
  if (auto status = trailers.Get("grpc-status")) x.record_.grpc_status = std::string(*status);
  x.client_->SendTrailers(trailers);
  x.ResponseEnded();
}

void Exchange::Upstream::OnWritable() {
  x.Touch();
  if (x.client_paused_ && x.client_ && x.upstream_ && !x.upstream_->Overfull()) {
    x.client_paused_ = false;
    x.client_->PauseReading(false);
  }
}

void Exchange::ResponseEnded() {
  response_ended_ = true;
  timeout_timer_.Stop();
  if (!request_ended_) {
    // Answered before the request was complete: the rest of it is of no use to anybody.
    EndAttempt(true);
    if (client_paused_) {
      client_paused_ = false;
      client_->PauseReading(false);
    }
    close_timer_.Start(kCloseDelay);
  }
}

void Exchange::Upstream::OnClosed(http::CloseReason reason, std::string_view detail) {
  x.upstream_ = nullptr;
  if (x.finished_ || x.response_ended_) return x.EndAttempt(false);
  if (x.response_started_) {
    // Half an answer has gone out: the client must see that it is not whole.
    x.EndAttempt(false);
    x.record_.Set(reason == http::CloseReason::kProtocolError ? Flag::kUpstreamProtocolError
                                                              : Flag::kUpstreamTermination);
    x.record_.reason = model::Reason::kReset;
    x.record_.details = fmt::format("upstream_reset_after_response_started{{{}}}", detail);
    if (x.client_) x.client_->Reset(http::ResetCode::kInternal);
    x.client_ = nullptr;
    return x.Finish();
  }
  if (reason == http::CloseReason::kProtocolError || reason == http::CloseReason::kTooLarge) {
    x.record_.Set(Flag::kUpstreamProtocolError);
  }
  x.record_.upstream_failure = std::string(detail);
  x.AttemptFailed(reason == http::CloseReason::kRefused ? UpstreamFailure::kRefusedStream
                                                        : UpstreamFailure::kReset,
                  std::string(detail));
}

void Exchange::AttemptFailed(UpstreamFailure failure, std::string detail) {
  try_timer_.Stop();
  cluster_->Report(pick_, 0, context_.loop.now());
  const bool whole_body = keep_body_ || record_.bytes_received == 0 || !upstream_started_;
  // A reused connection that the server was just closing: the request was never looked at. RFC 9110
  // lets a proxy repeat what is idempotent; once, and not counted as a retry of the user's policy.
  const bool stale = failure == UpstreamFailure::kReset && reused_ && !transparent_retry_done_ &&
                     Idempotent(head_.method) && record_.bytes_received == 0 && request_ended_;
  if (stale) {
    transparent_retry_done_ = true;
    EndAttempt(false);
    --record_.attempts;
    return StartAttempt();
  }
  if (whole_body) {
    if (retry_->OnFailure(failure, upstream_started_) && Retry()) return;
  }
  EndAttempt(true);
  if (retry_->limit_exceeded()) record_.Set(Flag::kRetryLimitExceeded);
  FailureReply reply = ReplyFor(failure, detail);
  record_.Set(reply.flag);
  if (record_.reason == model::Reason::kNone) record_.reason = reply.reason;
  LocalReply(reply.status, reply.body, reply.details);
}

// True when another attempt is on its way.
bool Exchange::Retry() {
  if (!cluster_->RetryAllowed()) {
    record_.Set(Flag::kUpstreamOverflow);
    return false;
  }
  EndAttempt(true);
  counted_retry_ = true;
  ++cluster_->active_retries;
  context_.telemetry.families().retries.Get().Add();
  keep_body_ = keep_body_ && retry_->possible();
  auto pause = retry_->Backoff(context_.random());
  // The backoff uses the attempt's timer: no attempt is running.
  try_timer_.Stop();
  retry_pending_ = true;
  try_timer_.Start(pause);
  return true;
}

// Lets go of the present attempt, whatever its state.
void Exchange::EndAttempt(bool reset) {
  lease_.reset();
  if (upstream_) {
    if (reset) {
      upstream_->Reset(http::ResetCode::kCancel);
    } else {
      upstream_->SetEvents(nullptr);
    }
    upstream_ = nullptr;
  }
  if (pick_.state) {
    --pick_.state->active;
    pick_.state.reset();
  }
  if (counted_retry_) {
    counted_retry_ = false;
    --cluster_->active_retries;
  }
}

void Exchange::PerTryTimedOut() {
  if (finished_ || response_started_) return;
  if (retry_pending_) {
    retry_pending_ = false;
    return StartAttempt();
  }
  AttemptFailed(UpstreamFailure::kPerTryTimeout, "per try timeout");
}

void Exchange::TimedOut() {
  if (finished_) return;
  record_.reason = model::Reason::kTimeout;
  EndAttempt(true);
  retry_pending_ = false;
  if (response_started_) {
    record_.Set(Flag::kUpstreamTimeout);
    record_.details = "response_timeout";
    if (client_) client_->Reset(http::ResetCode::kInternal);
    client_ = nullptr;
    return Finish();
  }
  if (!forward_ || request_completed_ == event::TimePoint{}) {
    record_.Set(Flag::kDownstreamTermination);
    return LocalReply(408, "request timeout", "request_overall_timeout");
  }
  record_.Set(Flag::kUpstreamTimeout);
  LocalReply(504, "upstream request timeout", "response_timeout");
}

}  // namespace qanat::waypoint
