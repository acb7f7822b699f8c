// SPDX-License-Identifier: Apache-2.0
// What fails midway: a namespace that vanishes at each step of an enrolment, a bpffs that is
// read-only, maps that are full, a /run that is wiped. The error says what to do, and nothing is
// left half done.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "agent/enrol/enroller.h"
#include "bpf/user/mounts.h"
#include "bpf/user/node_maps.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kOut4 = "10.66.9.9:8080";

class BadInputTest : public ::testing::Test {
 protected:
  BadInputTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)) {
    servers_.push_back(bed_.Spawn({bed_.out_ns(), "host"}, [] { ServeApp(8080); }));
  }
  ~BadInputTest() override {
    servers_.clear();
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
  }
  std::string From(const Bed::PodInfo& pod, const Dial& dial) {
    return bed_.Run({pod.netns, "pods/" + pod.name}, [&] { return Call(dial); });
  }
  bool Says(const Bed::PodInfo& pod, const std::string& text) {
    return bed_.WaitFor([&] { return bed_.StatusText(pod).find(text) != std::string::npos; },
                        20000);
  }
  bpf::NodeMaps Maps() {
    auto maps = bpf::NodeMaps::Open(bed_.bpf_dir() + "/maps");
    if (!maps) throw std::runtime_error(maps.error().message);
    return std::move(*maps);
  }
  int PodPins() {
    int pins = 0;
    for (const auto& pin : std::filesystem::directory_iterator(bed_.bpf_dir() + "/links"))
      pins += pin.path().filename().string().rfind("pod-", 0) == 0;
    return pins;
  }
  // No pin, map entry or state file of a pod.
  std::string Left() {
    bpf::NodeMaps maps = Maps();
    std::string left;
    if (const int pins = PodPins()) left += std::to_string(pins) + " pins ";
    if (!maps.pods.Keys().empty()) left += "pods ";
    if (!maps.pod_ips.Keys().empty()) left += "pod_ips ";
    if (!maps.own_ips.Keys().empty()) left += "own_ips ";
    if (!maps.budgets.Keys().empty()) left += "budgets ";
    if (!std::filesystem::is_empty(bed_.dir() + "/agent-state")) left += "state ";
    return left;
  }
  void ExpectNothingLeft() {
    EXPECT_TRUE(bed_.WaitFor([&] { return Left().empty(); }, 5000)) << Left();
  }
  std::string Rules(const Bed::PodInfo& pod) {
    return bed_.Run({pod.netns, "host"}, [] {
      std::string out;
      FILE* pipe = ::popen("ip rule; ip -6 rule", "r");
      char buffer[4096];
      while (size_t n = ::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, n);
      ::pclose(pipe);
      return out;
    });
  }

  Bed bed_;
  Bed::PodInfo a_;
  std::vector<Process> servers_;
};

TEST_F(BadInputTest, ANamespaceThatWasNeverThere) {
  bed_.ShowPod(a_, true, "/run/netns/qKERNEL-nowhere");
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(Says(a_, "No such file")) << bed_.StatusText(a_);
  ExpectNothingLeft();
  bed_.ShowPod(a_);  // the source knows better now
  EXPECT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
}

