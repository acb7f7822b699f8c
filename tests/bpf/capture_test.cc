// SPDX-License-Identifier: Apache-2.0
// What becomes of connections of an enrolled pod, of its neighbours and of the node.
#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "agent/redirect/tc_filter.h"
#include "bpf/user/link.h"
#include "common/base/fd.h"
#include "common/netns/netns.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::Test;

constexpr const char* kOut4 = "10.66.9.9:8080";
constexpr const char* kOut6 = "[fd66:9::9]:8080";

class CaptureTest : public Test {
 protected:
  static void SetUpTestSuite() {
    bed_ = new Bed("qKERNEL");
    a_ = bed_->MakePod("a", 10);
    b_ = bed_->MakePod("b", 11);
    n_ = bed_->MakePod("n", 12);  // no label: not in the mesh
    bed_->ShowPod(a_);
    bed_->ShowPod(b_);
    bed_->ShowPod(n_, false);
    bed_->StartAgent();
    bed_->StartPeer(3);
    ASSERT_TRUE(bed_->WaitEnabled(a_)) << bed_->StatusText(a_) << bed_->Log();
    ASSERT_TRUE(bed_->WaitEnabled(b_)) << bed_->StatusText(b_) << bed_->Log();
    for (const auto& pod : {a_, b_, n_})
      for (int port : {8080, 15008 + 1000})
        servers_.push_back(
            bed_->Spawn({pod.netns, "pods/" + pod.name}, [port] { ServeApp(port); }));
    servers_.push_back(bed_->Spawn({bed_->out_ns(), "host"}, [] { ServeApp(8080); }));
    // Every server listens, and both families find their way: a link may be up a moment later.
    const auto serves = [](const Bed::PodInfo& pod, const std::string& to) {
      return bed_->WaitFor([&] { return From(pod, {.to = to}).rfind("app", 0) == 0; });
    };
    for (const char* to : {kOut4, kOut6}) ASSERT_TRUE(serves(n_, to)) << to;
    for (const auto& pod : {a_, b_, n_})
      for (const char* port : {"8080", "16008"})
        ASSERT_TRUE(serves(pod, std::string("127.0.0.1:") + port)) << pod.name << " " << port;
  }
  static void TearDownTestSuite() {
    servers_.clear();
    EXPECT_EQ(bed_->SanitizerReport(), "");
    if (Test::HasFailure()) std::fprintf(stderr, "%s\n", bed_->Log().c_str());
    delete bed_;
    bed_ = nullptr;
  }

  static std::string From(const Bed::PodInfo& pod, const Dial& dial) {
    return bed_->Run({pod.netns, "pods/" + pod.name}, [&] { return Call(dial); });
  }
  static std::string FromNode(const Dial& dial) {
    return bed_->Run({bed_->node_ns(), "host"}, [&] { return Call(dial); });
  }
  static std::string FromOut(const Dial& dial) {
    return bed_->Run({bed_->out_ns(), "host"}, [&] { return Call(dial); });
  }
  static std::string FromProxyIn(const Bed::PodInfo& pod, const Dial& dial) {
    return bed_->Run({pod.netns, "ztunnel"}, [&] { return Call(dial); });
  }
  // "out 1 LOCAL PEER": did the listener named `what` see LOCAL as the original destination?
  static void ExpectReached(const std::string& line, const std::string& what,
                            const std::string& local, const std::string& peer_ip) {
    EXPECT_EQ(line.rfind(what + " ", 0), 0u) << line;
    EXPECT_NE(line.find(" " + local + " "), std::string::npos) << line;
    EXPECT_NE(line.find(peer_ip), std::string::npos) << line;
  }

  static Bed* bed_;
  static Bed::PodInfo a_, b_, n_;
  static std::vector<Process> servers_;
};
Bed* CaptureTest::bed_;
Bed::PodInfo CaptureTest::a_, CaptureTest::b_, CaptureTest::n_;
std::vector<Process> CaptureTest::servers_;

TEST_F(CaptureTest, OutgoingIpv4ReachesTheProxyWithItsOriginalDestination) {
  ExpectReached(From(a_, {.to = kOut4}), "out", kOut4, a_.ip4);
}

