// SPDX-License-Identifier: Apache-2.0
// The programs at the node's ends of pods' veths, and what looks at SYNs into the pod, over tables
// of packets. A sign in a packet cannot be made up here: host_test.cc has traffic.
#include <gtest/gtest.h>
#include <sched.h>

#include <cstdlib>
#include <thread>

#include "tests/bpf/packet.h"
#include "tests/bpf/program.h"

namespace qanat::test {
namespace {

constexpr int kNext = -1, kDrop = 2;  // TCX_
constexpr uint8_t kSyn = 0x02, kAck = 0x10;
constexpr uint8_t kTcp = 6, kUdp = 17, kIcmp6 = 58, kHop = 0, kFragment = 44;
constexpr uint8_t kOwn = 5, kOther = 9, kFurther = 20;

// Another object, of a mutant (mutation_test.py), or the one that the agent carries.
std::string Object(const char* name, const char* built) {
  const char* given = std::getenv(name);
  return given != nullptr ? given : built;
}

Bytes V4(uint8_t from, uint8_t protocol = kUdp) {
  return Between(Ip4(protocol), from, 1) + Tcp(kAck);
}
Bytes V6(uint8_t from, uint8_t protocol = kUdp) {
  return Between(Ip6(protocol), from, 1) + Tcp(kAck);
}
// With a source of all zeros, or one of the link.
Bytes V6From(uint8_t first, uint8_t second, const Bytes& rest, uint8_t next = kIcmp6) {
  Bytes packet = Between(Ip6(next), 0, 1);
  packet[22] = first;
  packet[23] = second;
  return packet + rest;
}
Bytes Unset4(Bytes packet) {
  packet[26] = 0;
  packet[29] = 0;
  return packet;
}
Bytes Broken(Bytes arp) {
  arp[18] = 5;  // the length of a hardware address
  return arp;
}

struct Source {
  const char* name;
  Bytes bytes;
  int expected;
};

const Source kSources[] = {
    {"own, UDP", V4(kOwn), kNext},
    {"own, TCP", V4(kOwn, kTcp), kNext},
    {"own, IPv6", V6(kOwn), kNext},
    {"own, IPv6, TCP", V6(kOwn, kTcp), kNext},
    {"further address", V4(kFurther), kNext},
    {"further address, IPv6", V6(kFurther), kNext},
    {"another's, UDP", V4(kOther), kDrop},
    {"another's, TCP", V4(kOther, kTcp), kDrop},
    {"another's, ICMP", V4(kOther, 1), kDrop},
    {"another's, later fragment", Between(Ip4(kUdp, 0x0001), kOther, 1) + Tcp(kAck), kDrop},
    {"another's, IPv6", V6(kOther), kDrop},
    {"another's, IPv6, TCP", V6(kOther, kTcp), kDrop},
    {"another's, IPv6, behind a header",
     Between(Ip6(kHop), kOther, 1) + Extension(kTcp) + Tcp(kAck), kDrop},
    {"another's, short", Cut(V4(kOther), 14 + 20 + 8), kDrop},
    {"own, short", Cut(V4(kOwn), 14 + 20 + 8), kNext},
    {"DHCP", Unset4(V4(0)), kNext},
    {"ARP", Arp(kOwn), kNext},
    {"ARP of a further address", Arp(kFurther), kNext},
    {"ARP of another", Arp(kOther), kDrop},
    {"ARP probe", Cut(Arp(0), 28) + Bytes(14, 0), kNext},
    {"ARP of other sizes", Broken(Arp(kOwn)), kDrop},
    {"DAD", V6From(0, 0, Neighbour(135, kOwn)), kNext},
    {"router solicitation of the link", V6From(0xfe, 0x80, Bytes(24, 133)), kNext},
    {"solicitation", Between(Ip6(kIcmp6), kOwn, 1) + Neighbour(135, kOther), kNext},
    {"advertisement", Between(Ip6(kIcmp6), kOwn, 1) + Neighbour(136, kOwn), kNext},
    {"advertisement of another", Between(Ip6(kIcmp6), kOwn, 1) + Neighbour(136, kOther), kDrop},
    {"... from the link's address", V6From(0xfe, 0x80, Neighbour(136, kOther)), kDrop},
    {"... behind a header",
     Between(Ip6(kHop), kOwn, 1) + Extension(kIcmp6) + Neighbour(136, kOther), kDrop},
    {"own, in a later fragment",
     Between(Ip6(kFragment), kOwn, 1) + Fragment6(kIcmp6, 8) + Neighbour(136, kOther), kNext},
    {"tag in the frame", Tagged(V4(kOwn)), kDrop},
    {"neither IP nor ARP", Ethernet(0x88cc) + Bytes(40, 1), kNext},
};

class HostTest : public ::testing::Test {
 protected:
  HostTest() {
    const qanat_own_ip further4{Programs::kPod, Programs::Ip("10.0.0.20")};
    const qanat_own_ip further6{Programs::kPod, Programs::Ip("fd00::14")};
    const qanat_own_ip others{Programs::kPod + 1, Programs::Ip("10.0.0.9")};
    const uint8_t there = 1;
    for (const auto& key : {further4, further6, others}) programs_.Put("source_ips", &key, &there);
    programs_.SetState(QANAT_MODE_ENFORCED);
  }
  qanat_probe PutProbe(const qanat_tuple& tuple, uint32_t role, uint32_t slot = 0) {
    qanat_probe probe{};
    probe.role = role;
    probe.slot = slot;
    programs_.Put("probes", &tuple, &probe);
    return probe;
  }
  qanat_probe Probe(const qanat_tuple& tuple) {
    qanat_probe probe{};
    EXPECT_TRUE(programs_.Get("probes", &tuple, &probe));
    return probe;
  }
  static Bytes Syn(uint8_t from, uint8_t to, uint16_t sport, uint16_t dport) {
    return Ports(Between(Ip4(kTcp), from, to) + Tcp(kSyn), 34, sport, dport);
  }
  HostPrograms programs_{Object("QANAT_HOST_HOOKS", QANAT_HOST_HOOKS)};
};

TEST_F(HostTest, OnlyThePodsOwnSourcesComeOut) {
  uint64_t dropped = 0;
  for (const uint32_t mode : {QANAT_MODE_ENFORCED, QANAT_MODE_CUT}) {
    programs_.SetState(mode);
    for (const Source& source : kSources) {
      EXPECT_EQ(programs_.In(source.bytes), source.expected) << source.name << ", mode " << mode;
      dropped += source.expected == kDrop ? 1 : 0;
    }
  }
  EXPECT_EQ(programs_.Counter(QANAT_CNT_FOREIGN_SOURCE), dropped);
}

TEST_F(HostTest, NotOfAPodThatIsNotCaptured) {
  for (const uint32_t mode : {QANAT_MODE_OFF, QANAT_MODE_DRAIN}) {
    programs_.SetState(mode);
    programs_.SetEnd(QANAT_END_SIGNED);
    for (const Source& source : kSources)
      EXPECT_EQ(programs_.In(source.bytes), kNext) << source.name;
    EXPECT_EQ(programs_.In(Syn(kOther, 1, 4000, 80)), kNext);
  }
}

TEST_F(HostTest, NorOfOneWithMoreAddressesThanAreKnown) {
  programs_.SetEnd(QANAT_END_ANY_SOURCE);
  for (const Source& source : kSources) EXPECT_EQ(programs_.In(source.bytes), kNext) << source.name;
}

TEST_F(HostTest, NothingComesOutOfAnInterfaceThatNobodyKnows) {
  const uint32_t device = HostPrograms::kDevice;
  programs_.Delete("host_ends", &device);
  EXPECT_EQ(programs_.In(V4(kOwn)), kDrop);
}

TEST_F(HostTest, ASynNeedsTheSign) {
  const Bytes syns[] = {
      Between(Ip4(kTcp), kOwn, 1) + Tcp(kSyn), Between(Ip4(kTcp, 0, 10), kOwn, 1) + Tcp(kSyn),
      Between(Ip4(kTcp, 0x2000), kOwn, 1) + Tcp(kSyn), Between(Ip6(kTcp), kOwn, 1) + Tcp(kSyn),
      Between(Ip6(kHop), kOwn, 1) + Extension(kTcp) + Tcp(kSyn)};
  for (const Bytes& syn : syns) EXPECT_EQ(programs_.In(syn), kNext) << "it is not known to cross";
  programs_.SetEnd(QANAT_END_SIGNED);
  for (const Bytes& syn : syns) EXPECT_EQ(programs_.In(syn), kDrop);
  EXPECT_EQ(programs_.Counter(QANAT_CNT_UNSIGNED_SYN), std::size(syns));
  EXPECT_EQ(programs_.In(Between(Ip4(kTcp), kOwn, 1) + Tcp(kSyn | kAck)), kNext);
  EXPECT_EQ(programs_.In(V4(kOwn, kTcp)), kNext);
}

TEST_F(HostTest, ProbesAreSeenWhateverTheMode) {
  const uint8_t there = 0;
  const qanat_ip pod = Programs::Ip("10.0.0.9");
  const uint64_t cookie = 78;
  (void)there;
  programs_.Put("pod_ips", &pod, &cookie);
  for (const uint32_t mode : {QANAT_MODE_OFF, QANAT_MODE_ENFORCED}) {
    programs_.SetState(mode);
    programs_.SetEnd(QANAT_END_SIGNED);
    const qanat_tuple path = Programs::Tuple("10.0.0.5:4000", "10.0.0.9:15009");
    PutProbe(path, QANAT_PROBE_PATH);
    EXPECT_EQ(programs_.In(Syn(kOwn, kOther, 4000, 15009)), kNext) << "on to the other pod";
    EXPECT_EQ(Probe(path).seen, static_cast<uint32_t>(QANAT_SEEN_HOST_IN));
    EXPECT_EQ(Probe(path).slot, HostPrograms::kDevice);
    const qanat_tuple node = Programs::Tuple("10.0.0.5:4000", "10.0.0.1:15009");
    PutProbe(node, QANAT_PROBE_PATH);
    EXPECT_EQ(programs_.In(Syn(kOwn, 1, 4000, 15009)), kDrop) << "it has come far enough";
    EXPECT_EQ(Probe(node).seen, static_cast<uint32_t>(QANAT_SEEN_HOST_IN));
    const qanat_tuple spoof = Programs::Tuple("10.0.0.7:4000", "10.0.0.9:15009");
    PutProbe(spoof, QANAT_PROBE_SPOOF);
    EXPECT_EQ(programs_.In(Syn(7, kOther, 4000, 15009)), kDrop);
    EXPECT_EQ(Probe(spoof).seen, static_cast<uint32_t>(QANAT_SEEN_HOST_IN | QANAT_SEEN_STOPPED));
  }
  const qanat_tuple inside = Programs::Tuple("10.0.0.5:4001", "10.0.0.9:15009");
  PutProbe(inside, 0);
  EXPECT_EQ(programs_.In(Syn(kOwn, kOther, 4001, 15009)), kDrop) << "it is not to leave";
  EXPECT_EQ(Probe(inside).seen, static_cast<uint32_t>(QANAT_SEEN_HOST_IN));
}

TEST_F(HostTest, AGrantedTupleEntersFromItsPodOnly) {
  constexpr uint32_t kFrom = 40, kNeighbour = 41;
  programs_.SetEnd(0, kFrom, 100);
  programs_.SetEnd(0, kNeighbour, 101);
  const qanat_tuple tuple = Programs::Tuple("10.0.0.9:4000", "10.0.0.5:80");
  const Bytes syn = Syn(kOther, kOwn, 4000, 80);
  EXPECT_EQ(programs_.Out(syn, kNeighbour), kNext) << "without a grant it is as any other";
  qanat_grant grant{};
  grant.source = 100;
  grant.kind = QANAT_GRANT_DIRECT;
  programs_.Put("grants", &tuple, &grant);
  EXPECT_EQ(programs_.Out(syn, kFrom), kNext);
  EXPECT_EQ(programs_.Out(syn, kNeighbour), kDrop) << "another pod of the mesh";
  EXPECT_EQ(programs_.Out(syn, 7), kDrop) << "a pod that is not in the mesh, or the wire";
  EXPECT_EQ(programs_.Out(syn, 0), kDrop) << "the node itself";
  EXPECT_EQ(programs_.Counter(QANAT_CNT_GRANT_FORGED), 3u);
  EXPECT_EQ(programs_.Out(Between(Ip4(kTcp), kOther, kOwn) + Tcp(kAck), 7), kNext);
  EXPECT_EQ(programs_.Out(Syn(kOther, kOwn, 4001, 80), 7), kNext) << "another port";
  EXPECT_EQ(programs_.Out(Cut(syn, 14 + 20 + 10), 7), kDrop) << "it cannot be told";
  grant.kind = QANAT_GRANT_PROXY;
  programs_.Put("grants", &tuple, &grant);
  EXPECT_EQ(programs_.Out(syn, kNeighbour), kNext) << "the proxy's is not our matter";
}

TEST_F(HostTest, TheEndOfAProbesWay) {
  constexpr uint32_t kFrom = 40;
  programs_.SetEnd(0, kFrom, 100);
  const qanat_tuple tuple = Programs::Tuple("10.0.0.9:4000", "10.0.0.5:15009");
  PutProbe(tuple, QANAT_PROBE_PATH, kFrom);
  EXPECT_EQ(programs_.Out(Syn(kOther, kOwn, 4000, 15009), kFrom), kDrop);
  EXPECT_EQ(Probe(tuple).seen, static_cast<uint32_t>(QANAT_SEEN_HOST_OUT));
  PutProbe(tuple, QANAT_PROBE_SPOOF, kFrom);
  EXPECT_EQ(programs_.Out(Syn(kOther, kOwn, 4000, 15009), 41), kDrop);
  EXPECT_EQ(Probe(tuple).seen, static_cast<uint32_t>(QANAT_SEEN_OTHER_WAY));
  // What waits for one whose source was changed on the way.
  qanat_tuple watch = tuple;
  watch.src = {};
  watch.sport = 0;
  PutProbe(watch, QANAT_PROBE_PATH, kFrom);
  EXPECT_EQ(programs_.Out(Syn(kOther, kOwn, 4001, 15009), 41), kNext) << "from elsewhere";
  EXPECT_EQ(programs_.Out(Syn(kOwn, kOwn, 4001, 15009), kFrom), kNext) << "with its own source";
  EXPECT_EQ(Probe(watch).seen, 0u);
  EXPECT_EQ(programs_.Out(Syn(kOther, kOwn, 4001, 15009), kFrom), kDrop);
  EXPECT_EQ(Probe(watch).seen, static_cast<uint32_t>(QANAT_SEEN_OTHER_SOURCE));
}

TEST_F(HostTest, WhatAPacketCosts) {
  PodPrograms pod(Object("QANAT_POD_HOOKS", QANAT_POD_HOOKS));
  pod.SetState(QANAT_MODE_ENFORCED);
  programs_.SetEnd(QANAT_END_SIGNED);
  const std::pair<const char*, Bytes> packets[] = {
      {"segment", V4(kOwn, kTcp)},
      {"segment, IPv6", V6(kOwn, kTcp)},
      {"UDP", V4(kOwn)},
      {"SYN", Between(Ip4(kTcp), kOwn, 1) + Tcp(kSyn)},
      {"SYN, IPv6", Between(Ip6(kTcp), kOwn, 1) + Tcp(kSyn)},
  };
  for (const auto& [name, packet] : packets) {
    const uint32_t in = programs_.Cost("qanat_host_in", packet);
    std::printf("%s: guard %u, host_in %u, host_out %u, ingress %u ns\n", name,
                pod.Cost("qanat_guard", packet), in, programs_.Cost("qanat_host_out", packet),
                pod.Cost("qanat_ingress", packet));
    EXPECT_LT(in, 20000u);
  }
}

// Into the pod. The lookup that is asked is that of the thread's namespace.
TEST(IngressTest, ASynComesInOnlyWhileTheLookupAnswers) {
  std::thread([] {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    PodPrograms programs(Object("QANAT_POD_HOOKS", QANAT_POD_HOOKS));
    const Bytes syns[] = {Between(Ip4(kTcp), 9, kOwn) + Tcp(kSyn),
                          Between(Ip4(kTcp, 0, 10), 9, kOwn) + Tcp(kSyn),
                          Between(Ip6(kTcp), 9, kOwn) + Tcp(kSyn),
                          Between(Ip6(kHop), 9, kOwn) + Extension(kTcp) + Tcp(kSyn)};
    const Bytes others[] = {Between(Ip4(kTcp), 9, kOwn) + Tcp(kAck),
                            Between(Ip4(kTcp), 9, kOwn) + Tcp(kSyn | kAck),
                            V4(9),
                            V6(9),
                            Between(Ip6(kTcp), 9, kOwn) + Tcp(kAck),
                            Arp(9)};
    const auto all = [&](int syn, const char* when) {
      for (const Bytes& packet : syns) EXPECT_EQ(programs.Ingress(packet), syn) << when;
      for (const Bytes& packet : others) EXPECT_EQ(programs.Ingress(packet), kNext) << when;
    };
    programs.SetState(QANAT_MODE_OFF);
    all(kNext, "not captured");
    programs.SetState(QANAT_MODE_DRAIN);
    all(kNext, "leaving");
    for (const uint32_t mode : {QANAT_MODE_ENFORCED, QANAT_MODE_CUT}) {
      programs.SetState(mode);
      {
        const Fd link = programs.AttachLookup();
        all(kNext, "captured");
        EXPECT_EQ(programs.Ingress(Cut(syns[0], 14 + 20 + 2)), kDrop) << "it cannot be told";
      }
      all(kDrop, "the lookup is gone");
    }
    EXPECT_EQ(programs.Counter(QANAT_CNT_INBOUND_OPEN), 2 * (std::size(syns) + 1));
    for (const uint32_t role : {QANAT_CNT_TO_INBOUND, QANAT_CNT_DROP_NO_LISTENER})
      EXPECT_EQ(programs.Counter(static_cast<qanat_counter>(role)), 0u) << "a question is none";
  }).join();
}

}  // namespace
}  // namespace qanat::test
