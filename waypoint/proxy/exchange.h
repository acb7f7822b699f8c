// SPDX-License-Identifier: Apache-2.0
// One request from head to last byte: filters in code order (authorization, CORS, fault, router),
// attempts with retries and timeouts, the response back with backpressure. Both ends' streams call
// in; nothing calls back from inside our own calls (common/http's contract). Owned by its
// Downstream; worker thread.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/http/connection.h"
#include "waypoint/config/effective.h"
#include "waypoint/proxy/context.h"
#include "waypoint/proxy/downstream.h"
#include "waypoint/proxy/record.h"
#include "waypoint/route/retry.h"

namespace qanat::waypoint {

class Exchange final : public event::Deferred, private http::StreamEvents {
 public:
  Exchange(Downstream& downstream, http::ServerStream& stream, http::RequestHead head, bool end);
  ~Exchange() override;
  void Start();
  // The connection to the client is gone without the stream saying so.
  void ConnectionGone();

 private:
  // Envoy: delayed_close_timeout, for clients that go on sending after they have been answered.
  static constexpr std::chrono::milliseconds kCloseDelay{1000};

  // The upstream stream's events, told apart from the client's.
  struct Upstream final : http::StreamEvents {
    explicit Upstream(Exchange& exchange) : x(exchange) {}
    void OnInformational(http::ResponseHead head) override;
    void OnResponse(http::ResponseHead head, bool end) override;
    void OnData(std::string_view data, bool end) override;
    void OnTrailers(http::HeaderList trailers) override;
    void OnWritable() override;
    void OnClosed(http::CloseReason reason, std::string_view detail) override;
    Exchange& x;
  };

  // Client side.
  void OnData(std::string_view data, bool end) override;
  void OnTrailers(http::HeaderList trailers) override;
  void OnWritable() override;
  void OnClosed(http::CloseReason reason, std::string_view detail) override;

  // exchange_filters.cc: in order; each ends the exchange or goes on to the next.
  void Authorize();
  void Cors();
  void InjectDelay();
  void InjectAbort();
  void RouteRequest();

  // Attempts: exchange_upstream.cc; the answer: exchange_response.cc.
  bool ResolveCluster();
  void BuildUpstreamHead();
  void StartAttempt();
  void ConnectionReady(Result<UpstreamPool::Grant> grant);
  void SendBufferedBody();
  void RequestComplete();
  void HandleResponse(http::ResponseHead head, bool end);
  void ResponseEnded();
  void AttemptFailed(UpstreamFailure failure, std::string detail);
  void EndAttempt(bool reset);
  bool Retry();
  void PerTryTimedOut();
  void TimedOut();
  void IdleCheck();

  // Answers.
  void LocalReply(int status, std::string_view body, std::string details,
                  std::vector<std::pair<std::string, std::string>> headers = {});
  void FinishResponseHead(http::ResponseHead& head);
  void ApplyResponseOps(http::HeaderList& headers);
  void Finish();
  void Touch() { last_activity_ = context_.loop.now(); }
  HeaderFormatContext FormatContext() const;

  WorkerContext& context_;
  Downstream& downstream_;
  http::ServerStream* client_;  // null once it has ended
  http::RequestHead head_;
  ChainPtr chain_;
  std::shared_ptr<const RouteTable> table_;
  Effective effective_;
  const ForwardAction* forward_ = nullptr;
  const ClusterWeight* weight_ = nullptr;
  Record record_;

  // Request body: what has not been sent yet, or may have to be sent again.
  std::string body_;
  bool keep_body_ = false;  // a retry may need it
  bool request_ended_ = false;
  std::optional<http::HeaderList> trailers_;
  bool client_paused_ = false;

  // Attempts.
  Upstream upstream_events_{*this};
  std::shared_ptr<ClusterState> cluster_;
  http::RequestHead upstream_head_;
  const RetryPolicy* retry_policy_ = nullptr;
  std::optional<RetryState> retry_;
  std::vector<net::SocketAddress> tried_;
  ClusterState::Pick pick_;
  bool counted_retry_ = false;
  std::unique_ptr<UpstreamPool::Lease> lease_;
  http::Stream* upstream_ = nullptr;
  bool upstream_started_ = false;  // the request's head has left us
  bool upstream_paused_ = false;
  bool reused_ = false;         // the attempt's connection had served before
  bool retry_pending_ = false;  // try_timer_ is the pause before the next attempt
  bool transparent_retry_done_ = false;
  event::TimePoint attempt_started_{};
  event::TimePoint request_completed_{};

  bool response_started_ = false;
  bool response_ended_ = false;
  bool finished_ = false;
  event::TimePoint last_activity_{};
  event::Timer delay_timer_, timeout_timer_, try_timer_, idle_timer_, close_timer_;
};

}  // namespace qanat::waypoint
