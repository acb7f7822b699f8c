// SPDX-License-Identifier: Apache-2.0
// What the agent has while it works: rights, who may be its proxy, what it listens on.
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "bpf/user/mounts.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;

class LeastTest : public ::testing::Test {
 protected:
  LeastTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)) { bed_.ShowPod(a_); }
  ~LeastTest() override {
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
  }
  std::string AgentStatus(const std::string& name) {
    std::ifstream in("/proc/" + std::to_string(bed_.agent().pid()) + "/status");
    for (std::string line; std::getline(in, line);)
      if (line.rfind(name + ":\t", 0) == 0) return line.substr(name.size() + 2);
    return "?";
  }
  // What a process there is told that says Hello.
  std::string Hello(const std::string& cgroup, uid_t uid, gid_t gid) {
    return bed_.Run({bed_.node_ns(), cgroup}, [&]() -> std::string {
      if (::setgroups(0, nullptr) != 0 || ::setresgid(gid, gid, gid) != 0 ||
          ::setresuid(uid, uid, uid) != 0)
        return "no such user";
      const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
      sockaddr_un to{};
      to.sun_family = AF_UNIX;
      std::snprintf(to.sun_path, sizeof to.sun_path, "%s", bed_.zds_socket().c_str());
      if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0)
        return errno == EACCES ? "not reached" : "error";
      (void)!::send(fd, "\x08\x01", 2, MSG_NOSIGNAL);
      char buffer[2048];
      return ::recv(fd, buffer, sizeof buffer, 0) > 0 ? "answered" : "closed";
    });
  }

  Bed bed_;
  Bed::PodInfo a_;
};

TEST_F(LeastTest, KeepsThreeCapabilitiesAndAFilter) {
  bed_.StartAgent();
  EXPECT_EQ(AgentStatus("CapPrm"), "0000000000281000");
  EXPECT_EQ(AgentStatus("CapEff"), "0000000000281000");
  EXPECT_EQ(AgentStatus("CapBnd"), "0000000000281000");
  EXPECT_EQ(AgentStatus("NoNewPrivs"), "1");
  EXPECT_EQ(AgentStatus("Seccomp"), "2");
  EXPECT_THAT(bed_.Log(), HasSubstr("capabilities NET_ADMIN SYS_PTRACE SYS_ADMIN"));
}

TEST_F(LeastTest, ListensOnItsAdminPortAtLoopbackOnly) {
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  const std::string listening = bed_.Run({bed_.node_ns(), "host"}, [] {
    std::string out;
    for (const char* table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
      std::ifstream in(table);
      std::string line;
      std::getline(in, line);
      while (std::getline(in, line)) {
        std::istringstream words(line);
        std::string number, local, remote, state;
        words >> number >> local >> remote >> state;
        if (state == "0A") out += local + " ";
      }
    }
    return out;
  });
  EXPECT_EQ(listening, "0100007F:3AB6 ");  // 127.0.0.1:15030
}

TEST_F(LeastTest, TheProxysUserInItsCgroupOrRoot) {
  auto root = bpf::FindCgroup2();
  ASSERT_TRUE(root);
  // The bed's cgroup as a process in it sees its own.
  const std::string own = bed_.Run({bed_.node_ns(), "ztunnel"},
                                   [] { return bpf::CgroupOfProcess(::getpid()).value_or("?"); });
  bed_.StartAgent({"--zds-group", "1337", "--zds-uid", "1337", "--zds-cgroup", own});
  struct stat folder{}, socket{};
  ASSERT_EQ(::stat(bed_.zds_folder().c_str(), &folder), 0);
  ASSERT_EQ(::stat(bed_.zds_socket().c_str(), &socket), 0);
  EXPECT_EQ(folder.st_mode & 07777, 0750u);
  EXPECT_EQ(folder.st_gid, 1337u);
  EXPECT_EQ(socket.st_mode & 07777, 0660u);
  EXPECT_EQ(socket.st_gid, 1337u);
  EXPECT_EQ(Hello("ztunnel", 1337, 1337), "answered");
  EXPECT_EQ(Hello("ztunnel/below", 1337, 1337), "answered");
  EXPECT_EQ(Hello("host", 0, 0), "answered");
  EXPECT_EQ(Hello("host", 1337, 1337), "closed");
  EXPECT_EQ(Hello("ztunnel", 1338, 1337), "closed");
  EXPECT_EQ(Hello("ztunnel", 1337, 1338), "not reached");
  EXPECT_THAT(bed_.Log(), HasSubstr("user 1337:1337 may not be the proxy (its cgroup is "));
  EXPECT_THAT(bed_.Log(), HasSubstr("user 1338:1337 may not be the proxy (--zds-uid)"));
}

}  // namespace
}  // namespace qanat::test
