// SPDX-License-Identifier: Apache-2.0
// The router: picks cluster and endpoint, makes attempts, decides on retries.
#include <fmt/format.h>

#include "waypoint/proxy/exchange.h"
#include "waypoint/proxy/failure_reply.h"
#include "waypoint/proxy/request_head.h"

namespace qanat::waypoint {
namespace {

// RFC 9110 9.2.2: what a proxy may repeat on its own.
bool Idempotent(const std::string& method) {
  return method == "GET" || method == "HEAD" || method == "OPTIONS" || method == "TRACE";
}

}  // namespace

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
