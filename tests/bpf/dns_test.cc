// SPDX-License-Identifier: Apache-2.0
// DNS of an enrolled pod: who answers, from where the answer seems to come, and what is not taken
// for one.
#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "bpf/user/link.h"
#include "bpf/user/node_maps.h"
#include "common/base/fd.h"
#include "common/net/address.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

using ::testing::Test;

constexpr const char* kServer4 = "10.66.9.9:53";
constexpr const char* kServer6 = "[fd66:9::9]:53";
constexpr int kSpoofPort = 40053;

net::SocketAddress Address(const std::string& text) {
  return net::SocketAddress::Parse(text).value();
}

Fd UdpSocket(bool v6, int port = 0) {
  Fd fd(::socket(v6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_storage any;
  const socklen_t size =
      Address((v6 ? "[::]:" : "0.0.0.0:") + std::to_string(port)).ToSockaddr(any);
  (void)::bind(fd.get(), reinterpret_cast<sockaddr*>(&any), size);
  return fd;
}

bool SendTo(const Fd& fd, const std::string& text, const std::string& to, bool v6) {
  sockaddr_storage address;
  const socklen_t size = Address(to).ToSockaddr(address, v6);
  return ::sendto(fd.get(), text.data(), text.size(), 0, reinterpret_cast<sockaddr*>(&address),
                  size) > 0;
}

// "FROM TEXT", or what went wrong.
std::string Receive(const Fd& fd, int milliseconds) {
  pollfd p{fd.get(), POLLIN, 0};
  if (::poll(&p, 1, milliseconds) <= 0) return "nothing";
  char buffer[600];
  sockaddr_storage from{};
  socklen_t size = sizeof from;
  const ssize_t n =
      ::recvfrom(fd.get(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
  if (n < 0) return errno == ECONNREFUSED ? "refused" : std::strerror(errno);
  return net::SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&from)).ToString() + " " +
         std::string(buffer, static_cast<size_t>(n));
}

struct Question {
  std::string to;
  bool connected = false;
  bool mapped = false;
  std::string text = "question";
  int timeout_ms = 3000;
  std::string device;
};

std::string Ask(const Question& q) {
  const bool v6 = q.mapped || Address(q.to).ip().is_v6();
  const Fd fd = UdpSocket(v6);
  if (!q.device.empty())
    ::setsockopt(fd.get(), SOL_SOCKET, SO_BINDTODEVICE, q.device.data(),
                 static_cast<socklen_t>(q.device.size()));
  if (!q.connected) {
    if (!SendTo(fd, q.text, q.to, v6)) return std::string("send: ") + std::strerror(errno);
    return Receive(fd, q.timeout_ms);
  }
  sockaddr_storage address;
  const socklen_t size = Address(q.to).ToSockaddr(address, v6);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0)
    return std::string("connect: ") + std::strerror(errno);
  const auto peer = net::SocketAddress::OfPeer(fd.get());
  if (!peer || peer->ToString() != q.to) return "peer " + (peer ? peer->ToString() : "?");
  (void)!::send(fd.get(), q.text.data(), q.text.size(), 0);
  return Receive(fd, q.timeout_ms);
}

// A name server of the outside: answers "real", both families, UDP and TCP.
void ServeReal() {
  const Fd v4 = UdpSocket(false, 53);
  const Fd v6(::socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const int one = 1;
  ::setsockopt(v6.get(), SOL_IPV6, IPV6_V6ONLY, &one, sizeof one);
  sockaddr_storage any;
  const socklen_t length = Address("[::]:53").ToSockaddr(any);
  if (::bind(v6.get(), reinterpret_cast<sockaddr*>(&any), length) != 0) ::_exit(95);
  for (;;) {
    pollfd both[] = {{v4.get(), POLLIN, 0}, {v6.get(), POLLIN, 0}};
    ::poll(both, 2, -1);
    for (const pollfd& p : both) {
      if (!(p.revents & POLLIN)) continue;
      char buffer[600];
      sockaddr_storage from{};
      socklen_t size = sizeof from;
      if (::recvfrom(p.fd, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size) < 0)
        continue;
      // What it is told to send to another port: a forged answer.
      if (std::strncmp(buffer, "forge", 5) == 0) {
        auto* v4_to = reinterpret_cast<sockaddr_in*>(&from);
        v4_to->sin_port = htons(kSpoofPort);  // the same place in sockaddr_in6
      }
      ::sendto(p.fd, "real", 4, 0, reinterpret_cast<sockaddr*>(&from), size);
    }
  }
}

class DnsTest : public Test {
 protected:
  void SetUp() override {
    bed_ = std::make_unique<Bed>("qKERNELdns");
    a_ = bed_->MakePod("a", 10);
    bed_->ShowPod(a_);
    real_ = bed_->Spawn({bed_->out_ns(), "host"}, [] { ServeReal(); });
    bed_->StartAgent();
    bed_->StartPeer(1, true);
    ASSERT_TRUE(bed_->WaitEnabled(a_)) << bed_->StatusText(a_) << bed_->Log();
  }
  void TearDown() override {
    real_ = {};
    EXPECT_EQ(bed_->SanitizerReport(), "");
    if (HasFailure()) std::fprintf(stderr, "%s\n", bed_->Log().c_str());
  }
  std::string In(const Bed::PodInfo& pod, const Question& q) const {
    return bed_->Run({pod.netns, "pods/" + pod.name}, [&] { return Ask(q); });
  }
  std::string InA(const std::function<std::string()>& body) const {
    return bed_->Run({a_.netns, "pods/a"}, body);
  }
  // The proxy answered, and the answer came from the server that was asked.
  void ExpectProxied(const Question& q) const {
    const std::string answer = In(a_, q);
    EXPECT_EQ(answer.rfind(q.to + " ", 0), 0u) << answer;
    EXPECT_NE(answer.find(" proxy "), std::string::npos) << answer;
  }
  bool WaitProxied(const Question& q) const {
    return bed_->WaitFor([&] { return In(a_, q).find(" proxy ") != std::string::npos; }, 10000);
  }
  bpf::NodeMaps Maps() const { return bpf::NodeMaps::Open(bed_->bpf_dir() + "/maps").value(); }
  uint32_t IdOfA() const {
    for (const auto& pod : nlohmann::json::parse(bed_->Admin("/pods")))
      if (pod["uid"] == a_.uid) return pod["id"];
    return 0;
  }
  // Answers of the wire are let in for some seconds after questions that were left alone.
  void WaitUntilTheWireIsClosed() const {
    std::this_thread::sleep_for(std::chrono::nanoseconds(QANAT_DNS_ANSWER_NS) +
                                std::chrono::milliseconds(500));
  }

  std::unique_ptr<Bed> bed_;
  Bed::PodInfo a_;
  Process real_;
};

TEST_F(DnsTest, TheAnswerComesFromTheServerThatWasAsked) {
  for (bool connected : {false, true}) {
    ExpectProxied({.to = kServer4, .connected = connected});
    ExpectProxied({.to = kServer4, .connected = connected, .mapped = true});
    ExpectProxied({.to = kServer6, .connected = connected});
  }
  // TCP: what getpeername() says.
  for (const std::string to : {kServer4, kServer6}) {
    const std::string line = InA([&] { return Call({.to = to, .say_self = true}); });
    EXPECT_EQ(line.rfind("proxy ", 0), 0u) << line;
    EXPECT_NE(line.find(" peer=" + to), std::string::npos) << line;
  }
  EXPECT_GE(bed_->Counter(a_, "dns"), 6u);
  EXPECT_EQ(bed_->Counter(a_, "dns_tcp"), 2u);
  // The proxy's own questions reach the server.
  EXPECT_EQ(
      bed_->Run({a_.netns, "ztunnel"}, [] { return Ask({.to = kServer4, .connected = true}); }),
      std::string(kServer4) + " real");
  const auto proof = nlohmann::json::parse(bed_->StatusText(a_))["proof"];
  for (const char* step : {"dns/v4", "dns/v6", "dns-connected/v4", "dns-connected/v6"})
    EXPECT_EQ(proof.value(step, "absent"), "passed") << step;
}

TEST_F(DnsTest, OneSocketAsksSeveralServers) {
  for (bool v6 : {false, true}) {
    const std::string wrong = InA([&]() -> std::string {
      const Fd fd = UdpSocket(v6);
      std::set<std::string> servers;
      for (int i = 1; i <= 20; ++i) {
        const std::string server =
            (v6 ? "[fd66:77::" : "10.77.0.") + std::to_string(i) + (v6 ? "]:53" : ":53");
        servers.insert(server);
        SendTo(fd, server, server, v6);
      }
      for (int i = 0; i < 20; ++i) {
        std::string answer = Receive(fd, 3000);
        const std::string from = answer.substr(0, answer.find(' '));
        // The question is in the answer, but for one bit of its third letter.
        if (answer.size() < from.size() * 2) return answer;
        answer[from.size() + 3] = from[2];
        if (answer.substr(from.size() + 1, from.size()) != from || servers.erase(from) == 0)
          return answer;
      }
      return "";
    });
    EXPECT_EQ(wrong, "");
  }
}

TEST_F(DnsTest, TheTableIsBoundedAndASlotNeverSpeaksForAnother) {
  const uint32_t id = IdOfA();
  bpf::NodeMaps maps = Maps();
  int proxied = 0;
  for (int i = 0; i < QANAT_DNS_SERVERS + 8; ++i) {
    const std::string server = "10.78.0." + std::to_string(i + 1) + ":53";
    proxied += In(a_, {.to = server, .timeout_ms = 200}).find(" proxy ") != std::string::npos;
  }
  EXPECT_GE(proxied, QANAT_DNS_SERVERS - 4);  // the proof's own servers have slots
  EXPECT_LE(proxied, QANAT_DNS_SERVERS);
  EXPECT_EQ(bed_->Counter(a_, "dns_full"), static_cast<uint64_t>(QANAT_DNS_SERVERS + 8 - proxied));
  EXPECT_EQ(In(a_, {.to = kServer4}), std::string(kServer4) + " real");
  ExpectProxied({.to = "10.78.0.1:53"});  // who is in it stays

  // 10.78.0.2 was not asked for a long time: its slot goes to another server while an answer to
  // its question is still on the way.
  const std::string late = InA([&]() -> std::string {
    const Fd fd = UdpSocket(false);
    SendTo(fd, "late", "10.78.0.2:53", false);
    auto table = maps.dns_tables.Lookup(id).value().value();
    for (auto& server : table.servers)
      if (bpf::FromKernel(server.ip).ToString() == "10.78.0.2") server.used_ns = 1;
    (void)maps.dns_tables.Update(id, table);
    const std::string other = Ask({.to = "10.79.0.1:53"});
    if (other.rfind("10.79.0.1:53 ", 0) != 0) return "other: " + other;
    return Receive(fd, 3000);
  });
  EXPECT_EQ(late.rfind("127.53.", 0), 0u) << late;
}

TEST_F(DnsTest, AForgedAnswerIsRefused) {
  for (const std::string server : {kServer4, kServer6}) ExpectProxied({.to = server});
  WaitUntilTheWireIsClosed();
  for (const std::string server : {kServer4, kServer6}) {
    const bool v6 = server == kServer6;
    const std::string first = InA([&]() -> std::string {
      const Fd fd = UdpSocket(v6, kSpoofPort);
      SendTo(fd, "late", server, v6);
      // The server itself is made to send what nobody asked it for, before the proxy answers.
      bed_->Run({a_.netns, "ztunnel"}, [&] {
        const Fd other = UdpSocket(v6);
        SendTo(other, "forge", server, v6);
        return std::string();
      });
      return Receive(fd, 3000);
    });
    EXPECT_NE(first.find(" proxy "), std::string::npos) << first;
  }
  EXPECT_EQ(bed_->Counter(a_, "dns_dropped"), 2u);
}

TEST_F(DnsTest, TheListenerIsNotReachedFromOutside) {
  for (const std::string& to : {a_.ip4 + ":15053", "[" + a_.ip6 + "]:15053"}) {
    const auto from_out = [&](const std::function<std::string()>& body) {
      return bed_->Run({bed_->out_ns(), "host"}, body);
    };
    EXPECT_EQ(from_out([&] { return Ask({.to = to, .timeout_ms = 700}); }), "nothing") << to;
    EXPECT_EQ(from_out([&] { return Call({.to = to, .timeout_ms = 700}); }), "error: ECONNREFUSED");
  }
  EXPECT_EQ(bed_->Counter(a_, "drop_proxy_port"), 2u);
  EXPECT_EQ(bed_->Counter(a_, "dns_dropped"), 2u);
}

TEST_F(DnsTest, WithoutTheProxyNothingGoesPastIt) {
  bed_->peer().Kill(9);
  for (const std::string server : {kServer4, kServer6}) {
    EXPECT_EQ(In(a_, {.to = server, .connected = true}), "refused") << server;
    EXPECT_EQ(In(a_, {.to = server, .timeout_ms = 500}), "nothing") << server;
  }
  bed_->StopAgent(9);  // what is pinned goes on without the agent
  EXPECT_EQ(In(a_, {.to = kServer4, .connected = true}), "refused");
  bed_->StartAgent();
  EXPECT_EQ(In(a_, {.to = kServer4, .connected = true}), "refused");
  bed_->StartPeer(1, true);
  EXPECT_TRUE(WaitProxied({.to = kServer4}));
  ExpectProxied({.to = kServer6});
}

TEST_F(DnsTest, OffWhereTheProxyOrThePodSaysSo) {
  Bed::PodInfo b = bed_->MakePod("b", 11);
  bed_->ShowPod(b);
  const std::string path = bed_->dir() + "/pods/" + b.uid + ".json";
  std::ifstream in(path);
  nlohmann::json json = nlohmann::json::parse(in);
  json["annotations"]["ambient.istio.io/dns-capture"] = "false";
  std::ofstream(path) << json.dump();
  ASSERT_TRUE(bed_->WaitEnabled(b)) << bed_->StatusText(b);
  EXPECT_EQ(In(b, {.to = kServer4}), std::string(kServer4) + " real");
  ExpectProxied({.to = kServer4});

  bed_->peer().Kill(9);
  bed_->StartPeer(1, false);
  for (const std::string server : {kServer4, kServer6})
    EXPECT_TRUE(bed_->WaitFor([&] { return In(a_, {.to = server}) == server + " real"; }, 10000));
  EXPECT_EQ(In(a_, {.to = kServer4, .connected = true}), std::string(kServer4) + " real");
}

TEST_F(DnsTest, ASocketOfADeviceGoesItsWay) {
  ExpectProxied({.to = kServer4});
  WaitUntilTheWireIsClosed();
  EXPECT_EQ(In(a_, {.to = kServer4, .device = "eth0"}), std::string(kServer4) + " real");
  EXPECT_EQ(bed_->Counter(a_, "dns_device"), 1u);
}

TEST_F(DnsTest, MissingPartsAreRepaired) {
  for (const char* name :
       {"sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"}) {
    auto link = bpf::Link::OpenPinned(bed_->bpf_dir() + "/links/" + name);
    ASSERT_TRUE(link) << name;
    ASSERT_EQ(bpf_link_detach(link->fd()), 0) << name;
  }
  const auto all = [&] {
    for (bool connected : {false, true})
      for (const std::string server : {kServer4, kServer6})
        if (In(a_, {.to = server, .connected = connected, .timeout_ms = 300})
                .rfind(server + " ", 0) != 0)
          return false;
    return In(a_, {.to = kServer4}).find(" proxy ") != std::string::npos &&
           In(a_, {.to = kServer6}).find(" proxy ") != std::string::npos;
  };
  EXPECT_TRUE(bed_->WaitFor(all, 10000));
  const uint32_t id = IdOfA();
  bpf::NodeMaps maps = Maps();
  ASSERT_TRUE(maps.dns_on.Update(id, 0));
  EXPECT_TRUE(bed_->WaitFor(all, 10000));
  ASSERT_TRUE(maps.dns_tables.Erase(id));
  EXPECT_TRUE(bed_->WaitFor(all, 10000));
  ASSERT_TRUE(bed_->Sh(a_.netns, "ip -6 route flush table local proto 81"));
  EXPECT_TRUE(bed_->WaitFor(all, 10000));
}

TEST_F(DnsTest, LeavingTheMeshRestoresEverything) {
  ExpectProxied({.to = kServer6});
  const uint32_t id = IdOfA();
  ASSERT_TRUE(bed_->Sh(a_.netns, "ip -6 route show table local proto 81 | grep -q ::/96"));
  bed_->ShowPod(a_, false);
  ASSERT_TRUE(bed_->WaitFor([&] { return bed_->Redirection(a_) == "disabled"; }));
  for (const std::string server : {kServer4, kServer6})
    EXPECT_EQ(In(a_, {.to = server}), server + " real");
  EXPECT_EQ(Maps().dns_on.Lookup(id).value().value_or(0), 0u);
  // What sockets that asked before still need goes with the rest of the capture.
  EXPECT_TRUE(bed_->WaitFor([&] { return !Maps().dns_tables.Lookup(id).value().has_value(); }));
  EXPECT_FALSE(bed_->Sh(a_.netns, "ip -6 route show table local proto 81 | grep -q ."));
}

}  // namespace
}  // namespace qanat::test
