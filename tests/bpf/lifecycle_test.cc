// SPDX-License-Identifier: Apache-2.0
// Restarts, faults, joining and leaving: an enrolled pod is never open, a running one is never
// disturbed before its proof, and leaving restores plain networking.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <new>
#include <thread>

#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kOut4 = "10.66.9.9:8080";
constexpr const char* kOut6 = "[fd66:9::9]:8080";
constexpr const char* kFilters = "tc qdisc show dev eth0; tc filter show dev eth0 egress";

class LifecycleTest : public ::testing::Test {
 protected:
  LifecycleTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)) {
    servers_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [] { ServeApp(8080); }));
    servers_.push_back(bed_.Spawn({bed_.out_ns(), "host"}, [] { ServeApp(8080); }));
    // The servers listen, and both families find their way both ways: a link may be up later.
    EXPECT_TRUE(bed_.WaitFor([&] { return Plain() == "app app app app "; })) << Plain();
  }
  ~LifecycleTest() override {
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
  }
  void Enrol() {
    bed_.ShowPod(a_);
    bed_.StartAgent();
    bed_.StartPeer();
    ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  }
  std::string From(const Dial& dial) {
    return bed_.Run({a_.netns, "pods/a"}, [&] { return Call(dial); });
  }
  std::string FromOut(const Dial& dial) {
    return bed_.Run({bed_.out_ns(), "host"}, [&] { return Call(dial); });
  }
  bool Works(int timeout_ms = 20000) {
    return From({.to = kOut4, .timeout_ms = timeout_ms}).rfind("out", 0) == 0 &&
           From({.to = kOut6, .timeout_ms = timeout_ms}).rfind("out", 0) == 0;
  }
  // Who answers, out and in, in both families.
  std::string Plain() {
    std::string out;
    for (const std::string& line :
         {From({.to = kOut4}), From({.to = kOut6}), FromOut({.to = a_.ip4 + ":8080"}),
          FromOut({.to = "[" + a_.ip6 + "]:8080"})})
      out += line.substr(0, line.rfind("error", 0) == 0 ? line.size() : line.find(' ')) + " ";
    return out;
  }
  void ExpectPlain() { EXPECT_EQ(Plain(), "app app app app "); }
  // Nothing gets past the proxy, in any direction or family.
  void ExpectClosed() {
    EXPECT_THAT(From({.to = kOut4, .timeout_ms = 500}), StartsWith("error"));
    EXPECT_THAT(From({.to = kOut6, .timeout_ms = 500}), StartsWith("error"));
    EXPECT_THAT(FromOut({.to = a_.ip4 + ":8080", .timeout_ms = 500}), StartsWith("error"));
    EXPECT_THAT(FromOut({.to = "[" + a_.ip6 + "]:8080", .timeout_ms = 500}), StartsWith("error"));
  }
  std::string Output(const std::string& netns, const std::string& command) {
    return bed_.Run({netns, "host"}, [&] {
      std::string out;
      FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
      char buffer[4096];
      while (size_t n = ::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, n);
      ::pclose(pipe);
      return out;
    });
  }
  // What a child that connects shares with the test.
  struct Loop {
    std::atomic<int> good{0}, newest_worker{-1};
    std::atomic<bool> over{false};
  };
  // So many more connections have been answered.
  void More(const Loop& loop, int count) {
    const int enough = loop.good + count;
    EXPECT_TRUE(bed_.WaitFor([&] { return loop.good >= enough; })) << "the loop stands still";
  }
  // A child that connects every few milliseconds while `meanwhile` runs, and reports what went
  // wrong.
  std::string ConnectLoop(const std::function<void(const Loop&)>& meanwhile) {
    int ends[2];
    if (::pipe(ends) != 0) return "pipe";
    void* shared =
        ::mmap(nullptr, sizeof(Loop), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return "mmap";
    Loop& loop = *new (shared) Loop;
    Process child = bed_.Spawn({a_.netns, "pods/a"}, [&] {
      std::string bad;
      while (!loop.over && bad.size() < 1000) {
        for (const char* to : {kOut4, kOut6}) {
          const std::string line = Call({.to = to});
          if (line.rfind("out ", 0) != 0) {
            bad += line + "; ";
            continue;
          }
          loop.newest_worker = std::max<int>(loop.newest_worker, line[4] - '0');
          ++loop.good;
        }
        ::usleep(3000);
      }
      const std::string text =
          bad.empty() ? "ok" : "good=" + std::to_string(loop.good) + " bad: " + bad;
      (void)!::write(ends[1], text.data(), text.size());
    });
    ::close(ends[1]);
    More(loop, 10);
    meanwhile(loop);
    More(loop, 10);
    loop.over = true;
    std::string text;
    char buffer[4096];
    for (ssize_t n; (n = ::read(ends[0], buffer, sizeof buffer)) > 0;)
      text.append(buffer, static_cast<size_t>(n));
    ::close(ends[0]);
    child.Kill(9);
    ::munmap(shared, sizeof(Loop));
    return text;
  }

  Bed bed_;
  Bed::PodInfo a_;
  std::vector<Process> servers_;
};

