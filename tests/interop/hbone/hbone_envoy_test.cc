// SPDX-License-Identifier: Apache-2.0
// HBONE between us and a stock Envoy, in both directions, on the loopback of a network namespace of
// its own. What the applications at both ends see must be what plain TCP would have shown them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <optional>
#include <random>

#include "common/net/socket.h"
#include "tests/interop/hbone/envoy_peer.h"
#include "tests/interop/hbone/own_end.h"

namespace qanat::interop {
namespace {

using net::IoResult;
using ::testing::Contains;
using ::testing::HasSubstr;
using tls::testing::TestCa;
using namespace std::chrono_literals;

constexpr char kOurs[] = "spiffe://cluster.local/ns/shop/sa/ours";
constexpr char kEnvoys[] = "spiffe://cluster.local/ns/shop/sa/envoy";
constexpr uint16_t kHbone = 15008, kEnvoyHbone = 15009, kEnvoyPlain = 10001, kOurPlain = 10002,
                   kApp = 9000;

net::SocketAddress Local(uint16_t port) { return {net::IpAddress::V4(0x7f000001), port}; }

std::string Pattern(size_t size, unsigned seed) {
  std::mt19937_64 random(seed);
  std::string out(size + 8, '\0');
  for (size_t i = 0; i < size; i += 8) {
    uint64_t word = random();
    std::memcpy(out.data() + i, &word, 8);
  }
  out.resize(size);
  return out;
}

// An application's connection.
class App final : public net::TransportEvents {
 public:
  explicit App(net::TransportPtr transport, bool echoes = false)
      : echo(echoes), transport_(std::move(transport)) {
    transport_->SetEvents(this);
    transport_->ReadEnable(true);
  }
  void Send(std::string_view text) {
    out_.append(text);
    Pump();
  }
  void Finish() {
    finish_ = true;
    Pump();
  }
  void Abort() { transport_->Abort(); }
  void OnReadable() override {
    std::vector<uint8_t> buffer(65536);
    IoResult got = transport_->Read(buffer);
    if (got.ok()) {
      std::string_view text(reinterpret_cast<const char*>(buffer.data()), got.bytes);
      received += text;
      if (echo) Send(text);
    } else if (got.kind != IoResult::Kind::kWouldBlock) {
      end = got.kind;
      transport_->ReadEnable(false);
      if (echo && got.kind == IoResult::Kind::kEof) Finish();
    }
  }
  void OnWritable() override { Pump(); }

  std::string received;
  std::optional<IoResult::Kind> end;
  bool echo;

