// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/rights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <unistd.h>

#include <string>

#include "tests/support/rights.h"

namespace qanat::ztunnel {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string SaidWith(uint64_t capabilities, const Config& config) {
  return test::SaidWith(capabilities, [&] { return CheckRights(config); });
}

TEST(Rights, WhatIsMissingIsNamed) {
  constexpr uint64_t kEnter = uint64_t{1} << CAP_SYS_ADMIN, kRaw = uint64_t{1} << CAP_NET_RAW;
  Config config;
  EXPECT_THAT(SaidWith(0, config), AllOf(HasSubstr("SYS_ADMIN"), HasSubstr("not permitted")));
  if (geteuid() == 0) {  // who has them to give
    EXPECT_THAT(SaidWith(kRaw, config), HasSubstr("SYS_ADMIN"));
    EXPECT_THAT(SaidWith(kEnter, config), AllOf(HasSubstr("NET_RAW"), HasSubstr("not permitted")));
    // Either is enough: the weaker one is what our manifest gives, stock's gives both.
    EXPECT_EQ(SaidWith(kEnter | kRaw, config), "");
    EXPECT_EQ(SaidWith(kEnter | uint64_t{1} << CAP_NET_ADMIN, config), "");
  }
  // One workload in its own namespace needs neither, unless it is to mark its sockets.
  config.mode = Config::Mode::kDedicated;
  EXPECT_THAT(SaidWith(0, config), HasSubstr("NET_RAW"));
  config.packet_mark = 0;
  EXPECT_EQ(SaidWith(0, config), "");
}

}  // namespace
}  // namespace qanat::ztunnel
