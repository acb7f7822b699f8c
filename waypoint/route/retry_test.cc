// SPDX-License-Identifier: Apache-2.0
#include "waypoint/route/retry.h"

#include <gtest/gtest.h>

namespace qanat::waypoint {
namespace {

uint32_t On(std::string_view text, std::vector<uint32_t>* codes = nullptr) {
  std::vector<uint32_t> own;
  std::vector<std::string> unknown;
  return ParseRetryOn(text, codes ? *codes : own, unknown);
}

TEST(ParseRetryOn, IstiosDefault) {
  std::vector<uint32_t> codes;
  std::vector<std::string> unknown;
  uint32_t on = ParseRetryOn(
      "connect-failure,refused-stream, unavailable ,cancelled,retriable-status-codes,503,nonsense",
      codes, unknown);
  EXPECT_EQ(on, kRetryConnectFailure | kRetryRefusedStream | kRetryGrpcUnavailable |
                    kRetryGrpcCancelled | kRetryStatusCodes);
  EXPECT_EQ(codes, std::vector<uint32_t>{503});
  EXPECT_EQ(unknown, std::vector<std::string>{"nonsense"});
  EXPECT_EQ(On(""), 0u);
}

TEST(RetryState, Responses) {
  struct {
    const char* on;
    uint32_t status;
    const char* grpc;
    bool want;
  } cases[] = {
      {"5xx", 500, "", true},
      {"5xx", 499, "", false},
      {"gateway-error", 500, "", false},
      {"gateway-error", 502, "", true},
      {"gateway-error", 504, "", true},
      {"retriable-4xx", 409, "", true},
      {"retriable-4xx", 404, "", false},
      {"503", 503, "", true},
      {"503", 502, "", false},
      {"retriable-status-codes", 503, "", false},  // no codes given
      {"unavailable", 200, "14", true},
      {"unavailable", 200, "13", false},
      {"cancelled", 200, "1", true},
      {"resource-exhausted", 200, "8", true},
      {"connect-failure", 503, "", false},
      {"", 503, "", false},
  };
  for (const auto& c : cases) {
    RetryPolicy p;
    p.on = On(c.on, &p.status_codes);
    http::RequestHead request;
    http::ResponseHead response;
    RetryState state(&p, HeadView(request));
    EXPECT_EQ(state.OnResponse(c.status, c.grpc, HeadView(response)), c.want)
        << c.on << " " << c.status;
  }
}

TEST(RetryState, Failures) {
  using F = UpstreamFailure;
  struct {
    const char* on;
    F failure;
    bool started;
    bool want;
  } cases[] = {
      {"connect-failure", F::kConnectFailure, false, true},
      {"connect-failure", F::kReset, true, false},
      {"reset", F::kReset, true, true},
      {"reset-before-request", F::kReset, false, true},
      {"reset-before-request", F::kReset, true, false},
      {"refused-stream", F::kRefusedStream, true, true},
      {"refused-stream", F::kReset, true, false},
      {"5xx", F::kConnectFailure, false, true},
      {"5xx", F::kPerTryTimeout, true, true},
      {"retriable-4xx", F::kConnectFailure, false, false},
      {"503", F::kReset, true, false},
  };
  for (const auto& c : cases) {
    RetryPolicy p;
    p.on = On(c.on, &p.status_codes);
    http::RequestHead request;
    RetryState state(&p, HeadView(request));
    EXPECT_EQ(state.OnFailure(c.failure, c.started), c.want)
        << c.on << " " << static_cast<int>(c.failure);
  }
}

TEST(RetryState, CountsAndLimit) {
  RetryPolicy p;
  p.on = On("5xx");
  p.num_retries = 2;
  http::RequestHead request;
  http::ResponseHead response;
  RetryState state(&p, HeadView(request));
  EXPECT_TRUE(state.possible());
  EXPECT_TRUE(state.OnResponse(500, "", HeadView(response)));
  EXPECT_TRUE(state.OnFailure(UpstreamFailure::kReset, true));
  EXPECT_FALSE(state.possible());
  EXPECT_FALSE(state.limit_exceeded());
  EXPECT_FALSE(state.OnResponse(500, "", HeadView(response)));
  EXPECT_TRUE(state.limit_exceeded());
  EXPECT_EQ(state.retries(), 2u);

  RetryState none(nullptr, HeadView(request));
  EXPECT_FALSE(none.possible());
  EXPECT_FALSE(none.OnFailure(UpstreamFailure::kConnectFailure, false));
}

TEST(RetryState, RequestHeadersMustQualify) {
  RetryPolicy p;
  p.on = On("5xx");
  HeaderMatch get;
  get.name = ":method";
  get.kind = HeaderMatch::Kind::kString;
  get.text.value = "GET";
  p.request_headers = {get};
  http::RequestHead request;
  request.method = "POST";
  EXPECT_FALSE(RetryState(&p, HeadView(request)).possible());
  request.method = "GET";
  EXPECT_TRUE(RetryState(&p, HeadView(request)).possible());
}

TEST(RetryState, RateLimitedOnlyByName) {
  RetryPolicy p;
  p.on = On("5xx");
  http::RequestHead request;
  http::ResponseHead response;
  response.headers.Add("x-envoy-ratelimited", "true");
  EXPECT_FALSE(RetryState(&p, HeadView(request)).OnResponse(503, "", HeadView(response)));
  p.on |= On("envoy-ratelimited");
  EXPECT_TRUE(RetryState(&p, HeadView(request)).OnResponse(429, "", HeadView(response)));
}

TEST(RetryState, BackoffDoublesUpToTheCeiling) {
  RetryPolicy p;
  p.on = On("5xx");
  p.num_retries = 10;
  http::RequestHead request;
  RetryState state(&p, HeadView(request));
  const int64_t ceilings[] = {25, 50, 100, 200, 250, 250};
  for (int64_t ceiling : ceilings) {
    ASSERT_TRUE(state.OnFailure(UpstreamFailure::kReset, true));
    int64_t most = 0;
    for (uint64_t r = 0; r < 1000; ++r) most = std::max<int64_t>(most, state.Backoff(r).count());
    EXPECT_EQ(most, ceiling - 1);
    EXPECT_EQ(state.Backoff(0).count(), 0);
  }
}

}  // namespace
}  // namespace qanat::waypoint