TEST_F(BadInputTest, ANamespaceThatVanishesBetweenPrepareAndAttachIsForgottenByTheKernel) {
  // The two steps follow each other at once, so this agent is one of our own: what it asks in the
  // middle of the first takes the namespace's file away.
  const std::string path = bed_.dir() + "/netns";
  std::ofstream(path).flush();
  ASSERT_EQ(::mount(("/run/netns/" + a_.netns).c_str(), path.c_str(), nullptr, MS_BIND, nullptr),
            0);
  const std::string seen = bed_.Run({bed_.node_ns(), "agent"}, [&]() -> std::string {
    event::EventLoop loop;
    auto hooks =
        agent::Hooks::Open(bed_.bpf_dir(), bpf::FindCgroup2().value_or(""), agent::Guard::kTcx);
    if (!hooks) return hooks.error().message;
    agent::EnrollerOptions options;
    options.status_dir = bed_.dir() + "/status";
    options.state_dir = bed_.dir() + "/agent-state";
    options.reconcile_every = std::chrono::milliseconds(100);
    int asked = 0;
    options.check_pod = [&](const netns::NetNs&) -> Status {
      ++asked;
      if (::umount2(path.c_str(), MNT_DETACH) != 0) return FailErrno("umount");
      return {};
    };
    auto enroller = agent::Enroller::Create(loop, **hooks, std::move(options));
    if (!enroller) return enroller.error().message;
    if (Status adopted = (*enroller)->Adopt(); !adopted) return adopted.error().message;
    agent::Pod pod;
    pod.uid = a_.uid;
    pod.name = a_.name;
    pod.ns = "shop";
    pod.netns = path;
    pod.ips = {*net::IpAddress::Parse(a_.ip4), *net::IpAddress::Parse(a_.ip6)};
    pod.labels["istio.io/dataplane-mode"] = "ambient";
    (*enroller)->OnPod(pod);
    const std::string after = "asked " + std::to_string(asked) + ", left: " + Left();
    (*enroller)->Start();
    event::Timer end(loop, [&] { loop.Stop(); });
    end.Start(std::chrono::seconds(1));
    loop.Run();
    return after + Left();
  });
  EXPECT_EQ(seen, "asked 1, left: ");
  EXPECT_EQ(bed_.Redirection(a_), "pending");
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("prepare: "));  // the attempts since
}

TEST_F(BadInputTest, ANamespaceThatVanishesBeforeTheProxyHasComeIsForgottenByTheKernel) {
  bed_.ShowPod(a_);
  bed_.StartAgent();
  ASSERT_TRUE(Says(a_, "no proxy")) << bed_.StatusText(a_);
  EXPECT_NE(Left(), "") << "prepared and attached";
  bed_.DeletePodNs(a_);
  ExpectNothingLeft();
  EXPECT_TRUE(Says(a_, "No such file")) << bed_.StatusText(a_);
  bed_.StartPeer();
  a_ = bed_.MakePod("a", 10);  // a new sandbox at the same place
  EXPECT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
}

TEST_F(BadInputTest, ANamespaceThatVanishesWhileTheProxyIsAskedIsTakenBack) {
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitFor(
      [&] { return bed_.Log().find("acknowledged the snapshot") != std::string::npos; }));
  bed_.peer().Signal(SIGSTOP);
  bed_.ShowPod(a_);
  ASSERT_TRUE(bed_.WaitFor([&] { return PodPins() == 2; }));
  bed_.DeletePodNs(a_);
  ::usleep(300000);
  bed_.peer().Signal(SIGCONT);
  ExpectNothingLeft();
  EXPECT_EQ(bed_.Redirection(a_), "pending");
  a_ = bed_.MakePod("a", 10);
  EXPECT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
}

TEST_F(BadInputTest, ANamespaceThatVanishesDuringItsProofIsTakenBack) {
  ASSERT_TRUE(bed_.Sh(a_.netns,
                      "nft add table inet q; nft \"add chain inet q pre { type filter hook "
                      "prerouting priority -300; }\"; "
                      "nft add rule inet q pre iifname eth0 tcp dport 15009 drop"));
  bed_.ShowPod(a_);
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(Says(a_, "proof failed")) << bed_.StatusText(a_);
  bed_.DeletePodNs(a_);
  ExpectNothingLeft();
  EXPECT_EQ(Maps().probes.Keys().size(), 0u);
  EXPECT_EQ(bed_.Redirection(a_), "pending");
}

// As at the end of a pod, when its interface goes first: closed as it is, and nothing is broken.
TEST_F(BadInputTest, AnInterfaceThatVanishesIsToldAsSuch) {
  bed_.ShowPod(a_);
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  ASSERT_TRUE(bed_.Sh(a_.netns, "ip link del eth0"));
  EXPECT_TRUE(Says(a_, "no network interface any more")) << bed_.StatusText(a_);
  ::usleep(1500000);  // three looks
  EXPECT_TRUE(Says(a_, "no network interface any more")) << bed_.StatusText(a_);
  EXPECT_EQ(bed_.Log().find("cut off"), std::string::npos);
  bed_.HidePod(a_);
  bed_.DeletePodNs(a_);
  ExpectNothingLeft();
}

