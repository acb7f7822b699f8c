// SPDX-License-Identifier: Apache-2.0
// What name servers say gets to applications as it is.
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>

#include "common/net/datagram.h"
#include "tests/integration/dns/fixture.h"
#include "tests/integration/ztunnel/open_sockets.h"

namespace qanat::ztunnel::test {
namespace {

using testing::Eq;
using testing::Ge;

namespace type = wire::type;

class DnsRelayTest : public DnsBed {
 protected:
  // The lines that the server has printed about a name.
  size_t Asked(const std::string& host) const {
    const std::string log = server->Log();
    size_t count = 0;
    for (size_t at = log.find(" " + host + " "); at != std::string::npos;
         at = log.find(" " + host + " ", at + 1)) {
      ++count;
    }
    return count;
  }
};

TEST_F(DnsRelayTest, ByteForByte) {
  Make();
  for (const auto& [host, rr] : std::vector<std::pair<std::string, uint16_t>>{
           {"plain.test", type::kA},
           {"MiXeD-CaSe.test", type::kA},
           {"alias.test", type::kA},
           {"svcb.test", type::kSvcb},
           {"svcb.test", type::kHttps},
           {"naptr.test", type::kNaptr},
           {"unknown.test", 65280},
           {"sections.test", type::kTxt},
           {"broken.test", type::kA},
           {"big.test", type::kTxt},
           {"nx.test", type::kA},
           {"servfail.test", type::kA},
           {"bare.test", type::kA},
           {"_http._tcp.plain.test", type::kSrv},
           {"elsewhere.example", type::kMx},
       }) {
    for (const uint16_t edns : {0, 512, 1232, 4096}) {
      const Message question = Ask(host, rr, edns);
      const Message direct = Direct(question);
      ASSERT_FALSE(direct.empty()) << host;
      EXPECT_EQ(Captured(question), direct) << host << ", EDNS " << edns;
    }
    const Message question = Ask(host, rr);
    const auto direct = AskTcp(stranger->netns(), kServer, {question});
    ASSERT_EQ(direct.size(), 1u) << host;
    EXPECT_EQ(AskTcp(pod->netns(), kServer, {question}), direct) << host << " by TCP";
  }
  EXPECT_GT(AskTcp(pod->netns(), kServer, {Ask("big.test", type::kTxt)}).at(0).size(), 8000u);
}

TEST_F(DnsRelayTest, OptionsAndFlagsOfTheQuestionGetThere) {
  Make();
  // A cookie, checking disabled, another class: the name server sees what the client has said.
  Message question = Ask("plain.test", type::kTxt, 1232);
  question[3] |= 0x30;
  question[question.size() - 1] = 12;
  for (const uint8_t b : {0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8}) question.push_back(b);
  EXPECT_EQ(Captured(question), Direct(question));
  Message chaos = Ask("version.bind", type::kTxt);
  chaos.back() = 3;
  EXPECT_EQ(Captured(chaos), Direct(chaos));
}

TEST_F(DnsRelayTest, AnAnswerThatIsTooLargeIsCut) {
  Make();
  EXPECT_GT(Direct(Ask("huge.test", type::kTxt)).size(), 512u);
  const Message cut = Captured(Ask("huge.test", type::kTxt));
  EXPECT_EQ(Show(cut), "NOERROR tc:");
  EXPECT_LE(cut.size(), 512u);
  const Message question = Ask("huge.test", type::kTxt, 4096);
  EXPECT_EQ(Captured(question), Direct(question));
}

TEST_F(DnsRelayTest, TheSameAnswerIsGivenFromMemory) {
  Make();
  EXPECT_EQ(Say("count.test", type::kTxt), "NOERROR: TXT 1 60");
  usleep(1100000);
  Message question = Ask("count.test", type::kTxt, 0, 0x9999);
  const Message again = Captured(question);
  EXPECT_EQ(wire::ReadHeader(again)->id, 0x9999);
  EXPECT_THAT(Show(again), testing::MatchesRegex("NOERROR: TXT 1 5[0-9]"));
  EXPECT_EQ(Asked("count.test"), 1u);
  EXPECT_EQ(Answered("cache"), 1);
  // Another case of letters is another question; so is one with EDNS; one by TCP.
  EXPECT_EQ(Say("Count.test", type::kTxt), "NOERROR: TXT 2 60");
  EXPECT_EQ(Show(Captured(Ask("count.test", type::kTxt, 1232))), "NOERROR: TXT 3 60");
  // Errors are not kept, negative answers are as long as they say.
  Say("servfail.test");
  Say("servfail.test");
  EXPECT_EQ(Asked("servfail.test"), 2u);
  Say("nx.test");
  Say("nx.test");
  EXPECT_EQ(Asked("nx.test"), 1u);
}

TEST_F(DnsRelayTest, ExpiredAnswersWhileTheServerIsAway) {
  Make();
  EXPECT_EQ(Say("soon.test"), "NOERROR: A 192.0.2.1 1");
  usleep(1200000);
  server->Signal(SIGSTOP);
  const auto ask = [&] {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(Say("soon.test"), "NOERROR: A 192.0.2.1 30");
    return std::chrono::steady_clock::now() - start;
  };
  EXPECT_LT(ask(), std::chrono::milliseconds(8000));
  // The shortest of some: a time may be a stall of this machine, but not all are.
  EXPECT_LT(std::min({ask(), ask(), ask()}), std::chrono::milliseconds(1000))
      << "known to be away: at once";
  EXPECT_THAT(Answered("stale"), Eq(4));
  // The mesh's own names do not need it.
  EXPECT_EQ(Say("backend"), "NOERROR aa: A 10.96.0.10 30");
  // A name never heard of: an error, within the time that a client waits.
  const auto error = [&](const char* name) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(Say(name), "SERVFAIL:");
    return std::chrono::steady_clock::now() - start;
  };
  EXPECT_LT(std::min(error("first.test"), error("second.test")), std::chrono::milliseconds(4990));
  EXPECT_THAT(node->Metric("istio_dns_upstream_failures_total"), Ge(3));
  server->Signal(SIGCONT);
  EXPECT_TRUE(Eventually([&] { return Say("plain.test") == "NOERROR: A 192.0.2.1 60"; }));
}

TEST_F(DnsRelayTest, TheNextServerHelps) {
  Make();
  PodNet& second = AddPod(8, Capture::kNone);
  const auto helper = StartServer(second, "10.93.0.8");
  std::ofstream(folder_ + "/resolv.conf") << "nameserver 10.93.0.8\nnameserver 10.93.0.9\n";
  ASSERT_TRUE(Eventually([&] {
    Say("servfail.test");
    return helper->Log().find("servfail.test") != std::string::npos;
  }));
  helper->Signal(SIGSTOP);
  EXPECT_EQ(Say("plain.test"), "NOERROR: A 192.0.2.1 60");
  EXPECT_EQ(helper->Stop(100), "signal 9");
  // Nobody at the port: said at once by the kernel.
  const auto took = [&](const char* name) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(Say(name), "NOERROR: A 192.0.2.1 60");
    return std::chrono::steady_clock::now() - start;
  };
  EXPECT_LT(std::min({took("a.other.test"), took("b.other.test"), took("c.other.test")}),
            std::chrono::milliseconds(1000));
  EXPECT_EQ(AskTcp(pod->netns(), kServer, {Ask("big.test", type::kTxt)}).size(), 1u);
}

