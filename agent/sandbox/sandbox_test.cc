// SPDX-License-Identifier: Apache-2.0
// Each case in a child of its own, since nothing of this can be taken back. Needs root.
#include "agent/sandbox/sandbox.h"

#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "common/sandbox/calls.h"
#include "tests/support/confined.h"

namespace qanat::agent::sandbox {
namespace {

using test::InChild;
using test::OwnStatus;

TEST(AgentSandbox, Settings) {
  const auto read = [](const char* value) { return IsOn([=](const char*) { return value; }); };
  EXPECT_TRUE(read(nullptr).value());
  EXPECT_TRUE(read("on").value());
  EXPECT_FALSE(read("off").value());
  EXPECT_FALSE(read("of")) << "a typing error must not leave it out";
}

TEST(AgentSandbox, KeepsThreeCapabilitiesAndJoinsTheGroupOfTheProxy) {
  const std::string got = InChild([] {
    const Status entered = Enter(gid_t{1337}, log::Format::kText);
    if (!entered) return entered.error().message;
    return OwnStatus("CapInh:") + "|" + OwnStatus("CapPrm:") + "|" + OwnStatus("CapEff:") + "|" +
           OwnStatus("CapBnd:") + "|" + OwnStatus("CapAmb:") + "|" + OwnStatus("NoNewPrivs:") +
           "|" + OwnStatus("Seccomp:") + "|" +
           (OwnStatus("Groups:").find("1337") != std::string::npos ? "1337|" : "no group|") +
           Describe();
  });
  EXPECT_EQ(got,
            "0000000000000000|0000000000281000|0000000000281000|0000000000281000|"
            "0000000000000000|1|2|1337|user 0:0, capabilities NET_ADMIN SYS_PTRACE SYS_ADMIN");
}

TEST(AgentSandbox, RefusesWhatItIsNotFor) {
  std::vector<test::Attempt> attempts = {
      {"mount", [] { return syscall(SYS_mount, "x", "/nonexistent", "tmpfs", 0, nullptr); }},
      {"umount2", [] { return syscall(SYS_umount2, "/nonexistent", 0); }},
      {"pivot_root", [] { return syscall(SYS_pivot_root, ".", "."); }},
      {"unshare", [] { return syscall(SYS_unshare, CLONE_NEWNET); }},
      {"setns to any", [] { return syscall(SYS_setns, -1, 0); }},
      {"setns to mounts", [] { return syscall(SYS_setns, -1, CLONE_NEWNS); }},
      {"setns to network", [] { return syscall(SYS_setns, -1, CLONE_NEWNET); }, "EBADF"},
      {"bpf", [] { return syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, nullptr, 0); }, "EINVAL"},
      {"pidfd_getfd", [] { return syscall(SYS_pidfd_getfd, -1, 0, 0); }, "EBADF"},
      {"netlink", [] { return syscall(SYS_socket, AF_NETLINK, SOCK_RAW, 0); }, "ok"},
      {"packet socket", [] { return syscall(SYS_socket, AF_PACKET, SOCK_RAW, 0); }},
      {"perf_event_open", [] { return syscall(SYS_perf_event_open, nullptr, 0, -1, -1, 0); }},
      {"process_vm_writev", [] { return syscall(SYS_process_vm_writev, 0, 0, 0, 0, 0, 0); }},
      {"io_uring_setup", [] { return syscall(SYS_io_uring_setup, 1, nullptr); }},
      {"init_module", [] { return syscall(SYS_init_module, nullptr, 0, ""); }},
      {"setuid", [] { return syscall(SYS_setuid, 0); }},
  };
  if (qanat::sandbox::SanitizerCalls().empty()) {
    attempts.push_back(
        {"execve", [] { return syscall(SYS_execve, "/bin/true", nullptr, nullptr); }});
    attempts.push_back({"ptrace", [] { return syscall(SYS_ptrace, 0, 0, 0, 0); }});
    attempts.push_back({"kill", [] { return syscall(SYS_kill, getpid(), 0); }});
  }
  std::string log;
  const auto enter = [] { return Enter({}, log::Format::kText); };
  EXPECT_EQ(InChild([&] { return test::TryAll(enter, attempts); }, &log), "done");
  EXPECT_NE(log.find("system call " + std::to_string(SYS_mount) + " was refused"),
            std::string::npos)
      << log;
}

TEST(AgentSandbox, NoCallIsListedTwice) { EXPECT_EQ(test::ListedTwice(OwnCalls()), 0); }

}  // namespace
}  // namespace qanat::agent::sandbox
