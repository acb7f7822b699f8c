// SPDX-License-Identifier: Apache-2.0
// With any one part of the capture gone and nobody there to repair it, no SYN of the application
// leaves the pod: a recorder at the node's end of the pod's veth looks; and none from outside gets
// to the application. And what a process with CAP_NET_RAW can do to a socket after the connect hook
// has seen it does not let it out.
#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "bpf/user/link.h"
#include "bpf/user/node_maps.h"
#include "common/netns/netns.h"
#include "tests/bpf/bed.h"
#include "tests/bpf/recorder.h"

namespace qanat::test {
namespace {

constexpr const char* kOut4 = "10.66.9.9:8080";
constexpr const char* kOut6 = "[fd66:9::9]:8080";

class GuardTest : public ::testing::Test {
 protected:
  GuardTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)), recorder_(bed_.node_ns(), "va") {
    servers_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [] { ServeApp(8080); }));
    servers_.push_back(bed_.Spawn({bed_.out_ns(), "host"}, [] { ServeApp(8080); }));
    EXPECT_TRUE(recorder_.valid());
    // Not yet captured: what the recorder is to find, in both families.
    EXPECT_TRUE(bed_.WaitFor([&] { return From({.to = kOut4}).rfind("app", 0) == 0; }));
    EXPECT_GT(recorder_.Syns(), 0);
    EXPECT_TRUE(bed_.WaitFor([&] { return From({.to = kOut6}).rfind("app", 0) == 0; }));
    EXPECT_GT(recorder_.Syns(), 0);
    bed_.ShowPod(a_);
    bed_.StartAgent();
    bed_.StartPeer();
    EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << bed_.StatusText(a_);
  }
  ~GuardTest() override {
    servers_.clear();
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
  }
  std::string From(const Dial& dial) {
    return bed_.Run({a_.netns, "pods/a"}, [&] { return Call(dial); });
  }
  bool Works() {
    return From({.to = kOut4}).rfind("out", 0) == 0 && From({.to = kOut6}).rfind("out", 0) == 0;
  }
  std::vector<std::string> Links() {
    std::vector<std::string> names;
    for (const auto& pin : std::filesystem::directory_iterator(bed_.bpf_dir() + "/links"))
      names.push_back(pin.path().filename().string());
    return names;
  }
  uint64_t Counter(qanat_counter which) {
    auto maps = bpf::NodeMaps::Open(bed_.bpf_dir() + "/maps");
    EXPECT_TRUE(maps);
    return maps->CountersOf(1)->value[which];
  }
  // Breaks one thing while no agent is there, lets the application try, and has it repaired.
  void ExpectNothingLeaves(const std::string& what, const std::function<bool()>& harm) {
    bed_.StopAgent(9);
    ASSERT_TRUE(harm()) << what;
    (void)recorder_.Syns();
    for (const char* to : {kOut4, kOut6})
      for (unsigned mark : {0u, 0x539u}) (void)From({.to = to, .mark = mark, .timeout_ms = 200});
    EXPECT_EQ(recorder_.Syns(), 0) << what;
    for (const std::string& to : {a_.ip4 + ":8080", "[" + a_.ip6 + "]:8080"}) {
      const std::string line =
          bed_.Run({bed_.out_ns(), "host"}, [&] { return Call({.to = to, .timeout_ms = 200}); });
      EXPECT_NE(line.rfind("app", 0), 0u) << "came in without " << what << ": " << line;
    }
    bed_.StartAgent();
    EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << what << bed_.StatusText(a_);
  }

  Bed bed_;
  Bed::PodInfo a_;
  Recorder recorder_;
  std::vector<Process> servers_;
};

TEST_F(GuardTest, NothingLeavesWithoutAnyOneLink) {
  const auto links = Links();
  ASSERT_EQ(links.size(), 11u + 5u);
  for (const std::string& link : links)
    ExpectNothingLeaves(link, [&] {
      const std::string path = bed_.bpf_dir() + "/links/" + link;
      auto pinned = bpf::Link::OpenPinned(path);
      return pinned && bpf_link_detach(pinned->fd()) == 0 && std::filesystem::remove(path);
    });
}

TEST_F(GuardTest, NothingLeavesWithoutAnyOneRuleRouteOrSysctl) {
  std::vector<std::string> harms;
  for (const std::string ip : {"ip", "ip -6"})
    for (const char* what : {" rule del pref 99", " rule del pref 100", " route flush table 101",
                             " rule add pref 50 lookup main"})
      harms.push_back(ip + what);
  for (const char* name :
       {"net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv6.fwmark_reflect"})
    harms.push_back(std::string("sysctl -qw ") + name + "=0");
  for (const std::string& harm : harms)
    ExpectNothingLeaves(harm, [&] {
      if (harm.find("pref 50") == std::string::npos) return bed_.Sh(a_.netns, harm);
      // Nobody can repair it for us: it goes by itself, after the application has tried.
      return bed_.Sh(a_.netns, harm +
                                   "; (sleep 2; ip rule del pref 50; ip -6 rule del pref 50) "
                                   ">/dev/null 2>&1 &");
    });
}

TEST_F(GuardTest, WhatIsChangedAfterConnectDoesNotLetASynOut) {
  // TCP_FASTOPEN_CONNECT: connect() only runs the hook, the SYN goes with the first send.
  for (const char* to : {kOut4, kOut6}) {
    EXPECT_EQ(From({.to = to, .deferred = true}).rfind("out", 0), 0u) << "as it is it is captured";
    (void)recorder_.Syns();
    const auto expect_stopped = [&](const Dial& dial, const std::string& what) {
      const uint64_t before = Counter(QANAT_CNT_GUARD_DROPPED);
      const std::string line = From(dial);
      EXPECT_EQ(line.rfind("error", 0), 0u) << what << " " << to << ": " << line;
      EXPECT_EQ(recorder_.Syns(), 0) << what << " " << to;
      EXPECT_GT(Counter(QANAT_CNT_GUARD_DROPPED), before) << what << " " << to << ": " << line;
    };
    for (unsigned mark : {0x1u, 0x539u, 0x53cu})
      expect_stopped({.to = to, .deferred = true, .late_mark = mark, .timeout_ms = 300},
                     "mark " + std::to_string(mark));
    expect_stopped({.to = to, .deferred = true, .late_device = "eth0", .timeout_ms = 300},
                   "device");
  }
}

}  // namespace
}  // namespace qanat::test
