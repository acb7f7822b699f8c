// SPDX-License-Identifier: Apache-2.0
// Kinds of pods (the table of agent/README.md): what each gets, and that it says so where it gets
// less than capture promises.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kOut4 = "10.66.9.9:8080";
constexpr const char* kOut6 = "[fd66:9::9]:8080";

class KindsTest : public ::testing::Test {
 protected:
  KindsTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)) {
    servers_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [] { ServeApp(8080); }));
    servers_.push_back(bed_.Spawn({bed_.out_ns(), "host"}, [] { ServeApp(8080); }));
    for (const char* to : {kOut4, kOut6})
      EXPECT_TRUE(Answers("app", [&] { return From(a_, {.to = to}); })) << to;
  }
  ~KindsTest() override {
    servers_.clear();
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
  }
  void Enrol() {
    bed_.ShowPod(a_);
    bed_.StartAgent();
    bed_.StartPeer();
    ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  }
  std::string From(const Bed::PodInfo& pod, const Dial& dial) {
    return bed_.Run({pod.netns, "pods/" + pod.name}, [&] { return Call(dial); });
  }
  std::string FromOut(const Dial& dial) {
    return bed_.Run({bed_.out_ns(), "host"}, [&] { return Call(dial); });
  }
  std::string FromNode(const Dial& dial) {
    return bed_.Run({bed_.node_ns(), "host"}, [&] { return Call(dial); });
  }
  // As the proxy goes on to the application: with the client's address, over lo.
  std::string LoLeg(const std::string& to, const std::string& client) {
    return bed_.Run({a_.netns, "ztunnel"}, [&] {
      return Call({.to = to, .bind = client, .transparent = true, .mark = 0x539});
    });
  }
  bool Answers(const std::string& who, const std::function<std::string()>& call) {
    return bed_.WaitFor([&] { return call().rfind(who + " ", 0) == 0; }, 20000);
  }
  // "in LOCAL PEER", also "out 1 LOCAL PEER".
  static void ExpectReached(const std::string& line, const std::string& what,
                            const std::string& local, const std::string& peer_ip) {
    EXPECT_THAT(line, StartsWith(what + " "));
    EXPECT_THAT(line, HasSubstr(" " + local + " "));
    EXPECT_THAT(line, HasSubstr(peer_ip));
  }
  bool Says(const std::string& text) {
    return bed_.WaitFor([&] { return bed_.StatusText(a_).find(text) != std::string::npos; }, 20000);
  }
  std::string Shell(const std::string& netns, const std::string& command) {
    return bed_.Run({netns, "host"}, [&] {
      std::string out;
      FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
      char buffer[4096];
      while (size_t n = ::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, n);
      ::pclose(pipe);
      return out;
    });
  }
  std::string Rules() {
    // A table that was never used answers with an error, one that is empty with nothing.
    return Shell(a_.netns,
                 "ip rule; ip -6 rule; for v in -4 -6; do ip $v route show table 101 2>/dev/null; "
                 "done; true");
  }
  std::string Entries(const std::string& map) {
    std::string dump =
        Shell(bed_.node_ns(), "bpftool -j map dump pinned " + bed_.bpf_dir() + "/maps/" + map);
    return dump.substr(0, dump.find_last_not_of(" \n") + 1);
  }
  int PodPins() {
    int pins = 0;
    for (const auto& pin : std::filesystem::directory_iterator(bed_.bpf_dir() + "/links"))
      pins += pin.path().filename().string().rfind("pod-", 0) == 0;
    return pins;
  }
  // Whatever an enrolled pod has in the kernel and on disk is gone.
  void ExpectNothingLeft() {
    EXPECT_TRUE(bed_.WaitFor([&] { return PodPins() == 0; }, 20000)) << PodPins();
    for (const char* map : {"pods", "pod_ips", "own_ips", "budgets", "grants", "probes"})
      EXPECT_EQ(Entries(map), "[]") << map;
    const auto states = nlohmann::json::parse(Entries("pod_state"));  // an array: all are off
    for (const auto& one : states) EXPECT_EQ(one["formatted"]["value"]["mode"], 0) << one;
    EXPECT_TRUE(std::filesystem::is_empty(bed_.dir() + "/agent-state"));
  }
  // A program of the pod that makes its packets itself: opens a packet socket on eth0, and sends a
  // SYN every 50 ms when `sends`.
  Process OwnStack(bool sends) {
    return bed_.Spawn({a_.netns, "pods/a"}, [sends] {
      ::execlp("python3", "python3", "-c",
               "import socket,struct,sys,time\n"
               "s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(3))\n"
               "s.bind(('eth0',0))\n"
               "ip=struct.pack('!BBHHHBBH4s4s',0x45,0,40,1,0,64,6,0,socket.inet_aton('10.66.1.10'),"
               "socket.inet_aton('10.66.9.9'))\n"
               "tcp=struct.pack('!HHIIBBHHH',4444,8080,1,0,0x50,2,1024,0,0)\n"
               "while True:\n"
               " try:\n"  // what is dropped is told as ENOBUFS
               "  if sys.argv[1]=='1': s.send(b'\\xff'*6+b'\\x02'*6+b'\\x08\\x00'+ip+tcp)\n"
               " except OSError: pass\n"
               " time.sleep(0.05)\n",
               sends ? "1" : "0", nullptr);
    });
  }
  bool HasPacketSocket() {
    return bed_.WaitFor([&] { return bed_.Sh(a_.netns, "test $(wc -l < /proc/net/packet) -gt 1"); },
                        20000);
  }

  Bed bed_;
  Bed::PodInfo a_;
  std::vector<Process> servers_;
};

