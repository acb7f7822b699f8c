// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/memory/limit.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace qanat::ztunnel {
namespace {

constexpr uint64_t kMiB = 1 << 20;

// A machine's files.
class Tree : public ::testing::Test {
 protected:
  Tree() {
    char name[] = "/tmp/qanat-limit-XXXXXX";
    root = mkdtemp(name);
    Put("/proc/meminfo", "MemFree: 1 kB\nMemTotal:        4096000 kB\nMemTotals: 1 kB\n");
    Put("/proc/self/statm", "5000 100 50 1 0 40 0\n");
  }
  ~Tree() override { std::filesystem::remove_all(root); }
  void Put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root + path).parent_path());
    std::ofstream(root + path) << text;
  }
  std::string root;
};

TEST_F(Tree, OfTheMachine) {
  const MemoryLimits none(root);  // not even /proc/self/cgroup
  EXPECT_EQ(none.Default(), 4096000u * 1024 / 2);
  EXPECT_EQ(none.Source(), "machine");
  EXPECT_FALSE(none.by_cgroup());
  EXPECT_EQ(none.Used(), 100 * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
  Put("/proc/self/cgroup", "0::/a\nnonsense\n:\n");
  Put("/sys/fs/cgroup/a/memory.max", "max\n");
  EXPECT_EQ(MemoryLimits(root).Source(), "machine");
}

TEST_F(Tree, TheSmallestOfTheCgroupsAroundUs) {
  Put("/proc/self/cgroup", "0::/pods/x/c\n");
  Put("/sys/fs/cgroup/pods/x/c/memory.max", "max\n");
  Put("/sys/fs/cgroup/pods/x/memory.max", std::to_string(100 * kMiB) + "\n");
  Put("/sys/fs/cgroup/pods/memory.max", std::to_string(500 * kMiB) + "\n");
  Put("/sys/fs/cgroup/pods/x/memory.stat",
      "anon 999999999\nsock 4096\nslab 7777\nslab_unreclaimable 100\nkernel_stack 20\n"
      "pagetables 3\n");
  const MemoryLimits limits(root);
  EXPECT_EQ(limits.Default(), 100 * kMiB / 10 * 9);
  EXPECT_EQ(limits.Source(), "cgroup /pods/x");
  EXPECT_EQ(limits.Used(), 100 * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) + 4096 + 123);
}

// A container sees its own cgroup at the top, whatever its path is.
TEST_F(Tree, InsideAContainer) {
  Put("/proc/self/cgroup", "0::/../../outside\n");
  Put("/sys/fs/cgroup/memory.max", std::to_string(64 * kMiB) + "\n");
  const MemoryLimits limits(root);
  EXPECT_EQ(limits.Default(), 64 * kMiB / 10 * 9);
  EXPECT_EQ(limits.Source(), "cgroup /");
}

TEST_F(Tree, VersionOne) {
  Put("/proc/self/cgroup", "12:cpu,cpuacct:/k\n7:memory:/k/p\n1:name=systemd:/k\n");
  Put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Put("/sys/fs/cgroup/memory/k/p/memory.limit_in_bytes", std::to_string(80 * kMiB) + "\n");
  Put("/sys/fs/cgroup/memory/k/p/memory.kmem.usage_in_bytes", "1000\n");
  Put("/sys/fs/cgroup/memory/k/p/memory.kmem.tcp.usage_in_bytes", "200\n");
  const MemoryLimits limits(root);
  EXPECT_EQ(limits.Default(), 80 * kMiB / 10 * 9);
  EXPECT_EQ(limits.Used(), 100 * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) + 1200);
}

TEST(MemoryLimits, OfThisMachine) {
  const MemoryLimits limits;
  EXPECT_GT(limits.Default(), 16 * kMiB);
  EXPECT_GT(limits.Used(), kMiB);
}

}  // namespace
}  // namespace qanat::ztunnel