TEST_F(BadInputTest, AReadOnlyBpffsIsNamedWithItsRemedy) {
  const std::string dir = bed_.bpf_dir();
  std::filesystem::create_directories(dir);
  ASSERT_EQ(::mount("none", dir.c_str(), "bpf", 0, nullptr), 0);
  struct Unmount {
    std::string dir;
    ~Unmount() { ::umount2(dir.c_str(), MNT_DETACH); }
  } unmount{dir};
  const auto remount = [&](unsigned long flags) {
    return ::mount("none", dir.c_str(), "bpf", MS_REMOUNT | flags, nullptr) == 0;
  };
  ASSERT_TRUE(remount(MS_RDONLY));
  bed_.ShowPod(a_);
  EXPECT_THROW(bed_.StartAgent({}, /*wait_ms=*/3000), std::runtime_error);
  EXPECT_THAT(bed_.Log(), HasSubstr("is mounted read-only"));
  EXPECT_THAT(bed_.Log(), HasSubstr("mount -o remount,rw"));
  ASSERT_TRUE(remount(0));
  // Under a living agent: what is enrolled goes on, what is new waits and leaves nothing.
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  bpf::NodeMaps maps = Maps();
  ASSERT_TRUE(remount(MS_RDONLY));
  const Bed::PodInfo b = bed_.MakePod("b", 11);
  const std::string rules = Rules(b);
  bed_.ShowPod(b);
  ASSERT_TRUE(Says(b, "mount -o remount,rw")) << bed_.StatusText(b);
  EXPECT_EQ(bed_.Redirection(b), "pending");
  EXPECT_EQ(PodPins(), 5);
  EXPECT_EQ(maps.pods.Keys().size(), 1u);
  EXPECT_EQ(Rules(b), rules);
  EXPECT_THAT(From(a_, {.to = kOut4}), StartsWith("out"));
  EXPECT_EQ(bed_.StatusText(a_).find("cut off"), std::string::npos) << bed_.StatusText(a_);
  ASSERT_TRUE(remount(0));
  EXPECT_TRUE(bed_.WaitEnabled(b)) << bed_.StatusText(b);
}

TEST_F(BadInputTest, AFullMapOfPodsIsNamedAndThePodIsLeftAsItWas) {
  bed_.StartAgent();
  bed_.StartPeer();
  const std::string rules = Rules(a_);
  bpf::NodeMaps maps = Maps();
  for (uint64_t i = 1; maps.pods.Update(~i, qanat_pod{}); ++i) ASSERT_LT(i, 100000u);
  bed_.ShowPod(a_);
  ASSERT_TRUE(Says(a_, "map pods is full")) << bed_.StatusText(a_);
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("istio.io/dataplane-mode=none"));
  EXPECT_EQ(bed_.Redirection(a_), "pending");
  EXPECT_EQ(PodPins(), 0);
  EXPECT_EQ(Rules(a_), rules);
  EXPECT_TRUE(maps.pod_ips.Keys().empty());
  EXPECT_TRUE(std::filesystem::is_empty(bed_.dir() + "/agent-state"));
  for (uint64_t key : maps.pods.Keys()) (void)maps.pods.Erase(key);
  EXPECT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
}