TEST_F(KindsTest, APodOfTheNodesNetworkIsNeverTouched) {
  bed_.ShowChanged(a_, R"({"hostNetwork":true})");
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(Says("hostNetwork pods have no namespace of their own")) << bed_.StatusText(a_);
  EXPECT_EQ(bed_.Redirection(a_), "disabled");
  EXPECT_THAT(From(a_, {.to = kOut4}), StartsWith("app"));
  ExpectNothingLeft();
}

TEST_F(KindsTest, AJobThatEndsLeavesNothing) {
  Enrol();
  bed_.ShowChanged(a_, R"({"phase":"Succeeded"})");
  ASSERT_TRUE(bed_.WaitFor([&] { return bed_.StatusText(a_).empty(); }));
  // As long as its sandbox lives something may run in it.
  EXPECT_THAT(From(a_, {.to = kOut4, .timeout_ms = 500}), StartsWith("error"));
  servers_.clear();
  bed_.DeletePodNs(a_);
  ExpectNothingLeft();
  bed_.HidePod(a_);
  EXPECT_TRUE(bed_.WaitFor([&] { return bed_.Admin("/pods").rfind("[]", 0) == 0; }));
}

TEST_F(KindsTest, AJobThatEndsBeforeItIsEnrolledLeavesNothing) {
  const std::string before = Rules();
  bed_.ShowPod(a_);
  bed_.StartAgent();
  ASSERT_TRUE(Says("no proxy")) << bed_.StatusText(a_);
  EXPECT_NE(Rules(), before);
  bed_.ShowChanged(a_, R"({"phase":"Failed"})");
  ASSERT_TRUE(Says("the pod has finished")) << bed_.StatusText(a_);
  ExpectNothingLeft();
  EXPECT_EQ(Rules(), before);
}

TEST_F(KindsTest, TheFirstActOfAnInitContainerIsPoliced) {
  bed_.StartAgent();
  bed_.StartPeer();
  for (int i = 0; i < 4; ++i) {
    const Bed::PodInfo pod = bed_.MakePod("init" + std::to_string(i), 30 + i);
    bed_.ShowPod(pod);
    // The runtime starts the first container when the chain of plugins has said yes.
    EXPECT_TRUE(bed_.WaitFor([&] { return bed_.CmdAdd(pod).rfind("HTTP/1.1 200", 0) == 0; }));
    ExpectReached(From(pod, {.to = i % 2 ? kOut4 : kOut6}), "out", i % 2 ? kOut4 : kOut6,
                  i % 2 ? pod.ip4 : pod.ip6);
  }
}

