// SPDX-License-Identifier: Apache-2.0
// The pure parts of enrolment: decisions over all states, saved state, judging probes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "agent/enrol/cni_call.h"
#include "agent/enrol/decision.h"
#include "agent/enrol/state_store.h"
#include "agent/redirect/proof.h"

namespace qanat::agent {
namespace {

Facts FromBits(unsigned bits) {
  auto bit = [&](int i) { return (bits >> i & 1u) != 0; };
  return {bit(0), bit(1), bit(2), bit(3),  bit(4),  bit(5), bit(6),
          bit(7), bit(8), bit(9), bit(10), bit(11), bit(12)};
}

TEST(DecisionTest, WalksFromNothingToEnforced) {
  Facts f;
  f.wanted = true;
  EXPECT_EQ(NextStep(f), Step::kPrepare);
  f.prepared = true;
  EXPECT_EQ(NextStep(f), Step::kAttach);
  f.attached = true;
  EXPECT_EQ(NextStep(f), Step::kAwaitProxy);
  f.proxy = true;
  EXPECT_EQ(NextStep(f), Step::kAdd);
  f.adding = true;
  EXPECT_EQ(NextStep(f), Step::kAwaitAck);
  f.adding = false;
  f.acked = true;
  EXPECT_EQ(NextStep(f), Step::kFill);
  f.filled = true;
  EXPECT_EQ(NextStep(f), Step::kProve);
  f.proving = true;
  EXPECT_EQ(NextStep(f), Step::kAwaitProof);
  f.proving = false;
  f.proven = true;
  EXPECT_EQ(NextStep(f), Step::kFlip);
  f.enforced = true;
  EXPECT_EQ(NextStep(f), Step::kNone);
}

TEST(DecisionTest, HoldsInEveryState) {
  for (unsigned bits = 0; bits < 1u << 13; ++bits) {
    const Facts f = FromBits(bits);
    const Step step = NextStep(f);
    if (step == Step::kFlip) {
      // The flip comes last, once, and only with everything in place.
      EXPECT_TRUE(f.wanted && !f.gone && !f.blocked && f.prepared && f.attached && f.proxy &&
                  f.acked && f.filled && f.proven && !f.enforced)
          << bits;
    }
    if (step == Step::kRestore) {
      EXPECT_TRUE(!f.wanted && !f.gone) << bits;
    }
    if (f.gone && (f.enforced || f.draining)) {
      EXPECT_EQ(step, Step::kLeave) << bits;
    }
    if (f.enforced && f.wanted && !f.gone) {
      EXPECT_NE(step, Step::kRestore) << bits;
      EXPECT_NE(step, Step::kForget) << bits;
      EXPECT_NE(step, Step::kAwaitProxy) << "nothing about an enforced pod is pending: " << bits;
    }
    if (f.wanted && !f.gone && !f.enforced && f.prepared && f.attached && !f.proxy) {
      EXPECT_EQ(step, f.blocked ? Step::kBlocked : Step::kAwaitProxy) << bits;
    }
    if (step == Step::kBlocked) {
      EXPECT_TRUE(f.blocked && f.wanted && !f.enforced) << bits;
    }
  }
}

TEST(CniCallTest, NoPodOfTheMeshStartsOnAnOldViewOfIt) {
  const CniCall said{"shop", "web", "u", "", true}, unsaid{"shop", "web", "u", "", false};
  CniFacts f;
  EXPECT_EQ(NextCniStep(unsaid, f), CniStep::kWait) << "a pod that nobody has shown";
  f.known = true;
  EXPECT_EQ(NextCniStep(unsaid, f), CniStep::kPass);
  EXPECT_EQ(NextCniStep(said, f), CniStep::kWait) << "the label came a moment ago";
  f.obstacle = true;
  EXPECT_EQ(NextCniStep(said, f), CniStep::kWait);
  f.released = true;
  EXPECT_EQ(NextCniStep(said, f), CniStep::kPass) << "the mesh leaves the node";
  f = {.known = true, .in_mesh = true};
  EXPECT_EQ(NextCniStep(said, f), CniStep::kWait);
  f.has_netns = true;
  EXPECT_EQ(NextCniStep(unsaid, f), CniStep::kEnrol);
  f.obstacle = true;
  EXPECT_EQ(NextCniStep(unsaid, f), CniStep::kRefuse);
  f.enforced = true;
  EXPECT_EQ(NextCniStep(unsaid, f), CniStep::kEnrol);
}

TEST(CniCallTest, APodMadeAnewUnderTheSameNameIsAnotherOne) {
  Pod pod;
  pod.ns = "shop";
  pod.name = "web";
  pod.uid = "u";
  EXPECT_TRUE(IsMeant({"shop", "web", "u", "", false}, pod));
  EXPECT_TRUE(IsMeant({"shop", "web", "", "", false}, pod)) << "a stock plugin tells no UID";
  EXPECT_FALSE(IsMeant({"shop", "web", "next", "", false}, pod));
  EXPECT_FALSE(IsMeant({"other", "web", "u", "", false}, pod));
  pod.static_uid = "s";
  EXPECT_TRUE(IsMeant({"shop", "web", "s", "", false}, pod)) << "the kubelet's word for it";
  EXPECT_FALSE(IsMeant({"shop", "web", "u", "", false}, pod));
}

TEST(StateStoreTest, KeepsWhatARestartNeeds) {
  char name[] = "/tmp/qanat-state-XXXXXX";
  const std::string dir = ::mkdtemp(name);
  StateStore store(dir);
  SavedPod saved;
  saved.pod.uid = "u-1";
  saved.pod.name = "web";
  saved.pod.ns = "shop";
  saved.pod.service_account = "sa";
  saved.pod.netns = "/run/netns/x";
  saved.pod.ips = {*net::IpAddress::Parse("10.0.0.1"), *net::IpAddress::Parse("fd00::1")};
  saved.id = 7;
  saved.cookie = 0xffffffffffffff01ull;
  saved.enforced = true;
  saved.sysctls = {{"ipv4/fwmark_reflect", "0"}};
  ASSERT_TRUE(store.Save(saved));
  std::ofstream(dir + "/broken.json") << "{";
  auto loaded = store.Load();
  ASSERT_TRUE(loaded);
  ASSERT_EQ(loaded->size(), 1u) << "a broken file is reported, not fatal";
  const SavedPod& back = loaded->front();
  EXPECT_EQ(back.pod, saved.pod);
  EXPECT_EQ(back.id, 7u);
  EXPECT_EQ(back.cookie, saved.cookie);
  EXPECT_TRUE(back.enforced);
  EXPECT_EQ(back.sysctls, saved.sysctls);
  store.Remove("u-1");
  EXPECT_FALSE(std::filesystem::exists(dir + "/u-1.json"));
  std::filesystem::remove_all(dir);
}

TEST(StateStoreTest, DoubtMeansClosed) {
  const std::string head = R"({"uid":"u","name":"a","namespace":"b","id":3,"cookie":5)";
  EXPECT_TRUE(ParseSavedPod(head + "}")->enforced);
  EXPECT_TRUE(ParseSavedPod(head + R"(,"enforced":"no"})")->enforced);
  EXPECT_FALSE(ParseSavedPod(head + R"(,"enforced":false})")->enforced);
  EXPECT_FALSE(ParseSavedPod(R"({"uid":"u","name":"a","namespace":"b","id":0,"cookie":5})"));
  EXPECT_FALSE(ParseSavedPod(R"({"uid":"u","name":"a","namespace":"b","id":99999,"cookie":5})"));
  EXPECT_FALSE(ParseSavedPod(R"({"uid":"u","name":"a","namespace":"b","id":3,"cookie":-5})"));
}

TEST(ProofTest, EveryHookMustHaveSeenTheProbe) {
  const uint32_t all_out =
      QANAT_SEEN_CONNECT | QANAT_SEEN_MARKED | QANAT_SEEN_LOOKUP | QANAT_SEEN_ASSIGN;
  const uint32_t all_in =
      QANAT_SEEN_CONNECT | QANAT_SEEN_SOCKOPS | QANAT_SEEN_LOOKUP | QANAT_SEEN_ASSIGN;
  auto judge = [](uint32_t role, bool host, uint32_t seen, uint32_t pod = 3, uint32_t went = 99) {
    return JudgeProbe("x", role, host, 3, qanat_probe{seen, pod, went == 99 ? role : went, 0});
  };
  EXPECT_TRUE(judge(QANAT_ROLE_OUTBOUND, false, all_out).passed);
  EXPECT_TRUE(judge(QANAT_ROLE_INBOUND, true, all_in).passed);
  EXPECT_TRUE(judge(QANAT_ROLE_HBONE, true, all_in).passed);
  for (uint32_t bit :
       {QANAT_SEEN_CONNECT, QANAT_SEEN_MARKED, QANAT_SEEN_LOOKUP, QANAT_SEEN_ASSIGN}) {
    const ProofStep step = judge(QANAT_ROLE_OUTBOUND, false, all_out & ~bit);
    EXPECT_FALSE(step.passed);
    EXPECT_FALSE(step.detail.empty());
    // Without a listener the pod is served by nobody, but it is captured.
    EXPECT_EQ(step.captured, bit == QANAT_SEEN_ASSIGN);
  }
  for (uint32_t bit :
       {QANAT_SEEN_CONNECT, QANAT_SEEN_SOCKOPS, QANAT_SEEN_LOOKUP, QANAT_SEEN_ASSIGN}) {
    const ProofStep step = judge(QANAT_ROLE_INBOUND, true, all_in & ~bit);
    EXPECT_FALSE(step.passed);
    EXPECT_TRUE(step.captured);
  }
  // What is to be stopped by the second guard, and what is to get a port of its own.
  EXPECT_TRUE(judge(QANAT_PROBE_GUARD, false, QANAT_SEEN_CONNECT | QANAT_SEEN_GUARD).passed);
  EXPECT_FALSE(judge(QANAT_PROBE_GUARD, false, QANAT_SEEN_CONNECT).passed);
  EXPECT_FALSE(judge(QANAT_PROBE_GUARD, false, QANAT_SEEN_GUARD, 4).passed) << "another pod's";
  EXPECT_TRUE(judge(QANAT_PROBE_BIND, false, QANAT_SEEN_BIND).passed);
  EXPECT_FALSE(judge(QANAT_PROBE_BIND, false, 0).passed);
  EXPECT_FALSE(judge(QANAT_ROLE_OUTBOUND, false, all_out, 4).passed) << "another pod's lookup";
  EXPECT_FALSE(judge(QANAT_ROLE_OUTBOUND, false, all_out, 3, QANAT_ROLE_INBOUND).passed);
  EXPECT_FALSE(ProofReport{}.passed()) << "no step, no proof";
}

TEST(SpoofRangeTest, StaysOutOfTheEphemeralRangeAndOfTheProxysPorts) {
  for (auto [low, high] : {std::pair{32768u, 60999u},
                           {1024u, 65535u},
                           {15000u, 65535u},
                           {2000u, 30000u},
                           {10000u, 20000u},
                           {0u, 0u}}) {
    const PodFacts facts = SpoofRange(low, high);
    if (facts.spoof_low == 0) continue;  // no room: the kernel picks
    EXPECT_LE(facts.spoof_low, facts.spoof_high);
    EXPECT_TRUE(facts.spoof_high < low || facts.spoof_low > high) << low;
    EXPECT_TRUE(facts.spoof_high < 15000 || facts.spoof_low >= 15100) << low;
    EXPECT_GE(facts.spoof_low, 1024);
  }
  EXPECT_EQ(SpoofRange(32768, 60999).spoof_high, 14999);
  EXPECT_EQ(SpoofRange(1024, 65535).spoof_low, 0);
}

}  // namespace
}  // namespace qanat::agent