TEST_F(CaptureTest, OutgoingIpv6ReachesTheProxyWithItsOriginalDestination) {
  ExpectReached(From(a_, {.to = kOut6}), "out", kOut6, a_.ip6);
}

TEST_F(CaptureTest, Ipv4MappedNonblockingFastOpenAndMptcpAreCapturedToo) {
  ExpectReached(From(a_, {.to = kOut4, .as_mapped = true}), "out", kOut4, a_.ip4);
  ExpectReached(From(a_, {.to = kOut4, .nonblocking = true}), "out", kOut4, a_.ip4);
  ExpectReached(From(a_, {.to = kOut6, .nonblocking = true}), "out", kOut6, a_.ip6);
  ExpectReached(From(a_, {.to = kOut4, .fastopen = true}), "out", kOut4, a_.ip4);
  ExpectReached(From(a_, {.to = kOut6, .fastopen = true}), "out", kOut6, a_.ip6);
}

TEST_F(CaptureTest, Mptcp) {
  ExpectReached(From(a_, {.to = kOut4, .mptcp = true}), "out", kOut4, a_.ip4);
  ExpectReached(From(a_, {.to = kOut6, .mptcp = true}), "out", kOut6, a_.ip6);
}

TEST_F(CaptureTest, ApplicationSeesItsOwnAddressAndTheOneItAskedFor) {
  const std::string line = From(a_, {.to = kOut4, .say_self = true});
  EXPECT_NE(line.find("self=" + a_.ip4 + ":"), std::string::npos) << line;
  EXPECT_NE(line.find(std::string("peer=") + kOut4), std::string::npos) << line;
}

TEST_F(CaptureTest, SourceBoundByTheApplicationIsCaptured) {
  ExpectReached(From(a_, {.to = kOut4, .bind = a_.ip4 + ":0"}), "out", kOut4, a_.ip4);
  ExpectReached(From(a_, {.to = kOut6, .bind = "[" + a_.ip6 + "]:0"}), "out", kOut6, a_.ip6);
}

TEST_F(CaptureTest, MarkOfTheProxyDoesNotLetAnApplicationOut) {
  for (unsigned mark : {0x539u, 0x53bu, 0x53cu, 0x1u})
    ExpectReached(From(a_, {.to = kOut4, .mark = mark}), "out", kOut4, a_.ip4);
}

TEST_F(CaptureTest, DeviceBindingIsUndoneOrRefused) {
  ExpectReached(From(a_, {.to = kOut4, .device = "eth0"}), "out", kOut4, a_.ip4);
  ExpectReached(From(a_, {.to = kOut6, .device = "eth0"}), "out", kOut6, a_.ip6);
  // Without CAP_NET_RAW it cannot be undone.
  EXPECT_EQ(From(a_, {.to = kOut4, .device = "eth0", .drop_privileges = true}),
            "error: ECONNREFUSED");
  EXPECT_GT(bed_->Counter(a_, "refused_device"), 0u);
}

TEST_F(CaptureTest, UnprivilegedApplicationIsCaptured) {
  ExpectReached(From(a_, {.to = kOut4, .drop_privileges = true}), "out", kOut4, a_.ip4);
}

TEST_F(CaptureTest, LoopbackAndOwnAddressesAreUntouched) {
  for (const std::string& to :
       {std::string("127.0.0.1:8080"), std::string("127.8.8.8:8080"), std::string("[::1]:8080"),
        a_.ip4 + ":8080", "[" + a_.ip6 + "]:8080", std::string("0.0.0.0:8080")}) {
    const std::string line = From(a_, {.to = to});
    EXPECT_EQ(line.rfind("app ", 0), 0u) << to << " -> " << line;
  }
  EXPECT_EQ(From(a_, {.to = a_.ip4 + ":9999"}), "error: ECONNREFUSED");
}