TEST_F(KindsTest, EveryInterfaceIsCaptured) {
  Enrol();
  // After the enrolment, as some plugins add them.
  const std::string node = bed_.node_ns();
  ASSERT_TRUE(bed_.Sh(node, "ip link add va2 type veth peer name net1 netns " + a_.netns +
                                " && ip addr add 10.66.2.1/24 dev va2 && ip addr add fd66:2::1/64 "
                                "dev va2 nodad && ip link set va2 up"));
  ASSERT_TRUE(bed_.Sh(a_.netns,
                      "ip addr add 10.66.2.10/24 dev net1 && ip addr add fd66:2::10/64 dev net1 "
                      "nodad && ip link set net1 up"));
  servers_.push_back(bed_.Spawn({node, "host"}, [] { ServeApp(8080); }));
  EXPECT_TRUE(bed_.WaitFor([&] { return PodPins() == 1 + 2 * 4; })) << "guarded at both ends too";
  EXPECT_TRUE(bed_.WaitFor([&] { return Entries("own_ips").find("pod_id") != std::string::npos; }));
  // Out, by whatever route, address or device.
  ExpectReached(From(a_, {.to = "10.66.2.1:8080"}), "out", "10.66.2.1:8080", a_.ip4);
  ExpectReached(From(a_, {.to = "10.66.2.1:8080", .bind = "10.66.2.10:0"}), "out", "10.66.2.1:8080",
                "10.66.2.10");
  ExpectReached(From(a_, {.to = "[fd66:2::1]:8080", .bind = "[fd66:2::10]:0"}), "out",
                "[fd66:2::1]:8080", "fd66:2::10");
  ExpectReached(From(a_, {.to = "10.66.2.1:8080", .device = "net1"}), "out", "10.66.2.1:8080",
                a_.ip4);
  const uint64_t dropped = bed_.Counter(a_, "guard_dropped");
  Shell(a_.netns,
        "python3 -c \"import socket,struct;s=socket.socket(2,3,6);s.sendto(struct.pack("
        "'!HHIIBBHHH',4444,8080,1,0,0x50,2,1024,0,0),('10.66.2.1',0))\"");
  EXPECT_EQ(bed_.Counter(a_, "guard_dropped"), dropped + 1);
  // In: the proxy's, and no grant for the node.
  for (const auto& [to, from] : {std::pair<std::string, std::string>{"10.66.2.10", "10.66.2.1"},
                                 {"[fd66:2::10]", "fd66:2::1"}}) {
    ASSERT_TRUE(Answers("in", [&] { return FromNode({.to = to + ":8080"}); })) << to;
    ExpectReached(FromNode({.to = to + ":8080"}), "in", to + ":8080", from);
    ExpectReached(FromNode({.to = to + ":15008"}), "hbone", to + ":15008", from);
    EXPECT_EQ(FromNode({.to = to + ":15006"}), "error: ECONNREFUSED");
  }
  // From there the proxy reaches the application, and the application itself.
  ExpectReached(LoLeg("10.66.2.10:8080", "10.66.2.1:0"), "app", "10.66.2.10:8080", "10.66.2.1");
  ExpectReached(LoLeg("[fd66:2::10]:8080", "[fd66:2::1]:0"), "app", "[fd66:2::10]:8080",
                "fd66:2::1");
  EXPECT_THAT(From(a_, {.to = "10.66.2.10:8080"}), StartsWith("app"));
  EXPECT_THAT(From(a_, {.to = "[fd66:2::10]:8080"}), StartsWith("app"));
}