TEST_F(LifecycleTest, KilledProxyMeansRefusedAndANewOneServesAgain) {
  Enrol();
  ASSERT_TRUE(Works());
  bed_.peer().Kill(9);
  ExpectClosed();
  EXPECT_TRUE(bed_.WaitFor([&] {
    return bed_.StatusText(a_).find("refused") != std::string::npos;
  })) << bed_.StatusText(a_);
  EXPECT_EQ(bed_.Redirection(a_), "enabled");
  bed_.StartPeer();
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << bed_.StatusText(a_);
}

TEST_F(LifecycleTest, AgentRestartsWithoutOneFailedConnection) {
  Enrol();
  const std::string result = ConnectLoop([&](const Loop& loop) {
    bed_.StopAgent(9);
    More(loop, 40);
    const size_t before = bed_.Log().size();
    bed_.StartAgent();
    EXPECT_TRUE(bed_.WaitFor(
        [&] { return bed_.Log().find("acknowledged the snapshot", before) != std::string::npos; }));
    More(loop, 40);
    bed_.StopAgent(15);
    More(loop, 40);
    bed_.StartAgent();
  });
  EXPECT_EQ(result, "ok");
  EXPECT_EQ(bed_.Redirection(a_), "enabled");
}

TEST_F(LifecycleTest, DeadAgentAndDeadProxyLeaveThePodClosed) {
  Enrol();
  bed_.StopAgent(9);
  ASSERT_TRUE(Works());  // the proxy goes on without the agent
  bed_.peer().Kill(9);
  ExpectClosed();
  bed_.StartAgent();
  ExpectClosed();
  bed_.StartPeer();
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << bed_.StatusText(a_);
}

TEST_F(LifecycleTest, LostPinsDoNotOpenAPodAcrossARestart) {
  Enrol();
  bed_.StopAgent(9);
  bed_.peer().Kill(9);
  std::filesystem::remove_all(bed_.bpf_dir());  // as a reboot of bpffs would
  bed_.StartAgent();
  ExpectClosed();
  bed_.StartPeer();
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << bed_.StatusText(a_);
}

TEST_F(LifecycleTest, LostStateDoesNotOpenAPodAcrossARestart) {
  Enrol();
  bed_.StopAgent(9);
  bed_.peer().Kill(9);
  for (const auto& file : std::filesystem::directory_iterator(bed_.dir() + "/agent-state"))
    std::filesystem::resize_file(file.path(), 10);  // a full disk, a power cut
  bed_.StartAgent();
  ASSERT_TRUE(bed_.WaitFor([&] { return bed_.Admin("/pods").find(a_.uid) != std::string::npos; }));
  EXPECT_EQ(bed_.Redirection(a_), "enabled") << "and the mesh goes on to be told so";
  ExpectClosed();
  bed_.StartPeer();
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << bed_.StatusText(a_);
  for (const auto& pin : std::filesystem::directory_iterator(bed_.bpf_dir() + "/links"))
    EXPECT_THAT(pin.path().filename().string(), Not(StartsWith("pod-2-"))) << "a second slot";
}