TEST_F(CaptureTest, LinkLocalIpv6IsRefused) {
  const std::string line = bed_->Run({a_.netns, "pods/a"}, [] {
    return std::string(
        std::system("python3 -c \"import socket;s=socket.socket(10);s.settimeout(2);"
                    "s.connect(('fe80::1',80,0,socket.if_nametoindex('eth0')))\" 2>/dev/null") == 0
            ? "connected"
            : "refused");
  });
  EXPECT_EQ(line, "refused");
  EXPECT_GT(bed_->Counter(a_, "refused_link_local"), 0u);
}

TEST_F(CaptureTest, PlaintextFromOutsideReaches15006) {
  ExpectReached(FromOut({.to = a_.ip4 + ":8080"}), "in", a_.ip4 + ":8080", "10.66.9.9");
  ExpectReached(FromOut({.to = "[" + a_.ip6 + "]:8080"}), "in", "[" + a_.ip6 + "]:8080",
                "fd66:9::9");
  ExpectReached(From(n_, {.to = a_.ip4 + ":8080"}), "in", a_.ip4 + ":8080", n_.ip4);
}

TEST_F(CaptureTest, ProxyPortsAreClosedFromOutside) {
  for (const char* port : {"15001", "15006"}) {
    EXPECT_EQ(FromOut({.to = a_.ip4 + ":" + port}), "error: ECONNREFUSED");
    EXPECT_EQ(FromOut({.to = "[" + a_.ip6 + "]:" + port}), "error: ECONNREFUSED");
    EXPECT_EQ(FromNode({.to = a_.ip4 + ":" + port}), "error: ECONNREFUSED");
  }
}

TEST_F(CaptureTest, Port15008IsTheProxysEvenIfAnApplicationListens) {
  Process thief = bed_->Spawn({a_.netns, "pods/a"}, [] { ServeApp(15008); });
  // One beside those of the proxy's three workers.
  ASSERT_TRUE(bed_->WaitFor(
      [] { return bed_->Sh(a_.netns, "test $(ss -Hltn sport = :15008 | wc -l) -eq 4"); }));
  for (int i = 0; i < 20; ++i) {
    ExpectReached(FromOut({.to = a_.ip4 + ":15008"}), "hbone", a_.ip4 + ":15008", "10.66.9.9");
    ExpectReached(FromNode({.to = a_.ip4 + ":15008"}), "hbone", a_.ip4 + ":15008", "10.66.1.1");
  }
  ExpectReached(FromOut({.to = "[" + a_.ip6 + "]:15008"}), "hbone", "[" + a_.ip6 + "]:15008",
                "fd66:9::9");
}

TEST_F(CaptureTest, ProbesOfTheNodePassByGrant) {
  for (int i = 0; i < 20; ++i) {
    ExpectReached(FromNode({.to = a_.ip4 + ":8080"}), "app", a_.ip4 + ":8080", "10.66.1.1");
    ExpectReached(FromNode({.to = "[" + a_.ip6 + "]:8080"}), "app", "[" + a_.ip6 + "]:8080",
                  "fd66:1::1");
    ExpectReached(FromNode({.to = a_.ip4 + ":8080", .as_mapped = true}), "app", a_.ip4 + ":8080",
                  "10.66.1.1");
  }
  EXPECT_EQ(FromNode({.to = a_.ip4 + ":9999"}), "error: ECONNREFUSED");
}

TEST_F(CaptureTest, ProcessOfAPodInTheNodesNamespaceIsNoProbe) {
  const std::string line = bed_->Run({bed_->node_ns(), "pods/hostnetwork"},
                                     [] { return Call({.to = a_.ip4 + ":8080"}); });
  ExpectReached(line, "in", a_.ip4 + ":8080", "10.66.1.1");
  const std::string proxy =
      bed_->Run({bed_->node_ns(), "ztunnel"}, [] { return Call({.to = a_.ip4 + ":8080"}); });
  ExpectReached(proxy, "in", a_.ip4 + ":8080", "10.66.1.1");
}