TEST_F(KindsTest, SecondaryAddressesAreCapturedWithoutAGrant) {
  ASSERT_TRUE(bed_.Sh(a_.netns,
                      "ip addr add 10.66.1.110/24 dev eth0 && ip addr add fd66:1::110/64 dev eth0 "
                      "nodad"));
  Enrol();
  ExpectReached(From(a_, {.to = kOut4, .bind = "10.66.1.110:0"}), "out", kOut4, "10.66.1.110");
  ExpectReached(From(a_, {.to = kOut6, .bind = "[fd66:1::110]:0"}), "out", kOut6, "fd66:1::110");
  const uint64_t granted = bed_.Counter(a_, "grant_host");
  for (const std::string ip : {"10.66.1.110", "[fd66:1::110]"}) {
    ASSERT_TRUE(Answers("in", [&] { return FromOut({.to = ip + ":8080"}); })) << ip;
    EXPECT_THAT(FromNode({.to = ip + ":8080"}), StartsWith("in")) << ip;
    EXPECT_THAT(From(a_, {.to = ip + ":8080"}), StartsWith("app")) << ip;
  }
  EXPECT_EQ(bed_.Counter(a_, "grant_host"), granted);
  ExpectReached(FromOut({.to = "10.66.1.110:15008"}), "hbone", "10.66.1.110:15008", "10.66.9.9");
  ExpectReached(LoLeg("10.66.1.110:8080", "10.66.9.9:0"), "app", "10.66.1.110:8080", "10.66.9.9");
  ExpectReached(LoLeg("[fd66:1::110]:8080", "[fd66:9::9]:0"), "app", "[fd66:1::110]:8080",
                "fd66:9::9");
  // What is no longer the pod's is forgotten, and nothing is left when it leaves.
  ASSERT_TRUE(bed_.Sh(a_.netns, "ip addr del 10.66.1.110/24 dev eth0"));
  EXPECT_TRUE(bed_.WaitFor([&] { return nlohmann::json::parse(Entries("own_ips")).size() == 1; }))
      << Entries("own_ips");
  EXPECT_THAT(From(a_, {.to = "10.66.1.110:8080", .timeout_ms = 3000}), StartsWith("out"));
  bed_.ShowPod(a_, /*in_mesh=*/false);
  ASSERT_TRUE(bed_.WaitFor([&] { return bed_.Redirection(a_) == "disabled"; }));
  ExpectNothingLeft();
}

TEST_F(KindsTest, APodWhoseStackHasTakenItsAddressesIsNotEnrolledAndSaysWhy) {
  const std::string before = Rules();
  ASSERT_TRUE(bed_.Sh(a_.netns, "ip addr flush dev eth0 scope global"));
  Process stack = OwnStack(/*sends=*/false);
  ASSERT_TRUE(HasPacketSocket());
  bed_.ShowPod(a_);
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(Says("cannot be captured")) << bed_.StatusText(a_);
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("a packet socket on eth0"));
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("istio.io/dataplane-mode=none"));
  EXPECT_EQ(bed_.Redirection(a_), "pending");
  EXPECT_THAT(bed_.Admin("/pods"), HasSubstr("\"cannotBeCaptured\": true"));
  ExpectNothingLeft();
  EXPECT_EQ(Shell(a_.netns, "ip rule").find("0x53"), std::string::npos);
  // Without such a stack it is an interface that is not set up yet.
  stack.Kill(9);
  EXPECT_TRUE(Says("not set up yet")) << bed_.StatusText(a_);
  ASSERT_TRUE(bed_.Sh(a_.netns, "ip addr add " + a_.ip4 + "/24 dev eth0 && ip addr add " + a_.ip6 +
                                    "/64 dev eth0 nodad && ip route add default via 10.66.1.1"));
  EXPECT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
}

TEST_F(KindsTest, AStackThatTakesTheAddressesOfAnEnrolledPodCutsItOff) {
  Enrol();
  Process stack = OwnStack(/*sends=*/true);
  ASSERT_TRUE(HasPacketSocket());
  ASSERT_TRUE(bed_.Sh(a_.netns, "ip addr flush dev eth0 scope global"));
  ASSERT_TRUE(Says("cut off: cannot be captured")) << bed_.StatusText(a_);
  const uint64_t dropped = bed_.Counter(a_, "guard_dropped");
  EXPECT_TRUE(bed_.WaitFor([&] { return bed_.Counter(a_, "guard_dropped") > dropped + 5; }))
      << "what it sends must not leave";
}

TEST_F(KindsTest, AStackBesideTheKernelsIsNoticedByWhatTheGuardDrops) {
  Enrol();
  EXPECT_EQ(bed_.StatusText(a_).find("cannot be captured"), std::string::npos);
  {
    // Who only listens (tcpdump) is no such stack, nor is who sends without a packet socket.
    Process listener = OwnStack(/*sends=*/false);
    ASSERT_TRUE(HasPacketSocket());
    ::usleep(600000);  // three reconciliations
    EXPECT_EQ(bed_.StatusText(a_).find("cannot be captured"), std::string::npos);
  }
  Shell(a_.netns,
        "python3 -c \"import socket,struct;s=socket.socket(2,3,6);s.sendto(struct.pack("
        "'!HHIIBBHHH',4444,8080,1,0,0x50,2,1024,0,0),('10.66.9.9',0))\"");
  ::usleep(600000);
  EXPECT_EQ(bed_.StatusText(a_).find("cannot be captured"), std::string::npos);
  Process stack = OwnStack(/*sends=*/true);
  ASSERT_TRUE(Says("cannot be captured: connections leave it past the kernel's sockets"))
      << bed_.StatusText(a_);
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("a packet socket on eth0"));
  EXPECT_EQ(bed_.Redirection(a_), "enabled") << "enrolled it stays: closed, not open";
  EXPECT_THAT(bed_.Admin("/pods"), HasSubstr("\"cannotBeCaptured\": true"));
  stack.Kill(9);
  EXPECT_TRUE(bed_.WaitFor([&] {
    return bed_.StatusText(a_).find("cannot be captured") == std::string::npos;
  })) << bed_.StatusText(a_);
}

