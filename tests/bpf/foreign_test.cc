// SPDX-License-Identifier: Apache-2.0
// Programs and moves of others that undo the capture of an enrolled pod while all of ours is in
// place: the repeated proof and the look at what runs beside us find them, with default settings.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "bpf/user/mounts.h"
#include "bpf/user/node_maps.h"
#include "common/netns/netns.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kOut4 = "10.66.9.9:8080";
constexpr int kSecond = 1000;
constexpr int kTcxEgress = 47;
constexpr unsigned kBefore = 1u << 3;  // BPF_F_BEFORE

constexpr bpf_insn Insn(int code, int dst, int src, int off, int imm) {
  return {static_cast<__u8>(code), static_cast<__u8>(dst), static_cast<__u8>(src),
          static_cast<__s16>(off), imm};
}

Fd Load(bpf_prog_type type, bpf_attach_type attach, const char* name,
        const std::vector<bpf_insn>& program) {
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = attach);
  return Fd(bpf_prog_load(type, name, "GPL", program.data(), program.size(), &options));
}

// if (ctx->user_ip4 == address) the 32-bit field at `field` becomes `value`; return 1.
std::vector<bpf_insn> Rewriter(int address, int field, int value) {
  return {Insn(BPF_LDX | BPF_MEM | BPF_W, 2, 1, 4, 0),
          Insn(BPF_JMP32 | BPF_JNE | BPF_K, 2, 0, 2, address),
          Insn(BPF_ALU | BPF_MOV | BPF_K, 2, 0, 0, value),
          Insn(BPF_STX | BPF_MEM | BPF_W, 1, 2, static_cast<int>(field), 0),
          Insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1),
          Insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)};
}

class ForeignTest : public ::testing::Test {
 protected:
  ForeignTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)) {
    auto root = bpf::FindCgroup2();
    group_ = *root + "/qKERNEL";
    bed_.ShowPod(a_);
    bed_.StartAgent({"--probe-service", "10.96.0.1:443"});
    bed_.StartPeer();
    servers_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [] { ServeApp(8080); }));
    servers_.push_back(bed_.Spawn({bed_.out_ns(), "host"}, [] { ServeApp(8080); }));
    EXPECT_TRUE(bed_.WaitFor([&] { return Whole(); })) << bed_.StatusText(a_) << bed_.Log();
  }
  ~ForeignTest() override {
    servers_.clear();
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
  }
  std::string From(const Dial& dial) {
    return bed_.Run({a_.netns, "pods/a"}, [&] { return Call(dial); });
  }
  bool Whole() {
    return From({.to = kOut4}).rfind("out", 0) == 0 &&
           bed_.StatusText(a_).find("\"reason\":\"\"") != std::string::npos;
  }
  Fd AtGroup(const std::string& group, const Fd& program, bpf_attach_type type) {
    Fd cgroup(::open(group.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return Fd(bpf_link_create(program.get(), cgroup.get(), type, nullptr));
  }
  void ExpectCutOff(const std::string& why, int milliseconds) {
    EXPECT_TRUE(bed_.WaitFor(
        [&] {
          const std::string text = bed_.StatusText(a_);
          return text.find("cut off") != std::string::npos && text.find(why) != std::string::npos;
        },
        milliseconds))
        << bed_.StatusText(a_);
  }
  void ExpectWholeAgain() {
    EXPECT_TRUE(bed_.WaitFor([&] { return Whole(); })) << bed_.StatusText(a_);
  }

  Bed bed_;
  Bed::PodInfo a_;
  std::string group_;
  std::vector<Process> servers_;
};

TEST_F(ForeignTest, AProgramBeforeTheSecondGuardThatLetsEverythingOut) {
  Fd program = Load(BPF_PROG_TYPE_SCHED_CLS, {}, "foreign",
                    {Insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),  // TC_ACT_OK: the end
                     Insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)});
  ASSERT_TRUE(program.valid());
  Fd link;
  auto ns = netns::NetNs::Open("/run/netns/" + a_.netns);
  ASSERT_TRUE(ns && ns->Run([&]() -> Status {
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = kBefore);
    link = Fd(bpf_link_create(program.get(), static_cast<int>(::if_nametoindex("eth0")),
                              static_cast<bpf_attach_type>(kTcxEgress), &options));
    return {};
  }));
  ASSERT_TRUE(link.valid());
  ExpectCutOff("guard/v", kSecond);
  EXPECT_THAT(From({.to = kOut4, .timeout_ms = 500}), StartsWith("error"));
  link.Reset();
  ExpectWholeAgain();
}