 private:
  void Pump() {
    while (sent_ < out_.size()) {
      iovec part{out_.data() + sent_, out_.size() - sent_};
      IoResult wrote = transport_->Write({&part, 1});
      if (!wrote.ok()) {
        transport_->WriteEnable(wrote.kind == IoResult::Kind::kWouldBlock);
        return;
      }
      sent_ += wrote.bytes;
    }
    out_.clear();
    sent_ = 0;
    transport_->WriteEnable(false);
    if (finish_) transport_->ShutdownWrite();
  }
  net::TransportPtr transport_;
  std::string out_;
  size_t sent_ = 0;
  bool finish_ = false;
};

class HboneEnvoyTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0) << "needs root: " << std::strerror(errno);
    Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    ASSERT_EQ(::ioctl(fd.get(), SIOCSIFFLAGS, &request), 0);
    envoy_ = FindEnvoy();
    ASSERT_FALSE(envoy_.empty()) << "no Envoy: set QANAT_ENVOY or QANAT_ENVOY_SCRIPT";
  }

  void SetUp() override {
    char name[] = "/tmp/qanat-hbone-XXXXXX";
    dir_ = ::mkdtemp(name);
    ca_ = TestCa::Make();
    ours_ = std::make_unique<OwnEnd>(loop_, ca_.Context(std::string(kOurs)));
    net::ListenOptions listen;
    listen.address = Local(kApp);
    server_ = std::make_unique<net::Acceptor>(
        loop_, net::Listen(listen).value(), [this](Fd fd, net::SocketAddress) {
          servers_.push_back(
              std::make_unique<App>(net::MakeSocketTransport(loop_, std::move(fd)), echo_));
          if (!greeting_.empty()) servers_.back()->Send(greeting_);
        });
  }
  void TearDown() override {
    if (HasFailure() && peer_) {
      std::cerr << "envoy said:\n" << peer_->Log() << "we saw:\n";
      for (const auto& line : ours_->log) std::cerr << "  " << line << "\n";
    }
    peer_.reset();
    clients_.clear();
    servers_.clear();
    ours_.reset();
    server_.reset();
    loop_.RunOnce(0ms);
    std::filesystem::remove_all(dir_);
  }

  // Envoy takes plain connections and tunnels them to us.
  uint16_t EnvoyAsClient(std::string expect = kOurs) {
    const bool lets_in = expect == kOurs;
    EnvoyOptions options;
    options.client_port = kEnvoyPlain;
    options.peer_port = kHbone;
    options.expect = std::move(expect);
    options.authority = Local(kApp).ToString();
    ours_->Serve(Local(kHbone));
    peer_ = std::make_unique<Envoy>(envoy_, dir_, ca_, ca_.Issue(std::string(kEnvoys)), options);
    EXPECT_TRUE(peer_->running()) << peer_->Log();
    // The connection that asked whether it is there, unless nothing gets through.
    RunUntil([&] { return servers_.size() == 1 && servers_[0]->end; }, lets_in ? 60s : 3s);
    servers_.clear();
    return kEnvoyPlain;
  }
  // We take plain connections and tunnel them to Envoy.
  uint16_t EnvoyAsServer(std::string expect = kEnvoys, std::string expect_client = kOurs) {
    EnvoyOptions options;
    options.server_port = kEnvoyHbone;
    options.upstream_port = kApp;
    options.expect_client = std::move(expect_client);
    peer_ = std::make_unique<Envoy>(envoy_, dir_, ca_, ca_.Issue(std::string(kEnvoys)), options);
    EXPECT_TRUE(peer_->running()) << peer_->Log();
    ours_->Tunnel(Local(kOurPlain), Local(kEnvoyHbone), std::move(expect), Local(kApp).ToString());
    return kOurPlain;
  }

  App& Dial(uint16_t port) {
    net::ConnectOptions options;
    options.to = Local(port);
    clients_.push_back(
        std::make_unique<App>(net::MakeSocketTransport(loop_, net::StartConnect(options).value())));
    return *clients_.back();
  }
  template <typename Until>
  bool RunUntil(Until until, std::chrono::milliseconds limit = 60s) {
    auto end = std::chrono::steady_clock::now() + limit;
    while (!until() && std::chrono::steady_clock::now() < end) loop_.RunOnce(10ms);
    return until();
  }

  // ---- what must hold in both directions ----
  void Echo(uint16_t port) {
    App& client = Dial(port);
    client.Send("hello");
    ASSERT_TRUE(RunUntil([&] { return client.received == "hello"; }));
    client.Finish();
    ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
    EXPECT_EQ(*client.end, IoResult::Kind::kEof);
  }
  void ServerFirst(uint16_t port) {
    greeting_ = "220 ready\r\n";
    App& client = Dial(port);
    EXPECT_TRUE(RunUntil([&] { return client.received == greeting_; }));
  }
  void Large(uint16_t port) {
    App& client = Dial(port);
    std::string data = Pattern(64 << 20, 1);
    client.Send(data);
    client.Finish();
    ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }, 150s));
    EXPECT_EQ(*client.end, IoResult::Kind::kEof);
    EXPECT_TRUE(client.received == data) << client.received.size();
  }
  void HalfClose(uint16_t port) {
    echo_ = false;
    App& client = Dial(port);
    client.Send("request");
    client.Finish();
    ASSERT_TRUE(RunUntil([&] { return servers_.size() == 1 && servers_[0]->end; }));
    EXPECT_EQ(servers_[0]->received, "request");
    EXPECT_FALSE(client.end);
    servers_[0]->Send("late answer");
    ASSERT_TRUE(RunUntil([&] { return client.received == "late answer"; }));
    servers_[0]->Finish();
    ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
    EXPECT_EQ(*client.end, IoResult::Kind::kEof);
    // And the server ending first.
    App& other = Dial(port);
    ASSERT_TRUE(RunUntil([&] { return servers_.size() == 2; }));
    servers_[1]->Send("bye");
    servers_[1]->Finish();
    ASSERT_TRUE(RunUntil([&] { return other.end.has_value(); }));
    EXPECT_EQ(other.received, "bye");
  }
  void Many(uint16_t port) {
    constexpr size_t kCount = 150;  // more than one tunnel takes
    for (size_t i = 0; i < kCount; ++i) {
      App& client = Dial(port);
      client.Send(Pattern(20000 + i, static_cast<unsigned>(i)));
      client.Finish();
    }
    ASSERT_TRUE(RunUntil(
        [&] {
          return std::all_of(clients_.begin(), clients_.end(), [](auto& c) { return c->end; });
        },
        150s));
    for (size_t i = 0; i < kCount; ++i) {
      EXPECT_EQ(*clients_[i]->end, IoResult::Kind::kEof);
      EXPECT_TRUE(clients_[i]->received == Pattern(20000 + i, static_cast<unsigned>(i))) << i;
    }
  }

  static std::string envoy_;
  event::EventLoop loop_;
  std::string dir_;
  TestCa ca_;
  std::unique_ptr<OwnEnd> ours_;
  std::unique_ptr<Envoy> peer_;
  std::unique_ptr<net::Acceptor> server_;
  std::vector<std::unique_ptr<App>> clients_, servers_;
  std::string greeting_;
  bool echo_ = true;
};
std::string HboneEnvoyTest::envoy_;