TEST_F(LifecycleTest, LeavingTheMeshRestoresPlainNetworking) {
  ASSERT_TRUE(
      bed_.Sh(a_.netns, "sysctl -qw net.ipv4.fwmark_reflect=0 net.ipv4.tcp_fwmark_accept=0"));
  const std::string rules = Output(a_.netns, "ip rule; ip -6 rule");
  const std::string filters = Output(a_.netns, kFilters);
  Enrol();
  EXPECT_THAT(Output(a_.netns, "ip rule; ip -6 rule"), HasSubstr("0x53a"));
  ASSERT_TRUE(Works());
  bed_.ShowPod(a_, /*in_mesh=*/false);
  ASSERT_TRUE(bed_.WaitFor([&] { return bed_.Redirection(a_) == "disabled"; }))
      << bed_.StatusText(a_);
  ExpectPlain();
  EXPECT_TRUE(bed_.WaitFor([&] { return std::filesystem::is_empty(bed_.dir() + "/agent-state"); }));
  EXPECT_EQ(Output(a_.netns, "ip rule; ip -6 rule"), rules);
  EXPECT_EQ(Output(a_.netns, kFilters), filters);
  EXPECT_EQ(Output(a_.netns, "ip route show table 101; ip -6 route show table 101").find("local"),
            std::string::npos);
  EXPECT_EQ(Output(a_.netns,
                   "cat /proc/sys/net/ipv4/fwmark_reflect /proc/sys/net/ipv4/tcp_fwmark_accept"),
            "0\n0\n");
  for (const auto& pin : std::filesystem::directory_iterator(bed_.bpf_dir() + "/links"))
    EXPECT_THAT(pin.path().filename().string(), Not(StartsWith("pod-")));
  bed_.ShowPod(a_);  // and back in
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << bed_.StatusText(a_);
}

TEST_F(LifecycleTest, RunningPodStaysAsItWasUntilItsProofPasses) {
  bed_.ShowPod(a_);
  bed_.StartAgent();
  ASSERT_TRUE(bed_.WaitFor([&] { return bed_.Redirection(a_) == "pending"; }));
  EXPECT_TRUE(bed_.WaitFor([&] {
    return bed_.StatusText(a_).find("no proxy") != std::string::npos;
  })) << bed_.StatusText(a_);
  ExpectPlain();
  // A packet filter that drops what comes in: captured traffic could not be served.
  ASSERT_TRUE(bed_.Sh(a_.netns,
                      "nft add table inet q; nft \"add chain inet q pre { type filter hook "
                      "prerouting priority -300; }\"; "
                      "nft add rule inet q pre iifname eth0 tcp dport 15009 drop"));
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitFor([&] {
    const std::string text = bed_.StatusText(a_);
    return text.find("proof failed") != std::string::npos &&
           text.find("inbound/v4") != std::string::npos;
  })) << bed_.StatusText(a_);
  EXPECT_EQ(bed_.Redirection(a_), "pending");
  ExpectPlain();
  // A connection from before must survive the flip.
  Process held = bed_.Spawn({bed_.out_ns(), "host"}, [] {
    ::execlp("python3", "python3", "-c",
             "import socket\ns=socket.create_server(('',9100))\nc,_=s.accept()\n"
             "while True:\n d=c.recv(10)\n if not d: break\n c.send(d)\n",
             nullptr);
  });
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_TRUE(bed_.WaitFor(
      [&] { return bed_.Sh(bed_.out_ns(), "ss -Hltn sport = :9100 | grep -q 9100"); }));
  const std::string flipped = bed_.dir() + "/flipped";
  Process client = bed_.Spawn({a_.netns, "pods/a"}, [&] {
    ::dup2(ends[1], 1);
    ::execlp("python3", "python3", "-uc",
             "import os,socket,sys,time\nc=socket.create_connection(('10.66.9.9',9100))\n"
             "c.settimeout(30)\ndef echo():\n c.send(b'x'); assert c.recv(10)==b'x'\n"
             "echo(); print('open')\n"
             "while not os.path.exists(sys.argv[1]): echo(); time.sleep(0.1)\n"
             "echo(); print('alive')\n",
             flipped.c_str(), nullptr);
  });
  ::close(ends[1]);
  EXPECT_EQ(ReadLine(ends[0]), "open") << "from before the flip";
  ASSERT_TRUE(bed_.Sh(a_.netns, "nft delete table inet q"));
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  EXPECT_TRUE(Works());
  std::ofstream(flipped) << "yes";
  EXPECT_EQ(ReadLine(ends[0]), "alive");
  ::close(ends[0]);
}

