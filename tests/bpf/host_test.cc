// SPDX-License-Identifier: Apache-2.0
// What the node's end of a pod's veth lets out and in, with traffic: sources that are not the
// pod's, SYNs that were sent past its second guard, tuples that somebody else was granted; and the
// proof on which the direct path rests.
#include <bpf/bpf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "bpf/user/link.h"
#include "bpf/user/node_maps.h"
#include "tests/bpf/bed.h"
#include "tests/bpf/packet.h"
#include "tests/bpf/recorder.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

constexpr uint8_t kTcp = 6, kUdp = 17, kIcmp6 = 58, kSyn = 0x02, kNode = 1, kA = 10, kB = 11;
constexpr int kQdiscBypass = 20;  // PACKET_QDISC_BYPASS

// A header that a bridge which filters takes for one.
void Finish4(Bytes& frame) {
  const size_t length = frame.size() - 14;
  frame[16] = static_cast<uint8_t>(length >> 8);
  frame[17] = static_cast<uint8_t>(length);
  frame[24] = frame[25] = 0;
  uint32_t sum = 0;
  for (size_t i = 14; i < 34; i += 2) sum += static_cast<uint32_t>(frame[i] << 8 | frame[i + 1]);
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  frame[24] = static_cast<uint8_t>(~sum >> 8);
  frame[25] = static_cast<uint8_t>(~sum);
}

// To everybody on the bridge, between addresses of its network.
Bytes OnTheBridge(Bytes frame) {
  std::fill_n(frame.begin(), 6, uint8_t{0xff});
  if (frame[12] == 0x08 && frame[13] == 0x00)
    for (size_t at : {26u, 30u}) {
      frame[at + 1] = 66;
      frame[at + 2] = 1;
    }
  if (frame[12] == 0x86) {
    frame[19] = static_cast<uint8_t>(frame.size() - 54);
    for (size_t at : {22u, 38u}) {
      frame[at] = 0xfd;
      frame[at + 1] = 0x66;
      frame[at + 3] = 1;
    }
  }
  if (frame[12] == 0x08 && frame[13] == 0x06) {
    frame[29] = 66;
    frame[30] = 1;
  }
  if (frame[12] == 0x08 && frame[13] == 0x00) Finish4(frame);
  return frame;
}
Bytes Udp4(uint8_t from) { return OnTheBridge(Between(Ip4(kUdp), from, 99) + Tcp(0)); }
Bytes Udp6(uint8_t from) { return OnTheBridge(Between(Ip6(kUdp), from, 99) + Tcp(0)); }
Bytes Syn4(uint8_t from, uint8_t to = 99) {
  return OnTheBridge(Ports(Between(Ip4(kTcp), from, to) + Tcp(kSyn), 34, 4444, 8080));
}
Bytes Syn6(uint8_t from) {
  return OnTheBridge(Ports(Between(Ip6(kTcp), from, 99) + Tcp(kSyn), 54, 4444, 8080));
}
Bytes Claim6(uint8_t from, uint8_t address) {
  Bytes body = Neighbour(136, address);
  body[9] = 0x66;
  body[11] = 1;
  return OnTheBridge(Between(Ip6(kIcmp6), from, 99) + body);
}
bool IsOurs(const uint8_t* frame, size_t size) {  // by the source of Ethernet()
  return size > 11 && std::all_of(frame + 6, frame + 12, [](uint8_t b) { return b == 2; });
}

class HostEndTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    bed_ = new Bed("qKERNEL");
    a_ = bed_->MakePod("a", kA);
    b_ = bed_->MakePod("b", kB);
    n_ = bed_->MakePod("n", 12);
    bed_->ShowPod(a_);
    bed_->ShowPod(b_);
    bed_->ShowPod(n_, false);
    bed_->StartAgent({"--reprove-ms", "500"});
    bed_->StartPeer();
    for (const auto& pod : {a_, b_, n_})
      servers_.push_back(bed_->Spawn({pod.netns, "pods/" + pod.name}, [] { ServeApp(8080); }));
    for (const auto& pod : {a_, b_})
      ASSERT_TRUE(bed_->WaitEnabled(pod)) << bed_->StatusText(pod) << bed_->Log();
    auto maps = bpf::NodeMaps::Open(bed_->bpf_dir() + "/maps");
    ASSERT_TRUE(maps);
    maps_ = new bpf::NodeMaps(std::move(*maps));
  }
  static void TearDownTestSuite() {
    bed_->agent().Signal(SIGCONT);
    servers_.clear();
    EXPECT_EQ(bed_->SanitizerReport(), "");
    if (Test::HasFailure()) std::fprintf(stderr, "%s\n", bed_->Log().c_str());
    delete maps_;
    delete bed_;
  }
  void SetUp() override {
    for (const auto& pod : {a_, b_})
      ASSERT_TRUE(bed_->WaitFor([&] { return Shown(pod)["path"]["proved"] == true; }))
          << Shown(pod).dump(2);
  }
  static Json Shown(const Bed::PodInfo& pod) {
    for (const Json& one : Json::parse(bed_->Admin("/pods"), nullptr, false))
      if (one.is_object() && one["uid"] == pod.uid) return one;
    return {};
  }
  static std::string Why(const Bed::PodInfo& pod) { return Shown(pod)["path"]["why"]; }
  static uint32_t IdOf(const Bed::PodInfo& pod) { return Shown(pod)["id"]; }
  // From the map: also while the agent stands still.
  static uint64_t Counter(uint32_t id, qanat_counter which) {
    return maps_->CountersOf(id)->value[which];
  }
  static std::string Call(const std::string& netns, const Dial& dial) {
    return bed_->Run({netns, "host"}, [&] { return test::Call(dial); });
  }
  static void Send(const Bed::PodInfo& pod, const Bytes& frame, bool bypass = false) {
    const std::string sent = bed_->Run({pod.netns, "pods/" + pod.name}, [&]() -> std::string {
      const Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
      const int on = bypass ? 1 : 0;
      if (::setsockopt(fd.get(), SOL_PACKET, kQdiscBypass, &on, sizeof on) != 0) return "bypass";
      sockaddr_ll to{};
      to.sll_family = AF_PACKET;
      to.sll_ifindex = static_cast<int>(::if_nametoindex("eth0"));
      const ssize_t n = ::sendto(fd.get(), frame.data(), frame.size(), 0,
                                 reinterpret_cast<sockaddr*>(&to), sizeof to);
      // What a program on egress drops is ENOBUFS to a packet socket.
      return n == static_cast<ssize_t>(frame.size()) || errno == ENOBUFS ? "" : "not sent";
    });
    ASSERT_EQ(sent, "");
  }
  // What the bridge's own interface gets of it.
  static int Arrived(const Bed::PodInfo& pod, const Bytes& frame, bool bypass = false) {
    Recorder recorder(bed_->node_ns(), "br0");
    EXPECT_TRUE(recorder.valid());
    Send(pod, frame, bypass);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return recorder.Count(IsOurs);
  }

  static Bed* bed_;
  static Bed::PodInfo a_, b_, n_;
  static bpf::NodeMaps* maps_;
  static std::vector<Process> servers_;
};
Bed* HostEndTest::bed_;
Bed::PodInfo HostEndTest::a_, HostEndTest::b_, HostEndTest::n_;
bpf::NodeMaps* HostEndTest::maps_;
std::vector<Process> HostEndTest::servers_;

TEST_F(HostEndTest, OrdinaryTrafficPasses) {
  const uint32_t id = IdOf(a_);
  const uint64_t before = Counter(id, QANAT_CNT_FOREIGN_SOURCE);
  ASSERT_TRUE(bed_->Sh(bed_->node_ns(), "ip neigh flush all; ip -6 neigh flush all"));
  ASSERT_TRUE(bed_->Sh(a_.netns, "ip neigh flush all; ip -6 neigh flush all"));
  for (const std::string& to : {std::string("10.66.1.1"), std::string("fd66:1::1"), b_.ip4, b_.ip6,
                                std::string("10.66.9.9"), std::string("fd66:9::9")})
    EXPECT_TRUE(bed_->Sh(a_.netns, "ping -n -c 1 -W 3 " + to + " >/dev/null")) << to;
  ASSERT_TRUE(bed_->Sh(bed_->node_ns(), "ip neigh flush all; ip -6 neigh flush all"));
  for (const std::string& to : {a_.ip4, a_.ip6})
    EXPECT_TRUE(bed_->Sh(bed_->node_ns(), "ping -n -c 1 -W 3 " + to + " >/dev/null")) << to;
  EXPECT_THAT(Call(bed_->out_ns(), {.to = a_.ip4 + ":8080"}), StartsWith("in"));
  EXPECT_THAT(Call(a_.netns, {.to = "10.66.9.9:8080", .timeout_ms = 500}), StartsWith("out"));
  Bytes dhcp = Udp4(0);
  std::fill_n(dhcp.begin() + 26, 4, uint8_t{0});
  Finish4(dhcp);
  EXPECT_EQ(Arrived(a_, dhcp), 1) << "DHCP";
  // An address that is made, with DAD, and one more.
  ASSERT_TRUE(bed_->Sh(a_.netns, "ip -6 addr add fd66:1::77/64 dev eth0"));
  EXPECT_TRUE(bed_->WaitFor(
      [&] { return bed_->Sh(a_.netns, "test -z \"$(ip -6 addr show dev eth0 tentative)\""); }));
  EXPECT_FALSE(bed_->Sh(a_.netns, "ip -6 addr show dev eth0 | grep -q dadfailed"));
  EXPECT_EQ(Counter(id, QANAT_CNT_FOREIGN_SOURCE), before);
  ASSERT_TRUE(bed_->Sh(a_.netns, "ip addr add 10.66.1.77/24 dev eth0"));
  EXPECT_TRUE(bed_->WaitFor(
      [&] { return bed_->Sh(a_.netns, "ping -n -c 1 -W 1 -I 10.66.1.77 10.66.1.1 >/dev/null"); }));
  EXPECT_TRUE(bed_->WaitFor(
      [&] { return bed_->Sh(bed_->node_ns(), "ping -n -c 1 -W 1 fd66:1::77 >/dev/null"); }));
  ASSERT_TRUE(
      bed_->Sh(a_.netns, "ip addr del 10.66.1.77/24 dev eth0; ip addr del fd66:1::77/64 dev eth0"));
}

