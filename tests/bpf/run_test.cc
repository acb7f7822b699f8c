// SPDX-License-Identifier: Apache-2.0
// The programs that the kernel can run without traffic, over tables of packets and lookups. Hooks
// of connect(), bind() and sockops it cannot, nor a lookup of what came in over lo (it takes no
// interface): capture_test.cc has those.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/bpf/packet.h"
#include "tests/bpf/program.h"

namespace qanat::test {
namespace {

constexpr int kNext = -1, kDrop = 2;  // TCX_
constexpr int kSkDrop = 0, kSkPass = 1;
constexpr uint8_t kFin = 0x01, kSyn = 0x02, kRst = 0x04, kPsh = 0x08, kAck = 0x10, kEce = 0x40,
                  kCwr = 0x80;
constexpr uint8_t kTcp = 6, kUdp = 17, kHop = 0, kRouting = 43, kFragment = 44, kDst = 60;

// Another object, of a mutant (mutation_test.py), or the one that the agent carries.
std::string Object() {
  const char* given = std::getenv("QANAT_POD_HOOKS");
  return given != nullptr ? given : QANAT_POD_HOOKS;
}

class RunTest : public ::testing::Test {
 protected:
  PodPrograms programs_{Object()};
};

struct Packet {
  const char* name;
  Bytes bytes;
  int expected;
};

const Packet kPackets[] = {
    {"SYN", Ip4(kTcp) + Tcp(kSyn), kDrop},
    {"SYN with ECN", Ip4(kTcp) + Tcp(kSyn | kEce | kCwr), kDrop},
    {"SYN and other flags but ACK", Ip4(kTcp) + Tcp(kSyn | kFin | kPsh | kRst), kDrop},
    {"SYN behind IP options", Ip4(kTcp, 0, 10) + Tcp(kSyn), kDrop},
    {"SYN in a first fragment", Ip4(kTcp, 0x2000) + Tcp(kSyn), kDrop},
    {"SYN not to be fragmented", Ip4(kTcp, 0x4000) + Tcp(kSyn), kDrop},
    {"SYN-ACK", Ip4(kTcp) + Tcp(kSyn | kAck), kNext},
    {"ACK", Ip4(kTcp) + Tcp(kAck), kNext},
    {"RST", Ip4(kTcp) + Tcp(kRst), kNext},
    {"no flags", Ip4(kTcp) + Tcp(0), kNext},
    {"SYN-ACK behind IP options", Ip4(kTcp, 0, 10) + Tcp(kSyn | kAck), kNext},
    // A receiver takes a tag of number 0 off.
    {"SYN behind a tag", Tagged(Ip4(kTcp) + Tcp(kSyn)), kDrop},
    {"SYN behind a provider's tag", Tagged(Ip4(kTcp) + Tcp(kSyn), 0x88a8), kDrop},
    {"ACK behind IP options", Ip4(kTcp, 0, 10) + Tcp(kAck), kNext},
    // What would be its flags are data: a receiver takes the ports of the first fragment.
    {"later fragment, near", Ip4(kTcp, 0x0001) + Tcp(kSyn), kNext},
    {"later fragment, far", Ip4(kTcp, 0x1f00) + Tcp(kSyn), kNext},
    // A header that cannot be read is none that may leave. (A test run takes no shorter packet.)
    {"TCP header cut before the flags", Cut(Ip4(kTcp) + Tcp(kAck), 14 + 20 + 13), kDrop},
    {"TCP header missing", Ip4(kTcp), kDrop},
    {"UDP", Ip4(kUdp) + Tcp(kSyn), kNext},
    {"ICMP", Ip4(1) + Tcp(kSyn), kNext},
    {"ARP", Ethernet(0x0806) + Tcp(kSyn) + Tcp(kSyn), kNext},

    {"SYN6", Ip6(kTcp) + Tcp(kSyn), kDrop},
    {"SYN-ACK6", Ip6(kTcp) + Tcp(kSyn | kAck), kNext},
    {"ACK6", Ip6(kTcp) + Tcp(kAck), kNext},
    {"UDP6", Ip6(kUdp) + Tcp(kSyn), kNext},
    {"no next header", Ip6(59) + Tcp(kSyn), kNext},
    {"SYN6 behind hop-by-hop", Ip6(kHop) + Extension(kTcp) + Tcp(kSyn), kDrop},
    {"SYN6 behind routing", Ip6(kRouting) + Extension(kTcp, 2) + Tcp(kSyn), kDrop},
    {"SYN6 behind destination options", Ip6(kDst) + Extension(kTcp, 5) + Tcp(kSyn), kDrop},
    {"SYN6 behind three",
     Ip6(kHop) + Extension(kDst) + Extension(kRouting, 1) + Extension(kTcp) + Tcp(kSyn), kDrop},
    {"ACK6 behind three",
     Ip6(kHop) + Extension(kDst) + Extension(kRouting, 1) + Extension(kTcp) + Tcp(kAck), kNext},
    {"SYN6 in a first fragment", Ip6(kFragment) + Fragment6(kTcp, 0x0001) + Tcp(kSyn), kDrop},
    {"SYN6 in the only fragment", Ip6(kFragment) + Fragment6(kTcp, 0) + Tcp(kSyn), kDrop},
    {"ACK6 in a first fragment", Ip6(kFragment) + Fragment6(kTcp, 0x0001) + Tcp(kAck), kNext},
    {"later fragment6, near", Ip6(kFragment) + Fragment6(kTcp, 0x0008) + Tcp(kSyn), kNext},
    {"later fragment6, far", Ip6(kFragment) + Fragment6(kTcp, 0x4000) + Tcp(kSyn), kNext},
    {"UDP6 behind hop-by-hop", Ip6(kHop) + Extension(kUdp) + Tcp(kSyn), kNext},
    {"more headers than are read",
     Ip6(kHop) + Extension(kDst) + Extension(kDst) + Extension(kDst) + Extension(kDst) +
         Extension(kDst) + Extension(kDst) + Extension(kTcp) + Tcp(kAck),
     kDrop},
    {"extension header cut", Cut(Ip6(kHop) + Extension(kTcp), 14 + 40 + 4), kDrop},
    {"TCP6 header missing", Ip6(kTcp), kDrop},
};

TEST_F(RunTest, GuardOfAnEnforcedPodLetsNoSynOut) {
  for (const uint32_t mode : {QANAT_MODE_ENFORCED, QANAT_MODE_CUT}) {
    programs_.SetState(mode);
    for (const Packet& packet : kPackets)
      EXPECT_EQ(programs_.Guard(packet.bytes), packet.expected) << packet.name << ", mode " << mode;
  }
}

TEST_F(RunTest, GuardCountsWhatItDrops) {
  programs_.SetState(QANAT_MODE_ENFORCED);
  uint64_t dropped = 0;
  for (const Packet& packet : kPackets) {
    (void)programs_.Guard(packet.bytes);
    dropped += packet.expected == kDrop ? 1 : 0;
  }
  EXPECT_EQ(programs_.Counter(QANAT_CNT_GUARD_DROPPED), dropped);
}

TEST_F(RunTest, GuardOfAPlainPodLetsEverythingOut) {
  programs_.SetState(QANAT_MODE_OFF);
  for (const Packet& packet : kPackets) EXPECT_EQ(programs_.Guard(packet.bytes), kNext);
}

// Who is expected to get a connection.
enum Who { kNobody = -2, kNormal = -1, kIn = 1, kHbone = 2 };

struct Case {
  const char* name;
  PodPrograms::Lookup lookup;
  Who enforced;
  Who cut;
};

const Case kLookups[] = {
    {"from the wire", {"10.0.0.9:4000", "10.0.0.5:80"}, kIn, kNobody},
    {"from the wire, IPv6", {"[fd00::9]:4000", "[fd00::5]:80"}, kIn, kNobody},
    {"from the wire to another address", {"10.0.0.9:4000", "10.0.0.6:80"}, kIn, kNobody},
    {"from the wire as if from the pod", {"10.0.0.5:4000", "10.0.0.6:80"}, kIn, kNobody},
    {"HBONE", {"10.0.0.9:4000", "10.0.0.5:15008"}, kHbone, kNobody},
    {"HBONE, IPv6", {"[fd00::9]:4000", "[fd00::5]:15008"}, kHbone, kNobody},
    {"15001 from the wire", {"10.0.0.9:4000", "10.0.0.5:15001"}, kNobody, kNobody},
    {"15006 from the wire", {"[fd00::9]:4000", "[fd00::5]:15006"}, kNobody, kNobody},
    {"to itself", {"10.0.0.5:4000", "10.0.0.5:80"}, kNormal, kNormal},
    {"to itself, IPv6", {"[fd00::5]:4000", "[fd00::5]:80"}, kNormal, kNormal},
    {"loopback", {"127.0.0.1:4000", "127.0.0.1:15001"}, kNormal, kNormal},
    {"loopback, IPv6", {"[::1]:4000", "[::1]:15001"}, kNormal, kNormal},
    {"loopback to its address", {"127.0.0.1:4000", "10.0.0.5:80"}, kNormal, kNormal},
    {"its second address to itself", {"10.0.0.6:4000", "10.0.0.6:80"}, kNormal, kNormal},
    {"UDP", {"10.0.0.9:4000", "10.0.0.5:53", kUdp}, kNormal, kNormal},
};

class LookupTest : public RunTest {
 protected:
  LookupTest() {
    for (const uint32_t role : {QANAT_ROLE_OUTBOUND, QANAT_ROLE_INBOUND, QANAT_ROLE_HBONE})
      cookies_[role] = programs_.Listen(role);
  }
  void Expect(const PodPrograms::Lookup& lookup, Who who, const std::string& name) {
    const PodPrograms::Found found = programs_.Find(lookup);
    EXPECT_EQ(found.verdict, who == kNobody ? kSkDrop : kSkPass) << name;
    EXPECT_EQ(found.cookie, who < 0 ? 0 : cookies_[who]) << name;
  }
  void Grant(const PodPrograms::Lookup& lookup, uint32_t pod, uint32_t generation, uint64_t age_s) {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    qanat_grant grant{};
    grant.pod_id = pod;
    grant.generation = generation;
    grant.time_ns = (static_cast<uint64_t>(now.tv_sec) - age_s) * 1000000000u +
                    static_cast<uint64_t>(now.tv_nsec);
    const qanat_tuple tuple = PodPrograms::Tuple(lookup.from, lookup.to);
    programs_.Put("grants", &tuple, &grant);
  }