TEST_F(LifecycleTest, APodWithASidecarIsLeftAsItIsAndSaysWhy) {
  bed_.ShowPod(a_, true, "", /*sidecar=*/true);
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitFor([&] { return bed_.Redirection(a_) == "pending"; }))
      << bed_.StatusText(a_);
  EXPECT_THAT(bed_.StatusText(a_), HasSubstr("it has a sidecar"));
  EXPECT_THAT(bed_.Log(), HasSubstr("it has a sidecar"));
  ExpectPlain();
  bed_.ShowPod(a_);  // the next pod is without
  EXPECT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
}

TEST_F(LifecycleTest, NamespaceOfAnotherPodIsNotEnrolled) {
  const Bed::PodInfo other = bed_.MakePod("other", 20);
  bed_.ShowPod(a_, true, "/run/netns/" + other.netns);
  bed_.StartAgent();
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitFor([&] {
    return bed_.StatusText(a_).find("does not have") != std::string::npos;
  })) << bed_.StatusText(a_);
  EXPECT_EQ(bed_.Redirection(a_), "pending");
  ExpectPlain();
}

TEST_F(LifecycleTest, GarbageOnTheZdsSocketEndsTheConnectionOnly) {
  Enrol();
  auto send = [&](const std::string& cgroup, std::vector<std::string> messages) {
    return bed_.Run({bed_.node_ns(), cgroup}, [&]() -> std::string {
      const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET, 0);
      sockaddr_un to{};
      to.sun_family = AF_UNIX;
      std::snprintf(to.sun_path, sizeof to.sun_path, "%s", bed_.zds_socket().c_str());
      if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return "no connection";
      for (const auto& m : messages) (void)!::send(fd, m.data(), m.size(), MSG_NOSIGNAL);
      timeval limit{30, 0};
      ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      char buffer[2048];
      for (;;) {  // requests of a snapshot may come first
        const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET)) return "closed";
        if (n < 0) return "still open";
      }
    });
  };
  const std::string hello("\x08\x01", 2), junk("\xff\xfe\xfd garbage \x00\x01", 15);
  EXPECT_EQ(send("host", {junk}), "closed");
  EXPECT_EQ(send("host", {std::string(5000, 'x')}), "closed");
  EXPECT_EQ(send("host", {hello, hello}), "closed");  // a second message is no ack
  EXPECT_EQ(send("host", {hello, junk}), "closed");
  EXPECT_EQ(send("agent", {hello}), "closed");  // the agent's own cgroup is nobody's proxy
  EXPECT_TRUE(bed_.agent().Running());
  EXPECT_TRUE(bed_.WaitFor([&] {
    return bed_.Admin("/capture").find("\"protocolErrors\": 4") != std::string::npos;
  })) << bed_.Admin("/capture");
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << bed_.StatusText(a_);
  EXPECT_EQ(bed_.Redirection(a_), "enabled");
}