TEST_F(HostEndTest, AnothersSourceIsDroppedAndCounted) {
  const uint32_t id = IdOf(a_);
  EXPECT_EQ(Arrived(a_, Udp4(kA)), 1) << "its own";
  EXPECT_EQ(Arrived(a_, Udp6(kA - 10 + 0x10)), 1) << "its own: fd66:1::10";
  uint64_t dropped = Counter(id, QANAT_CNT_FOREIGN_SOURCE);
  const std::pair<const char*, Bytes> frames[] = {
      {"a neighbour's", Udp4(kB)},
      {"the node's", Udp4(kNode)},
      {"a neighbour's, IPv6", Udp6(0x11)},
      {"a claim by ARP", OnTheBridge(Arp(kB))},
      {"a claim by neighbour advertisement", Claim6(0x10, 0x11)},
  };
  for (const auto& [name, frame] : frames) {
    EXPECT_EQ(Arrived(n_, frame), 1) << name << ", of a pod that is not in the mesh";
    for (const bool bypass : {false, true}) {
      EXPECT_EQ(Arrived(a_, frame, bypass), 0) << name;
      EXPECT_EQ(Counter(id, QANAT_CNT_FOREIGN_SOURCE), ++dropped) << name;
    }
  }
  // What was claimed by the one who may.
  for (const std::string& ns : {bed_->node_ns(), a_.netns, b_.netns, n_.netns})
    ASSERT_TRUE(bed_->Sh(ns, "ip neigh flush all; ip -6 neigh flush all"));
  // A process with NET_ADMIN gives itself what it likes; it does not get the right to it.
  ASSERT_TRUE(
      bed_->Sh(a_.netns, "ip addr add 10.66.1.11/32 dev lo; ip addr add 10.66.1.88/32 dev lo"));
  EXPECT_TRUE(bed_->WaitFor([&] { return Arrived(a_, Udp4(88)) == 1; })) << "nobody else's";
  EXPECT_EQ(Arrived(a_, Udp4(kB)), 0);
  ASSERT_TRUE(
      bed_->Sh(a_.netns, "ip addr del 10.66.1.11/32 dev lo; ip addr del 10.66.1.88/32 dev lo"));
  EXPECT_TRUE(bed_->WaitFor([&] { return Arrived(a_, Udp4(88)) == 0; }));
}

TEST_F(HostEndTest, ASynThatIsSentPastTheGuardDoesNotLeave) {
  const uint32_t id = IdOf(a_);
  for (const Bytes& syn : {Syn4(kA), Syn6(0x10)}) {
    EXPECT_EQ(Arrived(n_, syn, true), 1) << "of a pod that is not in the mesh";
    const uint64_t unsigned_syn = Counter(id, QANAT_CNT_UNSIGNED_SYN);
    EXPECT_EQ(Arrived(a_, syn, true), 0);
    EXPECT_EQ(Counter(id, QANAT_CNT_UNSIGNED_SYN), unsigned_syn + 1);
    const uint64_t stopped = Counter(id, QANAT_CNT_GUARD_DROPPED);
    EXPECT_EQ(Arrived(a_, syn), 0);
    EXPECT_EQ(Arrived(a_, Tagged(syn)), 0);
    EXPECT_EQ(Counter(id, QANAT_CNT_GUARD_DROPPED), stopped + 2);
    EXPECT_EQ(Arrived(a_, Tagged(syn), true), 0);
    EXPECT_EQ(Counter(id, QANAT_CNT_UNSIGNED_SYN), unsigned_syn + 2);
  }
}

