// SPDX-License-Identifier: Apache-2.0
// The agent is killed, ended, replaced by one of another layout of the kernel's maps, and that by
// the first one again, while connections of all kinds go on.
#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "bpf/user/node_maps.h"
#include "tests/bpf/bed.h"
#include "tests/bpf/killer.h"
#include "tests/bpf/steady_load.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;

namespace fs = std::filesystem;

constexpr int kEveryMs = 70;

int Setting(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

class MigrationTest : public ::testing::Test {
 protected:
  MigrationTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)), b_(bed_.MakePod("b", 11)) {
    for (const Where& where :
         {Where{a_.netns, "pods/a"}, Where{b_.netns, "pods/b"}, Where{bed_.out_ns(), "host"}})
      servers_.push_back(bed_.Spawn(where, [] { ServeApp(8080); }));
    bed_.ShowPod(a_);
    bed_.ShowPod(b_);
    bed_.StartAgent();
    own_ = bed_.program();
    bed_.StartPeer();
    for (const auto& pod : {a_, b_}) EXPECT_TRUE(bed_.WaitEnabled(pod)) << bed_.StatusText(pod);
  }
  ~MigrationTest() override {
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
  }

  // Out of a pod, into it, to its proxy, as the node's own probe, past the second proxy by a grant.
  std::vector<Way> Ways() const {
    const Where app{a_.netns, "pods/a"}, out{bed_.out_ns(), "host"}, node{bed_.node_ns(), "host"},
        proxy{a_.netns, "ztunnel"};
    return {{"out 4", app, {.to = "10.66.9.9:8080"}, "out "},
            {"out 6", app, {.to = "[fd66:9::9]:8080"}, "out "},
            {"in 4", out, {.to = a_.ip4 + ":8080"}, "in "},
            {"in 6", out, {.to = "[" + a_.ip6 + "]:8080"}, "in "},
            {"hbone", out, {.to = a_.ip4 + ":15008"}, "hbone "},
            {"probe 4", node, {.to = a_.ip4 + ":8080"}, "app "},
            {"probe 6", node, {.to = "[" + b_.ip6 + "]:8080"}, "app "},
            {"one pass 4", proxy, {.to = b_.ip4 + ":8080", .mark = 0x53c}, "app "},
            {"one pass 6", proxy, {.to = "[" + b_.ip6 + "]:8080", .mark = 0x53c}, "app "},
            {"held out", app, {.to = "10.66.9.9:9000"}, "", true},
            {"held in", out, {.to = "[" + a_.ip6 + "]:9000"}, "", true}};
  }

  void StartAgain(const std::string& program) {
    const size_t before = bed_.Log().size();
    bed_.SetProgram(program);
    bed_.StartAgent();
    EXPECT_TRUE(bed_.WaitFor(
        [&] { return bed_.Log().find("acknowledged the snapshot", before) != std::string::npos; }));
    for (const auto& pod : {a_, b_}) EXPECT_TRUE(bed_.WaitEnabled(pod)) << bed_.StatusText(pod);
  }

  // Which layout lies there; 0: none, or one that says nothing.
  uint32_t Version(const std::string& folder = "/maps") const {
    const Fd map(bpf_obj_get((bed_.bpf_dir() + folder + "/abi").c_str()));
    qanat_abi abi{};
    const uint32_t zero = 0;
    return map && bpf_map_lookup_elem(map.get(), &zero, &abi) == 0 ? abi.version : 0;
  }
  bool InBetween() const { return fs::exists(bed_.bpf_dir() + "/next"); }

  Bed bed_;
  Bed::PodInfo a_, b_;
  std::vector<Process> servers_;
  std::string own_;
  const std::string other_ = QANAT_EDITION_PATH;
};

// $QANAT_UPGRADE_ROUNDS times.
TEST_F(MigrationTest, RestartsUpgradesAndDowngradesFailNoConnection) {
  SteadyLoad load(bed_, Ways(), kEveryMs);
  ASSERT_TRUE(load.More(10));
  const int rounds = Setting("QANAT_UPGRADE_ROUNDS", 3);
  const uint64_t captured = bed_.Counter(a_, "captured");
  for (int round = 0; round < rounds && !HasFailure(); ++round) {
    for (const bool other : {false, false, true, false}) {
      bed_.StopAgent(round % 2 == 0 ? SIGKILL : SIGTERM);
      EXPECT_TRUE(load.More(3)) << "without an agent";
      StartAgain(other ? other_ : own_);
      EXPECT_EQ(Version(), QANAT_ABI_VERSION + (other ? 1u : 0u));
      EXPECT_FALSE(InBetween());
      EXPECT_TRUE(load.More(5));
      EXPECT_GE(bed_.Counter(a_, "captured"), captured) << "counters are carried over";
    }
  }
  const std::string bad = load.Stop();
  std::printf("    %d rounds, %d connections and questions\n", rounds, load.good());
  EXPECT_EQ(bad, "");
}

