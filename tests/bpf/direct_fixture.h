// SPDX-License-Identifier: Apache-2.0
// One bed for all cases of a suite; each begins with lease and flags set and no verdict, and must
// leave neither grants nor flows.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "tests/bpf/direct_bed.h"

namespace qanat::test {

class DirectTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { t_ = new DirectBed("qDIRECT"); }
  static void TearDownTestSuite() {
    t_->bed.agent().Signal(SIGCONT);
    EXPECT_EQ(t_->bed.SanitizerReport(), "");
    if (::testing::Test::HasFailure()) std::fprintf(stderr, "%s\n", t_->bed.Log().c_str());
    delete t_;
  }
  void SetUp() override { t_->Reset(); }
  void TearDown() override { EXPECT_EQ(t_->Leftovers(), ""); }

  static std::string To4(int port = 8080) { return t_->b.ip4 + ":" + std::to_string(port); }
  static std::string To6(int port = 8080) { return "[" + t_->b.ip6 + "]:" + std::to_string(port); }
  static void ExpectReached(const Dial& dial, const std::string& what) {
    const std::string line = t_->From(t_->a, dial);
    EXPECT_EQ(line.rfind(what + " ", 0), 0u) << dial.to << " -> " << line;
    EXPECT_NE(line.find(" " + dial.to + " "), std::string::npos) << line;
  }
  // Through the proxy of its own pod, in both families; and no direct connection was made.
  static void ExpectCaptured(const std::string& why) {
    SCOPED_TRACE(why);
    const uint64_t before = t_->Counter(t_->a, QANAT_CNT_DIRECT);
    ExpectReached({.to = To4()}, "out");
    ExpectReached({.to = To6()}, "out");
    EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT), before);
  }
  static void ExpectDirect() {
    ExpectReached({.to = To4()}, "app");
    ExpectReached({.to = To6()}, "app");
  }

  inline static DirectBed* t_ = nullptr;
};

}  // namespace qanat::test
