// SPDX-License-Identifier: Apache-2.0
// The filters of a request in code order: authorization, CORS, fault injection, router.
#include "waypoint/proxy/exchange.h"
#include "waypoint/proxy/request_head.h"

namespace qanat::waypoint {

void Exchange::Authorize() {
  HeadView view(head_);
  AuthzInput input;
  input.identity = record_.peer->identity;
  input.source_ip = record_.peer->address.ip();
  input.remote_ip = RemoteAddress(*chain_->http, view, input.source_ip);
  input.destination = record_.destination;
  input.head = &view;
  AuthzDecision decision = Evaluate(effective_.rbac, input);
  if (!decision.allowed) {
    record_.reason = decision.reason;
    return LocalReply(403, "RBAC: access denied",
                      "rbac_access_denied_matched_policy[" +
                          (decision.policy.empty() ? "none" : decision.policy) + "]");
  }
  Cors();
}

void Exchange::Cors() {
  if (effective_.cors) {
    CorsAnswer answer = AnswerCors(*effective_.cors, head_);
    if (answer.preflight) {
      http::ResponseHead response;
      response.status = answer.status;
      for (auto& [name, value] : answer.headers) response.headers.Add(name, value);
      record_.status = answer.status;
      record_.details = "cors_response";
      response_started_ = response_ended_ = true;
      FinishResponseHead(response);
      client_->SendResponse(response, true);
      if (!request_ended_) close_timer_.Start(kCloseDelay);
      return;
    }
  }
  InjectDelay();
}

void Exchange::InjectDelay() {
  if (const Fault* fault = effective_.fault) {
    for (const HeaderMatch& m : fault->headers) {
      if (!m.Matches(HeadView(head_))) effective_.fault = nullptr;
    }
    if (effective_.fault && fault->delay.count() > 0 &&
        fault->delay_fraction.Hit(context_.random())) {
      record_.Set(Flag::kDelayInjected);
      delay_timer_.Start(fault->delay);
      return;
    }
  }
  InjectAbort();
}

void Exchange::InjectAbort() {
  const Fault* fault = effective_.fault;
  if (fault && fault->abort_status != 0 && fault->abort_fraction.Hit(context_.random())) {
    record_.Set(Flag::kFaultInjected);
    std::vector<std::pair<std::string, std::string>> headers;
    if (fault->abort_grpc_status) {
      headers = {{"content-type", "application/grpc"},
                 {"grpc-status", std::to_string(*fault->abort_grpc_status)},
                 {"grpc-message", "fault filter abort"}};
      return LocalReply(200, "", "fault_filter_abort", std::move(headers));
    }
    return LocalReply(static_cast<int>(fault->abort_status), "fault filter abort",
                      "fault_filter_abort");
  }
  RouteRequest();
}

void Exchange::RouteRequest() {
  const Route* route = effective_.choice.route;
  if (route == nullptr || head_.method == "CONNECT") {
    record_.Set(Flag::kNoRoute);
    record_.reason = model::Reason::kNoRoute;
    return LocalReply(404, "", "route_not_found");
  }
  if (const auto* redirect = std::get_if<RedirectAction>(&route->action)) {
    return LocalReply(
        static_cast<int>(redirect->status), "", "direct_response",
        {{"location", RedirectLocation(*redirect, route->match.path, HeadView(head_))}});
  }
  if (const auto* direct = std::get_if<DirectResponse>(&route->action)) {
    // The control plane's last route: policy has been asked, and nothing matched.
    if (direct->status == 404) record_.reason = model::Reason::kNoRoute;
    return LocalReply(static_cast<int>(direct->status), direct->body, "direct_response");
  }
  forward_ = &std::get<ForwardAction>(route->action);
  if (!ResolveCluster()) return;
  if (effective_.choice.host->retry) retry_policy_ = &*effective_.choice.host->retry;
  if (forward_->retry) retry_policy_ = &*forward_->retry;
  retry_.emplace(retry_policy_, HeadView(head_));
  keep_body_ = retry_->possible();
  if (auto expect = head_.headers.Get("expect");
      expect && http::EqualsIgnoreCase(*expect, "100-continue")) {
    // The request will be forwarded: the body is wanted. Upstream need not be asked again.
    if (!request_ended_) client_->SendInformational(100, {});
    head_.headers.Remove("expect");
  }
  BuildUpstreamHead();
  if (forward_->idle_timeout) {
    idle_timer_.Stop();
    if (forward_->idle_timeout->count() > 0) idle_timer_.Start(*forward_->idle_timeout);
  }
  if (request_ended_) RequestComplete();
  StartAttempt();
}

}  // namespace qanat::waypoint
