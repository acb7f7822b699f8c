// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/rights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

namespace qanat::ztunnel {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// What a process says that has only these capabilities: "" where nothing is missing.
std::string SaidWith(uint64_t capabilities, const Config& config) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    data[0].effective = data[0].permitted = static_cast<uint32_t>(capabilities);
    if (syscall(SYS_capset, &header, data) != 0) _exit(2);
    const Status status = CheckRights(config);
    const std::string said = status ? "" : status.error().message;
    _exit(write(ends[1], said.data(), said.size()) == static_cast<ssize_t>(said.size()) ? 0 : 1);
  }
  close(ends[1]);
  char buffer[1024];
  const ssize_t size = read(ends[0], buffer, sizeof buffer);
  close(ends[0]);
  int code = 0;
  EXPECT_EQ(waitpid(child, &code, 0), child);
  EXPECT_EQ(code, 0);
  return {buffer, size > 0 ? static_cast<size_t>(size) : 0};
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