// Without it the capture would bring the question back to the proxy.
TEST_F(DnsRelayTest, QuestionsToTheServerCarryTheMark) {
  Make();
  server->Signal(SIGSTOP);
  net::DatagramOptions options;
  options.connect = *net::SocketAddress::Parse(kServer);
  options.netns = &pod->netns();
  const Fd udp = std::move(*net::OpenDatagram(options));
  const Message question = Ask("plain.test", type::kA);
  ASSERT_GT(send(udp.get(), question.data(), question.size(), 0), 0);
  Tcp tcp = ConnectFrom(pod->netns(), kServer);
  const std::string text(question.begin(), question.end());
  ASSERT_TRUE(tcp.Send(std::string{'\0', static_cast<char>(text.size())} + text));
  for (const bool by_tcp : {false, true}) {
    const auto asking = [&] {
      return FindSockets([&](const OpenSocket& s) {
        return s.netns == pod->netns().Cookie().value() && s.tcp == by_tcp &&
               s.peer == options.connect && s.fd != udp.get() && s.fd != tcp.fd();
      });
    };
    std::vector<uint32_t> marks;
    EXPECT_TRUE(Eventually([&] { return !(marks = Marks(asking())).empty(); })) << by_tcp;
    EXPECT_THAT(marks, testing::Each(0x539u)) << by_tcp;
  }
  server->Signal(SIGCONT);
}

TEST_F(DnsRelayTest, ForgedAnswersAreLeftAside) {
  Make();
  EXPECT_EQ(Say("forged.test"), "NOERROR: A 192.0.2.1 60");
}

TEST_F(DnsRelayTest, EqualQuestionsWaitForOneAnswer) {
  Make();
  server->Signal(SIGSTOP);
  std::vector<std::thread> clients;
  std::atomic<int> right{0};
  for (uint16_t i = 0; i < 20; ++i) {
    clients.emplace_back([&, i] {
      const Message answer = Captured(Ask("count.test", type::kTxt, 0, i));
      const auto header = wire::ReadHeader(answer);
      if (header && header->id == i && Show(answer) == "NOERROR: TXT 1 60") ++right;
    });
  }
  usleep(300000);
  server->Signal(SIGCONT);
  for (auto& client : clients) client.join();
  EXPECT_EQ(right, 20);
  EXPECT_EQ(Asked("count.test"), 1u);
}

}  // namespace
}  // namespace qanat::ztunnel::test
