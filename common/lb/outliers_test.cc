// SPDX-License-Identifier: Apache-2.0
#include "common/lb/outliers.h"

#include <gtest/gtest.h>

namespace qanat::lb {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

class OutliersTest : public ::testing::Test {
 protected:
  // Five failures, a second apart; whether the last one ejected it.
  bool Fail5(std::string_view uid = "a") {
    bool ejected = false;
    for (int i = 0; i < 5; ++i) {
      EXPECT_FALSE(ejected);
      ejected = outliers.Failed(uid, now);
      now += seconds(1);
    }
    return ejected;
  }
  Outliers outliers;
  Outliers::TimePoint now{std::chrono::hours(1)};
};

TEST_F(OutliersTest, FiveFailuresInARow) {
  EXPECT_TRUE(outliers.empty());
  EXPECT_TRUE(Fail5());
  EXPECT_TRUE(outliers.Ejected("a", now));
  EXPECT_FALSE(outliers.Ejected("b", now));
  EXPECT_FALSE(outliers.Ejected("a", now + seconds(30)));
}

TEST_F(OutliersTest, ASuccessInBetweenStartsAgain) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(outliers.Failed("a", now));
    if (i % 4 == 3) outliers.Good("a");
  }
  EXPECT_FALSE(outliers.Ejected("a", now));
}

TEST_F(OutliersTest, FailuresFarApartAreNoPattern) {
  for (int i = 0; i < 50; ++i) {
    EXPECT_FALSE(outliers.Failed("a", now));
    now += seconds(10);
  }
}

TEST_F(OutliersTest, EachEjectionIsLongerAndTheyDecay) {
  ASSERT_TRUE(Fail5());
  now += seconds(40);
  ASSERT_FALSE(outliers.Ejected("a", now));
  ASSERT_TRUE(Fail5());
  EXPECT_TRUE(outliers.Ejected("a", now + seconds(50)));
  EXPECT_FALSE(outliers.Ejected("a", now + seconds(60)));
  for (int i = 0; i < 10; ++i) {
    now += minutes(5);
    ASSERT_TRUE(Fail5());
  }
  EXPECT_FALSE(outliers.Ejected("a", now + minutes(5)));  // the longest
  now += minutes(20);
  ASSERT_TRUE(Fail5());
  EXPECT_FALSE(outliers.Ejected("a", now + seconds(30)));
}

TEST_F(OutliersTest, ASuccessWhileLeftOutBringsItBack) {
  ASSERT_TRUE(Fail5());
  outliers.Good("a");
  EXPECT_FALSE(outliers.Ejected("a", now));
  EXPECT_TRUE(outliers.empty());
}

TEST_F(OutliersTest, TheTableIsBounded) {
  for (size_t i = 0; i < 3 * Outliers::kMaxEntries; ++i) {
    outliers.Failed(std::to_string(i), now);
    ASSERT_LE(outliers.size(), Outliers::kMaxEntries);
  }
}

}  // namespace
}  // namespace qanat::lb
