// SPDX-License-Identifier: Apache-2.0
// What the running proxy may still do: its rights as the kernel tells them, calls made inside of
// it, and that it serves a pod all the same. Needs root.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/netns/netns.h"
#include "tests/integration/sandbox/debugger.h"
#include "tests/integration/ztunnel/fakes.h"
#include "tests/support/child.h"

namespace qanat {
namespace {

namespace fs = std::filesystem;

constexpr char kThree[] = "0000000000203000";  // NET_ADMIN, NET_RAW, SYS_ADMIN

class SandboxTest : public ::testing::Test {
 protected:
  SandboxTest() {
    char name[] = "/tmp/qanat-sandbox-XXXXXX";
    dir_ = mkdtemp(name);
    chmod(dir_.c_str(), 0711);  // its files are found by name, also by a user that is not root
    agent_ = std::make_unique<ztunnel::test::FakeAgent>(dir_ + "/zds.sock");
  }
  ~SandboxTest() override {
    child_.reset();
    fs::remove_all(dir_);
  }

  // As containerd starts it: root with a bounding set, no more privileges to be had, and nothing of
  // the root file system to be written.
  void Start(std::vector<std::string> environment) {
    test::Child::Options run;
    run.command = {"/usr/bin/unshare",
                   "--mount",
                   "/bin/sh",
                   "-c",
                   "mount -o remount,bind,ro / && exec \"$@\"",
                   "sh",
                   "/usr/bin/setpriv",
                   "--regid",
                   "1337",
                   "--groups",
                   "1337",
                   "--bounding-set",
                   "-all,+net_admin,+net_raw,+sys_admin,+setuid,+setgid",
                   "--no-new-privs",
                   QANAT_ZTUNNEL};
    run.environment = std::move(environment);
    for (const char* more :
         {"XDS_ADDRESS=", "CA_ADDRESS=", "NODE_NAME=node", "ZTUNNEL_WORKER_THREADS=2",
          "QANAT_ADMIN_ADDR=127.0.0.1:0", "QANAT_METRICS_ADDR=127.0.0.1:0",
          "QANAT_READINESS_ADDR=127.0.0.1:0"}) {
      run.environment.emplace_back(more);
    }
    run.environment.push_back("INPOD_UDS=" + dir_ + "/zds.sock");
    run.log = dir_ + "/log";
    child_ = std::make_unique<test::Child>(run);
    ASSERT_TRUE(child_->WaitForLog("readiness ")) << child_->Log();
  }

  void OpenSocketToGroup() {
    const std::string path = dir_ + "/zds.sock";
    ASSERT_EQ(chown(path.c_str(), 0, 1337), 0);
    ASSERT_EQ(chmod(path.c_str(), 0660), 0);
  }

  std::string Proc(const std::string& file) const {
    return fmt::format("/proc/{}/{}", child_->pid(), file);
  }
  // A line of a status file, without its name; single blanks.
  static std::string Line(const std::string& path, const std::string& name) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
      if (line.rfind(name + ":", 0) != 0) continue;
      std::istringstream words(line.substr(name.size() + 1));
      std::string out;
      for (std::string word; words >> word;) out += (out.empty() ? "" : " ") + word;
      return out;
    }
    return "?";
  }
  std::string Rights(const std::string& name) const { return Line(Proc("status"), name); }

  bool RootIsReadOnly() const {
    std::ifstream file(Proc("mounts"));
    bool out = false;
    std::string device, at, kind, options;
    for (std::string rest; file >> device >> at >> kind >> options; std::getline(file, rest)) {
      if (at == "/") out = options == "ro" || options.starts_with("ro,");
    }
    return out;
  }

  std::string dir_;
  std::unique_ptr<ztunnel::test::FakeAgent> agent_;
  std::unique_ptr<test::Child> child_;
};

// A network namespace of its own, with what listens in it.
class Pod {
 public:
  Pod() {
    std::thread([this] {
      if (unshare(CLONE_NEWNET) != 0) return;
      netns_ = std::make_unique<netns::NetNs>(std::move(*netns::NetNs::Current()));
    }).join();
  }
  bool Listens(uint16_t port) const {
    bool found = false;
    std::thread([&] {
      if (setns(netns_->fd(), CLONE_NEWNET) != 0) return;
      for (const char* path : {"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"}) {
        std::ifstream file(path);
        std::ostringstream text;
        text << file.rdbuf();
        const std::string all = text.str();
        const size_t at = all.find(fmt::format(":{:04X} ", port));
        found = found || (at != all.npos && all.find(" 0A ", at) != all.npos);
      }
    }).join();
    return found;
  }
  int fd() const { return netns_->fd(); }

