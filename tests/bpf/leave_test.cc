// SPDX-License-Identifier: Apache-2.0
// Joining and leaving under load: what is open goes on and is told, what begins is never refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <new>
#include <nlohmann/json.hpp>

#include "bpf/user/node_maps.h"
#include "common/net/address.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kOut4 = "10.66.9.9";
constexpr const char* kOut6 = "[fd66:9::9]";

// Echoes on port 9000, one process, any number of connections.
void ServeEcho() {
  const int listener = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1, zero = 0;
  ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  ::setsockopt(listener, SOL_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_port = htons(9000);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&any), sizeof any) != 0 ||
      ::listen(listener, 512) != 0)
    ::_exit(96);
  std::vector<pollfd> fds = {{listener, POLLIN, 0}};
  for (;;) {
    ::poll(fds.data(), fds.size(), -1);
    for (size_t i = fds.size(); i-- > 1;) {
      if (fds[i].revents == 0) continue;
      char bytes[4096];
      const ssize_t n = ::recv(fds[i].fd, bytes, sizeof bytes, 0);
      if (n > 0 && ::send(fds[i].fd, bytes, static_cast<size_t>(n), MSG_NOSIGNAL) == n) continue;
      ::close(fds[i].fd);
      fds.erase(fds.begin() + static_cast<ptrdiff_t>(i));
    }
    if (fds[0].revents != 0) fds.push_back({::accept(listener, nullptr, nullptr), POLLIN, 0});
  }
}

int Connect(const std::string& to) {
  const auto address = net::SocketAddress::Parse(to).value();
  sockaddr_storage storage;
  const socklen_t size = address.ToSockaddr(storage);
  const int fd = ::socket(address.ip().family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  const timeval limit{10, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&storage), size) == 0) return fd;
  ::close(fd);
  return -1;
}

bool Ping(int fd) {
  char byte = 'x';
  return ::send(fd, &byte, 1, MSG_NOSIGNAL) == 1 && ::recv(fd, &byte, 1, 0) == 1;
}

// Connections that a child holds; shared with it. Half of them are busy, the others idle.
struct Held {
  std::atomic<int> open{0}, alive{0}, keep{1 << 20}, asked{0}, answered{0};
};

void Hold(Held& held, const std::vector<std::string>& targets, int each) {
  std::vector<int> fds;
  for (int i = 0; i < each; ++i)
    for (const std::string& to : targets) {
      const int fd = Connect(to);
      if (fd >= 0) fds.push_back(fd);
    }
  held.alive = held.open = static_cast<int>(fds.size());
  for (;;) {
    while (static_cast<int>(fds.size()) > held.keep) {
      ::close(fds.back());
      fds.pop_back();
    }
    const int asked = held.asked;
    for (size_t i = fds.size(); i-- > 0;) {
      if ((i % 2 == 0 || asked != held.answered) && !Ping(fds[i])) {
        ::close(fds[i]);
        fds.erase(fds.begin() + static_cast<ptrdiff_t>(i));
      }
    }
    held.alive = static_cast<int>(fds.size());
    held.answered = asked;
    ::usleep(5000);
  }
}

