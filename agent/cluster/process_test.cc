// SPDX-License-Identifier: Apache-2.0
#include "agent/cluster/process.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace qanat::agent {
namespace {

// 0 if nothing is missing for a process with these capabilities, 1 if NET_ADMIN is named, else
// more.
int AskedWith(uint32_t capabilities) {
  const pid_t child = fork();
  if (child == 0) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    data[0].effective = data[0].permitted = capabilities;
    if (syscall(SYS_capset, &header, data) != 0) _exit(3);
    const Status status = CheckNetworkRights();
    if (status) _exit(0);
    _exit(status.error().message.find("capability NET_ADMIN") != std::string::npos ? 1 : 2);
  }
  int code = 0;
  EXPECT_EQ(waitpid(child, &code, 0), child);
  return WIFEXITED(code) ? WEXITSTATUS(code) : 4;
}

TEST(Process, WithoutTheRightToChangeNetworksItIsNamed) {
  EXPECT_EQ(AskedWith(0), 1);
  if (geteuid() != 0) return;  // who has none to give
  EXPECT_EQ(AskedWith(uint32_t{1} << CAP_NET_ADMIN), 0);
  EXPECT_EQ(AskedWith(uint32_t{1} << CAP_SYS_ADMIN | uint32_t{1} << CAP_NET_RAW), 1);
}

}  // namespace
}  // namespace qanat::agent
