// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/attempts.h"

#include <gtest/gtest.h>

namespace qanat::ztunnel {
namespace {

using model::Reason;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(Attempts, ThreeTriesThenNoMore) {
  const Attempts::TimePoint now{seconds(100)};
  Attempts attempts(now);
  EXPECT_EQ(attempts.number(), 1u);
  ASSERT_TRUE(attempts.MayRetry(Reason::kConnectFailed, now));
  attempts.Next("a");
  ASSERT_TRUE(attempts.MayRetry(Reason::kConnectFailed, now));
  attempts.Next("b");
  EXPECT_EQ(attempts.number(), 3u);
  EXPECT_FALSE(attempts.MayRetry(Reason::kConnectFailed, now));
  EXPECT_EQ(attempts.tried(), (std::vector<std::string>{"a", "b"}));
}

TEST(Attempts, OneBudgetForAll) {
  Attempts::TimePoint now{seconds(100)};
  Attempts attempts(now);
  Attempts::Duration sum{};
  for (int i = 0; i < 3; ++i) {
    const auto share = attempts.ForThisTry(now);
    EXPECT_GE(share, seconds(3));
    sum += share;
    now += share;
    attempts.Next("x");
  }
  EXPECT_LE(sum, Attempts::kBudget);
  EXPECT_GE(sum, Attempts::kBudget - milliseconds(1));
  // A quick failure leaves its time to the others.
  now = Attempts::TimePoint{seconds(100)};
  Attempts quick(now);
  quick.Next("a");
  EXPECT_EQ(quick.ForThisTry(now), seconds(5));
  quick.Next("b");
  EXPECT_EQ(quick.ForThisTry(now), seconds(10));
  EXPECT_GT(quick.ForThisTry(now + seconds(60)), Attempts::Duration::zero());
  EXPECT_FALSE(Attempts(now).MayRetry(Reason::kConnectTimeout, now + seconds(10)));
}

// Every reason is on one side or the other; a refusal by policy is never tried elsewhere.
TEST(Attempts, OnlyWhatAnotherEndpointMayDoBetter) {
  for (const Reason reason : model::AllReasons()) {
    const bool expected = reason == Reason::kConnectFailed || reason == Reason::kConnectTimeout ||
                          reason == Reason::kTlsFailure || reason == Reason::kHttp2Failure ||
                          reason == Reason::kPeerIdentityMismatch ||
                          reason == Reason::kRefusedByPeer || reason == Reason::kDnsFailure ||
                          reason == Reason::kCertificateRevoked;
    EXPECT_EQ(Attempts::IsEndpointFailure(reason), expected) << ToString(reason);
    if (model::IsPolicy(reason)) {
      EXPECT_FALSE(Attempts::IsEndpointFailure(reason));
    }
  }
  EXPECT_FALSE(Attempts::IsEndpointFailure(Reason::kDeniedByPeer));
  EXPECT_FALSE(Attempts::IsEndpointFailure(Reason::kBadRequest));
}

}  // namespace
}  // namespace qanat::ztunnel