TEST_F(CaptureTest, TheNodesAddressOnOutsideTrafficIsNoGrant) {
  // As kube-proxy masquerades NodePort traffic: the source address is the node's.
  ASSERT_TRUE(bed_->Sh(bed_->node_ns(),
                       "nft add table ip q; nft \"add chain ip q post { type nat hook postrouting "
                       "priority 100; }\"; "
                       "nft add rule ip q post oifname br0 ip saddr 10.66.9.9 masquerade"));
  ExpectReached(FromOut({.to = a_.ip4 + ":8080"}), "in", a_.ip4 + ":8080", "10.66.1.1");
  ASSERT_TRUE(bed_->Sh(bed_->node_ns(), "nft delete table ip q"));
}

TEST_F(CaptureTest, SpoofedNodeAddressIsNoGrant) {
  // A pod of this node borrows it. The answer goes to the node, but where the SYN ended is counted.
  // (From the wire the node's own reverse path filter takes it away.) Its ARP request must not
  // carry the address too: that would teach it to every pod on the bridge.
  ASSERT_TRUE(bed_->Sh(n_.netns, "sysctl -qw net.ipv4.conf.all.arp_announce=2"));
  const uint64_t inbound = bed_->Counter(a_, "to_inbound");
  const uint64_t granted = bed_->Counter(a_, "grant_used");
  const std::string answer = From(
      n_, {.to = a_.ip4 + ":8080", .bind = "10.66.1.1:0", .transparent = true, .timeout_ms = 2500});
  EXPECT_EQ(answer.rfind("error: ", 0), 0u) << answer;
  EXPECT_GE(bed_->Counter(a_, "to_inbound"), inbound + 1);
  EXPECT_EQ(bed_->Counter(a_, "grant_used"), granted);
  EXPECT_EQ(
      FromOut(
          {.to = a_.ip4 + ":8080", .bind = "10.66.1.1:0", .transparent = true, .timeout_ms = 500})
          .rfind("error: ", 0),
      0u);
}

TEST_F(CaptureTest, GrantsSurviveSynCookiesAndAreUsedUp) {
  ASSERT_TRUE(bed_->Sh(a_.netns, "sysctl -qw net.ipv4.tcp_syncookies=2"));
  for (int i = 0; i < 50; ++i)
    ExpectReached(FromNode({.to = a_.ip4 + ":8080"}), "app", a_.ip4 + ":8080", "10.66.1.1");
  for (int i = 0; i < 10; ++i)
    ExpectReached(FromNode({.to = "[" + a_.ip6 + "]:8080"}), "app", "[" + a_.ip6 + "]:8080",
                  "fd66:1::1");
  ASSERT_TRUE(bed_->Sh(a_.netns, "sysctl -qw net.ipv4.tcp_syncookies=1"));
  FromNode({.to = a_.ip4 + ":9999"});  // a refused connect gives its grant back too
  EXPECT_EQ(std::system(("test \"$(bpftool map dump pinned " + bed_->bpf_dir() +
                         "/maps/grants -j | tr -d ' \\n')\" = '[]'")
                            .c_str()),
            0)
      << "grants were left over";
}

TEST_F(CaptureTest, GrantIsUsedUpByTheAcceptedConnectionWhileThatLives) {
  // A grant that outlived its connection's accept would be open to whoever gets the tuple next.
  const auto dump = [](const std::string& map) {
    std::string out;
    FILE* pipe =
        ::popen(("bpftool -j map dump pinned " + bed_->bpf_dir() + "/maps/" + map).c_str(), "r");
    char buffer[4096];
    while (size_t n = ::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, n);
    ::pclose(pipe);
    return out.substr(0, out.find_last_not_of(" \n") + 1);
  };
  for (const std::string& to : {"('" + a_.ip4 + "',8080)", "('" + a_.ip6 + "',8080)"}) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    Process held = bed_->Spawn({bed_->node_ns(), "host"}, [&] {
      ::dup2(ends[1], 1);
      const std::string program = "import socket,time\ns=socket.create_connection(" + to +
                                  ")\nprint(s.recv(100).decode())\ntime.sleep(30)";
      ::execlp("python3", "python3", "-uc", program.c_str(), nullptr);
    });
    ::close(ends[1]);
    const std::string line = ReadLine(ends[0]);
    EXPECT_EQ(line.rfind("app ", 0), 0u) << line;
    EXPECT_EQ(dump("grants"), "[]") << to;
    ::close(ends[0]);
  }
  EXPECT_EQ(dump("budgets").find("\"in_flight\":1"), std::string::npos) << dump("budgets");
}

