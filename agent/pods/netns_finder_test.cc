// SPDX-License-Identifier: Apache-2.0
// On a made-up /proc: files of any kind stand for namespaces, told apart by their inodes.
#include "agent/pods/netns_finder.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace qanat::agent {
namespace {

namespace fs = std::filesystem;

const std::string kUidA = "aaaaaaaa-0000-4000-8000-000000000001";
const std::string kUidB = "bbbbbbbb-0000-4000-8000-000000000002";

class NetnsFinderTest : public ::testing::Test {
 protected:
  NetnsFinderTest() {
    char name[] = "/tmp/qanat-proc-XXXXXX";
    dir_ = ::mkdtemp(name);
    fs::create_directories(dir_ + "/netns");
    for (const char* ns : {"host", "a", "b", "own"}) std::ofstream(dir_ + "/" + ns) << ns;
    AddProcess("self", "", "host", 1);
    options_.proc = dir_ + "/proc";
    options_.netns_dirs = {dir_ + "/netns"};
  }
  ~NetnsFinderTest() override { fs::remove_all(dir_); }

  void AddProcess(const std::string& pid, const std::string& uid, const std::string& ns,
                  int started) {
    const std::string process = dir_ + "/proc/" + pid;
    fs::create_directories(process + "/ns");
    std::ofstream(process + "/cgroup")
        << "5:pids:/\n0::" << (uid.empty() ? "/x" : "/kubepods/pod" + uid + "/c") << "\n";
    std::ofstream(process + "/stat")
        << pid << " (a) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 " << started << " 20\n";
    fs::create_hard_link(dir_ + "/" + ns, process + "/ns/net");
  }

  std::string dir_;
  NetnsFinderOptions options_;
};

TEST_F(NetnsFinderTest, PrefersTheRuntimesFileAndTheOldestProcess) {
  AddProcess("300", kUidA, "own", 900);  // made itself a namespace later
  AddProcess("700", kUidA, "a", 100);
  AddProcess("20", kUidB, "b", 50);
  AddProcess("21", "", "a", 1);
  fs::create_hard_link(dir_ + "/a", dir_ + "/netns/cni-a");
  auto found = FindNetns({kUidA, kUidB, "cccc"}, options_);
  ASSERT_TRUE(found) << found.error().message;
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ(found->at(kUidA).path, dir_ + "/netns/cni-a");
  EXPECT_EQ(found->at(kUidB).path, dir_ + "/proc/20/ns/net") << "nothing better";
}

TEST_F(NetnsFinderTest, TheNodesOwnNamespaceIsNobodys) {
  AddProcess("20", kUidA, "host", 50);
  auto found = FindNetns({kUidA}, options_);
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->empty());
}

TEST_F(NetnsFinderTest, OnlyWhatIsAskedForIsLookedAt) {
  AddProcess("20", kUidA, "a", 50);
  EXPECT_TRUE(FindNetns({}, options_)->empty());
  EXPECT_TRUE(FindNetns({kUidB}, options_)->empty());
  options_.proc = dir_ + "/nowhere";
  EXPECT_FALSE(FindNetns({kUidA}, options_));
}

}  // namespace
}  // namespace qanat::agent