TEST_F(HostEndTest, WithoutItsLookupNothingComesIn) {
  const uint32_t id = IdOf(a_);
  const std::string ends[] = {a_.ip4 + ":8080", "[" + a_.ip6 + "]:8080"};
  for (const std::string& to : ends)
    EXPECT_THAT(Call(bed_->out_ns(), {.to = to}), StartsWith("in"));
  bed_->agent().Signal(SIGSTOP);
  {
    auto lookup =
        bpf::Link::OpenPinned(bed_->bpf_dir() + "/links/pod-" + std::to_string(id) + "-lookup");
    ASSERT_TRUE(lookup && lookup->Detach());
  }
  for (const std::string& to : ends) {
    const uint64_t before = Counter(id, QANAT_CNT_INBOUND_OPEN);
    EXPECT_THAT(Call(bed_->out_ns(), {.to = to, .timeout_ms = 300}), StartsWith("error"));
    EXPECT_THAT(Call(n_.netns, {.to = to, .timeout_ms = 300}), StartsWith("error"));
    EXPECT_THAT(Call(bed_->node_ns(), {.to = to, .timeout_ms = 300}), StartsWith("error"));
    EXPECT_GE(Counter(id, QANAT_CNT_INBOUND_OPEN), before + 3);
  }
  EXPECT_THAT(Call(a_.netns, {.to = "127.0.0.1:8080"}), StartsWith("app")) << "inside as ever";
  bed_->agent().Signal(SIGCONT);
  EXPECT_TRUE(bed_->WaitFor(
      [&] { return Call(bed_->out_ns(), {.to = ends[0], .timeout_ms = 200}).rfind("in", 0) == 0; },
      5000));
}

TEST_F(HostEndTest, AGrantedTupleIsOfNoUseToANeighbour) {
  const uint32_t id = IdOf(b_);
  qanat_grant grant{};
  grant.source = Shown(a_)["netnsCookie"];
  grant.pod_id = id;
  grant.generation = (*maps_->pod_state.Lookup(id))->generation;
  grant.kind = QANAT_GRANT_DIRECT;
  const qanat_tuple tuple = bpf::ToKernel(*net::SocketAddress::Parse(a_.ip4 + ":4444"),
                                          *net::SocketAddress::Parse(b_.ip4 + ":8080"));
  const uint64_t forged = Counter(id, QANAT_CNT_GRANT_FORGED);
  Send(n_, Syn4(kA, kB));
  EXPECT_EQ(Counter(id, QANAT_CNT_GRANT_FORGED), forged) << "nothing is granted";
  ASSERT_TRUE(maps_->grants.Update(tuple, grant));
  Send(n_, Syn4(kA, kB));
  EXPECT_EQ(Counter(id, QANAT_CNT_GRANT_FORGED), forged + 1);
  ASSERT_TRUE(maps_->grants.Erase(tuple));
}

TEST_F(HostEndTest, AnotherSourceOnTheWayIsFound) {
  const std::string node = bed_->node_ns();
  ASSERT_TRUE(bed_->Sh(node,
                       "nft \"add table bridge t1; add chain bridge t1 c { type filter "
                       "hook forward priority 0; }; add rule bridge t1 c ip saddr " +
                           a_.ip4 + " ip saddr set 10.66.1.99\""));
  EXPECT_TRUE(bed_->WaitFor([&] { return Shown(a_)["path"]["proved"] == false; }));
  EXPECT_THAT(Why(a_), HasSubstr("arrived with another source"));
  ASSERT_TRUE(bed_->Sh(node, "nft delete table bridge t1"));
}

TEST_F(HostEndTest, WhatDoesNotArriveIsFound) {
  const std::string node = bed_->node_ns();
  ASSERT_TRUE(bed_->Sh(node,
                       "nft \"add table bridge t2; add chain bridge t2 c { type filter "
                       "hook forward priority 0; }; add rule bridge t2 c ip6 saddr " +
                           a_.ip6 + " tcp dport 15009 drop\""));
  EXPECT_TRUE(bed_->WaitFor([&] { return Shown(a_)["path"]["proved"] == false; }));
  EXPECT_THAT(Why(a_), HasSubstr("did not arrive"));
  ASSERT_TRUE(bed_->Sh(node, "nft delete table bridge t2"));
}