TEST_F(LifecycleTest, MissingPartsAreRepaired) {
  Enrol();
  constexpr int kShort = 500;  // a SYN that was dropped is not waited for
  ASSERT_TRUE(
      bed_.Sh(a_.netns, "ip rule del pref 100; ip -6 rule del pref 100; ip route flush table 101"));
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(kShort); }));
  ASSERT_TRUE(bed_.Sh(a_.netns, "sysctl -qw net.ipv4.fwmark_reflect=0"));
  EXPECT_TRUE(bed_.WaitFor(
      [&] { return Output(a_.netns, "cat /proc/sys/net/ipv4/fwmark_reflect") == "1\n"; }));
  for (const char* link : {"connect4", "connect6", "sockops", "pod-1-lookup"}) {
    const std::string pin = bed_.bpf_dir() + "/links/" + link;
    ASSERT_EQ(std::system(("bpftool link detach pinned " + pin).c_str()), 0) << link;
    EXPECT_TRUE(bed_.WaitFor([&] { return Works(kShort); })) << link;
    EXPECT_TRUE(bed_.WaitFor([&] {
      return FromOut({.to = a_.ip4 + ":8080", .timeout_ms = kShort}).rfind("in", 0) == 0;
    })) << link;
  }
  std::filesystem::remove_all(bed_.bpf_dir() + "/links");
  EXPECT_TRUE(Works()) << "removing pins must not detach what the agent holds";
  EXPECT_TRUE(
      bed_.WaitFor([&] { return std::filesystem::exists(bed_.bpf_dir() + "/links/connect4"); }));
}

TEST_F(LifecycleTest, TheSecondGuardIsPutBack) {
  Enrol();
  const auto dropped = [&] {  // a SYN from a raw socket, which no other hook sees
    const uint64_t before = bed_.Counter(a_, "guard_dropped");
    EXPECT_TRUE(bed_.Sh(a_.netns,
                        "python3 -c \"import socket,struct;"
                        "socket.socket(2,3,6).sendto(struct.pack(\\\"!HHIIBBHHH\\\","
                        "4444,8080,1,0,0x50,2,1024,0,0),(\\\"10.66.9.9\\\",0))\""));
    return bed_.Counter(a_, "guard_dropped") == before + 1;
  };
  ASSERT_TRUE(dropped());
  const std::string pins = bed_.bpf_dir() + "/links/pod-1-guard-*";
  if (std::system(("test -e " + pins).c_str()) == 0)
    ASSERT_EQ(std::system(("bpftool link detach pinned " + pins).c_str()), 0);
  else
    ASSERT_TRUE(bed_.Sh(a_.netns, "tc filter del dev eth0 egress"));
  EXPECT_TRUE(bed_.WaitFor([&] {
    return bed_.Admin("/capture").find("\"repairs\": 0") == std::string::npos;
  })) << bed_.Log();
  EXPECT_TRUE(bed_.WaitFor(dropped)) << bed_.Log();
}

TEST_F(LifecycleTest, WithoutTheConnectHookTheSecondGuardKeepsThePodClosed) {
  Enrol();
  bed_.StopAgent(9);
  ASSERT_EQ(
      std::system(("bpftool link detach pinned " + bed_.bpf_dir() + "/links/connect4").c_str()), 0);
  ASSERT_EQ(
      std::system(("bpftool link detach pinned " + bed_.bpf_dir() + "/links/connect6").c_str()), 0);
  EXPECT_THAT(From({.to = kOut4, .timeout_ms = 500}), StartsWith("error"));
  EXPECT_THAT(From({.to = kOut6, .timeout_ms = 500}), StartsWith("error"));
  bed_.StartAgent();
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(); }));
}

