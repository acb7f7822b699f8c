// SPDX-License-Identifier: Apache-2.0
// The client's side of a request, and how it ends.
#include "waypoint/proxy/exchange.h"

#include <fmt/format.h>

#include "waypoint/proxy/request_head.h"

namespace qanat::waypoint {
namespace {

// gRPC clients get their refusals as gRPC; the mapping is gRPC's own for HTTP codes.
int GrpcStatusOf(int http) {
  switch (http) {
    case 400: return 13;
    case 401: return 16;
    case 403: return 7;
    case 404: return 12;
    case 429:
    case 502:
    case 503:
    case 504: return 14;
    default: return 2;
  }
}

}  // namespace

Exchange::Exchange(Downstream& downstream, http::ServerStream& stream, http::RequestHead head,
                   bool end)
    : context_(downstream.context()),
      downstream_(downstream),
      client_(&stream),
      head_(std::move(head)),
      request_ended_(end),
      delay_timer_(context_.loop, [this] { InjectAbort(); }),
      timeout_timer_(context_.loop, [this] { TimedOut(); }),
      try_timer_(context_.loop, [this] { PerTryTimedOut(); }),
      idle_timer_(context_.loop, [this] { IdleCheck(); }),
      close_timer_(context_.loop, [this] {
        if (client_) client_->Reset(http::ResetCode::kNoError);
        client_ = nullptr;
        Finish();
      }) {
  client_->SetEvents(this);
  record_.start = std::chrono::system_clock::now();
  record_.started = event::Clock::now();
  record_.peer = downstream.peer();
  record_.destination = downstream.authority().address.is_set()
                            ? downstream.authority().address
                            : net::SocketAddress({}, downstream.authority().port);
  record_.protocol = std::string(http::VersionName(head_.version));
  record_.method = head_.method;
  record_.path = head_.path;
  record_.authority = head_.authority;
  auto copy = [&](const char* name, std::string& into) {
    if (auto value = head_.headers.Get(name)) into = std::string(*value);
  };
  copy("user-agent", record_.user_agent);
  copy("x-forwarded-for", record_.xff);
  record_.grpc = IsGrpc(head_.headers);
  context_.telemetry.families().active_requests.Get().Add(1);
}

Exchange::~Exchange() {
  if (!finished_) context_.telemetry.families().active_requests.Get().Sub(1);
}

void Exchange::Start() {
  chain_ = downstream_.CurrentChain();
  if (!chain_ || !chain_->http) {
    record_.Set(Flag::kNoRoute);
    record_.reason = model::Reason::kNoRoute;
    return LocalReply(404, "", "service_not_found");
  }
  const HttpChain& http = *chain_->http;
  record_.chain = chain_->name;
  table_ = context_.snapshot->RoutesOf(http);
  Touch();
  if (http.stream_idle_timeout.count() > 0) idle_timer_.Start(http.stream_idle_timeout);
  if (http.request_timeout.count() > 0) timeout_timer_.Start(http.request_timeout);

  HeadStatus status = PrepareRequest(http, *record_.peer, context_.random, head_);
  if (auto id = head_.headers.Get("x-request-id")) record_.request_id = std::string(*id);
  if (status != HeadStatus::kOk) {
    record_.Set(Flag::kDownstreamProtocolError);
    record_.reason = model::Reason::kBadRequest;
    return LocalReply(400, "", std::string(HeadStatusName(status)));
  }
  effective_ = Resolve(http, table_.get(), HeadView(head_), context_.random());
  if (effective_.choice.route) record_.route_name = effective_.choice.route->name;
  Authorize();
}

void Exchange::OnData(std::string_view data, bool end) {
  Touch();
  record_.bytes_received += data.size();
  const bool ended_before = request_ended_;
  request_ended_ = request_ended_ || end;
  if (response_ended_) return;  // answered already: what still comes is dropped
  const bool direct = upstream_ != nullptr;
  if (!direct || keep_body_) body_.append(data);
  if (direct) upstream_->SendData(data, end && !trailers_);
  if (end && !ended_before && forward_) RequestComplete();
  if (!direct) {
    if (!request_ended_ && !client_paused_ && body_.size() > context_.settings.connect_buffer) {
      client_paused_ = true;
      client_->PauseReading(true);
    }
    return;
  }
  if (keep_body_ && body_.size() > context_.settings.replay_limit) {
    // Too big to be sent again: this attempt is the last.
    keep_body_ = false;
    body_ = {};
  }
  if (!request_ended_ && !client_paused_ && upstream_->Overfull()) {
    client_paused_ = true;
    client_->PauseReading(true);
  }
}

void Exchange::OnTrailers(http::HeaderList trailers) {
  Touch();
  request_ended_ = true;
  if (response_ended_) return;
  trailers_ = std::move(trailers);
  if (upstream_) upstream_->SendTrailers(*trailers_);
  if (forward_) RequestComplete();
}

void Exchange::OnWritable() {
  if (upstream_ && upstream_paused_ && client_ && !client_->Overfull()) {
    upstream_paused_ = false;
    upstream_->PauseReading(false);
  }
  Touch();
}

void Exchange::OnClosed(http::CloseReason reason, std::string_view detail) {
  client_ = nullptr;
  if (!response_ended_) {
    record_.Set(reason == http::CloseReason::kProtocolError ||
                        reason == http::CloseReason::kTooLarge
                    ? Flag::kDownstreamProtocolError
                    : Flag::kDownstreamTermination);
    if (record_.details.empty()) {
      record_.details = fmt::format("downstream_remote_disconnect{{{}}}", detail);
    }
    if (record_.reason == model::Reason::kNone) record_.reason = model::Reason::kReset;
  } else if (reason != http::CloseReason::kDone) {
    record_.Set(Flag::kDownstreamTermination);
  }
  Finish();
}

void Exchange::ConnectionGone() {
  if (finished_) return;
  client_ = nullptr;
  OnClosed(http::CloseReason::kConnectionLost, "connection closed");
}

void Exchange::IdleCheck() {
  if (finished_ || !chain_ || !chain_->http) return;
  std::chrono::milliseconds limit = chain_->http->stream_idle_timeout;
  if (forward_ && forward_->idle_timeout) limit = *forward_->idle_timeout;
  auto quiet = context_.loop.now() - last_activity_;
  if (quiet < limit) return idle_timer_.Start(limit - quiet);
  record_.Set(Flag::kStreamIdleTimeout);
  record_.reason = model::Reason::kTimeout;
  EndAttempt(true);
  if (response_started_) {
    if (client_) client_->Reset(http::ResetCode::kInternal);
    client_ = nullptr;
    record_.details = "stream_idle_timeout";
    return Finish();
  }
  LocalReply(request_ended_ ? 504 : 408, "stream timeout", "stream_idle_timeout");
}

HeaderFormatContext Exchange::FormatContext() const {
  HeaderFormatContext context;
  context.protocol = record_.protocol;
  context.downstream_peer = record_.peer->identity;
  return context;
}

void Exchange::ApplyResponseOps(http::HeaderList& headers) {
  if (!effective_.choice.host) return;
  HeaderFormatContext context = FormatContext();
  std::string address = record_.peer->address.ToString(),
              ip = record_.peer->address.ip().ToString();
  context.downstream_address = address;
  context.downstream_ip = ip;
  auto apply = [&](const HeaderOps& ops) {
    ApplyHeaderOps(ops.response_add, ops.response_remove, context, headers);
  };
  ForEachOps(*table_, *effective_.choice.host, effective_.choice.route, weight_, apply);
}

// What every answer gets, our own and the upstream's.
void Exchange::FinishResponseHead(http::ResponseHead& head) {
  ApplyResponseOps(head.headers);
  if (effective_.cors) AddCorsHeaders(*effective_.cors, head_, head.headers);
  if (chain_ && chain_->http) {
    const HttpChain& http = *chain_->http;
    switch (http.server_header) {
      case HttpChain::ServerHeader::kOverwrite: head.headers.Set("server", http.server_name); break;
      case HttpChain::ServerHeader::kAppendIfAbsent:
        if (!head.headers.Has("server")) head.headers.Add("server", http.server_name);
        break;
      case HttpChain::ServerHeader::kPassThrough: break;
    }
  }
  if (!head.headers.Has("date")) head.headers.Add("date", HttpDate(record_.start));
  if (effective_.choice.host && effective_.choice.host->include_response_attempt_count &&
      record_.attempts > 0) {
    head.headers.Set("x-envoy-attempt-count", std::to_string(record_.attempts));
  }
}

void Exchange::LocalReply(int status, std::string_view body, std::string details,
                          std::vector<std::pair<std::string, std::string>> headers) {
  if (finished_ || client_ == nullptr) return;
  timeout_timer_.Stop();
  try_timer_.Stop();
  delay_timer_.Stop();
  record_.details = std::move(details);
  body_ = {};
  http::ResponseHead response;
  response.status = status;
  record_.status = status;
  if (record_.grpc && status >= 400) {
    // Trailers only, as gRPC clients expect it.
    response.status = 200;
    record_.status = 200;
    record_.grpc_status = std::to_string(GrpcStatusOf(status));
    response.headers.Add("content-type", "application/grpc");
    response.headers.Add("grpc-status", record_.grpc_status);
    if (!body.empty()) response.headers.Add("grpc-message", body);
    body = {};
  }
  for (auto& [name, value] : headers) {
    if (name == "grpc-status") record_.grpc_status = value;
    response.headers.Set(name, value);
  }
  if (!body.empty() && !response.headers.Has("content-type")) {
    response.headers.Add("content-type", "text/plain");
  }
  const bool no_body = body.empty() || http::HasNoBody(head_.method, response.status);
  if (response.status != 204 && response.status >= 200 && response.status != 304) {
    response.headers.Set("content-length", std::to_string(body.size()));
  }
  response_started_ = response_ended_ = true;
  FinishResponseHead(response);
  client_->SendResponse(response, no_body);
  if (!no_body) {
    record_.bytes_sent += body.size();
    client_->SendData(body, true);
  }
  if (client_paused_) {
    client_paused_ = false;
    client_->PauseReading(false);
  }
  if (!request_ended_) close_timer_.Start(kCloseDelay);
}

void Exchange::Finish() {
  if (finished_) return;
  // A stream that has said and heard all must not be reset: its connection is to be used again.
  EndAttempt(!(response_ended_ && request_ended_));
  finished_ = true;
  for (event::Timer* t :
       {&delay_timer_, &timeout_timer_, &try_timer_, &idle_timer_, &close_timer_}) {
    t->Stop();
  }
  if (cluster_) --cluster_->active_requests;
  context_.telemetry.families().active_requests.Get().Sub(1);
  context_.telemetry.Finished(record_, event::Clock::now(),
                              chain_ && chain_->http && chain_->http->access_log);
  downstream_.Remove(this);
}

}  // namespace qanat::waypoint