TEST_F(ForeignTest, ASocketLookupThatGivesEverythingToAnotherListener) {
  auto ns = netns::NetNs::Open("/run/netns/" + a_.netns);
  ASSERT_TRUE(ns);
  Fd listener, link;
  Fd map(bpf_map_create(BPF_MAP_TYPE_SOCKMAP, "foreign", 4, 8, 1, nullptr));
  ASSERT_TRUE(ns->Run([&]() -> Status {
    listener = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(listener.get(), SOL_IP, IP_TRANSPARENT, &on, sizeof on);
    sockaddr_in any{AF_INET, htons(7777), {}, {}};
    if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) != 0 ||
        ::listen(listener.get(), 64) != 0)
      return FailErrno("listen");
    return {};
  }));
  const uint32_t zero = 0;
  const uint64_t fd = static_cast<uint64_t>(listener.get());
  ASSERT_EQ(bpf_map_update_elem(map.get(), &zero, &fd, BPF_ANY), 0);
  Fd program = Load(
      BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, "foreign",
      {Insn(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0), Insn(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 0),
       Insn(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map.get()), Insn(0, 0, 0, 0, 0),
       Insn(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0),
       Insn(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -4),
       Insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem),
       Insn(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 7, 0), Insn(BPF_ALU64 | BPF_MOV | BPF_X, 7, 0, 0, 0),
       Insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0), Insn(BPF_ALU64 | BPF_MOV | BPF_X, 2, 7, 0, 0),
       Insn(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 3),  // REPLACE, NO_REUSEPORT
       Insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_sk_assign),
       Insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 7, 0, 0),
       Insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_sk_release),
       Insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1), Insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)});
  ASSERT_TRUE(program.valid());
  link = Fd(bpf_link_create(program.get(), ns->fd(), BPF_SK_LOOKUP, nullptr));
  ASSERT_TRUE(link.valid());
  ExpectCutOff("somebody else accepted it", kSecond);
  link.Reset();
  ExpectWholeAgain();
}

TEST_F(ForeignTest, ASpoofedBindThatOursDoesNotSee) {
  // It names a port itself, so ours has nothing to do. The application is captured all the same.
  Fd program = Load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND, "foreign",
                    Rewriter(static_cast<int>(inet_addr("192.0.2.1")), 24, htons(40000)));
  ASSERT_TRUE(program.valid());
  Fd link = AtGroup(group_ + "/agent", program, BPF_CGROUP_INET4_BIND);
  ASSERT_TRUE(link.valid());
  EXPECT_TRUE(bed_.WaitFor([&] { return bed_.StatusText(a_).find("bind/v4") != std::string::npos; },
                           20 * kSecond))
      << bed_.StatusText(a_);
  EXPECT_THAT(From({.to = kOut4}), StartsWith("out"));
  link.Reset();
  ExpectWholeAgain();
}

TEST_F(ForeignTest, ALoadBalancerThatCameAfterThePodWasEnrolled) {
  Fd program = Load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, "foreign",
                    Rewriter(static_cast<int>(inet_addr("10.96.0.1")), 4,
                             static_cast<int>(inet_addr("10.1.2.3"))));
  ASSERT_TRUE(program.valid());
  {
    Fd link = AtGroup(group_, program, BPF_CGROUP_INET4_CONNECT);
    ASSERT_TRUE(link.valid());
    ExpectCutOff("10.1.2.3:443", 2 * kSecond);
    EXPECT_THAT(From({.to = kOut4, .timeout_ms = 500}), StartsWith("error"));
  }
  ExpectWholeAgain();
  // At the pod's own group our own connect() does not cross it: a known balancer is believed.
  Fd known = Load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, "cil_sock4_conne",
                  Rewriter(static_cast<int>(inet_addr("10.96.0.1")), 4,
                           static_cast<int>(inet_addr("10.1.2.3"))));
  Fd link = AtGroup(group_ + "/pods/a", known, BPF_CGROUP_INET4_CONNECT);
  ASSERT_TRUE(link.valid());
  ExpectCutOff("Cilium", 2 * kSecond);
  link.Reset();
  ExpectWholeAgain();
}

TEST_F(ForeignTest, AProxyThatIsMovedToAnotherControlGroup) {
  const std::string moved = group_ + "/moved";
  std::filesystem::create_directory(moved);
  const auto from_there = [&] {
    return bed_.Run({a_.netns, "moved"}, [] { return Call({.to = kOut4, .mark = 0x539}); });
  };
  EXPECT_THAT(from_there(), StartsWith("out"));
  std::ofstream(moved + "/cgroup.procs") << bed_.peer().pid();
  EXPECT_TRUE(
      bed_.WaitFor([&] { return from_there().rfind("app", 0) == 0; }, kSecond + kSecond / 2));
  EXPECT_THAT(From({.to = kOut4}), StartsWith("out"));
  // Where applications live its sockets could not be told from theirs.
  std::ofstream(group_ + "/cgroup.procs") << bed_.peer().pid();
  ExpectCutOff("shares cgroup", 2 * kSecond);
  std::ofstream(moved + "/cgroup.procs") << bed_.peer().pid();
  ExpectWholeAgain();
}

}  // namespace
}  // namespace qanat::test
