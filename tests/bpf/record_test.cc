// SPDX-License-Identifier: Apache-2.0
// Records of closed connections: which there are, and that what they say is what happened. Lease
// and verdicts are the test's, as is the reading: the agent stands still.
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "bpf/user/ring.h"
#include "tests/bpf/direct_fixture.h"

namespace qanat::test {
namespace {

// Does what the first line asks for: "SEND then": sends that many bytes and waits for the client's
// end, closes, or resets.
constexpr const char* kServer = R"(
import socket, struct, threading
def serve(c):
    f = c.makefile('rb')
    line = f.readline()
    if not line: return c.close()
    count, then = line.decode().split()
    c.sendall(b'x' * int(count))
    if then == 'wait':
        while f.read(65536): pass
    if then == 'reset':
        f.read(1)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    f.close()
    c.close()
s = socket.create_server(('', 9100), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
)";

class RecordTest : public DirectTest {
 protected:
  static void SetUpTestSuite() {
    DirectTest::SetUpTestSuite();
    auto ring = bpf::Ring::OpenPinned(t_->bed.bpf_dir() + "/maps/records",
                                      [](const void* data, size_t size) {
                                        ASSERT_EQ(size, sizeof(qanat_record));
                                        records_.push_back(*static_cast<const qanat_record*>(data));
                                      });
    ASSERT_TRUE(ring) << ring.error().message;
    ring_ = new bpf::Ring(std::move(*ring));
    server_ = new Process(t_->bed.Spawn(
        {t_->b.netns, "pods/b"}, [] { ::execlp("python3", "python3", "-c", kServer, nullptr); }));
    t_->SetVerdict(9100);
    ASSERT_TRUE(t_->bed.WaitFor([] { return Client("c.sendall(b'1 close\\n')") != "error"; }));
  }
  static void TearDownTestSuite() {
    delete server_;
    delete ring_;
    DirectTest::TearDownTestSuite();
  }
  void SetUp() override {
    DirectTest::SetUp();
    t_->SetVerdict(9100);
    t_->bed.WaitFor([] { return false; }, 100);
    Take();
  }

  // In pod a, with a connection `c` to the server, or "error".
  static std::string Client(const std::string& then, const std::string& to = "sys.argv[1]") {
    return t_->Python(t_->a,
                      "import socket,sys,struct\n"
                      "try: c=socket.create_connection((" +
                          to +
                          ",9100),3)\n"
                          "except OSError: print('error');sys.exit()\n" +
                          then);
  }
  static std::vector<qanat_record> Take() {
    records_.clear();
    ring_->Consume();
    return records_;
  }
  // Waits for that many; and for more that should not be.
  static std::vector<qanat_record> Take(size_t count) {
    std::vector<qanat_record> all;
    const auto look = [&] {
      for (const auto& record : Take()) all.push_back(record);
      return all.size() >= count;
    };
    t_->bed.WaitFor(look, 5000);
    t_->bed.WaitFor([] { return false; }, 100);
    look();
    EXPECT_EQ(all.size(), count);
    std::sort(all.begin(), all.end(),
              [](const auto& x, const auto& y) { return x.start_ns < y.start_ns; });
    all.resize(count);  // what is not there is zero, and fails
    return all;
  }
  static void ExpectTuple(const qanat_record& r, const Bed::PodInfo& from, const Bed::PodInfo& to,
                          bool v6, uint16_t port) {
    EXPECT_EQ(bpf::FromKernel(r.tuple.src).ToString(), v6 ? from.ip6 : from.ip4);
    EXPECT_EQ(bpf::FromKernel(r.tuple.dst).ToString(), v6 ? to.ip6 : to.ip4);
    EXPECT_EQ(r.tuple.dport, port);
    EXPECT_GT(r.tuple.sport, 1024);
  }
  static uint64_t Lost() { return t_->maps.CountersOf(0)->value[QANAT_CNT_RECORDS_LOST]; }

