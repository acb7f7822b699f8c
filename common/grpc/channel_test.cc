// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/grpc/test_server.h"
#include "common/tls/test_certs.h"

namespace qanat::grpc {
namespace {

using std::chrono::milliseconds;
using test::TestServer;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Client final : MessageCallEvents {
  std::vector<std::string> messages;
  CallStatus status;
  bool closed = false;
  int writable = 0;
  std::function<void()> on_message, on_closed;
  void OnMessage(std::string m) override {
    messages.push_back(std::move(m));
    if (on_message) on_message();
  }
  void OnWritable() override { ++writable; }
  void OnClosed(const CallStatus& s) override {
    status = s;
    closed = true;
    if (on_closed) on_closed();
  }
};

class ChannelTest : public ::testing::Test {
 protected:
  void RunUntil(const std::function<bool()>& done, milliseconds limit = milliseconds(60000)) {
    const auto end = event::Clock::now() + limit;
    while (!done() && event::Clock::now() < end) loop_.RunOnce(milliseconds(10));
    EXPECT_TRUE(done()) << "timed out";
  }
  ChannelOptions To(const TestServer& server) {
    ChannelOptions options;
    options.endpoint = server.endpoint();
    return options;
  }
  std::pair<CallStatus, std::string> Unary(Channel& channel, CallOptions options,
                                           const std::string& request) {
    std::pair<CallStatus, std::string> out;
    bool done = false;
    CallPtr call = channel.Unary(std::move(options), request, [&](CallStatus s, std::string r) {
      out = {std::move(s), std::move(r)};
      done = true;
    });
    EXPECT_FALSE(done);
    RunUntil([&] { return done; });
    return out;
  }
  event::EventLoop loop_;
};

TEST_F(ChannelTest, UnaryWithMetadata) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) {
    c.on_message = [&c](std::string m) {
      c.Send("re: " + m);
      c.Finish(0);
    };
  };
  ChannelOptions options = To(server);
  options.metadata = TokenMetadata("token.in.place", "Kubernetes");
  Channel channel(loop_, options);
  for (int i = 0; i < 3; ++i) {
    auto [status, response] =
        Unary(channel, {"/a.B/C", {{"x-one", "1"}}, milliseconds(5000)}, "hi");
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_EQ(response, "re: hi");
  }
  EXPECT_EQ(server.accepted, 1) << "one connection for all";
  const http::RequestHead& head = server.calls[0]->head;
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.path, "/a.B/C");
  EXPECT_EQ(head.scheme, "http");
  EXPECT_EQ(head.headers.Get("content-type"), "application/grpc");
  EXPECT_EQ(head.headers.Get("te"), "trailers");
  EXPECT_EQ(head.headers.Get("grpc-timeout"), "5000m");
  EXPECT_EQ(head.headers.Get("authorization"), "Bearer token.in.place");
  EXPECT_EQ(head.headers.Get("clusterid"), "Kubernetes");
  EXPECT_EQ(head.headers.Get("x-one"), "1");
  EXPECT_THAT(std::string(*head.headers.Get("user-agent")), HasSubstr("qanat/"));
}

TEST_F(ChannelTest, StatusesAndMessagesAreDecoded) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) { c.Finish(16, "no%20way: %C3%A4"); };
  Channel channel(loop_, To(server));
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_EQ(status.code, StatusCode::kUnauthenticated);
  EXPECT_EQ(status.message, "no way: \xc3\xa4");
  EXPECT_FALSE(status.connection_error);
}

TEST_F(ChannelTest, BidirectionalStream) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) {
    c.on_message = [&c](std::string m) { c.Send(m + "!"); };
    c.on_half_close = [&c] { c.Finish(0); };
  };
  Channel channel(loop_, To(server));
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  call->Send("one");  // before the connection
  RunUntil([&] { return client.messages.size() == 1; });
  call->Send("");
  call->Send("three");
  RunUntil([&] { return client.messages.size() == 3; });
  EXPECT_THAT(client.messages, ElementsAre("one!", "!", "three!"));
  call->HalfClose();
  RunUntil([&] { return client.closed; });
  EXPECT_TRUE(client.status.ok()) << client.status.ToString();
}

