// SPDX-License-Identifier: Apache-2.0
#include "common/base/program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

namespace qanat {
namespace {

std::optional<int> ExitCode(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "program");
  return HandleArguments(static_cast<int>(arguments.size()), const_cast<char**>(arguments.data()),
                         "qanat-test", "usage: ...\n", {"proxy", "test"});
}

TEST(Program, Arguments) {
  EXPECT_EQ(ExitCode({}), std::nullopt);
  EXPECT_EQ(ExitCode({"proxy", "test"}), std::nullopt);
  EXPECT_EQ(ExitCode({"proxy", "--version"}), 0);
  EXPECT_EQ(ExitCode({"--help"}), 0);
  EXPECT_EQ(ExitCode({"proxy", "other"}), 2);
}

TEST(Program, AWipedSecretLeavesNothing) {
  std::string secret = "-----BEGIN PRIVATE KEY----- something longer than the short form";
  const char* at = secret.data();
  const size_t size = secret.size();
  secret.resize(3);  // the rest is still in memory
  Wipe(secret);
  EXPECT_TRUE(secret.empty());
  secret.resize(size);  // the same memory: it has the room
  ASSERT_EQ(secret.data(), at);
  EXPECT_EQ(secret, std::string(size, '\0'));
}

TEST(Program, FileLimit) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low{64, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  RaiseFileLimit();
  rlimit after{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  RaiseFileLimit(RLIM_INFINITY - 1);  // more than anybody may have: the hard limit stays
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, before.rlim_max);
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST(Program, DescriptorsThatUsersLeave) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const auto of = [&](rlim_t limit) {
    const rlimit set{limit, before.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &set), 0);
    const DescriptorBounds bounds = BoundDescriptors();
    return std::pair(bounds.accepted, bounds.made);
  };
  EXPECT_EQ(of(100), std::pair(50, 75));
  EXPECT_EQ(of(400), std::pair(336, 368));
  EXPECT_EQ(of(1600), std::pair(1500, 1550));
  setrlimit(RLIMIT_NOFILE, &before);
}

TEST(Program, Environment) {
  ASSERT_EQ(setenv("QANAT_PROGRAM_TEST", "a=b", 1), 0);
  const std::vector<std::string> entries = EnvironmentEntries();
  EXPECT_NE(std::find(entries.begin(), entries.end(), "QANAT_PROGRAM_TEST=a=b"), entries.end());
}

}  // namespace
}  // namespace qanat
