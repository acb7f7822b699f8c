// SPDX-License-Identifier: Apache-2.0
#include "tests/support/rights.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace qanat::test {

std::string SaidWith(uint64_t capabilities, const std::function<Status()>& check) {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2]{};
    data[0].effective = data[0].permitted = static_cast<uint32_t>(capabilities);
    if (syscall(SYS_capset, &header, data) != 0) _exit(2);
    const Status status = check();
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

}  // namespace qanat::test