TEST_F(HboneEnvoyTest, EnvoyClientEcho) {
  uint16_t port = EnvoyAsClient();
  Echo(port);
  EXPECT_THAT(ours_->log, Contains(HasSubstr(std::string("tunnel from ") + kEnvoys + " TLSv1.3")));
  EXPECT_THAT(ours_->log,
              Contains(HasSubstr("connect 127.0.0.1:9000 baggage k8s.namespace.name=envoy")));
}
TEST_F(HboneEnvoyTest, EnvoyServerEcho) { Echo(EnvoyAsServer()); }
TEST_F(HboneEnvoyTest, EnvoyClientServerFirst) { ServerFirst(EnvoyAsClient()); }
TEST_F(HboneEnvoyTest, EnvoyServerServerFirst) { ServerFirst(EnvoyAsServer()); }
TEST_F(HboneEnvoyTest, EnvoyClientLarge) { Large(EnvoyAsClient()); }
TEST_F(HboneEnvoyTest, EnvoyServerLarge) { Large(EnvoyAsServer()); }
TEST_F(HboneEnvoyTest, EnvoyClientHalfClose) { HalfClose(EnvoyAsClient()); }
TEST_F(HboneEnvoyTest, EnvoyServerHalfClose) { HalfClose(EnvoyAsServer()); }
TEST_F(HboneEnvoyTest, EnvoyClientMany) { Many(EnvoyAsClient()); }
TEST_F(HboneEnvoyTest, EnvoyServerMany) { Many(EnvoyAsServer()); }

// ---- refusals ----

TEST_F(HboneEnvoyTest, EnvoyRefusesOurIdentity) {
  // As client it expected somebody else behind our address.
  uint16_t port = EnvoyAsClient("spiffe://cluster.local/ns/shop/sa/somebody-else");
  App& client = Dial(port);
  client.Send("never arrives");
  ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
  EXPECT_TRUE(servers_.empty());
  EXPECT_THAT(ours_->log, Contains(HasSubstr("refused our certificate")));
}

TEST_F(HboneEnvoyTest, EnvoyServerRefusesOurIdentity) {
  uint16_t port = EnvoyAsServer(kEnvoys, "spiffe://cluster.local/ns/shop/sa/somebody-else");
  App& client = Dial(port);
  client.Send("never arrives");
  ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
  EXPECT_TRUE(servers_.empty());
  EXPECT_THAT(ours_->log, Contains(HasSubstr("refused our certificate")));
}

