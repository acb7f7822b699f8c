// SPDX-License-Identifier: Apache-2.0
// The direct path with the agent's own verdicts: what a change of the mesh does to connections that
// live and to those that come, by the time that the agent has acknowledged it; and what remains
// while the agent or its control plane stands still, or is gone.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/bpf/direct_bed.h"
#include "tests/bpf/mesh_server.h"

namespace qanat::test {
namespace {

using istio::security::Authorization;

// In b: greets, and writes down what it gets and how each connection ends. 9102 takes from eth0
// only.
constexpr char kServer[] = R"(
import socket,sys,threading
log=open(sys.argv[1],'a',buffering=1)
def serve(c,port):
    try:
        c.send(b'direct\n')
        while True:
            stamp=c.recv(8,socket.MSG_WAITALL)
            if len(stamp)<8: break
            log.write(f'{port} {int.from_bytes(stamp,"big")}\n')
            c.send(stamp)
        log.write(f'{port} end 0\n')
    except OSError as e: log.write(f'{port} end {e.errno}\n')
def listen(port):
    s=socket.socket(socket.AF_INET6)
    s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)
    if port==9102: s.setsockopt(socket.SOL_SOCKET,25,b'eth0\0')
    s.bind(('::',port)); s.listen(128)
    while True: threading.Thread(target=serve,args=(s.accept()[0],port),daemon=True).start()
for port in (9100,9101,9102): threading.Thread(target=listen,args=(port,)).start()
)";

// In a: four connections to each of the ports, held at input() while the test changes something;
// then says of each whether it still works.
constexpr char kClient[] = R"(
import errno,socket,sys,time
def ask(s):
    stamp=time.monotonic_ns().to_bytes(8,'big')
    try:
        s.send(stamp)
        return 'ok' if s.recv(8)==stamp else 'closed'
    except OSError as e: return errno.errorcode.get(e.errno,str(e))
held=[]
for port in PORTS:
    for to in sys.argv[1:3]*2:
        s=socket.create_connection((to,port),10); s.settimeout(10)
        said=s.makefile('rb').readline()
        assert said==b'direct\n',said
        assert ask(s)=='ok'
        PREPARE
        held.append((port,s))
input('?')
print(*sorted({f'{port} {ask(s)}' for port,s in held}),sep=',')
)";

class DirectRevokeTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    t_ = new DirectBed("qREVOKE", [](DirectBed& bed) {
      mesh_ = new MeshServer(bed.bed);
      for (const auto& pod : {bed.a, bed.b}) mesh_->Put(WorkloadOf(pod));
    });
    ASSERT_TRUE(mesh_->WaitAcked());
    server_ = t_->bed.Spawn({t_->b.netns, "pods/b"}, [] {
      ::execlp("python3", "python3", "-uc", kServer, ServerLog().c_str(), nullptr);
    });
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(t_->bed.SanitizerReport(), "");
    if (::testing::Test::HasFailure()) std::fprintf(stderr, "%s\n", t_->bed.Log().c_str());
    server_ = Process();
    delete mesh_;
    delete t_;
  }
  void SetUp() override {
    for (int port : {9100, 9101, 9102}) ASSERT_TRUE(WaitDirect(port)) << Page();
    std::ofstream(ServerLog(), std::ios::trunc);
  }

  static std::string ServerLog() { return t_->bed.dir() + "/server.log"; }
  static size_t Ended(int port, int error) {
    std::ifstream log(ServerLog());
    size_t count = 0;
    const std::string wanted = std::to_string(port) + " end " + std::to_string(error);
    for (std::string line; std::getline(log, line);) count += line == wanted ? 1 : 0;
    return count;
  }
  static nlohmann::json Page() {
    return nlohmann::json::parse(t_->bed.Admin("/direct"), nullptr, false);
  }
  static Authorization DenyPort(uint32_t port) {
    Authorization policy;
    policy.set_name("deny");
    policy.set_namespace_("shop");
    policy.set_scope(istio::security::NAMESPACE);
    policy.set_action(istio::security::DENY);
    policy.add_rules()->add_clauses()->add_matches()->add_destination_ports(port);
    return policy;
  }
  static void Allow() {
    mesh_->RemovePolicy("shop/deny");
    ASSERT_TRUE(mesh_->WaitAcked());
  }
  // "direct": by the application in b; "out": through the proxy of a.
  static std::string Way(int port, bool v6 = false) {
    const std::string host = v6 ? "[" + t_->b.ip6 + "]" : t_->b.ip4;
    const std::string line = t_->From(t_->a, {.to = host + ":" + std::to_string(port)});
    return line.substr(0, line.find(' '));
  }
  static bool WaitDirect(int port) {
    return t_->bed.WaitFor([&] { return Way(port) == "direct" && Way(port, true) == "direct"; },
                           20000);
  }
  static size_t Flows(uint16_t port) {
    const auto flows = t_->maps.flows.Keys();
    return static_cast<size_t>(
        std::count_if(flows.begin(), flows.end(), [&](const auto& f) { return f.dport == port; }));
  }
  static std::string Hold(const std::string& ports, const std::function<void()>& between,
                          const std::string& prepare = "pass") {
    std::string program = kClient;
    program.replace(program.find("PORTS"), 5, "(" + ports + ",)");
    program.replace(program.find("PREPARE"), 7, prepare);
    return t_->Python(t_->a, program, between);
  }
  static void Sleep(int milliseconds) {
    t_->bed.WaitFor([] { return false; }, milliseconds);
  }

  inline static DirectBed* t_ = nullptr;
  inline static MeshServer* mesh_ = nullptr;
  inline static Process server_;
};