TEST_F(HostEndTest, ANetworkThatDropsSpoofsBeforeUsIsAsGood) {
  // The spoofed SYN is then seen by nobody, the other one arrives.
  ASSERT_TRUE(bed_->Sh(a_.netns,
                       "nft \"add table inet s; add chain inet s c { type filter hook "
                       "output priority 0; }; add rule inet s c ip saddr != " +
                           a_.ip4 +
                           " tcp dport 15009 drop; add rule inet s c ip6 saddr "
                           "!= " +
                           a_.ip6 + " tcp dport 15009 drop\""));
  const std::string link =
      bed_->bpf_dir() + "/links/pod-" + std::to_string(IdOf(a_)) + "-host_out-";
  for (const auto& pin : std::filesystem::directory_iterator(bed_->bpf_dir() + "/links"))
    if (pin.path().string().rfind(link, 0) == 0) {
      auto pinned = bpf::Link::OpenPinned(pin.path());
      ASSERT_TRUE(pinned && pinned->Detach());
    }
  EXPECT_TRUE(bed_->WaitFor([&] { return Shown(a_)["path"]["proved"] == false; }));
  EXPECT_TRUE(bed_->WaitFor([&] { return Shown(a_)["path"]["proved"] == true; })) << Why(a_);
  ASSERT_TRUE(bed_->Sh(a_.netns, "nft delete table inet s"));
}

TEST_F(HostEndTest, APodWithoutAVethHasNoDirectPath) {
  const auto c = bed_->MakePod("c", 13);
  const std::string node = bed_->node_ns();
  ASSERT_TRUE(bed_->Sh(c.netns, "ip link del eth0"));
  ASSERT_TRUE(bed_->Sh(node,
                       "ip link add low type veth peer name lowbr && ip link set lowbr "
                       "master br0 up && ip link set low up && ip link add link low name mv0 "
                       "type macvlan mode bridge && ip link set mv0 netns " +
                           c.netns + " name eth0"));
  ASSERT_TRUE(bed_->Sh(c.netns, "ip link set eth0 up && ip addr add " + c.ip4 +
                                    "/24 dev eth0 && ip addr add " + c.ip6 +
                                    "/64 dev eth0 nodad && ip route add default via 10.66.1.1"));
  bed_->ShowPod(c);
  ASSERT_TRUE(bed_->WaitEnabled(c)) << bed_->StatusText(c);
  EXPECT_TRUE(bed_->WaitFor([&] { return !Why(c).empty(); }));
  EXPECT_THAT(Why(c), HasSubstr("eth0 is no veth but of kind macvlan"));
  EXPECT_EQ(Shown(c)["path"]["proved"], false);
  EXPECT_EQ(Shown(c)["hostEnds"], Json::array());
  const Json capture = Json::parse(bed_->Admin("/capture"));
  EXPECT_THAT(capture["insideOnly"].value("shop/c", ""), HasSubstr("macvlan"));
  EXPECT_EQ(capture["insideOnly"].size(), 1u);
  bed_->HidePod(c);
  bed_->DeletePodNs(c);
}

// Last.
TEST_F(HostEndTest, ZWhoLeavesIsLookedAtNoMore) {
  const std::string prefix = "pod-" + std::to_string(IdOf(a_)) + "-";
  const auto links = [&] {
    int count = 0;
    for (const auto& pin : std::filesystem::directory_iterator(bed_->bpf_dir() + "/links"))
      count += pin.path().filename().string().rfind(prefix, 0) == 0 ? 1 : 0;
    return count;
  };
  EXPECT_EQ(links(), 5);
  EXPECT_EQ(maps_->host_ends.Keys().size(), 2u);
  bed_->ShowPod(a_, false);
  EXPECT_TRUE(bed_->WaitFor([&] { return links() == 0; }));
  EXPECT_EQ(maps_->host_ends.Keys().size(), 1u);
  EXPECT_EQ(Arrived(a_, Udp4(kB)), 1);
  // A pod that vanishes with its veth.
  bed_->HidePod(b_);
  servers_.clear();
  bed_->DeletePodNs(b_);
  EXPECT_TRUE(bed_->WaitFor([&] { return maps_->host_ends.Keys().empty(); }));
}

}  // namespace
}  // namespace qanat::test
