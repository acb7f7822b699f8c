// SPDX-License-Identifier: Apache-2.0
// The filter that carries the second guard on kernels without tcx, on the running kernel.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sched.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "agent/redirect/rtnetlink.h"
#include "agent/redirect/tc_filter.h"
#include "common/base/fd.h"

namespace qanat::agent {
namespace {

constexpr uint32_t kLo = 1;

Fd LoadFilter() {
  const bpf_insn program[] = {
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, -1},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0},
  };
  return Fd(bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "filter", "GPL", program, 2, nullptr));
}

uint32_t IdOf(const Fd& program) {
  bpf_prog_info info{};
  uint32_t length = sizeof info;
  EXPECT_EQ(bpf_obj_get_info_by_fd(program.get(), &info, &length), 0) << "needs root";
  return info.id;
}

bool HasClsact() { return std::system("tc qdisc show dev lo | grep -q clsact") == 0; }

uint32_t Present() {
  auto id = tc::ProgramAt(kLo, rtnl::Direction::kEgress);
  EXPECT_TRUE(id) << id.error().message;
  return id ? *id : 0;
}

// In a network namespace that goes with its thread.
template <typename F>
void InFreshNamespace(F&& body) {
  std::thread([&] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    body();
  }).join();
}

TEST(FilterTest, IsPutReplacedAndTakenAwayWithItsClsact) {
  InFreshNamespace([] {
    const Fd first = LoadFilter(), second = LoadFilter();
    EXPECT_EQ(Present(), 0u);
    EXPECT_TRUE(tc::Detach(kLo)) << "nothing is there";
    EXPECT_TRUE(tc::Attach(first.get(), kLo, rtnl::Direction::kEgress));
    EXPECT_EQ(Present(), IdOf(first));
    EXPECT_TRUE(tc::Attach(second.get(), kLo, rtnl::Direction::kEgress));
    EXPECT_EQ(Present(), IdOf(second));
    EXPECT_TRUE(tc::Detach(kLo));
    EXPECT_EQ(Present(), 0u);
    EXPECT_FALSE(HasClsact());
    EXPECT_TRUE(tc::Detach(kLo));
  });
}

TEST(FilterTest, FiltersOfOthersStay) {
  InFreshNamespace([] {
    const Fd program = LoadFilter();
    const Fd others = LoadFilter();
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = kLo, .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, filter, .prog_fd = others.get(), .handle = 3, .priority = 7);
    ASSERT_EQ(bpf_tc_hook_create(&hook), 0);
    ASSERT_EQ(bpf_tc_attach(&hook, &filter), 0);
    EXPECT_EQ(Present(), 0u);
    EXPECT_TRUE(tc::Attach(program.get(), kLo, rtnl::Direction::kEgress));
    EXPECT_EQ(Present(), IdOf(program));
    EXPECT_TRUE(tc::Detach(kLo));
    EXPECT_TRUE(HasClsact());
    auto left = rtnl::Filters(kLo, rtnl::Direction::kIngress);
    ASSERT_TRUE(left);
    ASSERT_EQ(left->size(), 1u);
    EXPECT_EQ(left->front().priority, 7u);
    EXPECT_EQ(left->front().handle, 3u);
    EXPECT_EQ(left->front().program_id, IdOf(others));
  });
}

}  // namespace
}  // namespace qanat::agent