TEST_F(DirectRevokeTest, WhatAPolicyRefusesHasEndedByTheAcknowledgement) {
  const uint32_t before = Page()["generation"];
  const std::string said = Hold("9100,9101", [&] {
    EXPECT_EQ(Flows(9100), 4u);
    mesh_->Put(DenyPort(9100));
    ASSERT_TRUE(mesh_->WaitAcked());
    EXPECT_EQ(Flows(9100), 0u);
    EXPECT_EQ(Flows(9101), 4u);
    for (const qanat_tuple& tuple : t_->maps.grants.Keys()) EXPECT_NE(tuple.dport, 9100);
    EXPECT_EQ(Way(9100), "out");
    EXPECT_EQ(Way(9100, true), "out");
    EXPECT_EQ(Way(9101), "direct") << "another port of the same pods";
  });
  EXPECT_EQ(said, "9100 ECONNABORTED,9101 ok");
  EXPECT_TRUE(t_->bed.WaitFor(
      [&] { return Ended(9100, ECONNRESET) + Ended(9100, ECONNABORTED) == 4; }, 5000));
  EXPECT_GT(Page()["generation"], before);
  EXPECT_GE(Page()["ended"], 4u);
  Allow();
  EXPECT_TRUE(WaitDirect(9100))
      << "the application's listener lives, and what is allowed is direct";
}

TEST_F(DirectRevokeTest, ASocketBoundToADeviceSinceIsFoundToo) {
  const std::string said = Hold(
      "9102",
      [&] {
        mesh_->Put(DenyPort(9102));
        ASSERT_TRUE(mesh_->WaitAcked());
        EXPECT_EQ(Flows(9102), 0u);
      },
      "s.setsockopt(socket.SOL_SOCKET,25,b'eth0\\0')");
  EXPECT_EQ(said, "9102 ECONNABORTED");
  EXPECT_TRUE(t_->bed.WaitFor(
      [&] { return Ended(9102, ECONNRESET) + Ended(9102, ECONNABORTED) == 4; }, 5000));
  Allow();
}

// The application's byte carries when it was sent.
TEST_F(DirectRevokeTest, FlipsUnderLoadLetNoRefusedByteThrough) {
  constexpr char kLoad[] = R"(
import socket,sys,threading,time
stop=False
def run(to):
    while not stop:
        try:
            with socket.create_connection((to,9100),5) as s:
                s.settimeout(5)
                if s.recv(7)[:3]!=b'dir': continue
                for _ in range(20):
                    if stop: break
                    s.send(time.monotonic_ns().to_bytes(8,'big')); s.recv(8); time.sleep(0.001)
        except OSError: pass
threads=[threading.Thread(target=run,args=(to,)) for to in sys.argv[1:3]*2]
for t in threads: t.start()
input('?')
stop=True
for t in threads: t.join()
)";
  std::vector<std::pair<int64_t, int64_t>> refused;
  const auto now = [] { return std::chrono::steady_clock::now().time_since_epoch().count(); };
  t_->Python(t_->a, kLoad, [&] {
    for (int i = 0; i < 12; ++i) {
      Sleep(150);
      mesh_->Put(DenyPort(9100));
      ASSERT_TRUE(mesh_->WaitAcked());
      const int64_t begin = now();
      Sleep(60);
      refused.emplace_back(begin, now());
      Allow();
    }
  });
  std::ifstream log(ServerLog());
  size_t bytes = 0, late = 0;
  for (std::string port, stamp; log >> port >> stamp;) {
    if (stamp == "end") {
      log >> stamp;
      continue;
    }
    ++bytes;
    const int64_t at = std::stoll(stamp);
    for (const auto& [begin, end] : refused) late += at > begin && at < end ? 1 : 0;
  }
  EXPECT_GT(bytes, 200u);
  EXPECT_EQ(late, 0u) << "of " << bytes;
  EXPECT_GT(Page()["ended"], 10u);
}

