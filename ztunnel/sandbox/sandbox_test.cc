// SPDX-License-Identifier: Apache-2.0
// Each case in a child of its own, since nothing of this can be taken back. Needs root.
#include "ztunnel/sandbox/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "common/base/fd.h"
#include "common/sandbox/calls.h"
#include "common/sandbox/filter.h"
#include "common/sandbox/privileges.h"
#include "tests/support/confined.h"
#include "ztunnel/sandbox/syscalls.h"

namespace qanat::ztunnel::sandbox {
namespace {

using qanat::test::Attempt;
using qanat::test::InChild;
using qanat::test::OwnStatus;

std::string TryAll(const std::vector<Attempt>& attempts) {
  const auto enter = []() -> Status {
    QANAT_RETURN_IF_ERROR(qanat::sandbox::SealProcess());
    return qanat::sandbox::InstallFilter({OwnCalls()}, log::Format::kText);
  };
  return qanat::test::TryAll(enter, attempts);
}

TEST(Sandbox, Users) {
  EXPECT_EQ(ParseUser("1337").value(), (User{1337, 1337}));
  EXPECT_EQ(ParseUser("1:0").value(), (User{1, 0}));
  for (const char* bad : {"", ":", "1:", ":1", "root", "-1", "1:2:3", "4294967295", "1 "}) {
    EXPECT_FALSE(ParseUser(bad)) << bad;
  }
}

TEST(Sandbox, Settings) {
  const auto read = [](const char* on, const char* user) {
    return ReadOptions(
        [=](const char* name) { return std::string_view(name) == "QANAT_SANDBOX" ? on : user; });
  };
  EXPECT_TRUE(read(nullptr, nullptr)->on);
  EXPECT_FALSE(read("off", nullptr)->on);
  EXPECT_FALSE(read(nullptr, nullptr)->run_as);
  EXPECT_EQ(read("on", "1337:1338")->run_as, (User{1337, 1338}));
  EXPECT_FALSE(read("of", nullptr)) << "a typing error must not leave it out";
  EXPECT_FALSE(read(nullptr, "nobody"));
}

TEST(Sandbox, KeepsThreeCapabilitiesAndTheGroupsButRoots) {
  const std::string got = InChild([] {
    const gid_t groups[] = {0, 20, 1337};
    setgroups(3, groups);
    if (const Status status = DropPrivileges(User{1337, 1338}); !status) {
      return status.error().message;
    }
    return OwnStatus("Uid:") + "|" + OwnStatus("Gid:") + "|" + OwnStatus("Groups:") + "|" +
           OwnStatus("CapInh:") + "|" + OwnStatus("CapPrm:") + "|" + OwnStatus("CapEff:") + "|" +
           OwnStatus("CapBnd:") + "|" + OwnStatus("CapAmb:") + "|" + Describe();
  });
  // NET_ADMIN 12, NET_RAW 13, SYS_ADMIN 21.
  EXPECT_EQ(got,
            "1337 1337 1337 1337|1338 1338 1338 1338|20 1337|0000000000000000|0000000000203000|"
            "0000000000203000|0000000000203000|0000000000000000|user 1337:1338, capabilities "
            "NET_ADMIN NET_RAW SYS_ADMIN");
}

TEST(Sandbox, TheUserStaysWhereNoneIsAskedFor) {
  const std::string got = InChild([] {
    if (const Status status = DropPrivileges({}); !status) return status.error().message;
    return OwnStatus("Uid:") + "|" + OwnStatus("CapEff:");
  });
  EXPECT_EQ(got, "0 0 0 0|0000000000203000");
}

TEST(Sandbox, AUserThatCannotBeBecomeIsAnError) {
  const std::string got = InChild([] {
    if (!DropPrivileges(User{1337, 1337})) return std::string("the first");
    return DropPrivileges(User{1338, 1337}).error().message;
  });
  EXPECT_NE(got.find("become user 1338:1337"), got.npos) << got;
}

TEST(Sandbox, Sealed) {
  const std::string got = InChild([] {
    if (const Status status = qanat::sandbox::SealProcess(); !status) return status.error().message;
    return fmt::format("dumpable {} nnp {}", prctl(PR_GET_DUMPABLE), OwnStatus("NoNewPrivs:"));
  });
  EXPECT_EQ(got, "dumpable 0 nnp 1");
}

TEST(Sandbox, RefusesWhatItIsNotFor) {
  std::vector<Attempt> attempts = {
      {"mount", [] { return syscall(SYS_mount, "x", "/nonexistent", "tmpfs", 0, nullptr); }},
      {"umount2", [] { return syscall(SYS_umount2, "/nonexistent", 0); }},
      {"pivot_root", [] { return syscall(SYS_pivot_root, ".", "."); }},
      {"chroot", [] { return syscall(SYS_chroot, "/nonexistent"); }},
      {"bpf", [] { return syscall(SYS_bpf, 0, nullptr, 0); }},
      {"perf_event_open", [] { return syscall(SYS_perf_event_open, nullptr, 0, -1, -1, 0); }},
      {"unshare", [] { return syscall(SYS_unshare, CLONE_NEWNET); }},
      {"setns to any", [] { return syscall(SYS_setns, -1, 0); }},
      {"setns to mounts", [] { return syscall(SYS_setns, -1, CLONE_NEWNS); }},
      {"setns to two", [] { return syscall(SYS_setns, -1, CLONE_NEWNET | CLONE_NEWNS); }},
      {"setns to network", [] { return syscall(SYS_setns, -1, CLONE_NEWNET); }, "EBADF"},
      {"packet socket", [] { return syscall(SYS_socket, AF_PACKET, SOCK_RAW, 0); }},
      {"vsock", [] { return syscall(SYS_socket, AF_VSOCK, SOCK_STREAM, 0); }},
      {"tcp socket", [] { return syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }, "ok"},
      {"clone3", [] { return syscall(SYS_clone3, nullptr, 0); }, "ENOSYS"},
      {"pidfd_getfd", [] { return syscall(SYS_pidfd_getfd, -1, 0, 0); }},
      {"io_uring_setup", [] { return syscall(SYS_io_uring_setup, 1, nullptr); }},
      {"init_module", [] { return syscall(SYS_init_module, nullptr, 0, ""); }},
      {"setuid", [] { return syscall(SYS_setuid, 0); }},
      {"keyctl", [] { return syscall(SYS_keyctl, 0, 0, 0, 0, 0); }},
      {"userfaultfd", [] { return syscall(SYS_userfaultfd, 0); }},
      {"no such call", [] { return syscall(9999); }},
      {"terminal", [] { return syscall(SYS_ioctl, 0, 0x5412 /* TIOCSTI */, ""); }},
      {"kind of namespace", [] { return syscall(SYS_ioctl, -1, NS_GET_NSTYPE); }, "EBADF"},
      {"securebits", [] { return prctl(PR_SET_SECUREBITS, 0, 0, 0, 0); }},
      {"getpid", [] { return syscall(SYS_getpid); }, "ok"},
  };
  if (qanat::sandbox::SanitizerCalls().empty()) {
    attempts.push_back(
        {"execve", [] { return syscall(SYS_execve, "/bin/true", nullptr, nullptr); }});
    attempts.push_back({"ptrace", [] { return syscall(SYS_ptrace, 0, 0, 0, 0); }});
    attempts.push_back({"fork", [] { return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); }});
    attempts.push_back({"dumpable", [] { return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); }});
  }
  std::string log;
  EXPECT_EQ(InChild([&] { return TryAll(attempts); }, &log), "done");
  // Each number once, however often it was tried.
  const std::string line = fmt::format("system call {} was refused", SYS_setns);
  const size_t first = log.find(line);
  ASSERT_NE(first, log.npos) << log;
  EXPECT_EQ(log.find(line, first + 1), log.npos) << log;
  EXPECT_EQ(log.find(fmt::format("system call {} was", SYS_clone3)), log.npos)
      << "not worth a word";
}

