// SPDX-License-Identifier: Apache-2.0
// The parts of bpf/user that need no privilege.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "bpf/user/counters.h"
#include "bpf/user/features.h"
#include "bpf/user/mounts.h"
#include "bpf/user/node_maps.h"

namespace qanat::bpf {
namespace {

TEST(MountsTest, ReadsMountInfo) {
  const auto mounts = ParseMountInfo(
      "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
      "42 31 0:39 /kubepods/x /sys/fs/cgroup ro shared:5 master:3 - cgroup2 cgroup2 rw\n"
      "50 31 0:40 / /mnt/with\\040space rw - bpf bpf rw\n"
      "garbage\n"
      "60 31 0:41 / /x rw\n");
  ASSERT_EQ(mounts.size(), 3u);
  EXPECT_EQ(mounts[0].type, "cgroup2");
  EXPECT_EQ(mounts[0].point, "/sys/fs/cgroup/unified");
  EXPECT_EQ(mounts[1].root, "/kubepods/x");
  EXPECT_EQ(mounts[2].point, "/mnt/with space");
}

TEST(CountersTest, EveryCounterHasItsOwnName) {
  std::set<std::string_view> names;
  for (int i = 0; i < QANAT_COUNTERS; ++i) {
    const auto counter = static_cast<qanat_counter>(i);
    EXPECT_TRUE(names.insert(CounterName(counter)).second) << CounterName(counter);
    EXPECT_NE(CounterName(counter), "unknown");
    EXPECT_FALSE(CounterHelp(counter).empty());
  }
}

TEST(NodeMapsTest, AddressesKeepTheirMeaning) {
  for (const char* text : {"10.1.2.3", "fd00::1", "2001:db8:1:2:3:4:5:6"}) {
    auto ip = net::IpAddress::Parse(text);
    ASSERT_TRUE(ip);
    EXPECT_EQ(FromKernel(ToKernel(*ip)), *ip);
  }
  EXPECT_FALSE(FromKernel(qanat_ip{}).is_set());
  const qanat_ip mapped = ToKernel(*net::IpAddress::Parse("10.1.2.3"));
  EXPECT_EQ(mapped.word[2], __builtin_bswap32(0x0000ffff));
  EXPECT_EQ(mapped.word[3], __builtin_bswap32(0x0a010203));
}

TEST(SlotTest, SlotsOfPodsRolesAndWorkersNeverMeet) {
  std::set<uint32_t> seen;
  for (uint32_t pod : {0u, 1u, 2u, QANAT_MAX_PODS - 1u})
    for (uint32_t role = 0; role < QANAT_ROLES; ++role)
      for (uint32_t worker = 0; worker < QANAT_MAX_WORKERS; ++worker) {
        const uint32_t slot = qanat_slot(pod, role, worker);
        EXPECT_TRUE(seen.insert(slot).second);
        EXPECT_LT(slot, QANAT_MAX_PODS * QANAT_ROLES * QANAT_MAX_WORKERS);
      }
}

TEST(FeaturesTest, WhatIsThereIsNoError) {
  EXPECT_TRUE(CheckRequired({}, "6.1.0"));
  EXPECT_TRUE(CheckRequired({{"a", true, true, "x"}, {"b", false, false, "y"}}, "6.1.0"));
}

TEST(FeaturesTest, NamesTheKernelEveryMissingFeatureAndTheRemedy) {
  const Status status = CheckRequired({{"bpf_link", false, true, "keeps programs (5.7)"},
                                       {"tcx", false, false, "second guard (6.6)"},
                                       {"sk_lookup", false, true, "chooses (5.9)"}},
                                      "5.4.0-1-amd64");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::kUnimplemented);
  for (const char* part : {"kernel (5.4.0-1-amd64) lacks bpf_link, which keeps programs (5.7)",
                           "sk_lookup, which chooses (5.9)", "6.1 or newer", "nodeSelector"})
    EXPECT_THAT(status.error().message, ::testing::HasSubstr(part));
  EXPECT_THAT(status.error().message, ::testing::Not(::testing::HasSubstr("tcx")));
  EXPECT_THAT(status.error().message, ::testing::Not(::testing::HasSubstr("may not")));
}

TEST(FeaturesTest, WhatIsNotRequiredHasSomethingInItsPlace) {
  std::set<std::string> names;
  for (const Feature& feature : ProbeFeatures()) {
    EXPECT_TRUE(names.insert(feature.name).second) << feature.name;
    EXPECT_NE(feature.why, "") << feature.name;
    EXPECT_EQ(feature.instead.empty(), feature.required) << feature.name;
  }
  for (const char* name : {"tcx", "clsact", "ringbuf", "inet_diag_destroy", "sock_destroy",
                           "iter_tcp", "btf", "tcp_fields"})
    EXPECT_TRUE(names.contains(name)) << name;
}

TEST(FeaturesTest, HasIsWhatIsPresent) {
  const std::vector<Feature> features = {{"a", true}, {"b", false}};
  EXPECT_TRUE(Has(features, "a"));
  EXPECT_FALSE(Has(features, "b"));
  EXPECT_FALSE(Has(features, "c"));
}

TEST(FeaturesTest, WhatIsForbiddenIsNotBlamedOnTheKernel) {
  const Status status = CheckRequired({{"bpf", false, true, "is needed", true}}, "6.1.0");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, Code::kPermissionDenied);
  EXPECT_THAT(status.error().message, ::testing::HasSubstr("the agent may not use bpf"));
  EXPECT_THAT(status.error().message, ::testing::HasSubstr("SYS_ADMIN"));
  EXPECT_THAT(status.error().message, ::testing::Not(::testing::HasSubstr("lacks")));
}

}  // namespace
}  // namespace qanat::bpf