  inline static std::vector<qanat_record> records_;
  inline static bpf::Ring* ring_ = nullptr;
  inline static Process* server_ = nullptr;
};

TEST_F(RecordTest, BothEndsOfADirectConnection) {
  for (const char* to : {"sys.argv[1]", "sys.argv[2]", "'::ffff:'+sys.argv[1]"}) {
    SCOPED_TRACE(to);
    Client(
        "c.sendall(b'100000 wait\\n'+b'y'*5000)\nn=0\nwhile n<100000: n+=len(c.recv(65536))\n"
        "c.close()",
        to);
    const auto records = Take(2);
    const uint64_t sent = 5000 + sizeof("100000 wait");
    const bool v6 = std::string(to) == "sys.argv[2]";
    for (const auto& r : records) {
      ExpectTuple(r, t_->a, t_->b, v6, 9100);
      EXPECT_EQ(r.path, QANAT_PATH_DIRECT);
      EXPECT_EQ(r.policy, 7u);
      EXPECT_EQ(r.error, 0);
      EXPECT_TRUE(r.flags & QANAT_RECORD_ESTABLISHED);
      EXPECT_TRUE(r.flags & QANAT_RECORD_DETAILS);
      EXPECT_GT(r.end_ns, r.start_ns);
      EXPECT_LT(r.end_ns - r.start_ns, 10'000'000'000u);
      EXPECT_GT(r.srtt_us, 0u);
      EXPECT_GT(r.min_rtt_us, 0u);
      EXPECT_LT(r.min_rtt_us, 1'000'000u);
      EXPECT_GT(r.segments_out, 0u);
      EXPECT_GT(r.segments_in, 0u);
      EXPECT_GT(r.mss, 500u);
      EXPECT_EQ(r.retransmits, 0u);
    }
    const auto& [client, server] = std::tie(records[0], records[1]);
    EXPECT_FALSE(client.flags & QANAT_RECORD_SERVER);
    EXPECT_TRUE(server.flags & QANAT_RECORD_SERVER);
    EXPECT_EQ(client.serial, t_->KernelPod(t_->a).serial);
    EXPECT_EQ(client.peer_serial, t_->KernelPod(t_->b).serial);
    EXPECT_EQ(server.serial, t_->KernelPod(t_->b).serial);
    EXPECT_EQ(server.peer_serial, t_->KernelPod(t_->a).serial);
    EXPECT_EQ(client.bytes_sent, sent);
    EXPECT_EQ(client.bytes_received, 100000u);
    EXPECT_EQ(server.bytes_sent, 100000u);
    EXPECT_EQ(server.bytes_received, sent);
    EXPECT_GT(client.connect_us, 0u);
    EXPECT_LT(client.connect_us, 1'000'000u);
    EXPECT_EQ(server.connect_us, 0u);
    EXPECT_TRUE(client.last_state == TCP_FIN_WAIT2 || client.last_state == TCP_CLOSING)
        << int{client.last_state};
    EXPECT_EQ(server.last_state, TCP_LAST_ACK);
  }
}

TEST_F(RecordTest, WhoClosedFirstIsTold) {
  Client("c.sendall(b'10 close\\n')\nwhile c.recv(100): pass\nc.close()");
  auto records = Take(2);
  EXPECT_EQ(records[0].last_state, TCP_LAST_ACK);
  EXPECT_EQ(records[1].last_state, TCP_FIN_WAIT2);
  EXPECT_EQ(records[0].bytes_received, 10u);
  EXPECT_EQ(records[1].bytes_received, 9u);
  EXPECT_EQ(records[0].bytes_sent, 9u);
  EXPECT_EQ(records[1].bytes_sent, 10u);
}

TEST_F(RecordTest, AResetIsTheOthers) {
  Client(
      "c.sendall(b'10 reset\\n')\nc.recv(100)\nc.sendall(b'x')\n"
      "try: c.recv(1)\nexcept OSError: pass");
  auto records = Take(2);
  EXPECT_EQ(records[0].error, ECONNRESET);
  EXPECT_EQ(records[0].last_state, TCP_ESTABLISHED);
  EXPECT_EQ(records[1].error, 0) << "its own";
  EXPECT_EQ(records[1].last_state, TCP_ESTABLISHED);
  EXPECT_EQ(records[0].bytes_received, 10u);
  EXPECT_EQ(records[0].bytes_sent, 10u);
  EXPECT_EQ(records[1].bytes_received, 10u);
}

TEST_F(RecordTest, ARefusedConnectionIsRecordedAtItsClientOnly) {
  t_->SetVerdict(9999);
  for (bool v6 : {false, true}) {
    EXPECT_EQ(t_->From(t_->a, {.to = v6 ? To6(9999) : To4(9999)}), "error: ECONNREFUSED");
    const auto records = Take(1);
    ExpectTuple(records[0], t_->a, t_->b, v6, 9999);
    EXPECT_EQ(records[0].error, ECONNREFUSED);
    EXPECT_EQ(records[0].last_state, TCP_SYN_SENT);
    EXPECT_EQ(records[0].flags & (QANAT_RECORD_ESTABLISHED | QANAT_RECORD_SERVER), 0);
    EXPECT_EQ(records[0].bytes_sent + records[0].bytes_received, 0u);
  }
  // One socket that connects twice has two.
  Client(
      "c.close()\ns=socket.socket()\nfor i in range(2):\n  try: s.connect((sys.argv[1],9999))\n"
      "  except OSError: pass");
  size_t refused = 0;
  for (const auto& r : Take(4)) refused += r.error == ECONNREFUSED;
  EXPECT_EQ(refused, 2u);
}

TEST_F(RecordTest, ATimeoutIsTold) {
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns,
                         "nft add table inet q; nft \"add chain inet q in { type filter hook input "
                         "priority 0; }\"; nft add rule inet q in tcp dport 9100 drop"));
  t_->Python(t_->a,
             "import socket,sys\ns=socket.socket()\ns.setsockopt(6,18,300)\n"
             "try: s.connect((sys.argv[1],9100))\nexcept OSError: pass");
  auto records = Take(1);
  EXPECT_EQ(records[0].error, ETIMEDOUT);
  EXPECT_GT(records[0].end_ns - records[0].start_ns, 200'000'000u);
  EXPECT_EQ(t_->From(t_->a, {.to = To4(9100), .timeout_ms = 200}), "error: timeout");
  records = Take(1);
  EXPECT_EQ(records[0].error, 0) << "given up by its owner";
  EXPECT_EQ(records[0].last_state, TCP_SYN_SENT);
  ASSERT_TRUE(t_->bed.Sh(t_->b.netns, "nft delete table inet q"));
}

TEST_F(RecordTest, OnlyTheApplicationsEndOfACapturedConnection) {
  t_->SetVerdict(8080, QANAT_VERDICT_NO);
  for (bool v6 : {false, true}) {
    ExpectReached({.to = v6 ? To6() : To4()}, "out");
    const auto records = Take(1);
    ExpectTuple(records[0], t_->a, t_->b, v6, 8080);
    EXPECT_EQ(records[0].path, QANAT_PATH_CAPTURED);
    EXPECT_EQ(records[0].serial, t_->KernelPod(t_->a).serial);
    EXPECT_EQ(records[0].peer_serial, 0u);
    EXPECT_EQ(records[0].flags & QANAT_RECORD_SERVER, 0);
  }
}

TEST_F(RecordTest, WhatComesFromTheProxyIsRecordedAtTheServer) {
  const auto proxy = [](const Bed::PodInfo& pod, const Dial& dial) {
    return t_->bed.Run({pod.netns, "ztunnel"}, [&] { return Call(dial); });
  };
  for (bool v6 : {false, true}) {
    const std::string to = v6 ? To6() : To4();
    const std::string from = v6 ? "[fd66::1:50]:0" : "10.66.1.50:0";
    const std::string line =
        proxy(t_->b, {.to = to, .bind = from, .transparent = true, .mark = QANAT_MARK_PROXY});
    ASSERT_EQ(line.rfind("app ", 0), 0u) << line;
    auto records = Take(1);
    EXPECT_EQ(records[0].path, QANAT_PATH_PROXIED);
    EXPECT_TRUE(records[0].flags & QANAT_RECORD_SERVER);
    EXPECT_EQ(records[0].serial, t_->KernelPod(t_->b).serial);
    EXPECT_EQ(records[0].bytes_sent, line.size() + 1);
    EXPECT_EQ(records[0].tuple.dport, 8080);

    const std::string one = proxy(t_->a, {.to = to, .mark = QANAT_MARK_ONE_PASS});
    ASSERT_EQ(one.rfind("app ", 0), 0u) << one;
    records = Take(1);
    ExpectTuple(records[0], t_->a, t_->b, v6, 8080);
    EXPECT_EQ(records[0].path, QANAT_PATH_ONE_PASS);
    EXPECT_TRUE(records[0].flags & QANAT_RECORD_SERVER);
  }
}

TEST_F(RecordTest, WhatStaysInsideAPodOrIsNotOfTheMeshHasNone) {
  ExpectReached({.to = "127.0.0.1:8080"}, "app");
  ExpectReached({.to = "[::1]:8080"}, "app");
  ExpectReached({.to = t_->a.ip4 + ":8080"}, "app");
  EXPECT_EQ(t_->From(t_->n, {.to = t_->n.ip4 + ":8080"}).rfind("app ", 0), 0u);
  EXPECT_EQ(
      t_->From(t_->n, {.to = To4(), .mark = QANAT_MARK_CAPTURE, .timeout_ms = 500}).find("app "),
      std::string::npos);
  Take(0);
}

TEST_F(RecordTest, TheAgentTellsOfWhatLivesAndOfWhatHasEnded) {
  std::string live;
  t_->Python(t_->a,
             "import socket,sys\nc=socket.create_connection((sys.argv[1],9100),3)\n"
             "c.sendall(b'70000 wait\\n')\nn=0\nwhile n<70000: n+=len(c.recv(65536))\n"
             "input('?')\nc.close()",
             [&] {
               t_->bed.agent().Signal(SIGCONT);
               t_->bed.WaitFor([&] {
                 live = t_->bed.Admin("/debug/connections");
                 return live.find("direct") != std::string::npos;
               });
             });
  EXPECT_NE(live.find("\"path\": \"direct\""), std::string::npos) << live;
  EXPECT_NE(live.find("\"originalDst\": \"" + t_->b.ip4 + ":9100\""), std::string::npos) << live;
  EXPECT_NE(live.find("\"bytesUp\": 11,"), std::string::npos) << live;
  EXPECT_NE(live.find("\"bytesDown\": 70000,"), std::string::npos) << live;
  const auto told = [](const std::string& what) {
    return t_->bed.WaitFor([&] { return t_->bed.Log().find(what) != std::string::npos; }, 20000);
  };
  const std::string to = " dst.addr=" + t_->b.ip4 + ":9100 direction=\"";
  EXPECT_TRUE(told(to + "outbound\" bytes_sent=11 bytes_recv=70000 duration="));
  EXPECT_TRUE(told(to + "inbound\" bytes_sent=70000 bytes_recv=11 duration="));
  const std::string metrics = t_->bed.Admin("/metrics");
  for (const char* wanted : {"istio_tcp_connections_opened_total{reporter=\"source\"",
                             "istio_tcp_connections_closed_total{reporter=\"destination\"",
                             "qanat_tcp_connections_total{reporter=\"source\",path=\"direct\"",
                             "qanat_tcp_connect_seconds_count{reporter=\"source\",path=\"direct\"",
                             "qanat_tcp_records_lost_total 0"})
    EXPECT_NE(metrics.find(wanted), std::string::npos) << wanted;
  EXPECT_NE(t_->bed.Admin("/debug/health").find("\"recordsLost\": 0"), std::string::npos);
  t_->bed.agent().Signal(SIGSTOP);
}

TEST_F(RecordTest, WhatFindsTheRingFullIsCounted) {
  const uint64_t before = Lost();
  const std::string many =
      "c.close()\nn=0\nfor i in range(3600):\n"
      "  c=socket.create_connection((sys.argv[1],9100),3)\n  c.sendall(b'1 close\\n')\n"
      "  n+=len(c.recv(10))\n  c.setsockopt(1,13,struct.pack('ii',1,0))\n  c.close()\nprint(n)";
  EXPECT_EQ(Client(many), "3600") << "connections are not held up by it";
  const uint64_t lost = Lost() - before;
  EXPECT_GT(lost, 0u);
  t_->bed.WaitFor([] { return false; }, 300);
  EXPECT_EQ(Take().size() + (Lost() - before), 2u * 3601);
  Client("c.close()");
  EXPECT_EQ(Take(2).size(), 2u) << "and it goes on";
  EXPECT_EQ(Lost() - before, lost);
}

}  // namespace
}  // namespace qanat::test