TEST(Sandbox, AllowsWhatAProgramDoes) {
  std::string log;
  EXPECT_EQ(InChild(
                [] {
                  const std::string before = TryAll({});
                  int seen = 0;
                  std::thread([&seen] { seen = static_cast<int>(syscall(SYS_gettid)); }).join();
                  std::ifstream file("/proc/self/maps");
                  std::string text;
                  std::getline(file, text);
                  std::vector<std::string> memory(1000, std::string(10000, 'x'));
                  return before + (seen > 0 && !text.empty() && memory.size() == 1000 ? "" : "!");
                },
                &log),
            "done");
  EXPECT_EQ(log, "");
}

TEST(Sandbox, NoCallIsListedTwice) { EXPECT_EQ(qanat::test::ListedTwice(OwnCalls()), 0); }

// Folders of the node that a kubelet made for root.
class LendFolderTest : public ::testing::Test {
 protected:
  LendFolderTest() { EXPECT_NE(mkdtemp(path.data()), nullptr); }
  ~LendFolderTest() override { std::filesystem::remove_all(path); }
  std::string Write(const char* name) const {
    const Fd fd(open((path + "/" + name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    return fd ? "written" : "error " + std::to_string(errno);
  }
  std::string path = "/tmp/lend-XXXXXX";
};

TEST_F(LendFolderTest, TheNewUserWritesAndNobodyElse) {
  EXPECT_EQ(chmod(path.c_str(), 0755), 0);
  // As in a container: root of the group, without CAP_CHOWN or CAP_DAC_OVERRIDE.
  EXPECT_EQ(InChild([&]() -> std::string {
              const gid_t group = 1337;
              if (setgroups(1, &group) != 0 || !DropPrivileges({})) return "no child";
              const Status lent = LendFolder(path, {1337, 1337});
              return lent ? "lent" : lent.error().message;
            }),
            "lent");
  const auto as = [&](uid_t uid, gid_t gid) {
    return InChild([&]() -> std::string {
      const Status dropped = DropPrivileges(User{uid, gid});
      return dropped ? Write("state") : dropped.error().message;
    });
  };
  EXPECT_EQ(as(1337, 1337), "written");
  EXPECT_EQ(as(1338, 1338), "error 13");
}

TEST_F(LendFolderTest, WhatCannotBeLentIsSaid) {
  EXPECT_EQ(chown(path.c_str(), 1338, 1338), 0);
  const Status lent = LendFolder(path, {1337, 1337});
  ASSERT_FALSE(lent);
  EXPECT_NE(lent.error().message.find(path), std::string::npos) << lent.error().message;
  struct stat about{};
  EXPECT_EQ(stat(path.c_str(), &about), 0);
  EXPECT_EQ(about.st_gid, 1338u);
  EXPECT_FALSE(LendFolder("/proc/version", {1337, 1337}));
  // Nor is what others use.
  EXPECT_EQ(chown(path.c_str(), 0, 0), 0);
  EXPECT_EQ(Write("of another"), "written");
  EXPECT_FALSE(LendFolder(path, {1337, 1337}));
  EXPECT_EQ(unlink((path + "/of another").c_str()), 0);
  EXPECT_EQ(chmod(path.c_str(), 01777), 0);
  EXPECT_FALSE(LendFolder(path, {1337, 1337}));
  EXPECT_EQ(stat(path.c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 07777, 01777u);
  EXPECT_EQ(about.st_gid, 0u);
  EXPECT_TRUE(LendFolder(path + "/none", {1337, 1337}));
  EXPECT_EQ(chown(path.c_str(), 1337, 0), 0);
  EXPECT_TRUE(LendFolder(path, {1337, 1337})) << "it is that user's already";
}

}  // namespace
}  // namespace qanat::ztunnel::sandbox