  uint64_t cookies_[QANAT_ROLES] = {};
};

TEST_F(LookupTest, EachConnectionGoesWhereItBelongs) {
  for (const Case& one : kLookups) {
    programs_.SetState(QANAT_MODE_OFF);
    Expect(one.lookup, kNormal, std::string(one.name) + ", off");
    programs_.SetState(QANAT_MODE_ENFORCED);
    Expect(one.lookup, one.enforced, std::string(one.name) + ", enforced");
    programs_.SetState(QANAT_MODE_CUT);
    Expect(one.lookup, one.cut, std::string(one.name) + ", cut off");
  }
}

TEST_F(LookupTest, GrantIsForItsTupleItsPodItsGenerationAndAWhile) {
  programs_.SetState(QANAT_MODE_ENFORCED, 5);
  for (const PodPrograms::Lookup& lookup :
       {PodPrograms::Lookup{"10.0.0.1:4000", "10.0.0.5:80"},
        PodPrograms::Lookup{"[fd00::1]:4000", "[fd00::5]:80"}}) {
    Expect(lookup, kIn, "without");
    Grant(lookup, PodPrograms::kPod, 5, 0);
    Expect(lookup, kNormal, "with");
    Expect(lookup, kNormal, "again: a SYN cookie's ACK looks up too");
    for (const auto& [from, to] : {std::pair(":4000", ":81"), {":4001", ":80"}}) {
      PodPrograms::Lookup other = lookup;
      other.from.replace(other.from.rfind(':'), std::string::npos, from);
      other.to.replace(other.to.rfind(':'), std::string::npos, to);
      Expect(other, kIn, other.from + " to " + other.to);
    }
    Grant(lookup, PodPrograms::kPod + 1, 5, 0);
    Expect(lookup, kIn, "another pod's");
    Grant(lookup, PodPrograms::kPod, 4, 0);
    Expect(lookup, kIn, "of another generation");
    Grant(lookup, PodPrograms::kPod, 5, QANAT_GRANT_LIFETIME_NS / 1000000000u + 1);
    Expect(lookup, kIn, "too old");
    Grant(lookup, PodPrograms::kPod, 5, 0);
    programs_.SetState(QANAT_MODE_CUT, 5);
    Expect(lookup, kNobody, "cut off");
    programs_.SetState(QANAT_MODE_ENFORCED, 5);
  }
  EXPECT_EQ(programs_.Counter(QANAT_CNT_GRANT_USED), 4u);
  EXPECT_EQ(programs_.Counter(QANAT_CNT_GRANT_STALE), 6u);
}

TEST_F(LookupTest, GrantOpensNoPortOfTheProxys) {
  programs_.SetState(QANAT_MODE_ENFORCED);
  for (const auto& [to, who] : {std::pair("10.0.0.5:15008", kHbone),
                                {"10.0.0.5:15001", kNobody},
                                {"10.0.0.5:15006", kNobody}}) {
    const PodPrograms::Lookup lookup{"10.0.0.1:4000", to};
    Grant(lookup, PodPrograms::kPod, 1, 0);
    Expect(lookup, who, to);
  }
}

TEST_F(LookupTest, AnEmptySlotIsPassedOverAndNoListenerIsARefusal) {
  const PodPrograms::Lookup lookup{"10.0.0.9:4000", "10.0.0.5:80"};
  programs_.SetState(QANAT_MODE_ENFORCED, 1, 3);
  Expect(lookup, kIn, "the first of three");
  cookies_[kIn] = programs_.Listen(QANAT_ROLE_INBOUND, 2);
  programs_.CloseListener(QANAT_ROLE_INBOUND, 0);
  for (int port = 4000; port < 4020; ++port)
    Expect({"10.0.0.9:" + std::to_string(port), "10.0.0.5:80"}, kIn, "the last of three");
  programs_.CloseListener(QANAT_ROLE_INBOUND, 2);
  Expect(lookup, kNobody, "none of three");
  EXPECT_EQ(programs_.Counter(QANAT_CNT_DROP_NO_LISTENER), 1u);
  programs_.SetState(QANAT_MODE_ENFORCED, 1, 0);
  Expect({"10.0.0.9:4000", "10.0.0.5:15008"}, kNobody, "no workers");
}

TEST_F(LookupTest, ProbeIsAnsweredAndMeetsNoListener) {
  const std::pair<const char*, uint32_t> probes[] = {{"10.0.0.5:15008", QANAT_ROLE_HBONE},
                                                     {"10.0.0.5:15009", QANAT_ROLE_INBOUND}};
  for (const uint32_t mode : {QANAT_MODE_OFF, QANAT_MODE_ENFORCED, QANAT_MODE_CUT}) {
    programs_.SetState(mode);
    for (const auto& [to, role] : probes) {
      const PodPrograms::Lookup lookup{"10.0.0.1:4000", to};
      const qanat_tuple tuple = PodPrograms::Tuple(lookup.from, lookup.to);
      qanat_probe probe{};
      programs_.Put("probes", &tuple, &probe);
      EXPECT_EQ(programs_.Find(lookup).verdict, kSkDrop);
      ASSERT_TRUE(programs_.Get("probes", &tuple, &probe));
      EXPECT_EQ(probe.seen, static_cast<uint32_t>(QANAT_SEEN_LOOKUP | QANAT_SEEN_ASSIGN));
      EXPECT_EQ(probe.pod_id, PodPrograms::kPod);
      EXPECT_EQ(probe.role, role);
      EXPECT_EQ(probe.slot, qanat_slot(PodPrograms::kPod, role, 0));
    }
  }
}

}  // namespace
}  // namespace qanat::test