TEST_F(KindsTest, APacketSocketThatCallsItsPacketsOtherwiseDoesNotPassTheGuard) {
  // The kernel notes the socket's protocol with the packet; on the wire the frame's own counts.
  Enrol();
  for (const char* protocol : {"0x0806", "0x86dd", "0x0800", "3"}) {
    const uint64_t dropped = bed_.Counter(a_, "guard_dropped");
    Shell(a_.netns, std::string("python3 -c \"import socket,struct;s=socket.socket(17,3,"
                                "socket.htons(") +
                        protocol +
                        "));s.bind(('eth0',0));"
                        "s.send(b'\\xff'*6+b'\\x02'*6+b'\\x08\\x00'+struct.pack("
                        "'!BBHHHBBH4s4s',0x45,0,40,1,0,64,6,0,socket.inet_aton('10.66.1.10'),"
                        "socket.inet_aton('10.66.9.9'))+struct.pack('!HHIIBBHHH',4444,8080,1,0,"
                        "0x50,2,1024,0,0))\"");
    EXPECT_EQ(bed_.Counter(a_, "guard_dropped"), dropped + 1) << protocol;
  }
}

TEST_F(KindsTest, PlainInboundIsGivenToWhoAsksForIt) {
  constexpr const char* kAsked =
      R"({"annotations":{"ambient.istio.io/bypass-inbound-capture":"true"}})";
  bed_.ShowChanged(a_, kAsked);
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("what comes in is not captured"));
  for (const std::string& to : {a_.ip4, "[" + a_.ip6 + "]"}) {
    EXPECT_THAT(FromOut({.to = to + ":8080"}), StartsWith("app ")) << to;
    EXPECT_THAT(FromOut({.to = to + ":15008"}), StartsWith("hbone ")) << to;
    EXPECT_EQ(FromOut({.to = to + ":15006"}), "error: ECONNREFUSED") << to;
  }
  EXPECT_THAT(From(a_, {.to = kOut4}), StartsWith("out "));
  EXPECT_THAT(From(a_, {.to = kOut6}), StartsWith("out "));
  EXPECT_GE(bed_.Counter(a_, "plain_inbound"), 2u);
  // An agent that comes back knows it before its source has spoken.
  bed_.StopAgent(9);
  bed_.StartAgent();
  EXPECT_THAT(FromOut({.to = a_.ip4 + ":8080"}), StartsWith("app "));
  // Taken back, and by a word that nobody understands.
  bed_.ShowChanged(a_, R"({"annotations":{"ambient.istio.io/bypass-inbound-capture":"yes"}})");
  EXPECT_TRUE(Answers("in", [&] { return FromOut({.to = a_.ip4 + ":8080"}); }));
  EXPECT_TRUE(Says("is not understood")) << bed_.StatusText(a_);
  bed_.ShowChanged(a_, kAsked);
  EXPECT_TRUE(Answers("app", [&] { return FromOut({.to = a_.ip4 + ":8080"}); }));
  bed_.ShowPod(a_);
  EXPECT_TRUE(Answers("in", [&] { return FromOut({.to = a_.ip4 + ":8080"}); }));
}

TEST_F(KindsTest, AnAnnotationThatIsNotHonouredIsSaid) {
  bed_.ShowChanged(a_, R"({"annotations":{"istio.io/reroute-virtual-interfaces":"tap0",
                           "istio.io/exclude-interfaces":"eth0"}})");
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("reroute-virtual-interfaces=tap0 is not honoured"));
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("every interface is captured"));
  EXPECT_THAT(From(a_, {.to = kOut4, .device = "eth0"}), StartsWith("out "));
}

}  // namespace
}  // namespace qanat::test