class LeaveTest : public ::testing::Test {
 protected:
  LeaveTest() : bed_("qKERNEL"), a_(bed_.MakePod("a", 10)) {
    for (const Where& where : {Where{a_.netns, "pods/a"}, Where{bed_.out_ns(), "host"}}) {
      processes_.push_back(bed_.Spawn(where, [] { ServeApp(8080); }));
      processes_.push_back(bed_.Spawn(where, [] { ServeEcho(); }));
    }
    EXPECT_TRUE(bed_.WaitFor([&] { return Answers() == "app app app app "; })) << Answers();
    out_ = Share();
    in_ = Share();
  }
  ~LeaveTest() override {
    EXPECT_EQ(bed_.SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_.Log().c_str());
    processes_.clear();
    ::munmap(out_, sizeof(Held));
    ::munmap(in_, sizeof(Held));
  }
  static Held* Share() {
    return new (::mmap(nullptr, sizeof(Held), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                       -1, 0)) Held;
  }
  std::string Inside4() const { return a_.ip4; }
  std::string Inside6() const { return "[" + a_.ip6 + "]"; }
  std::string FromPod(const Dial& dial) {
    return bed_.Run({a_.netns, "pods/a"}, [&] { return Call(dial); });
  }
  std::string FromOut(const Dial& dial) {
    return bed_.Run({bed_.out_ns(), "host"}, [&] { return Call(dial); });
  }
  // Who answers: out and in, in both families.
  std::string Answers() {
    std::string out;
    for (const std::string& line :
         {FromPod({.to = std::string(kOut4) + ":8080"}),
          FromPod({.to = std::string(kOut6) + ":8080"}), FromOut({.to = Inside4() + ":8080"}),
          FromOut({.to = Inside6() + ":8080"})})
      out += line.substr(0, line.rfind("error", 0) == 0 ? line.size() : line.find(' ')) + " ";
    return out;
  }
  void Enrol(std::vector<std::string> extra = {}) {
    bed_.ShowPod(a_);
    bed_.StartAgent(std::move(extra));
    bed_.StartPeer();
    ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  }
  void HoldConnections(int each) {
    processes_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [this, each] {
      Hold(*out_, {std::string(kOut4) + ":9000", std::string(kOut6) + ":9000"}, each);
    }));
    processes_.push_back(bed_.Spawn({bed_.out_ns(), "host"}, [this, each] {
      Hold(*in_, {Inside4() + ":9000", Inside6() + ":9000"}, each);
    }));
    ASSERT_TRUE(bed_.WaitFor([&] { return out_->open == 2 * each && in_->open == 2 * each; }))
        << out_->open << " out, " << in_->open << " in";
  }
  // How many still echo, every one of them asked.
  int Alive() {
    for (Held* held : {out_, in_}) {
      const int question = ++held->asked;
      if (!bed_.WaitFor([&] { return held->answered == question; }, 20000)) return -1;
    }
    return out_->alive + in_->alive;
  }
  nlohmann::json Outside() {
    auto json = nlohmann::json::parse(bed_.Admin("/connections?pod=shop/a"), nullptr, false);
    return json.is_array() && !json.empty() ? json[0] : nlohmann::json::object();
  }
  size_t NotMeshed() {
    const auto json = Outside();
    return json.contains("notYetMeshed") ? json["notYetMeshed"].size() : 0;
  }
  std::string Output(const std::string& command) {
    return bed_.Run({a_.netns, "host"}, [&] {
      std::string out;
      FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
      char buffer[4096];
      while (size_t n = ::fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, n);
      ::pclose(pipe);
      return out;
    });
  }
  bool HasRules() { return Output("ip rule; ip -6 rule").find("0x53a") != std::string::npos; }
  bool IsGone() { return std::filesystem::is_empty(bed_.dir() + "/agent-state") && !HasRules(); }

  Bed bed_;
  Bed::PodInfo a_;
  Held *out_ = nullptr, *in_ = nullptr;
  std::vector<Process> processes_;
};

TEST_F(LeaveTest, ConnectionsFromBeforeGoOnAreListedAndCanBeEnded) {
  constexpr int kEach = 50;
  HoldConnections(kEach);
  Enrol();
  EXPECT_EQ(Answers(), "out out in in ");
  EXPECT_EQ(Alive(), 4 * kEach);
  const auto listed = Outside();
  ASSERT_TRUE(listed.contains("notYetMeshed")) << bed_.Admin("/connections");
  std::map<std::string, int> kinds;
  for (const auto& c : listed["notYetMeshed"])
    ++kinds[c["direction"].get<std::string>() +
            (c["local"].get<std::string>()[0] == '[' ? "6" : "4")];
  EXPECT_EQ(kinds, (std::map<std::string, int>{
                       {"in4", kEach}, {"in6", kEach}, {"out4", kEach}, {"out6", kEach}}));

  // Captured ones are never among them, and an entry goes with its socket.
  out_->keep = kEach;
  EXPECT_TRUE(bed_.WaitFor([&] { return NotMeshed() == 3 * kEach; })) << NotMeshed();
  bed_.StopAgent(9);
  bed_.StartAgent();
  ASSERT_TRUE(bed_.WaitEnabled(a_));
  EXPECT_EQ(NotMeshed(), 3 * kEach) << "a restart of the agent forgets none";
  EXPECT_EQ(Alive(), 3 * kEach);
  EXPECT_THAT(bed_.Admin("/capture"), HasSubstr("\"notYetMeshed\": 150"));
  EXPECT_THAT(bed_.Admin("/metrics"), HasSubstr("kind=\"not_yet_meshed\"} 150"));

  const std::string listeners = Output("ss -Hltn | sort");
  EXPECT_THAT(bed_.Admin("/connections/end?pod=shop/nobody&which=unmeshed", "POST"),
              HasSubstr("knows no pod"));
  EXPECT_EQ(NotMeshed(), 3 * kEach);
  EXPECT_THAT(bed_.Admin("/connections/end?pod=shop/a&which=unmeshed", "POST"),
              HasSubstr("\"ended\": 150"));
  EXPECT_TRUE(bed_.WaitFor([&] { return Alive() == 0; })) << Alive();
  EXPECT_EQ(NotMeshed(), 0u);
  EXPECT_EQ(Output("ss -Hltn | sort"), listeners) << "no listener was touched";
  EXPECT_EQ(Answers(), "out out in in ");
}