TEST_F(ChannelTest, MessagesAreSplitAnywhere) {
  TestServer server(loop_);
  std::string bytes;
  for (int i = 0; i < 50; ++i)
    bytes += TestServer::Call::Frame(std::string(static_cast<size_t>(i), 'a'));
  server.on_call = [&](TestServer::Call& c) {
    for (char b : bytes) c.SendRaw({&b, 1});
    c.Finish(0);
  };
  Channel channel(loop_, To(server));
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  RunUntil([&] { return client.closed; });
  ASSERT_EQ(client.messages.size(), 50u);
  for (size_t i = 0; i < 50; ++i) EXPECT_EQ(client.messages[i].size(), i);
}

TEST_F(ChannelTest, BigMessageBothWays) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) {
    c.on_message = [&c](std::string m) {
      c.Send(m);
      c.Finish(0);
    };
  };
  Channel channel(loop_, To(server));
  const std::string big(20 << 20, 'x');
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, big);
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_TRUE(response == big);
}

TEST_F(ChannelTest, MessageOverTheLimit) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) { c.SendRaw(std::string("\0\x7f\xff\xff\xff", 5)); };
  ChannelOptions options = To(server);
  options.max_message_bytes = 1000;
  Channel channel(loop_, options);
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_EQ(status.code, StatusCode::kResourceExhausted);
}

TEST_F(ChannelTest, Deadline) {
  TestServer server(loop_);
  Channel channel(loop_, To(server));
  // Over a connection that stands, and long enough to be heard of by the server on a busy machine.
  Client client;
  CallPtr first = channel.Start({"/a.B/C", {}, {}}, &client);
  RunUntil([&] { return server.calls.size() == 1; });
  auto [status, response] = Unary(channel, {"/a.B/C", {}, milliseconds(1000)}, "");
  EXPECT_EQ(status.code, StatusCode::kDeadlineExceeded);
  RunUntil([&] { return server.calls.size() == 2 && server.calls[1]->stream == nullptr; });
  EXPECT_NE(server.calls[0]->stream, nullptr);
}

TEST_F(ChannelTest, CancelIsSeenByTheServer) {
  TestServer server(loop_);
  Channel channel(loop_, To(server));
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  RunUntil([&] { return server.calls.size() == 1; });
  call.reset();
  RunUntil([&] { return server.calls[0]->stream == nullptr; });
  EXPECT_FALSE(client.closed) << "no event after the user has let go";
}

TEST_F(ChannelTest, CallMayBeDestroyedInsideItsEvents) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) {
    c.Send("a");
    c.Send("b");
    c.Finish(0);
  };
  Channel channel(loop_, To(server));
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  client.on_message = [&] { call.reset(); };
  RunUntil([&] { return client.messages.size() == 1; });
  Client second;
  call = channel.Start({"/a.B/C", {}, {}}, &second);
  second.on_closed = [&] { call.reset(); };
  RunUntil([&] { return second.closed; });
  EXPECT_EQ(client.messages.size(), 1u);
}

TEST_F(ChannelTest, UnavailableThenReconnect) {
  auto server = std::make_unique<TestServer>(loop_);
  const net::SocketAddress address = server->address();
  Channel channel(loop_, To(*server));
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  RunUntil([&] { return server->calls.size() == 1; });
  EXPECT_TRUE(channel.connected());
  server.reset();
  RunUntil([&] { return client.closed; });
  EXPECT_EQ(client.status.code, StatusCode::kUnavailable);
  EXPECT_TRUE(client.status.connection_error);
  auto [refused, none] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_EQ(refused.code, StatusCode::kUnavailable);
  EXPECT_TRUE(refused.connection_error);
  EXPECT_THAT(refused.message, HasSubstr(address.ToString()));
  TestServer again(loop_, nullptr, address);
  again.on_call = [](TestServer::Call& c) {
    c.Send("back");
    c.Finish(0);
  };
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(response, "back");
}