TEST_F(CaptureTest, ProxysOwnConnectionsLeaveUncaptured) {
  ExpectReached(FromProxyIn(a_, {.to = kOut4, .mark = 0x539}), "app", kOut4, a_.ip4);
  ExpectReached(FromProxyIn(a_, {.to = kOut6, .mark = 0x539}), "app", kOut6, a_.ip6);
  // Whatever mark it has, one with an ip rule would come back to it.
  ExpectReached(FromProxyIn(a_, {.to = kOut4, .mark = 0x53a}), "app", kOut4, a_.ip4);
  ExpectReached(FromProxyIn(a_, {.to = kOut4}), "app", kOut4, a_.ip4);
}

TEST_F(CaptureTest, OnePassIsGrantedOnlyForItsMark) {
  ExpectReached(FromProxyIn(a_, {.to = b_.ip4 + ":8080", .mark = 0x53c}), "app", b_.ip4 + ":8080",
                a_.ip4);
  ExpectReached(FromProxyIn(a_, {.to = "[" + b_.ip6 + "]:8080", .mark = 0x53c}), "app",
                "[" + b_.ip6 + "]:8080", a_.ip6);
  // A stock proxy's mark is no sign that policy was evaluated.
  ExpectReached(FromProxyIn(a_, {.to = b_.ip4 + ":8080", .mark = 0x539}), "in", b_.ip4 + ":8080",
                a_.ip4);
  // An application cannot have it.
  ExpectReached(From(a_, {.to = b_.ip4 + ":8080", .mark = 0x53c}), "out", b_.ip4 + ":8080", a_.ip4);
}

TEST_F(CaptureTest, LoLegReachesTheApplicationWithTheClientsAddress) {
  for (int i = 0; i < 30; ++i) {
    ExpectReached(
        FromProxyIn(
            a_,
            {.to = a_.ip4 + ":8080", .bind = "10.66.9.9:0", .transparent = true, .mark = 0x539}),
        "app", a_.ip4 + ":8080", "10.66.9.9");
    ExpectReached(FromProxyIn(a_, {.to = "[" + a_.ip6 + "]:8080",
                                   .bind = "[fd66:9::9]:0",
                                   .transparent = true,
                                   .mark = 0x539}),
                  "app", "[" + a_.ip6 + "]:8080", "fd66:9::9");
  }
  // A closed port is refused at once, not by a timeout.
  EXPECT_EQ(
      FromProxyIn(
          a_, {.to = a_.ip4 + ":9999", .bind = "10.66.9.9:0", .transparent = true, .mark = 0x539}),
      "error: ECONNREFUSED");
}

TEST_F(CaptureTest, SpoofedBindGetsAPortBelowTheEphemeralRange) {
  const std::string line = FromProxyIn(a_, {.to = a_.ip4 + ":8080",
                                            .bind = "10.66.9.9:0",
                                            .transparent = true,
                                            .mark = 0x539,
                                            .say_self = true});
  const size_t at = line.find("self=10.66.9.9:");
  ASSERT_NE(at, std::string::npos) << line;
  const int port = std::atoi(line.c_str() + at + 15);
  EXPECT_GE(port, 1024);
  EXPECT_LT(port, 15000);
}

TEST_F(CaptureTest, NeighbourNamespaceIsUntouched) {
  ExpectReached(From(n_, {.to = kOut4}), "app", kOut4, n_.ip4);
  ExpectReached(From(n_, {.to = kOut6}), "app", kOut6, n_.ip6);
  ExpectReached(FromOut({.to = n_.ip4 + ":8080"}), "app", n_.ip4 + ":8080", "10.66.9.9");
  ExpectReached(From(n_, {.to = kOut4, .device = "eth0"}), "app", kOut4, n_.ip4);
}

