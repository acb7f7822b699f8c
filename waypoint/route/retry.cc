// SPDX-License-Identifier: Apache-2.0
#include "waypoint/route/retry.h"

#include <algorithm>
#include <charconv>

namespace qanat::waypoint {
namespace {

struct Token {
  std::string_view name;
  uint32_t bit;
};

constexpr Token kTokens[] = {
    {"5xx", kRetry5xx},
    {"gateway-error", kRetryGatewayError},
    {"reset", kRetryReset},
    {"reset-before-request", kRetryResetBeforeRequest},
    {"connect-failure", kRetryConnectFailure},
    {"envoy-ratelimited", kRetryRateLimited},
    {"retriable-4xx", kRetryRetriable4xx},
    {"refused-stream", kRetryRefusedStream},
    {"retriable-status-codes", kRetryStatusCodes},
    {"retriable-headers", kRetryHeaders},
    {"http3-post-connect-failure", 0},  // no HTTP/3 here: never applies
    {"cancelled", kRetryGrpcCancelled},
    {"deadline-exceeded", kRetryGrpcDeadlineExceeded},
    {"internal", kRetryGrpcInternal},
    {"resource-exhausted", kRetryGrpcResourceExhausted},
    {"unavailable", kRetryGrpcUnavailable},
};

// grpc-status numbers.
uint32_t GrpcBit(std::string_view status) {
  if (status == "1") return kRetryGrpcCancelled;
  if (status == "4") return kRetryGrpcDeadlineExceeded;
  if (status == "8") return kRetryGrpcResourceExhausted;
  if (status == "13") return kRetryGrpcInternal;
  if (status == "14") return kRetryGrpcUnavailable;
  return 0;
}

}  // namespace

uint32_t ParseRetryOn(std::string_view text, std::vector<uint32_t>& status_codes,
                      std::vector<std::string>& unknown) {
  uint32_t on = 0;
  while (!text.empty()) {
    size_t comma = text.find(',');
    std::string_view token = text.substr(0, comma);
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    while (!token.empty() && token.front() == ' ') token.remove_prefix(1);
    while (!token.empty() && token.back() == ' ') token.remove_suffix(1);
    if (token.empty()) continue;
    uint32_t code = 0;
    auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), code);
    if (error == std::errc() && end == token.data() + token.size() && code >= 100 && code <= 599) {
      status_codes.push_back(code);
      on |= kRetryStatusCodes;
      continue;
    }
    const Token* found = nullptr;
    for (const Token& t : kTokens) {
      if (t.name == token) found = &t;
    }
    if (found) {
      on |= found->bit;
    } else {
      unknown.emplace_back(token);
    }
  }
  return on;
}

RetryState::RetryState(const RetryPolicy* policy, const HeadView& head) : policy_(policy) {
  if (policy_ == nullptr || policy_->on == 0) return;
  if (!policy_->request_headers.empty() &&
      std::none_of(policy_->request_headers.begin(), policy_->request_headers.end(),
                   [&](const HeaderMatch& m) { return m.Matches(head); })) {
    return;
  }
  remaining_ = policy_->num_retries;
}

bool RetryState::Take() {
  if (remaining_ == 0) {
    // Without a retry to begin with there is no limit to exceed.
    limit_exceeded_ = retries_ > 0;
    return false;
  }
  --remaining_;
  ++retries_;
  return true;
}

bool RetryState::OnResponse(uint32_t status, std::string_view grpc_status,
                            const HeadView& response) {
  if (policy_ == nullptr || policy_->on == 0) return false;
  const uint32_t on = policy_->on;
  bool wanted = false;
  if ((on & kRetry5xx) && status >= 500 && status <= 599) wanted = true;
  if ((on & kRetryGatewayError) && status >= 502 && status <= 504) wanted = true;
  if ((on & kRetryRetriable4xx) && status == 409) wanted = true;
  if ((on & kRetryStatusCodes) &&
      std::find(policy_->status_codes.begin(), policy_->status_codes.end(), status) !=
          policy_->status_codes.end()) {
    wanted = true;
  }
  std::string scratch;
  bool rate_limited = response.Find("x-envoy-ratelimited", scratch).has_value();
  if (rate_limited) {
    // Envoy: an answer of a rate limiter is retried only when that is asked for by name.
    wanted = (on & kRetryRateLimited) != 0;
  }
  if ((on & kRetryHeaders) &&
      std::any_of(policy_->response_headers.begin(), policy_->response_headers.end(),
                  [&](const HeaderMatch& m) { return m.Matches(response); })) {
    wanted = true;
  }
  if (on & GrpcBit(grpc_status)) wanted = true;
  return wanted && Take();
}

bool RetryState::OnFailure(UpstreamFailure failure, bool request_started) {
  if (policy_ == nullptr || policy_->on == 0) return false;
  const uint32_t on = policy_->on;
  bool wanted = false;
  switch (failure) {
    case UpstreamFailure::kConnectFailure:
      wanted = on & (kRetryConnectFailure | kRetry5xx | kRetryGatewayError | kRetryReset |
                     kRetryResetBeforeRequest);
      break;
    case UpstreamFailure::kRefusedStream:
      wanted = on & (kRetryRefusedStream | kRetry5xx | kRetryGatewayError | kRetryReset);
      break;
    case UpstreamFailure::kReset:
      wanted = on & (kRetryReset | kRetry5xx | kRetryGatewayError);
      if ((on & kRetryResetBeforeRequest) && !request_started) wanted = true;
      break;
    case UpstreamFailure::kPerTryTimeout:
      wanted = on & (kRetry5xx | kRetryGatewayError | kRetryReset);
      break;
  }
  return wanted && Take();
}

std::chrono::milliseconds RetryState::Backoff(uint64_t random) const {
  if (policy_ == nullptr || retries_ == 0) return std::chrono::milliseconds(0);
  uint64_t ceiling = static_cast<uint64_t>(std::max<int64_t>(1, policy_->base_interval.count()));
  const uint64_t most = static_cast<uint64_t>(std::max<int64_t>(1, policy_->max_interval.count()));
  for (uint32_t i = 1; i < retries_ && ceiling < most; ++i) ceiling *= 2;
  ceiling = std::min(ceiling, most);
  return std::chrono::milliseconds(random % ceiling);
}

}  // namespace qanat::waypoint