TEST_F(ChannelTest, GoAwayMovesNewCallsToANewConnection) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) {
    c.on_message = [&c](std::string m) {
      c.Send(m);
      if (m == "end") c.Finish(0);
    };
  };
  Channel channel(loop_, To(server));
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  call->Send("a");
  RunUntil([&] { return client.messages.size() == 1; });
  server.connections.front()->Drain();
  for (int i = 0; i < 40; ++i) loop_.RunOnce(milliseconds(10));
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "end");
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(server.accepted, 2);
  call->Send("end");  // the old stream still works
  RunUntil([&] { return client.closed; });
  EXPECT_TRUE(client.status.ok()) << client.status.ToString();
}

TEST_F(ChannelTest, ConnectTimeout) {
  // Listens and never speaks: the TLS handshake cannot finish.
  Fd listener = *net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")});
  ChannelOptions options;
  options.endpoint = "https://" + net::SocketAddress::OfLocal(listener.get())->ToString();
  options.root_ca = tls::testing::TestCa::Make().authority.certificate.ToPem();
  options.connect_timeout = milliseconds(150);
  Channel channel(loop_, options);
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_EQ(status.code, StatusCode::kUnavailable);
  EXPECT_THAT(status.message, HasSubstr("handshake"));
}

// A control plane whose machine is gone says nothing, and no end either.
TEST_F(ChannelTest, AServerThatFallsSilentIsGivenUp) {
  const ChannelOptions defaults;
  EXPECT_EQ(defaults.ping_interval, milliseconds(30000));
  EXPECT_EQ(defaults.ping_timeout, milliseconds(10000));
  EXPECT_EQ(defaults.max_message_bytes, 200u << 20);
  Fd listener = *net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")});
  ChannelOptions options;
  options.endpoint = "http://" + net::SocketAddress::OfLocal(listener.get())->ToString();
  options.ping_interval = milliseconds(50);
  options.ping_timeout = milliseconds(100);
  Channel channel(loop_, options);
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_EQ(status.code, StatusCode::kUnavailable);
  EXPECT_THAT(status.message, HasSubstr("PING"));
}

// Bytes that arrive may be old ones; only the answer to a PING says that the server is there since.
TEST_F(ChannelTest, SaysWhenTheServerWasHeardLast) {
  TestServer server(loop_);
  ChannelOptions options = To(server);
  options.ping_interval = milliseconds(300);
  options.ping_while_busy = true;
  Channel channel(loop_, options);
  EXPECT_FALSE(channel.last_heard());
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  call->Send("x");
  event::Timer chatter(loop_, [&] {
    server.calls.front()->Send("and so on");
    chatter.Start(milliseconds(2));
  });
  RunUntil([&] { return !server.calls.empty(); });
  const auto before = event::Clock::now();
  chatter.Start({});
  // Between two of the messages there is never that much time.
  RunUntil([&] { return channel.last_heard() > before; }, milliseconds(20000));
  const auto first = channel.last_heard();
  ASSERT_TRUE(first);
  EXPECT_LE(*first, event::Clock::now());
  RunUntil([&] { return channel.last_heard() > first; });
  chatter.Stop();
  channel.Disconnect("the test says so");
  RunUntil([&] { return client.closed; });
  EXPECT_FALSE(channel.last_heard()) << "of a connection that is over nothing is known";
}

