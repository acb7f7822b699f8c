// SPDX-License-Identifier: Apache-2.0
#include "agent/cluster/process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <unistd.h>

#include "tests/support/rights.h"

namespace qanat::agent {
namespace {

using testing::HasSubstr;

TEST(Process, WithoutTheRightToChangeNetworksItIsNamed) {
  const auto said = [](uint64_t rights) { return test::SaidWith(rights, CheckNetworkRights); };
  const char kNamed[] = "capability NET_ADMIN";
  EXPECT_THAT(said(0), HasSubstr(kNamed));
  if (geteuid() != 0) return;  // who has none to give
  EXPECT_EQ(said(uint64_t{1} << CAP_NET_ADMIN), "");
  EXPECT_THAT(said(uint64_t{1} << CAP_SYS_ADMIN | uint64_t{1} << CAP_NET_RAW), HasSubstr(kNamed));
}

}  // namespace
}  // namespace qanat::agent