TEST_F(LifecycleTest, WhatCannotBeRepairedIsCutOffAndSaysSo) {
  Enrol();
  const std::string links = bed_.bpf_dir() + "/links";
  ASSERT_EQ(std::system(("bpftool link detach pinned " + links +
                         "/connect4 && mount -t tmpfs none " + links)
                            .c_str()),
            0);
  EXPECT_TRUE(bed_.WaitFor([&] {
    return bed_.StatusText(a_).find("cut off") != std::string::npos;
  })) << bed_.StatusText(a_);
  ExpectClosed();
  EXPECT_THAT(bed_.Run({a_.netns, "pods/a"}, [] { return Call({.to = "127.0.0.1:8080"}); }),
              StartsWith("app"));
  ASSERT_EQ(std::system(("umount " + links).c_str()), 0);
  EXPECT_TRUE(bed_.WaitFor([&] { return Works(); })) << bed_.StatusText(a_);
  EXPECT_TRUE(bed_.WaitFor([&] {
    return bed_.StatusText(a_).find("cut off") == std::string::npos;
  })) << bed_.StatusText(a_);
  EXPECT_TRUE(bed_.WaitFor(
      [&] { return Output(a_.netns, "ip rule").find("blackhole") == std::string::npos; }));
}

TEST_F(LifecycleTest, DeletedPodStaysClosedWhileItsNamespaceLives) {
  Enrol();
  bed_.HidePod(a_);
  ASSERT_TRUE(bed_.WaitFor([&] { return bed_.StatusText(a_).empty(); }));
  ExpectClosed();
  servers_.clear();
  bed_.DeletePodNs(a_);
  EXPECT_TRUE(bed_.WaitFor([&] { return std::filesystem::is_empty(bed_.dir() + "/agent-state"); }));
  EXPECT_TRUE(bed_.WaitFor([&] {
    const std::string pods = bed_.Admin("/pods");
    return !pods.empty() && pods.find(a_.uid) == std::string::npos;
  }));
}

TEST_F(LifecycleTest, AddressMayBeReusedByAnotherPodAtOnce) {
  Enrol();
  servers_.clear();
  bed_.HidePod(a_);
  bed_.DeletePodNs(a_);
  Bed::PodInfo next = bed_.MakePod("next", 10);
  bed_.ShowPod(next);
  ASSERT_TRUE(bed_.WaitEnabled(next)) << bed_.StatusText(next);
  servers_.push_back(bed_.Spawn({next.netns, "pods/next"}, [] { ServeApp(8080); }));
  const auto probe = [&] {
    return bed_.Run({bed_.node_ns(), "host"}, [&] { return Call({.to = next.ip4 + ":8080"}); });
  };
  EXPECT_TRUE(bed_.WaitFor([&] { return probe().rfind("app", 0) == 0; })) << probe();
}

TEST_F(LifecycleTest, CniAddAnswersWhenThePodIsEnrolledOrSaysWhyNot) {
  bed_.ShowPod(a_);
  const Bed::PodInfo plain = bed_.MakePod("plain", 21);
  bed_.ShowPod(plain, false);
  bed_.StartAgent({"--cni-timeout-ms", "700"});
  // Until the agent has seen the pods' files the answer is that it does not know them.
  EXPECT_TRUE(bed_.WaitFor([&] { return bed_.CmdAdd(plain).rfind("HTTP/1.1 200", 0) == 0; }));
  std::string refused;
  EXPECT_TRUE(bed_.WaitFor([&] {
    refused = bed_.CmdAdd(a_);
    return refused.find("no proxy") != std::string::npos;
  })) << refused;
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 500"));
  bed_.StartPeer();
  EXPECT_TRUE(bed_.WaitFor([&] { return bed_.CmdAdd(a_).rfind("HTTP/1.1 200", 0) == 0; }));
  EXPECT_EQ(bed_.Redirection(a_), "enabled");
  Bed::PodInfo stranger = a_;
  stranger.name = "stranger";
  EXPECT_THAT(bed_.CmdAdd(stranger), StartsWith("HTTP/1.1 500"));
  // The API server says more than we have seen: the pod waits for us, and does not start open.
  EXPECT_THAT(bed_.CmdAdd(plain, R"(,"InMesh":true)"), HasSubstr("does not see that yet"));
  EXPECT_THAT(bed_.CmdAdd(a_, R"(,"PodUID":"another")"), HasSubstr("is not known to the agent"));
  EXPECT_THAT(bed_.CmdAdd(plain, R"(,"PodUID":"another")"), HasSubstr("is not known"));
  Bed::PodInfo liar = a_;
  liar.netns = plain.netns;
  EXPECT_THAT(bed_.CmdAdd(liar), HasSubstr("is not that of the pod"));
}