TEST_F(LeaveTest, LeavingCutsNoConnectionAndRefusesNone) {
  constexpr int kEach = 25;
  Enrol();
  HoldConnections(kEach);
  EXPECT_EQ(NotMeshed(), 0u);
  bed_.ShowPod(a_, /*in_mesh=*/false);
  ASSERT_TRUE(bed_.WaitFor([&] { return bed_.Redirection(a_) == "disabled"; }));
  EXPECT_EQ(Answers(), "app app app app ");
  ::usleep(4000000);  // longer than a pod without connections takes
  EXPECT_TRUE(HasRules());
  EXPECT_EQ(Alive(), 4 * kEach);
  EXPECT_THAT(bed_.Admin("/metrics"), HasSubstr("kind=\"draining\"} 100"));

  bed_.StopAgent(9);
  EXPECT_EQ(Alive(), 4 * kEach);
  EXPECT_EQ(Answers(), "app app app app ");
  bed_.StartAgent();
  ASSERT_TRUE(bed_.WaitFor([&] { return Outside().value("draining", false); }));
  ::usleep(3000000);
  EXPECT_EQ(Alive(), 4 * kEach) << "an agent that was restarted goes on waiting";
  EXPECT_EQ(Answers(), "app app app app ");

  bed_.ShowPod(a_);  // and back in meanwhile
  ASSERT_TRUE(bed_.WaitFor([&] { return Answers() == "out out in in "; })) << Answers();
  EXPECT_EQ(Alive(), 4 * kEach);
  EXPECT_EQ(NotMeshed(), 0u) << "what goes through the proxy is in the mesh";

  bed_.ShowPod(a_, false);
  ASSERT_TRUE(bed_.WaitFor([&] { return Answers() == "app app app app "; }));
  EXPECT_EQ(Alive(), 4 * kEach);
  out_->keep = in_->keep = 0;
  EXPECT_TRUE(bed_.WaitFor([&] { return IsGone(); })) << bed_.StatusText(a_);
  EXPECT_EQ(Answers(), "app app app app ");
}

TEST_F(LeaveTest, WhatIsLeftEndsByChoiceOrInTime) {
  constexpr int kEach = 10;
  Enrol();
  HoldConnections(kEach);
  EXPECT_THAT(bed_.Admin("/connections/end?pod=shop/a&which=draining", "POST"),
              HasSubstr("is not leaving"));
  EXPECT_EQ(Alive(), 4 * kEach);
  bed_.ShowPod(a_, false);
  ASSERT_TRUE(bed_.WaitFor([&] { return Outside().value("capturedConnections", 0) == 4 * kEach; }));
  EXPECT_THAT(bed_.Admin("/connections/end?pod=shop/a&which=draining", "POST"),
              HasSubstr("\"ended\": 40"));
  EXPECT_TRUE(bed_.WaitFor([&] { return Alive() == 0; }));
  EXPECT_TRUE(bed_.WaitFor([&] { return IsGone(); }));
  EXPECT_EQ(Answers(), "app app app app ");
}

TEST_F(LeaveTest, TheWaitingHasALimit) {
  Enrol({"--drain-ms", "3000"});
  HoldConnections(5);
  bed_.ShowPod(a_, false);
  EXPECT_TRUE(bed_.WaitFor([&] { return IsGone(); }, 20000)) << bed_.StatusText(a_);
  EXPECT_TRUE(bed_.WaitFor([&] { return Alive() == 0; })) << "ended, not left hanging";
  EXPECT_EQ(Answers(), "app app app app ");
}