// gRPC servers end the connection of who pings more often than they allow, and would each time
// anew.
TEST_F(ChannelTest, AServerThatCallsPingsTooManyGetsFewer) {
  TestServer server(loop_);
  server.least_ping = milliseconds(250);
  ChannelOptions options = To(server);
  EXPECT_EQ(options.calm_ping_interval, milliseconds(20000));
  options.ping_interval = milliseconds(20);
  options.calm_ping_interval = milliseconds(300);
  Channel channel(loop_, options);
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  call->Send("x");
  RunUntil([&] { return client.closed; });
  EXPECT_EQ(client.status.code, StatusCode::kUnavailable);
  EXPECT_EQ(channel.ping_interval(), milliseconds(300));
  Client second;
  call = channel.Start({"/a.B/C", {}, {}}, &second);
  call->Send("x");
  // Time for five of them.
  const auto end = event::Clock::now() + milliseconds(1600);
  RunUntil([&] { return second.closed || event::Clock::now() > end; });
  EXPECT_FALSE(second.closed) << second.status.ToString();
  EXPECT_TRUE(channel.last_heard()) << "none was sent, or none answered";
  EXPECT_EQ(server.accepted, 2);
  EXPECT_EQ(channel.ping_interval(), milliseconds(300));
}

TEST_F(ChannelTest, AServerThatCallsFewerPingsTooManyGetsHalfOfThem) {
  TestServer server(loop_);
  server.least_ping = milliseconds(60000);
  ChannelOptions options = To(server);
  options.ping_interval = milliseconds(10);
  options.calm_ping_interval = milliseconds(15);
  Channel channel(loop_, options);
  for (const int expected : {20, 40, 80}) {
    EXPECT_FALSE(Unary(channel, {"/a.B/C", {}, {}}, "x").first.ok());
    EXPECT_EQ(channel.ping_interval(), milliseconds(expected));
  }
}

// With PINGs that are too few for it, the server's kernel says how old it is what was heard.
TEST_F(ChannelTest, ProbesOfTheKernelSayBetweenPingsThatTheServerIsThere) {
  TestServer server(loop_);
  server.least_ping = milliseconds(60000);
  int accepted = -1;
  server.on_accept = [&](int fd) { accepted = fd; };
  ChannelOptions options = To(server);
  options.ping_interval = milliseconds(20);
  options.ping_timeout = milliseconds(3000);
  options.ping_while_busy = true;
  Channel channel(loop_, options);
  EXPECT_FALSE(Unary(channel, {"/a.B/C", {}, {}}, "x").first.ok());
  ASSERT_EQ(channel.ping_interval(), milliseconds(20000));
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  call->Send("x");
  RunUntil([&] { return channel.last_heard().has_value(); });
  // Nothing is said, and no PING is sent: probes, one each second.
  const auto begin = event::Clock::now();
  RunUntil([&] { return channel.last_heard() > begin + milliseconds(1500); });
  EXPECT_FALSE(client.closed);
  // Its kernel hears nothing any more.
  sock_filter drop = {BPF_RET | BPF_K, 0, 0, 0};
  const sock_fprog program = {1, &drop};
  ASSERT_EQ(setsockopt(accepted, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
  const auto gone = event::Clock::now();
  RunUntil([&] { return event::Clock::now() > gone + milliseconds(1500); });
  EXPECT_LT(channel.last_heard().value_or(gone), gone + milliseconds(100));
  // As long after its last word as after a PING without an answer.
  RunUntil([&] { return client.closed; });
  EXPECT_THAT(client.status.message, HasSubstr("timed out"));
  EXPECT_FALSE(channel.last_heard());
  EXPECT_LT(event::Clock::now() - gone, std::chrono::seconds(15));
}

// The kernel answers for a program that hangs: until a PING would have shown it.
TEST_F(ChannelTest, TheKernelsWordCountsNoLongerThanAPingTakes) {
  TestServer server(loop_);
  server.least_ping = milliseconds(60000);
  ChannelOptions options = To(server);
  options.ping_interval = milliseconds(20);
  options.calm_ping_interval = milliseconds(2500);
  options.ping_timeout = milliseconds(1500);
  options.ping_while_busy = true;
  Channel channel(loop_, options);
  EXPECT_FALSE(Unary(channel, {"/a.B/C", {}, {}}, "x").first.ok());
  Client client;
  CallPtr call = channel.Start({"/a.B/C", {}, {}}, &client);
  call->Send("x");
  RunUntil([&] { return channel.last_heard().has_value(); });
  // Both ends live on this loop: it stands still, and the kernel goes on.
  const auto begin = event::Clock::now();
  ::usleep(1'400'000);
  EXPECT_GT(channel.last_heard(), begin + milliseconds(500));
  ::usleep(3'000'000);
  EXPECT_LT(channel.last_heard().value_or(begin), begin + milliseconds(100));
}

TEST_F(ChannelTest, BadEndpointsAndTokens) {
  ChannelOptions options;
  options.endpoint = "ftp://x";
  Channel bad(loop_, options);
  EXPECT_FALSE(Unary(bad, {"/a.B/C", {}, {}}, "").first.ok());
  TestServer server(loop_);
  options = To(server);
  options.metadata = TokenMetadata("/nonexistent/token", "");
  Channel no_token(loop_, options);
  auto [status, response] = Unary(no_token, {"/a.B/C", {}, {}}, "");
  EXPECT_EQ(status.code, StatusCode::kUnauthenticated);
  EXPECT_THAT(status.message, HasSubstr("/nonexistent/token"));
  EXPECT_TRUE(server.calls.empty());
}

TEST_F(ChannelTest, MalformedMethod) {
  TestServer server(loop_);
  Channel channel(loop_, To(server));
  EXPECT_EQ(Unary(channel, {"/a b", {}, {}}, "").first.code, StatusCode::kInternal);
}

TEST_F(ChannelTest, IdleConnectionIsClosedAndMadeAgain) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) {
    c.Send("ok");
    c.Finish(0);
  };
  ChannelOptions options = To(server);
  options.idle_timeout = milliseconds(60);
  Channel channel(loop_, options);
  EXPECT_EQ(Unary(channel, {"/a", {}, {}}, "").second, "ok");
  EXPECT_TRUE(channel.connected());
  RunUntil([&] { return server.connections.empty() && !channel.connected(); });
  EXPECT_EQ(Unary(channel, {"/a", {}, {}}, "").second, "ok");
  EXPECT_EQ(server.accepted, 2);
}