TEST_F(LifecycleTest, NewProxyTakesOverWithoutOneFailedConnection) {
  Enrol();
  Process old = std::move(bed_.peer());
  const std::string result = ConnectLoop([&](const Loop& loop) {
    const std::string before = bed_.Log();
    bed_.StartPeer(3);
    EXPECT_TRUE(bed_.WaitFor([&] {
      return bed_.Log().find("acknowledged the snapshot", before.size()) != std::string::npos;
    }));
    // The kernel gives connections to the new one (the old one has no third worker), and what
    // the old one was given before has been answered.
    EXPECT_TRUE(bed_.WaitFor([&] { return loop.newest_worker == 2; }));
    ::usleep(500000);
    More(loop, 10);
    old.Kill(9);
  });
  EXPECT_EQ(result, "ok");
}

TEST_F(LifecycleTest, CleanupLeavesNothingBehind) {
  Enrol();
  bed_.StopAgent(15);
  bed_.peer().Kill(9);
  EXPECT_EQ(bed_.CleanupAgent(), 0);
  ExpectPlain();
  EXPECT_FALSE(std::filesystem::exists(bed_.bpf_dir()));
  EXPECT_FALSE(std::filesystem::exists(bed_.dir() + "/agent-state"));
  EXPECT_EQ(Output(a_.netns, "ip rule; ip -6 rule").find("0x53"), std::string::npos);
  EXPECT_EQ(Output(a_.netns, kFilters).find("clsact"), std::string::npos);
}

TEST_F(LifecycleTest, TwoNodesOnOneKernelLeaveEachOtherAlone) {
  Enrol();
  Bed second("qKERNEL2");
  const Bed::PodInfo b = second.MakePod("b", 10);  // the very same addresses, elsewhere
  Process server = second.Spawn({second.out_ns(), "host"}, [] { ServeApp(8080); });
  const auto answers = [&](const std::string& who, const char* to) {
    return second.WaitFor([&] {
      return second.Run({b.netns, "pods/b"}, [&] { return Call({.to = to}); }).rfind(who, 0) == 0;
    });
  };
  ASSERT_TRUE(answers("app", kOut4) && answers("app", kOut6)) << "before anything is captured";
  second.ShowPod(b);
  second.StartAgent();
  ASSERT_TRUE(second.WaitFor([&] { return second.Redirection(b) == "pending"; }));
  EXPECT_THAT(second.Run({b.netns, "pods/b"}, [] { return Call({.to = kOut4}); }),
              StartsWith("app"));
  second.StartPeer();
  ASSERT_TRUE(second.WaitEnabled(b)) << second.StatusText(b) << second.Log();
  EXPECT_THAT(second.Run({b.netns, "pods/b"}, [] { return Call({.to = kOut4}); }),
              StartsWith("out"));
  EXPECT_TRUE(Works());
  // The first node's agent goes with everything it has; the second's pod must not notice.
  bed_.StopAgent(15);
  EXPECT_EQ(bed_.CleanupAgent(), 0);
  EXPECT_THAT(second.Run({b.netns, "pods/b"}, [] { return Call({.to = kOut6}); }),
              StartsWith("out"));
}

}  // namespace
}  // namespace qanat::test
