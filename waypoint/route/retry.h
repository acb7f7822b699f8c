// SPDX-License-Identifier: Apache-2.0
// Retry decisions as Envoy's router makes them (retry_on tokens, attempts, jittered exponential
// backoff). Pure: the caller owns timers and random numbers.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "waypoint/route/text_match.h"

namespace qanat::waypoint {

// The tokens of retry_on; names as on the wire.
enum RetryOn : uint32_t {
  kRetry5xx = 1u << 0,
  kRetryGatewayError = 1u << 1,  // 502, 503, 504
  kRetryReset = 1u << 2,
  kRetryResetBeforeRequest = 1u << 3,
  kRetryConnectFailure = 1u << 4,
  kRetryRateLimited = 1u << 5,   // x-envoy-ratelimited in the response
  kRetryRetriable4xx = 1u << 6,  // 409
  kRetryRefusedStream = 1u << 7,
  kRetryStatusCodes = 1u << 8,
  kRetryHeaders = 1u << 9,
  kRetryGrpcCancelled = 1u << 10,
  kRetryGrpcDeadlineExceeded = 1u << 11,
  kRetryGrpcInternal = 1u << 12,
  kRetryGrpcResourceExhausted = 1u << 13,
  kRetryGrpcUnavailable = 1u << 14,
};

struct RetryPolicy {
  uint32_t on = 0;
  uint32_t num_retries = 1;
  std::chrono::milliseconds per_try_timeout{0};  // 0: none but the route's timeout
  std::vector<uint32_t> status_codes;
  std::vector<HeaderMatch> response_headers;
  std::vector<HeaderMatch> request_headers;  // if any: retried only when one matches
  std::chrono::milliseconds base_interval{25};
  std::chrono::milliseconds max_interval{250};
  bool avoid_previous_hosts = false;
  uint32_t host_selection_attempts = 1;
};

// "5xx,connect-failure,503": bare numbers are status codes (Istio's form). Unknown tokens are
// collected in `unknown`, not refused: Envoy ignores them too.
uint32_t ParseRetryOn(std::string_view text, std::vector<uint32_t>& status_codes,
                      std::vector<std::string>& unknown);

enum class UpstreamFailure : uint8_t {
  kConnectFailure,  // no connection or tunnel could be made
  kRefusedStream,   // RST_STREAM REFUSED_STREAM, GOAWAY below the stream: not processed
  kReset,           // the stream or connection ended before a complete response
  kPerTryTimeout,
};

class RetryState {
 public:
  // `policy` may be null: never retries. `head` decides whether the request qualifies.
  RetryState(const RetryPolicy* policy, const HeadView& head);

  // Both count the retry when they say yes. `request_started`: a byte of the request left us.
  bool OnResponse(uint32_t status, std::string_view grpc_status, const HeadView& response);
  bool OnFailure(UpstreamFailure failure, bool request_started);

  // Whether another attempt could still be asked for: the request body must be kept till then.
  bool possible() const { return remaining_ > 0; }
  bool limit_exceeded() const { return limit_exceeded_; }  // wanted, but no attempts left: URX
  uint32_t retries() const { return retries_; }
  // The pause before the retry just granted: uniform in [0, min(base * 2^(n-1), max)).
  std::chrono::milliseconds Backoff(uint64_t random) const;

 private:
  bool Take();
  const RetryPolicy* policy_;
  uint32_t remaining_ = 0;
  uint32_t retries_ = 0;
  bool limit_exceeded_ = false;
};

}  // namespace qanat::waypoint