// A SYN that is lost around the flip is sent again after it, and belongs to a connection that was
// begun before.
TEST_F(LeaveTest, ConnectionsBeingMadeAtTheFlipAreMade) {
  const auto drop = [&](bool on) {
    ASSERT_TRUE(bed_.Sh(bed_.out_ns(),
                        on ? "nft add table inet q; nft \"add chain inet q in { type filter hook "
                             "input priority 0; }\"; nft add rule inet q in tcp dport 8080 drop"
                           : "nft delete table inet q"));
  };
  std::vector<std::array<int, 2>> ends;
  const auto begin = [&](const std::string& to) {
    ends.push_back({});
    ASSERT_EQ(::pipe(ends.back().data()), 0);
    processes_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [to, out = ends.back()[1]] {
      const std::string line = Call({.to = to + ":8080"}) + "\n";
      (void)!::write(out, line.data(), line.size());
    }));
    ::close(ends.back()[1]);
  };
  drop(true);
  begin(kOut4);  // before the agent knows the pod
  begin(kOut6);
  const auto connecting = [&](size_t count) {
    return bed_.WaitFor([&] {
      const std::string all = Output("ss -Htn state syn-sent");
      return static_cast<size_t>(std::count(all.begin(), all.end(), '\n')) == count;
    });
  };
  ASSERT_TRUE(connecting(2));
  bed_.ShowPod(a_);
  bed_.StartAgent();
  ASSERT_TRUE(bed_.WaitFor([&] {
    return bed_.StatusText(a_).find("no proxy") != std::string::npos;
  })) << bed_.StatusText(a_);
  begin(kOut4);  // and while it is being enrolled
  begin(kOut6);
  ASSERT_TRUE(connecting(4));
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  // A new connection to the same place is the proxy's.
  EXPECT_THAT(FromPod({.to = std::string(kOut4) + ":8080"}), StartsWith("out"));
  EXPECT_GE(NotMeshed(), 4u);
  drop(false);
  for (const auto& end : ends) EXPECT_THAT(ReadLine(end[0]), StartsWith("app "));
  EXPECT_GE(bed_.Counter(a_, "guard_early"), 4u);
  EXPECT_EQ(bed_.Counter(a_, "guard_dropped"), 0u);
  for (const auto& end : ends) ::close(end[0]);
}

// No room to note them: they fail, said beforehand, and nothing gets out past the proxy.
TEST_F(LeaveTest, WithAFullMapOfConnectionsBeingMadeTheyMayHaveToBeMadeAgain) {
  ASSERT_TRUE(bed_.Sh(bed_.out_ns(),
                      "nft add table inet q; nft \"add chain inet q in { type filter hook input "
                      "priority 0; }\"; nft add rule inet q in tcp dport 8080 drop"));
  processes_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [] {
    (void)Call({.to = std::string(kOut4) + ":8080", .timeout_ms = 60000});
  }));
  ASSERT_TRUE(bed_.WaitFor(
      [&] { return Output("ss -Htn state syn-sent").find(":8080") != std::string::npos; }));
  bed_.StartAgent();
  auto maps = bpf::NodeMaps::Open(bed_.bpf_dir() + "/maps");
  ASSERT_TRUE(maps);
  uint32_t entries = 0;  // of a time that is still to come: nobody sweeps them
  while (maps->early_cookies.Update(~uint64_t{entries}, ~0ull)) ++entries;
  EXPECT_EQ(entries, uint32_t{QANAT_MAX_EARLY});
  bed_.ShowPod(a_);
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  EXPECT_THAT(bed_.Log(), HasSubstr("may have to be made again: map early_cookies is full"));
  EXPECT_TRUE(bed_.WaitFor([&] { return bed_.Counter(a_, "guard_dropped") > 0; }));
  EXPECT_EQ(bed_.Counter(a_, "guard_early"), 0u);
  ASSERT_TRUE(bed_.Sh(bed_.out_ns(), "nft delete table inet q"));
  EXPECT_EQ(Answers(), "out out in in ");
}