TEST_F(ChannelTest, NotGrpc) {
  TestServer server(loop_);
  server.on_call = [](TestServer::Call& c) {
    http::ResponseHead head;
    head.status = 503;
    c.stream->SendResponse(head, true);
  };
  Channel channel(loop_, To(server));
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_EQ(status.code, StatusCode::kUnavailable);
  EXPECT_FALSE(status.connection_error);
  EXPECT_THAT(status.message, HasSubstr("503"));
}

TEST_F(ChannelTest, StreamsThatEndBadly) {
  TestServer server(loop_);
  std::function<void(TestServer::Call&)> behave;
  server.on_call = [&](TestServer::Call& c) { behave(c); };
  Channel channel(loop_, To(server));
  behave = [](TestServer::Call& c) {
    c.SendRaw(std::string("\0\0\0\0\x09half", 9));
    c.Finish(0);
  };
  EXPECT_EQ(Unary(channel, {"/a", {}, {}}, "").first.code, StatusCode::kInternal);
  behave = [](TestServer::Call& c) {
    c.Send("a");
    c.stream->SendData({}, true);
  };
  EXPECT_EQ(Unary(channel, {"/a", {}, {}}, "").first.code, StatusCode::kUnknown);
  behave = [](TestServer::Call& c) { c.stream->Reset(http::ResetCode::kRefused); };
  EXPECT_EQ(Unary(channel, {"/a", {}, {}}, "").first.code, StatusCode::kUnavailable);
  behave = [](TestServer::Call& c) { c.stream->Reset(http::ResetCode::kCancel); };
  EXPECT_EQ(Unary(channel, {"/a", {}, {}}, "").first.code, StatusCode::kCancelled);
  behave = [](TestServer::Call& c) { c.SendRaw(std::string("\1\0\0\0\0", 5)); };
  EXPECT_EQ(Unary(channel, {"/a", {}, {}}, "").first.code, StatusCode::kInternal);
  behave = [](TestServer::Call& c) { c.Finish(0); };  // no message
  EXPECT_EQ(Unary(channel, {"/a", {}, {}}, "").first.code, StatusCode::kInternal);
  EXPECT_EQ(server.accepted, 1);
}