 private:
  std::unique_ptr<netns::NetNs> netns_;
};

TEST_F(SandboxTest, AnUnprivilegedUserWithThreeCapabilitiesServesPods) {
  OpenSocketToGroup();
  Start({"QANAT_RUN_AS=1337:1337"});
  EXPECT_EQ(Rights("Uid"), "1337 1337 1337 1337");
  EXPECT_EQ(Rights("Gid"), "1337 1337 1337 1337");
  EXPECT_EQ(Rights("Groups"), "1337");
  EXPECT_EQ(Rights("CapInh"), "0000000000000000");
  EXPECT_EQ(Rights("CapAmb"), "0000000000000000");
  EXPECT_EQ(Rights("NoNewPrivs"), "1");
  EXPECT_TRUE(RootIsReadOnly());
  size_t threads = 0;
  for (const auto& task : fs::directory_iterator(Proc("task"))) {  // each has rights of its own
    const std::string status = task.path().string() + "/status";
    EXPECT_EQ(Line(status, "CapPrm"), kThree);
    EXPECT_EQ(Line(status, "CapEff"), kThree);
    EXPECT_EQ(Line(status, "Seccomp"), "2");
    ++threads;
  }
  EXPECT_GE(threads, 3u);
  // Not dumpable: what is in /proc of it is root's, so that another process of user 1337 cannot
  // read its memory.
  struct stat memory{};
  ASSERT_EQ(stat(Proc("mem").c_str(), &memory), 0);
  EXPECT_EQ(memory.st_uid, 0u);

  const Pod pod;
  ASSERT_TRUE(agent_->Accept()) << child_->Log();
  EXPECT_EQ(agent_->Add("uid-a", "shop", "a", "a", pod.fd()), "") << child_->Log();
  EXPECT_EQ(agent_->SnapshotSent(), "");
  for (const uint16_t port : {15001, 15006, 15008}) EXPECT_TRUE(pod.Listens(port)) << port;
  EXPECT_EQ(child_->Stop(), "exit code 0") << child_->Log();
  EXPECT_EQ(test::FindReport(child_->Log()), "");
}

TEST_F(SandboxTest, TheRunningProcessIsRefusedOtherCalls) {
  Start({});
  EXPECT_EQ(Rights("Uid"), "0 0 0 0") << "nobody asked for another user";
  EXPECT_EQ(Rights("CapEff"), kThree);
  struct Case {
    const char* name;
    long call;
    std::array<unsigned long, 6> arguments;
    long expected;
  };
  const Case cases[] = {
      {"mount", SYS_mount, {}, -EPERM},
      {"bpf", SYS_bpf, {}, -EPERM},
      {"unshare", SYS_unshare, {CLONE_NEWNS}, -EPERM},
      {"setns to mounts", SYS_setns, {0, CLONE_NEWNS}, -EPERM},
      {"setns to network", SYS_setns, {~0ul, CLONE_NEWNET}, -EBADF},
      {"clone3", SYS_clone3, {}, -ENOSYS},
      {"getppid", SYS_getppid, {}, getpid()},
  };
  for (const Case& one : cases) {
    const auto result = test::CallInside(child_->pid(), one.call, one.arguments);
    ASSERT_TRUE(result) << one.name << ": " << result.error().message << child_->Log();
    EXPECT_EQ(*result, one.expected) << one.name;
  }
  const std::string refused = fmt::format("system call {} was refused", SYS_mount);
  EXPECT_TRUE(child_->WaitForLog(refused)) << child_->Log();
  // And it goes on as if nothing had been.
  ASSERT_TRUE(agent_->Accept()) << child_->Log();
  EXPECT_EQ(agent_->SnapshotSent(), "");
  EXPECT_EQ(child_->Stop(), "exit code 0") << child_->Log();
}

TEST_F(SandboxTest, ASocketThatIsRootsAloneIsSaid) {
  Start({"QANAT_RUN_AS=1337:1337"});
  EXPECT_TRUE(child_->WaitForLog("user 1337:1337 may not: the agent has to open its socket"))
      << child_->Log();
  EXPECT_EQ(child_->Stop(), "exit code 0") << child_->Log();
}

TEST_F(SandboxTest, CanBeLeftOutAndSaysSo) {
  Start({"QANAT_SANDBOX=off", "QANAT_RUN_AS=1337:1337"});
  EXPECT_EQ(Rights("Uid"), "0 0 0 0");
  EXPECT_EQ(Rights("Seccomp"), "0");
  EXPECT_TRUE(child_->WaitForLog("off (QANAT_SANDBOX)"));
  EXPECT_EQ(child_->Stop(), "exit code 0") << child_->Log();
}

}  // namespace
}  // namespace qanat