TEST_F(CaptureTest, AllWorkersAreUsed) {
  std::map<char, int> seen;
  for (int i = 0; i < 60; ++i) {
    const std::string line = From(a_, {.to = kOut4});
    ASSERT_EQ(line.rfind("out ", 0), 0u) << line;
    ++seen[line[4]];
  }
  EXPECT_EQ(seen.size(), 3u);
}

TEST_F(CaptureTest, SecondGuardStopsASynThatNoHookSaw) {
  // A raw socket passes every connect hook by.
  const uint64_t before = bed_->Counter(a_, "guard_dropped");
  const std::string sent = bed_->Run({a_.netns, "pods/a"}, [] {
    return std::string(std::system("python3 - <<'EOF'\nimport socket,struct\n"
                                   "s=socket.socket(socket.AF_INET,socket.SOCK_RAW,6)\n"
                                   "s.sendto(struct.pack('!HHIIBBHHH',4444,8080,1,0,0x50,2,1024,0,"
                                   "0),('10.66.9.9',0))\nEOF\n") == 0
                           ? "sent"
                           : "not sent");
  });
  EXPECT_EQ(sent, "sent");
  EXPECT_EQ(bed_->Counter(a_, "guard_dropped"), before + 1);
}

TEST_F(CaptureTest, ProgramsAreCheapToVerify) {
  // A program that the verifier takes seconds over delays every start of the agent and every pod.
  std::map<std::string, uint32_t> programs;
  for (const auto& pin : std::filesystem::directory_iterator(bed_->bpf_dir() + "/links")) {
    auto link = bpf::Link::OpenPinned(pin.path());
    ASSERT_TRUE(link) << pin.path();
    auto info = link->Info();
    ASSERT_TRUE(info);
    programs[pin.path().filename()] = info->program_id;
  }
  const bool tcx = std::any_of(programs.begin(), programs.end(), [](const auto& program) {
    return program.first.find("-guard-") != std::string::npos;
  });
  // A kernel without it has the programs on devices in filters, which have no pins. Those at the
  // node's ends are not looked at here.
  for (const auto& pod : {a_, b_}) {
    auto ns = netns::NetNs::Open("/run/netns/" + pod.netns);
    ASSERT_TRUE(ns);
    const Status looked = ns->Run([&]() -> Status {
      for (const auto direction :
           {agent::rtnl::Direction::kEgress, agent::rtnl::Direction::kIngress}) {
        QANAT_ASSIGN_OR_RETURN(const uint32_t id,
                               agent::tc::ProgramAt(if_nametoindex("eth0"), direction));
        const bool out = direction == agent::rtnl::Direction::kEgress;
        if (id != 0)
          programs[std::string(out ? "guard" : "ingress") + " filter of " + pod.name] = id;
      }
      return {};
    });
    ASSERT_TRUE(looked) << looked.error().message;
  }
  for (const auto& [name, id] : programs) {
    Fd program(bpf_prog_get_fd_by_id(id));
    bpf_prog_info details{};
    uint32_t size = sizeof details;
    ASSERT_EQ(bpf_obj_get_info_by_fd(program.get(), &details, &size), 0) << name;
    EXPECT_LT(details.verified_insns, 20000u) << name;
    EXPECT_GT(details.verified_insns, 100u) << name;
    std::printf("%s: %u instructions verified\n", name.c_str(), details.verified_insns);
  }
  EXPECT_EQ(programs.size(), 11u + 2 * (tcx ? 5u : 3u)) << "eleven of the node, the rest of pods";
}

TEST_F(CaptureTest, UdpPassesAndIsCounted) {
  const uint64_t before = bed_->Counter(a_, "udp");
  bed_->Run({a_.netns, "pods/a"}, [] {
    return std::string(
        std::system("python3 -c \"import "
                    "socket;s=socket.socket(2,2);s.connect(('10.66.9.9',53));s.send(b'x')\"") == 0
            ? "ok"
            : "no");
  });
  EXPECT_EQ(bed_->Counter(a_, "udp"), before + 1);
}

}  // namespace
}  // namespace qanat::test
