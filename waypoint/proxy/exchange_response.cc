// SPDX-License-Identifier: Apache-2.0
// The answer of an attempt: what the upstream stream says, relayed to the client or retried.
#include <fmt/format.h>

#include "waypoint/proxy/exchange.h"
#include "waypoint/proxy/request_head.h"

namespace qanat::waypoint {

using std::chrono::milliseconds;

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

}  // namespace qanat::waypoint
