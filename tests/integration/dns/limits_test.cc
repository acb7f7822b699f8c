// SPDX-License-Identifier: Apache-2.0
// Garbage, floods, and who may reach the port.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstdlib>
#include <random>
#include <set>

#include "common/net/datagram.h"
#include "common/net/socket.h"
#include "tests/integration/dns/fixture.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Ge;
using testing::HasSubstr;

namespace type = wire::type;

constexpr const char* kBackend = "NOERROR aa: A 10.96.0.10 30";

class DnsLimitsTest : public DnsBed {};

TEST_F(DnsLimitsTest, WhatIsNoQuestion) {
  Make();
  Message status = Ask("backend", type::kA);
  status[2] = 0x10;
  EXPECT_EQ(Show(Captured(status)), "NOTIMP");
  Message two = Ask("backend", type::kA);
  two[5] = 2;
  EXPECT_EQ(Show(Captured(two)), "FORMERR");
  Message pointer = Ask("backend", type::kA);
  pointer[12] = 0xc0;
  EXPECT_EQ(Show(Captured(pointer)), "FORMERR");
  EXPECT_EQ(Show(Captured(Ask("shop", type::kAxfr))), "REFUSED:");
  Message version = Ask("backend", type::kA, 1232);
  version[version.size() - 5] = 7;
  const Message bad = Captured(version);
  ASSERT_GT(bad.size(), 11u);
  EXPECT_EQ(bad[bad.size() - 6], 1) << "BADVERS";
  Message answer = Ask("backend", type::kA);
  answer[2] |= 0x80;
  EXPECT_EQ(Show(Captured(answer, 300)), "nothing");
  EXPECT_EQ(Show(Captured({1, 2, 3}, 300)), "nothing");
  EXPECT_EQ(server->Log(), "ready\n");
}

TEST_F(DnsLimitsTest, GarbageChangesNothing) {
  Make();
  std::mt19937 random(5);
  for (int i = 0; i < 300; ++i) {
    Message question = Ask("backend.shop", i % 2 == 0 ? type::kA : type::kTxt, 1232);
    for (int n = 0; n < 3; ++n) question[random() % question.size()] ^= random() & 0xff;
    question.resize(question.size() - random() % 4);
    Captured(question, 0);
    if (i % 10 == 0) AskTcp(pod->netns(), kServer, {question});
  }
  Tcp raw = ConnectFrom(pod->netns(), kServer);
  raw.Send(std::string(100000, '\xff'));  // whether it is read to the end is not our business
  raw.Close();
  EXPECT_EQ(Say("backend"), kBackend);
}

TEST_F(DnsLimitsTest, TooManyOpenQuestions) {
  Make();
  net::DatagramOptions options;
  options.connect = net::SocketAddress::Parse(kServer).value();
  options.netns = &pod->netns();
  const auto fd = net::OpenDatagram(options).value();
  for (int i = 0; i < 1300; ++i) {
    const Message question = Ask(fmt::format("silent.n{}.test", i), type::kA);
    ASSERT_GT(send(fd.get(), question.data(), question.size(), 0), 0);
    if (i % 20 == 0) usleep(5000);  // the socket's queue is not what is tested
  }
  EXPECT_TRUE(node->Counts("qanat_dns_answers_total", {"origin=\"limit\""}, Ge(250)));
  EXPECT_EQ(Say("backend"), kBackend) << "names of the mesh need no server";
  EXPECT_TRUE(node->Counts("qanat_dns_answers_total", {"origin=\"failed\""}, Ge(900)));
  EXPECT_EQ(Say("plain.test"), "NOERROR: A 192.0.2.1 60");
}

TEST_F(DnsLimitsTest, ManyQuestionsInOneConnection) {
  Make();
  std::vector<Message> questions;
  for (uint16_t i = 0; i < 500; ++i) {
    questions.push_back(Ask(i % 3 == 0 ? "backend" : fmt::format("n{}.test", i), type::kA, 0, i));
  }
  const auto answers = AskTcp(pod->netns(), kServer, questions);
  EXPECT_EQ(answers.size(), 500u);
  std::set<uint16_t> ids;
  for (const Message& answer : answers) {
    ids.insert(wire::ReadHeader(answer)->id);
    EXPECT_THAT(Show(answer), HasSubstr("NOERROR"));
  }
  EXPECT_EQ(ids.size(), 500u);
}

// Far more than is held for a client that does not read: what was asked waits, and none of it is
// lost.
TEST_F(DnsLimitsTest, ManyLargeAnswersInOneConnection) {
  Make();
  const std::vector<Message> questions(400, Ask("big.test", type::kTxt));
  const std::vector<Message> answers = AskTcp(pod->netns(), kServer, questions);
  ASSERT_EQ(answers.size(), questions.size());
  for (const Message& answer : answers) ASSERT_GT(answer.size(), 8000u);
}

TEST_F(DnsLimitsTest, AQuestionByTcpIsNoLargerThanByUdp) {
  Make();
  Message question = Ask("backend", type::kA);
  question.resize(5000);
  EXPECT_EQ(Show(AskTcp(pod->netns(), kServer, {question}).at(0)), "FORMERR");
}

TEST_F(DnsLimitsTest, AnIdleConnectionEnds) {
  Make();
  Tcp tcp = ConnectFrom(pod->netns(), kServer);
  ASSERT_TRUE(tcp.Send(std::string("\0\1", 2)));
  EXPECT_EQ(tcp.Next(), "eof");
}