TEST_F(BadInputTest, AFullMapOfAddressesIsNamedAndThePodIsLeftAsItWas) {
  ASSERT_TRUE(bed_.Sh(a_.netns, "ip addr add 10.66.1.110/24 dev eth0"));
  bed_.StartAgent();
  bed_.StartPeer();
  const std::string rules = Rules(a_);
  bpf::NodeMaps maps = Maps();
  for (uint32_t i = 1; maps.pod_ips.Update(qanat_ip{{i, 1, 1, 1}}, 1); ++i) ASSERT_LT(i, 100000u);
  bed_.ShowPod(a_);
  ASSERT_TRUE(Says(a_, "map pod_ips is full")) << bed_.StatusText(a_);
  EXPECT_EQ(PodPins(), 0);
  EXPECT_EQ(Rules(a_), rules);
  EXPECT_TRUE(maps.pods.Keys().empty());
  for (const qanat_ip& key : maps.pod_ips.Keys()) (void)maps.pod_ips.Erase(key);
  EXPECT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  bed_.HidePod(a_);
  bed_.DeletePodNs(a_);
  ExpectNothingLeft();
  // And that of further addresses.
  for (uint32_t i = 1; maps.own_ips.Update({QANAT_MAX_PODS + i, {{i, 1, 1, 1}}}, 1); ++i)
    ASSERT_LT(i, 100000u);
  const Bed::PodInfo b = bed_.MakePod("b", 11);
  ASSERT_TRUE(bed_.Sh(b.netns, "ip addr add 10.66.1.111/24 dev eth0"));
  bed_.ShowPod(b);
  ASSERT_TRUE(Says(b, "map own_ips is full")) << bed_.StatusText(b);
  EXPECT_TRUE(maps.pods.Keys().empty());
  EXPECT_EQ(Rules(b), rules);
  for (const qanat_own_ip& key : maps.own_ips.Keys()) (void)maps.own_ips.Erase(key);
  EXPECT_TRUE(bed_.WaitEnabled(b)) << bed_.StatusText(b);
}

TEST_F(BadInputTest, WithAFullMapOfGrantsAProbeIsOrdinaryTraffic) {
  servers_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [] { ServeApp(8080); }));
  bed_.ShowPod(a_);
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  const auto probe = [&] {
    return bed_.Run({bed_.node_ns(), "host"}, [&] { return Call({.to = a_.ip4 + ":8080"}); });
  };
  EXPECT_TRUE(bed_.WaitFor([&] { return probe().rfind("app ", 0) == 0; })) << probe();
  bpf::NodeMaps maps = Maps();
  qanat_grant grant{};
  grant.time_ns = ~0ull;  // never too old
  for (uint32_t i = 1; i <= QANAT_MAX_GRANTS; ++i)
    (void)maps.grants.Update(qanat_tuple{{{i, 1, 1, 1}}, {}, 1, 1}, grant);
  EXPECT_THAT(probe(), StartsWith("in "));
  EXPECT_GT(bed_.Counter(a_, "grant_full"), 0u);
  for (const qanat_tuple& key : maps.grants.Keys()) (void)maps.grants.Erase(key);
  EXPECT_THAT(probe(), StartsWith("app "));
}

TEST_F(BadInputTest, WithoutRoomForABudgetAProbeIsOrdinaryTraffic) {
  servers_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [] { ServeApp(8080); }));
  bed_.StartAgent();
  bed_.StartPeer();
  bpf::NodeMaps maps = Maps();
  for (uint64_t i = 1; maps.budgets.Update(~i, qanat_budget{}); ++i) ASSERT_LT(i, 100000u);
  bed_.ShowPod(a_);
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  const auto probe = [&] {
    return bed_.Run({bed_.node_ns(), "host"}, [&] { return Call({.to = a_.ip4 + ":8080"}); });
  };
  EXPECT_THAT(probe(), StartsWith("in "));
  EXPECT_GT(bed_.Counter(a_, "grant_over_budget"), 0u);
  EXPECT_THAT(From(a_, {.to = kOut4}), StartsWith("out"));
  for (uint64_t key : maps.budgets.Keys()) (void)maps.budgets.Erase(key);
  EXPECT_THAT(probe(), StartsWith("app "));
}