TEST_F(HboneEnvoyTest, WeRefuseEnvoysIdentity) {
  uint16_t port = EnvoyAsServer("spiffe://cluster.local/ns/shop/sa/somebody-else");
  App& client = Dial(port);
  client.Send("never arrives");
  ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
  EXPECT_TRUE(servers_.empty());
  EXPECT_THAT(ours_->log, Contains(HasSubstr(std::string("certificate is for ") + kEnvoys)));
}

TEST_F(HboneEnvoyTest, RefusedByOurPolicy) {
  uint16_t port = EnvoyAsClient();
  ours_->policy = [](const hbone::InboundConnect&) { return 401; };
  App& client = Dial(port);
  client.Send("no");
  ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
  EXPECT_EQ(client.received, "");
  EXPECT_TRUE(servers_.empty());
  // The tunnel lives; a permitted connection passes.
  ours_->policy = nullptr;
  Echo(port);
}

TEST_F(HboneEnvoyTest, UpstreamThatIsNotThere) {
  // Ours: 503, which Envoy turns into a closed connection.
  uint16_t port = EnvoyAsClient();
  server_.reset();
  App& client = Dial(port);
  ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
  // Envoy's: 503, which we log.
  App& second = Dial(EnvoyAsServer());
  ASSERT_TRUE(RunUntil([&] { return second.end.has_value(); }));
  EXPECT_THAT(ours_->log, Contains(HasSubstr("http status: 503")));
}

// ---- ends ----

TEST_F(HboneEnvoyTest, AbortOfTheServerReachesTheClient) {
  echo_ = false;
  for (bool envoy_client : {true, false}) {
    servers_.clear();
    peer_.reset();
    uint16_t port = envoy_client ? EnvoyAsClient() : EnvoyAsServer();
    App& client = Dial(port);
    client.Send("x");
    ASSERT_TRUE(RunUntil([&] { return servers_.size() == 1 && servers_[0]->received == "x"; }));
    servers_[0]->Abort();
    ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
    // Our RST_STREAM reaches Envoy, but its tcp_proxy closes what is in front of it with FIN.
    if (!envoy_client) {
      EXPECT_EQ(*client.end, IoResult::Kind::kReset);
    }
  }
}

TEST_F(HboneEnvoyTest, AbortOfTheClientReachesTheServer) {
  echo_ = false;
  uint16_t port = EnvoyAsClient();
  App& client = Dial(port);
  client.Send("x");
  ASSERT_TRUE(RunUntil([&] { return servers_.size() == 1 && servers_[0]->received == "x"; }));
  client.Abort();
  ASSERT_TRUE(RunUntil([&] { return servers_[0]->end.has_value(); }));
}

TEST_F(HboneEnvoyTest, OurDrainLosesNothing) {
  uint16_t port = EnvoyAsClient();
  App& old = Dial(port);
  old.Send("before");
  ASSERT_TRUE(RunUntil([&] { return old.received == "before"; }));
  size_t tunnels = ours_->tunnels_taken();
  ours_->DrainServers();
  for (int i = 0; i < 20; ++i) loop_.RunOnce(5ms);
  Echo(port);  // on a new tunnel
  EXPECT_EQ(ours_->tunnels_taken(), tunnels + 1);
  old.Send(" after");
  ASSERT_TRUE(RunUntil([&] { return old.received == "before after"; }));
  old.Finish();
  ASSERT_TRUE(RunUntil([&] { return old.end.has_value(); }));
  EXPECT_EQ(*old.end, IoResult::Kind::kEof);
}

TEST_F(HboneEnvoyTest, EnvoyThatDiesIsNoticed) {
  echo_ = false;
  uint16_t port = EnvoyAsServer();
  App& client = Dial(port);
  client.Send("x");
  ASSERT_TRUE(RunUntil([&] { return servers_.size() == 1 && servers_[0]->received == "x"; }));
  peer_.reset();
  ASSERT_TRUE(RunUntil([&] { return client.end.has_value(); }));
  EXPECT_EQ(*client.end, IoResult::Kind::kReset);
}

}  // namespace
}  // namespace qanat::interop