// Of all system calls that change something one is not reached, another one each time; what is left
// goes on by itself, and either agent takes it up.
TEST_F(MigrationTest, AKillBetweenAnyTwoStepsFailsNoConnection) {
  SteadyLoad load(bed_, Ways(), kEveryMs);
  ASSERT_TRUE(load.More(10));
  const int stride = Setting("QANAT_UPGRADE_STRIDE", 7);
  int kills = 0, both = 0;
  for (int step = 1; !HasFailure(); step += stride) {
    bed_.StopAgent(SIGKILL);
    bed_.SetProgram(other_);
    const std::string next = bed_.bpf_dir() + "/next";
    const pid_t pid = bed_.LaunchAgent(/*traced=*/true);
    const Killed killed = KillAtStep(pid, next, step);
    const Process ended(pid);
    if (killed.reached < step) break;  // it has done all of them
    ++kills;
    SCOPED_TRACE("killed before step " + std::to_string(step) + ", " + killed.what);
    EXPECT_TRUE(load.More(3)) << "with what is there";
    if (kills % 2 == 0 && ++both) StartAgain(other_);
    if (HasFailure()) break;
    if (kills % 2 == 0) EXPECT_EQ(Version(), QANAT_ABI_VERSION + 1u);
    bed_.StopAgent(SIGKILL);
    StartAgain(own_);
    EXPECT_EQ(Version(), static_cast<uint32_t>(QANAT_ABI_VERSION));
    EXPECT_FALSE(InBetween());
    EXPECT_TRUE(load.More(3));
  }
  StartAgain(own_);
  EXPECT_GT(kills, 3);
  EXPECT_GT(both, 1);
  const std::string bad = load.Stop();
  std::printf("    %d kills, %d connections and questions\n", kills, load.good());
  EXPECT_EQ(bad, "");
}

TEST_F(MigrationTest, ALayoutThatMustNotBeTakenOverStaysInForce) {
  SteadyLoad load(bed_, Ways(), kEveryMs);
  bed_.StopAgent(SIGKILL);
  auto maps = bpf::NodeMaps::Open(bed_.bpf_dir() + "/maps");
  ASSERT_TRUE(maps);
  ASSERT_TRUE(maps->abi.Update(0, {QANAT_ABI_VERSION + 7, QANAT_ABI_VERSION + 6}));
  const size_t before = bed_.Log().size();
  Process refused(bed_.LaunchAgent());
  EXPECT_TRUE(bed_.WaitFor([&] { return !refused.Running(); }));
  const std::string log = bed_.Log().substr(before);
  EXPECT_THAT(log, HasSubstr("are of layout " + std::to_string(QANAT_ABI_VERSION + 7)));
  EXPECT_THAT(log,
              HasSubstr("what is captured stays captured; run the agent that was here before"));
  EXPECT_TRUE(load.More(10));
  // One that may be taken over, and happens to be the same.
  ASSERT_TRUE(maps->abi.Update(0, {QANAT_ABI_VERSION + 7, QANAT_ABI_VERSION}));
  StartAgain(own_);
  EXPECT_EQ(Version(), static_cast<uint32_t>(QANAT_ABI_VERSION));
  EXPECT_TRUE(load.More(5));
  EXPECT_EQ(load.Stop(), "");
}

// A pod whose saved state is lost is not known before its source shows it: until then it runs the
// old programs, and is never open.
TEST_F(MigrationTest, WithoutSavedStateAPodStaysClosed) {
  bed_.StopAgent(SIGKILL);
  bed_.peer().Kill(SIGKILL);
  for (const auto& file : fs::directory_iterator(bed_.dir() + "/agent-state"))
    fs::resize_file(file.path(), 10);
  bed_.SetProgram(other_);
  bed_.StartAgent();
  const auto closed = [&](const Where& where, const std::string& to) {
    const Dial dial{.to = to, .timeout_ms = 500};
    return bed_.Run(where, [&] { return Call(dial); }).rfind("error", 0) == 0;
  };
  EXPECT_TRUE(closed({a_.netns, "pods/a"}, "10.66.9.9:8080"));
  EXPECT_TRUE(closed({bed_.out_ns(), "host"}, a_.ip4 + ":8080"));
  bed_.StartPeer();
  for (const Way& way : Ways())  // enabled it is all the time, served when the proxy listens
    EXPECT_TRUE(way.held || bed_.WaitFor([&] {
      return bed_.Run(way.where, [&] { return Call(way.dial); }).rfind(way.answer, 0) == 0;
    })) << way.name;
  SteadyLoad load(bed_, Ways(), kEveryMs);
  EXPECT_TRUE(load.More(5));
  EXPECT_EQ(load.Stop(), "");
}

}  // namespace
}  // namespace qanat::test