// What cannot be proven is not enrolled, and who is enrolled is not cut off for it.
TEST_F(BadInputTest, AFullMapOfProbesIsNamedAndThePodIsLeftAsItWas) {
  bed_.ShowPod(a_);
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  bpf::NodeMaps maps = Maps();
  for (uint32_t i = 1; maps.probes.Update(qanat_tuple{{{i, 1, 1, 1}}, {}, 1, 1}, {}); ++i)
    ASSERT_LT(i, 100000u);
  const Bed::PodInfo b = bed_.MakePod("b", 11);
  const std::string rules = Rules(b);
  bed_.ShowPod(b);
  ASSERT_TRUE(Says(b, "map probes is full")) << bed_.StatusText(b);
  EXPECT_EQ(bed_.Redirection(b), "pending");
  EXPECT_THAT(From(b, {.to = kOut4}), StartsWith("app"));
  // Also when its own turn comes to be proven again.
  ASSERT_TRUE(bed_.Sh(a_.netns, "ip rule del pref 100"));
  EXPECT_TRUE(bed_.WaitFor([&] { return Rules(a_).find("100:") != std::string::npos; }, 5000));
  EXPECT_TRUE(bed_.WaitFor(
      [&] { return From(a_, {.to = kOut4, .timeout_ms = 1000}).rfind("out", 0) == 0; }, 10000))
      << bed_.StatusText(a_);
  for (const qanat_tuple& key : maps.probes.Keys()) (void)maps.probes.Erase(key);
  EXPECT_TRUE(bed_.WaitEnabled(b)) << bed_.StatusText(b);
  EXPECT_EQ(bed_.Log().find("cut off"), std::string::npos);
}

TEST_F(BadInputTest, AProxyWithMoreListenersThanSlotsServesWithThoseThatFit) {
  bed_.ShowPod(a_);
  bed_.StartAgent();
  bed_.StartPeer(QANAT_MAX_WORKERS + 4);
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  EXPECT_THAT(bed_.Admin("/pods"), HasSubstr("\"15001\": 16"));
  for (int i = 0; i < 10; ++i) EXPECT_THAT(From(a_, {.to = kOut4}), StartsWith("out"));
  EXPECT_EQ(bed_.Counter(a_, "drop_no_listener"), 0u);
}

TEST_F(BadInputTest, WhatIsWipedBelowRunIsMadeAgainWithinASecond) {
  namespace fs = std::filesystem;
  const std::string hold = bed_.dir() + "/hold.sock";
  const std::string dns = fs::path(bed_.zds_socket()).parent_path().string() + "/dns";
  bed_.ShowPod(a_);
  bed_.StartAgent({"--hold-socket", hold});
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  const std::string status = bed_.StatusText(a_);
  const std::vector<std::string> all = {bed_.zds_socket(),
                                        bed_.dir() + "/cni.sock",
                                        hold,
                                        bed_.dir() + "/status/" + a_.uid + ".json",
                                        bed_.dir() + "/agent-state/" + a_.uid + ".json",
                                        dns + "/" + a_.uid};
  for (const auto& path : all) ASSERT_TRUE(fs::exists(path)) << path;
  for (int round = 0; round < 2; ++round) {
    for (const char* dir : {"status", "agent-state"}) fs::remove_all(bed_.dir() + "/" + dir);
    fs::remove_all(dns);
    for (const auto& path : all) fs::remove(path);
    const auto began = std::chrono::steady_clock::now();
    for (const auto& path : all)
      EXPECT_TRUE(bed_.WaitFor([&] { return fs::exists(path); }, 5000)) << path;
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - began);
    EXPECT_LT(took.count(), 1000);
    RecordProperty("made_again_ms", static_cast<int>(took.count()));
    std::printf("made again after %d ms\n", static_cast<int>(took.count()));
    EXPECT_EQ(bed_.StatusText(a_), status);
    EXPECT_THAT(bed_.CmdAdd(a_), StartsWith("HTTP/1.1 200"));
  }
  EXPECT_THAT(From(a_, {.to = kOut4}), StartsWith("out")) << "who was connected stays";
  bed_.peer().Kill(9);
  bed_.StartPeer();
  EXPECT_TRUE(bed_.WaitFor([&] { return From(a_, {.to = kOut4}).rfind("out", 0) == 0; }));
  // The saved state is whole: a killed agent's pod stays closed without a proxy.
  bed_.StopAgent(9);
  bed_.peer().Kill(9);
  bed_.StartAgent();
  EXPECT_THAT(From(a_, {.to = kOut4, .timeout_ms = 500}), StartsWith("error"));
}

}  // namespace
}  // namespace qanat::test
