// SPDX-License-Identifier: Apache-2.0
// A foreign program that rewrites connect() is found by what it does, on the running kernel.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sched.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "agent/detect/other_meshes.h"
#include "bpf/user/mounts.h"
#include "common/base/fd.h"

namespace qanat::agent {
namespace {

constexpr bpf_insn Insn(int code, int dst, int src, int off, int imm) {
  return {static_cast<__u8>(code), static_cast<__u8>(dst), static_cast<__u8>(src),
          static_cast<__s16>(off), imm};
}
constexpr int kUserIp4 = 4;           // offset in struct bpf_sock_addr
constexpr int kService = 0x0100600a;  // 10.96.0.1 as it is in memory
constexpr int kBackend = 0x0302010a;  // 10.1.2.3

// if (ctx->user_ip4 == from) ctx->user_ip4 = to; return 1;
Fd LoadRewriter(const char* name, int from, int to) {
  const bpf_insn program[] = {
      Insn(BPF_LDX | BPF_MEM | BPF_W, 2, 1, kUserIp4, 0),
      Insn(BPF_JMP32 | BPF_JNE | BPF_K, 2, 0, 2, from),
      Insn(BPF_ALU | BPF_MOV | BPF_K, 2, 0, 0, to),
      Insn(BPF_STX | BPF_MEM | BPF_W, 1, 2, kUserIp4, 0),
      Insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1),
      Insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
  };
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = BPF_CGROUP_INET4_CONNECT);
  return Fd(bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, name, "GPL", program, std::size(program),
                          &options));
}

class DetectTest : public ::testing::Test {
 protected:
  DetectTest() {
    auto root = bpf::FindCgroup2();
    root_ = root ? *root : "";
    auto own = bpf::CgroupOfProcess(::getpid());
    before_ = root_ + (own ? *own : "");
    group_ = root_ + "/qDETECT" + std::to_string(::getpid());
    std::filesystem::create_directory(group_);
    Enter(group_);
    const std::string name = "qDETECT" + std::to_string(::getpid());
    Sh("ip netns add " + name + " && ip -n " + name + " link set lo up && ip -n " + name +
       " route add default dev lo");
    netns_ = "/run/netns/" + name;
  }
  ~DetectTest() override {
    Enter(before_);
    std::filesystem::remove(group_);
    Sh("ip netns del " + netns_.substr(11));
  }
  static void Enter(const std::string& group) {
    std::ofstream(group + "/cgroup.procs") << ::getpid();
  }
  static void Sh(const std::string& command) { EXPECT_EQ(std::system(command.c_str()), 0); }
  Fd Attach(const Fd& program) {
    Fd cgroup(::open(group_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return Fd(bpf_link_create(program.get(), cgroup.get(), BPF_CGROUP_INET4_CONNECT, nullptr));
  }

  std::string root_, before_, group_, netns_;
};

TEST_F(DetectTest, ARewritingProgramIsRefusedAndAWatchingOneIsNot) {
  auto ns = netns::NetNs::Open(netns_);
  ASSERT_TRUE(ns) << ns.error().message;
  const auto service = *net::SocketAddress::Parse("10.96.0.1:443");
  // The root group may have programs of other tests or of a mesh that runs here: none rewrites.
  const NodeFacts node{root_, {group_}, service};
  EXPECT_TRUE(CheckPod(*ns, node));

  Fd program = LoadRewriter("cil_sock4_conne", kService, kBackend);
  ASSERT_TRUE(program.valid()) << "needs root";
  {
    Fd link = Attach(program);
    ASSERT_TRUE(link.valid());
    auto goes = WhereConnectGoes(*ns, service);
    ASSERT_TRUE(goes) << goes.error().message;
    EXPECT_EQ(goes->ToString(), "10.1.2.3:443");
    const Status refused = CheckPod(*ns, node);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message, ::testing::HasSubstr("10.1.2.3:443"));
    EXPECT_THAT(refused.error().message, ::testing::HasSubstr("hostNamespaceOnly"));
    // Where it cannot be tried, a known balancer is believed to balance.
    EXPECT_FALSE(CheckPod(*ns, {root_, {group_}, {}}));
  }
  // Told to leave pods alone it stays attached; a name alone would refuse it for ever.
  Fd quiet = LoadRewriter("cil_sock4_conne", kBackend, kService);
  Fd link = Attach(quiet);
  ASSERT_TRUE(link.valid());
  EXPECT_TRUE(CheckPod(*ns, node));
}

TEST_F(DetectTest, IstiosRuleInsideThePodIsRefused) {
  auto ns = netns::NetNs::Open(netns_);
  ASSERT_TRUE(ns);
  const NodeFacts node{root_, {}, {}};
  Sh("ip -n " + netns_.substr(11) + " rule add fwmark 0x111/0xfff pref 32764 lookup 100");
  const Status refused = CheckPod(*ns, node);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, ::testing::HasSubstr("Istio"));
}

}  // namespace
}  // namespace qanat::agent