TEST_F(ChannelTest, ManyCallsOverTheStreamLimit) {
  TestServer server(loop_);
  server.options.max_concurrent_streams = 3;
  server.on_call = [](TestServer::Call& c) {
    c.on_message = [&c](std::string m) {
      c.Send(m);
      c.Finish(0);
    };
  };
  Channel channel(loop_, To(server));
  int done = 0;
  std::vector<CallPtr> calls;
  for (int i = 0; i < 30; ++i) {
    calls.push_back(
        channel.Unary({"/a.B/C", {}, {}}, std::to_string(i), [&, i](CallStatus s, std::string r) {
          EXPECT_TRUE(s.ok()) << s.ToString();
          EXPECT_EQ(r, std::to_string(i));
          ++done;
        }));
  }
  RunUntil([&] { return done == 30; });
}

// ---- TLS ----

class TlsChannelTest : public ChannelTest {
 protected:
  TlsChannelTest()
      : ca_(tls::testing::TestCa::Make()),
        root_path_(std::filesystem::temp_directory_path() /
                   ("qanat-root-" + std::to_string(::getpid()) + ".pem")) {
    WriteRoot(ca_);
  }
  ~TlsChannelTest() override { std::filesystem::remove(root_path_); }
  void WriteRoot(const tls::testing::TestCa& ca) {
    std::ofstream(root_path_) << ca.authority.certificate.ToPem();
  }
  std::unique_ptr<TestServer> Server(tls::RequestNames names) {
    auto identity = ca_.Issue(std::move(names));
    tls::ContextOptions options;
    options.chain = {identity.certificate};
    options.key = identity.key;
    options.roots = {ca_.authority.certificate};
    auto server = std::make_unique<TestServer>(loop_, *tls::TlsContext::Make(std::move(options)));
    server->on_call = [](TestServer::Call& c) {
      c.Send("secure");
      c.Finish(0);
    };
    return server;
  }
  tls::testing::TestCa ca_;
  std::filesystem::path root_path_;
};

TEST_F(TlsChannelTest, ServerNameIsChecked) {
  auto server = Server({{}, {"istiod.istio-system.svc"}, {}});
  ChannelOptions options = To(*server);  // by IP, which the certificate does not have
  options.root_ca = root_path_;
  {
    Channel channel(loop_, options);
    auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
    EXPECT_EQ(status.code, StatusCode::kUnavailable);
    EXPECT_TRUE(status.connection_error);
    EXPECT_TRUE(server->calls.empty());
  }
  options.alternative_server_name = "istiod.istio-system.svc";
  Channel channel(loop_, options);
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(response, "secure");
}

TEST_F(TlsChannelTest, IpNamesAndRootRotation) {
  auto server = Server({{}, {}, {"127.0.0.1"}});
  ChannelOptions options = To(*server);
  options.root_ca = root_path_;
  Channel channel(loop_, options);
  WriteRoot(tls::testing::TestCa::Make());  // another root: nobody we know
  EXPECT_EQ(Unary(channel, {"/a.B/C", {}, {}}, "").first.code, StatusCode::kUnavailable);
  WriteRoot(ca_);  // read again for the next connection
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_TRUE(status.ok()) << status.ToString();
}

TEST_F(TlsChannelTest, MissingRoot) {
  auto server = Server({{}, {}, {"127.0.0.1"}});
  ChannelOptions options = To(*server);
  options.root_ca = "/nonexistent/root-cert.pem";
  Channel channel(loop_, options);
  auto [status, response] = Unary(channel, {"/a.B/C", {}, {}}, "");
  EXPECT_EQ(status.code, StatusCode::kUnavailable);
  EXPECT_THAT(status.message, HasSubstr("/nonexistent/root-cert.pem"));
}

}  // namespace
}  // namespace qanat::grpc
