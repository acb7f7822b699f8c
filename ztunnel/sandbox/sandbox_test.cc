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
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "common/base/fd.h"
#include "ztunnel/sandbox/syscalls.h"

namespace qanat::ztunnel::sandbox {
namespace {

// What `action` returns in a child, and in `log` what the child wrote to stderr.
std::string InChild(const std::function<std::string()>& action, std::string* log = nullptr) {
  int answer[2], errors[2];
  if (pipe2(answer, O_CLOEXEC) != 0 || pipe2(errors, O_CLOEXEC) != 0) return "no pipe";
  const pid_t child = fork();
  if (child == 0) {
    dup2(errors[1], STDERR_FILENO);
    const std::string text = action();
    (void)!write(answer[1], text.data(), text.size());
    _exit(0);
  }
  close(answer[1]);
  close(errors[1]);
  const auto all = [](int fd) {
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) {
      text.append(buffer, static_cast<size_t>(n));
    }
    close(fd);
    return text;
  };
  std::string text = all(answer[0]);
  const std::string said = all(errors[0]);
  if (log != nullptr) *log = said;
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) text += fmt::format(" (status {:#x}: {})", status, said);
  return text;
}

std::string ErrorOf(long result) { return result >= 0 ? "ok" : strerrorname_np(errno); }

// A line of /proc/self/status, "CapEff:", without its name.
std::string StatusOf(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(name, 0) != 0) continue;
    std::istringstream words(line.substr(name.size()));
    std::string out;
    for (std::string word; words >> word;) out += (out.empty() ? "" : " ") + word;
    return out;
  }
  return "?";
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
    return StatusOf("Uid:") + "|" + StatusOf("Gid:") + "|" + StatusOf("Groups:") + "|" +
           StatusOf("CapInh:") + "|" + StatusOf("CapPrm:") + "|" + StatusOf("CapEff:") + "|" +
           StatusOf("CapBnd:") + "|" + StatusOf("CapAmb:") + "|" + Describe();
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
    return StatusOf("Uid:") + "|" + StatusOf("CapEff:");
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
    if (const Status status = SealProcess(); !status) return status.error().message;
    return fmt::format("dumpable {} nnp {}", prctl(PR_GET_DUMPABLE), StatusOf("NoNewPrivs:"));
  });
  EXPECT_EQ(got, "dumpable 0 nnp 1");
}

struct Attempt {
  const char* name;
  std::function<long()> call;
  const char* expected = "EPERM";
};

std::string TryAll(const std::vector<Attempt>& attempts) {
  if (const Status status = SealProcess(); !status) return status.error().message;
  if (const Status status = InstallFilter(log::Format::kText); !status) {
    return status.error().message;
  }
  std::string wrong;
  for (const Attempt& attempt : attempts) {
    errno = 0;
    const std::string got = ErrorOf(attempt.call());
    if (got != attempt.expected) wrong += fmt::format("{}: {}; ", attempt.name, got);
  }
  return wrong + "done";
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
  if (SanitizerCalls().empty()) {
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

TEST(Sandbox, NoCallIsListedTwice) {
  std::vector<int> all(AllowedCalls().begin(), AllowedCalls().end());
  all.insert(all.end(), SanitizerCalls().begin(), SanitizerCalls().end());
  for (const Checked& checked : CheckedCalls()) all.push_back(checked.call);
  std::sort(all.begin(), all.end());
  const auto twice = std::adjacent_find(all.begin(), all.end());
  EXPECT_TRUE(twice == all.end()) << *twice;  // a checked call that is also allowed is not checked
}

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