// 15053 is for the pod itself: from the wire there is nothing.
TEST_F(DnsLimitsTest, NotFromTheWire) {
  Make();
  EXPECT_EQ(Show(AskUdp(stranger->netns(), pod->At(15053), Ask("backend", type::kA), 500)),
            "nothing");
  EXPECT_FALSE(ConnectFrom(stranger->netns(), pod->At(15053)).connected());
  const std::string at6 = "[" + pod->ip6() + "]:15053";
  EXPECT_EQ(Show(AskUdp(stranger->netns(), at6, Ask("backend", type::kA), 500)), "nothing");
  EXPECT_FALSE(ConnectFrom(stranger->netns(), at6).connected());
  // Our own agent sends questions to any loopback address; the answer comes from there.
  EXPECT_EQ(Show(AskUdp(pod->netns(), "127.53.1.2:15053", Ask("backend", type::kA))), kBackend);
  EXPECT_EQ(Show(AskUdp(pod->netns(), "[::1]:15053", Ask("backend", type::kA))), kBackend);
  // ... or to any address of a prefix that it makes local.
  ASSERT_EQ(
      std::system(
          fmt::format("ip -n {} route add local fd00:53::/96 dev lo src ::1", pod->name()).c_str()),
      0);
  EXPECT_EQ(Show(AskUdp(pod->netns(), "[fd00:53::7f35:1]:15053", Ask("backend", type::kA))),
            kBackend);
  EXPECT_EQ(AskTcp(pod->netns(), "127.53.1.2:15053", {Ask("backend", type::kA)}).size(), 1u);
}

// lo/disable_ipv6 of its namespace: there is no ::1 to listen at, and no reason not to serve it.
TEST_F(DnsLimitsTest, APodWithoutIpv6OnItsLoopback) {
  Make();
  PodNet& other = AddPod(7, Capture::kNone);
  const std::string command =
      fmt::format("ip netns exec {} sysctl -qw net.ipv6.conf.lo.disable_ipv6=1", other.name());
  ASSERT_EQ(std::system(command.c_str()), 0);
  Announce("other", other, "n1");
  ASSERT_EQ(node->Enrol("other", other), "");
  EXPECT_EQ(Show(AskUdp(other.netns(), "127.0.0.1:15053", Ask("backend", type::kA))), kBackend);
  EXPECT_EQ(Show(AskUdp(pod->netns(), "[::1]:15053", Ask("backend", type::kA))), kBackend);
}

TEST_F(DnsLimitsTest, SwitchedOff) {
  Make([](Config& config) { config.dns_capture = false; });
  EXPECT_FALSE(ConnectFrom(pod->netns(), "127.0.0.1:15053").connected());
  EXPECT_EQ(Show(AskUdp(pod->netns(), "127.0.0.1:15053", Ask("backend", type::kA), 300)),
            "nothing");
  EXPECT_TRUE(ConnectFrom(pod->netns(), "127.0.0.1:15001").connected());  // it is proxied
  EXPECT_EQ(Show(Direct(Ask("plain.test", type::kA))), "NOERROR: A 192.0.2.1 60");
}

TEST_F(DnsLimitsTest, AnotherPort) {
  Make([](Config& config) { config.dns_address = "127.0.0.1:15054"; });
  EXPECT_FALSE(ConnectFrom(pod->netns(), "127.0.0.1:15053").connected());
  EXPECT_EQ(Show(AskUdp(pod->netns(), "127.0.0.1:15054", Ask("backend", type::kA))), kBackend);
}

// An application has the port: the pod is proxied all the same.
TEST_F(DnsLimitsTest, ThePortIsTaken) {
  Make();
  PodNet& other = AddPod(5, Capture::kNone);
  net::ListenOptions options;
  options.address = net::SocketAddress::Parse("0.0.0.0:15053").value();
  options.netns = &other.netns();
  const auto taken = net::Listen(options);  // TCP alone is enough
  ASSERT_TRUE(taken);
  Announce("second", other, "n1");
  EXPECT_EQ(node->Enrol("second", other), "");
  EXPECT_TRUE(ConnectFrom(other.netns(), "127.0.0.1:15001").connected());
  EXPECT_EQ(Show(AskUdp(other.netns(), "127.0.0.1:15053", Ask("backend", type::kA), 300)),
            "nothing");
  EXPECT_EQ(Say("backend"), kBackend);
}

TEST_F(DnsLimitsTest, RemovedAndAddedAgainWhileQuestionsAreOpen) {
  Make();
  for (int i = 0; i < 3; ++i) {
    Captured(Ask(fmt::format("silent.n{}.test", i), type::kA), 0);
    Tcp open = ConnectFrom(pod->netns(), kServer);
    EXPECT_TRUE(open.connected());
    usleep(50000);
    EXPECT_EQ(node->agent().Del("uid-frontend"), "");
    EXPECT_EQ(node->Enrol("frontend", *pod), "");
    EXPECT_EQ(Say("backend"), kBackend);
  }
}

TEST_F(DnsLimitsTest, NamesAreAnsweredWhileDraining) {
  Make();
  node->Drain();
  usleep(100000);
  EXPECT_EQ(Say("backend"), kBackend);
}

}  // namespace
}  // namespace qanat::ztunnel::test