TEST_F(DirectRevokeTest, AnAgentThatStandsStillLosesItsLease) {
  const std::string said = Hold("9100", [&] {
    t_->bed.agent().Signal(SIGSTOP);
    mesh_->Put(DenyPort(9100));
    EXPECT_EQ(Way(9100), "direct") << "the lease still runs";
    Sleep(5100);
    const uint64_t before = t_->Counter(t_->a, QANAT_CNT_DIRECT);
    EXPECT_EQ(Way(9100), "out");
    EXPECT_EQ(Way(9100, true), "out");
    EXPECT_EQ(Way(9101), "out");
    EXPECT_EQ(t_->Counter(t_->a, QANAT_CNT_DIRECT), before);
    EXPECT_EQ(Flows(9100), 4u) << "what lives waits for the agent";
    t_->bed.agent().Signal(SIGCONT);
    ASSERT_TRUE(mesh_->WaitAcked());
    EXPECT_EQ(Flows(9100), 0u);
    EXPECT_TRUE(WaitDirect(9101));
    EXPECT_EQ(Way(9100), "out");
  });
  EXPECT_EQ(said, "9100 ECONNABORTED");
  Allow();
}

TEST_F(DirectRevokeTest, WithoutAControlPlaneThatAnswersNothingNewIsDirect) {
  const std::string said = Hold("9100", [&] {
    mesh_->process().Signal(SIGSTOP);
    EXPECT_TRUE(t_->bed.WaitFor([&] { return Page()["on"] == false; }, 12000));
    EXPECT_NE(Page()["why"].get<std::string>().find("control plane"), std::string::npos);
    EXPECT_EQ(Way(9100), "out");
    mesh_->process().Signal(SIGCONT);
    EXPECT_TRUE(WaitDirect(9100));
  });
  EXPECT_EQ(said, "9100 ok");
}

TEST_F(DirectRevokeTest, ANewAgentJudgesWhatLives) {
  std::string said = Hold("9100,9101", [&] {
    t_->bed.StopAgent(SIGKILL);
    EXPECT_EQ(Way(9100), "direct") << "the lease still runs";
    t_->bed.StartAgent();
    EXPECT_TRUE(WaitDirect(9100));
    EXPECT_EQ(Flows(9100), 4u);
  });
  EXPECT_EQ(said, "9100 ok,9101 ok");
  ASSERT_TRUE(WaitDirect(9101));
  said = Hold("9100,9101", [&] {
    t_->bed.StopAgent(SIGKILL);
    mesh_->Put(DenyPort(9100));
    t_->bed.StartAgent();
    ASSERT_TRUE(mesh_->WaitAcked());
    EXPECT_EQ(Flows(9100), 0u);
    EXPECT_EQ(Flows(9101), 4u);
  });
  EXPECT_EQ(said, "9100 ECONNABORTED,9101 ok");
  Allow();
}

TEST_F(DirectRevokeTest, APodThatAsksForTheProxyOrLeavesIsNotDirect) {
  const std::string said = Hold("9100", [&] {
    t_->bed.ShowChanged(t_->b, R"({"labels":{"qanat.io/same-node":"proxy"}})");
    EXPECT_TRUE(t_->bed.WaitFor([&] { return Way(9100) == "out"; }, 10000));
    t_->bed.ShowPod(t_->b);
    EXPECT_TRUE(WaitDirect(9100));
    t_->bed.ShowPod(t_->b, false);
    EXPECT_TRUE(t_->bed.WaitFor([&] { return Way(9100) == "out"; }, 10000));
    EXPECT_EQ(Page()["pods"].size(), 1u);
    t_->bed.ShowPod(t_->b);
    EXPECT_TRUE(WaitDirect(9100));
  });
  EXPECT_EQ(said, "9100 ok") << "what lives goes on";
}

TEST_F(DirectRevokeTest, APodThatIsCutOffIsNotDirectAndIsJudgedWhenItIsBack) {
  const std::string said = Hold("9100", [&] {
    t_->bed.Sh(t_->b.netns,
               "nft add table inet q; nft \"add chain inet q in { type filter hook input "
               "priority 0; }\"; nft add rule inet q in tcp dport 15009 drop");
    EXPECT_TRUE(t_->bed.WaitFor([&] { return Page()["pods"].size() == 1; }, 40000)) << Page();
    EXPECT_NE(Way(9101), "direct");
    mesh_->Put(DenyPort(9100));
    ASSERT_TRUE(mesh_->WaitAcked());
    EXPECT_EQ(Flows(9100), 4u) << "nothing reaches it";
    t_->bed.Sh(t_->b.netns, "nft delete table inet q");
    EXPECT_TRUE(t_->bed.WaitFor([&] { return Page()["pods"].size() == 2; }, 40000));
    EXPECT_TRUE(t_->bed.WaitFor([&] { return Flows(9100) == 0; }, 2000));
  });
  EXPECT_EQ(said, "9100 ECONNABORTED");
  Allow();
  EXPECT_TRUE(WaitDirect(9100));
}

}  // namespace
}  // namespace qanat::test