// The licence of such a socket ends with its next connect(): also for one that takes the capture's
// mark off between connect() and its first SYN.
TEST_F(LeaveTest, ASocketFromBeforeIsCapturedWhenItConnectsAnew) {
  ASSERT_TRUE(bed_.Sh(a_.netns, "sysctl -qw net.ipv4.tcp_fastopen=5"));  // no cookie needed
  bed_.ShowPod(a_);
  bed_.StartAgent();
  ASSERT_TRUE(
      bed_.WaitFor([&] { return bed_.StatusText(a_).find("no proxy") != std::string::npos; }));
  int go[2], answer[2];
  ASSERT_EQ(::pipe(go) | ::pipe(answer), 0);
  processes_.push_back(bed_.Spawn({a_.netns, "pods/a"}, [&] {
    const auto to = net::SocketAddress::Parse(std::string(kOut4) + ":8080").value();
    sockaddr_storage storage;
    const socklen_t size = to.ToSockaddr(storage);
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    const timeval limit{2, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    std::string lines;
    const auto connect = [&] {
      if (::connect(fd, reinterpret_cast<sockaddr*>(&storage), size) != 0) lines += "error ";
    };
    const auto disconnect = [&] {
      sockaddr none{AF_UNSPEC, {}};
      ::connect(fd, &none, sizeof none);
    };
    char byte = 0;
    connect();
    lines += ReadLine(fd).substr(0, 4) + ";";
    disconnect();
    (void)!::write(answer[1], "1\n", 2);
    (void)!::read(go[0], &byte, 1);
    const int one = 1, none = 0;
    ::setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof one);
    connect();
    ::setsockopt(fd, SOL_SOCKET, SO_MARK, &none, sizeof none);
    (void)!::send(fd, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    lines += ReadLine(fd).substr(0, 4) + ";";
    disconnect();
    ::setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &none, sizeof none);
    connect();
    lines += ReadLine(fd).substr(0, 4) + ";\n";
    (void)!::write(answer[1], lines.data(), lines.size());
  }));
  ASSERT_EQ(ReadLine(answer[0]), "1");
  bed_.StartPeer();
  ASSERT_TRUE(bed_.WaitEnabled(a_)) << bed_.StatusText(a_);
  (void)!::write(go[1], "1", 1);
  EXPECT_EQ(ReadLine(answer[0]), "app ;;out ;");
  EXPECT_GE(bed_.Counter(a_, "guard_dropped"), 1u) << "its SYN did leave the socket";
  for (int fd : {go[0], go[1], answer[0], answer[1]}) ::close(fd);
}

// Neighbour discovery, ARP and answers are not among it: the figures are exact.
TEST_F(LeaveTest, WhatCaptureIsNotForIsCountedByKind) {
  Enrol();
  const auto counts = [&] {
    std::vector<uint64_t> out;
    for (const char* kind : {"outside_udp", "outside_icmp", "outside_sctp", "outside_other"})
      out.push_back(bed_.Counter(a_, kind));
    return out;
  };
  ASSERT_EQ(Answers(), "out out in in ");
  EXPECT_EQ(counts(), (std::vector<uint64_t>{0, 0, 0, 0}));
  const auto send = [&](const std::string& to, int type, int protocol, const std::string& bytes) {
    EXPECT_EQ(bed_.Run({a_.netns, "pods/a"},
                       [&]() -> std::string {
                         const auto address = net::SocketAddress::Parse(to + ":5000").value();
                         sockaddr_storage storage;
                         const socklen_t size = address.ToSockaddr(storage);
                         const int family = address.ip().family();
                         if (type == SOCK_RAW)  // an IPv6 one refuses a port
                           reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port = 0;
                         const int fd = ::socket(family, type, protocol);
                         const auto sent = ::sendto(fd, bytes.data(), bytes.size(), 0,
                                                    reinterpret_cast<sockaddr*>(&storage), size);
                         return sent > 0 ? "sent" : std::strerror(errno);
                       }),
              "sent")
        << to << " " << protocol;
  };
  const std::string text(16, 'x');
  for (const char* to : {kOut4, kOut6}) {
    const bool v4 = to == kOut4;
    send(to, SOCK_DGRAM, IPPROTO_UDP, text);
    send(to, SOCK_DGRAM, IPPROTO_UDP, text);
    std::string ping = text;
    ping[0] = static_cast<char>(v4 ? 8 : 128);
    ping[1] = 0;
    send(to, SOCK_RAW, v4 ? static_cast<int>(IPPROTO_ICMP) : IPPROTO_ICMPV6, ping);
    send(to, SOCK_RAW, IPPROTO_SCTP, text);
    send(to, SOCK_RAW, IPPROTO_GRE, text);
  }
  const std::vector<uint64_t> wanted = {4, 2, 2, 2};
  EXPECT_TRUE(bed_.WaitFor([&] { return counts() == wanted; }, 5000))
      << ::testing::PrintToString(counts());
  EXPECT_THAT(bed_.Admin("/metrics"), HasSubstr("event=\"outside_sctp\"} 2"));
  EXPECT_TRUE(bed_.WaitFor([&] {
    const auto pods = nlohmann::json::parse(bed_.Admin("/pods"));
    return pods[0]["outside"] == nlohmann::json({"UDP", "ICMP", "SCTP", "other protocols"});
  })) << bed_.Admin("/pods");
}

}  // namespace
}  // namespace qanat::test
