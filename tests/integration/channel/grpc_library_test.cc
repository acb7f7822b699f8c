// SPDX-License-Identifier: Apache-2.0
// Our gRPC client against the gRPC library's server, plaintext and TLS.
#include <gmock/gmock.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>

#include "common/grpc/channel.h"
#include "common/tls/test_certs.h"

namespace qanat::grpc {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

std::string ToString(const ::grpc::ByteBuffer& buffer) {
  std::vector<::grpc::Slice> slices;
  std::string out;
  if (!buffer.Dump(&slices).ok()) return out;
  for (const auto& s : slices) out.append(reinterpret_cast<const char*>(s.begin()), s.size());
  return out;
}

::grpc::ByteBuffer ToBuffer(const std::string& text) {
  const ::grpc::Slice slice(text);
  return {&slice, 1};
}

// /t/Echo repeats; /t/Fail ends with the status that the message asks for; /t/Hang never answers;
// /t/Big answers with as many bytes as asked for; /t/Meta with the value of x-probe.
class Reactor final : public ::grpc::ServerGenericBidiReactor {
 public:
  Reactor(::grpc::GenericCallbackServerContext* context, std::atomic<int>& cancelled)
      : context_(context), cancelled_(cancelled) {
    StartRead(&in_);
  }
  void OnReadDone(bool ok) override {
    const std::string& method = context_->method();
    if (!ok) {
      if (method != "/t/Hang") End(::grpc::Status::OK);
      return;
    }
    const std::string text = ToString(in_);
    if (method == "/t/Hang") return StartRead(&in_);
    if (method == "/t/Fail") {
      const size_t space = text.find(' ');
      return End({static_cast<::grpc::StatusCode>(std::stoi(text)), text.substr(space + 1)});
    }
    if (method == "/t/Big") {
      out_ = ToBuffer(std::string(std::stoul(text), 'b'));
    } else if (method == "/t/Meta") {
      const auto it = context_->client_metadata().find("x-probe");
      out_ = ToBuffer(it == context_->client_metadata().end()
                          ? "none"
                          : std::string(it->second.data(), it->second.size()));
    } else if (method == "/t/Echo") {
      out_ = ToBuffer(text);
    } else {
      return End({::grpc::StatusCode::UNIMPLEMENTED, "no such method"});
    }
    StartWrite(&out_);
  }
  void OnWriteDone(bool ok) override {
    if (ok) return StartRead(&in_);
    End(::grpc::Status::CANCELLED);
  }
  void OnCancel() override {
    ++cancelled_;
    End(::grpc::Status::CANCELLED);
  }
  void OnDone() override { delete this; }  // the library's way: the reactor owns itself

 private:
  void End(const ::grpc::Status& status) {
    if (!ended_.exchange(true)) Finish(status);
  }
  ::grpc::GenericCallbackServerContext* context_;
  std::atomic<int>& cancelled_;
  std::atomic<bool> ended_{false};
  ::grpc::ByteBuffer in_, out_;
};

class Service final : public ::grpc::CallbackGenericService {
 public:
  ::grpc::ServerGenericBidiReactor* CreateReactor(
      ::grpc::GenericCallbackServerContext* context) override {
    return new Reactor(context, cancelled);
  }
  std::atomic<int> cancelled{0};
};

struct Client final : MessageCallEvents {
  std::vector<std::string> messages;
  CallStatus status;
  bool closed = false;
  void OnMessage(std::string m) override { messages.push_back(std::move(m)); }
  void OnClosed(const CallStatus& s) override {
    status = s;
    closed = true;
  }
};

class Library : public ::testing::Test {
 protected:
  ~Library() override { StopServer(); }
  void StartServer(std::shared_ptr<::grpc::ServerCredentials> credentials =
                       ::grpc::InsecureServerCredentials()) {
    ::grpc::ServerBuilder builder;
    const std::string at = "127.0.0.1:" + std::to_string(port_);
    builder.AddListeningPort(at, std::move(credentials), &port_);
    builder.SetMaxReceiveMessageSize(-1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                               least_ping_ms_);
    service_ = std::make_unique<Service>();  // the library takes each for one server only
    builder.RegisterCallbackGenericService(service_.get());
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  void StopServer() {
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }
  ChannelOptions Options(const std::string& scheme = "http") {
    ChannelOptions options;
    options.endpoint = scheme + "://127.0.0.1:" + std::to_string(port_);
    return options;
  }
  void RunUntil(const std::function<bool()>& done, milliseconds limit = milliseconds(60000)) {
    const auto end = event::Clock::now() + limit;
    while (!done() && event::Clock::now() < end) loop_.RunOnce(milliseconds(10));
    ASSERT_TRUE(done()) << "timed out";
  }
  std::pair<CallStatus, std::string> Unary(Channel& channel, const std::string& method,
                                           const std::string& request, milliseconds deadline = {},
                                           Metadata metadata = {}) {
    std::pair<CallStatus, std::string> out;
    bool done = false;
    CallPtr call = channel.Unary({method, std::move(metadata), deadline}, request,
                                 [&](CallStatus s, std::string r) {
                                   out = {std::move(s), std::move(r)};
                                   done = true;
                                 });
    RunUntil([&] { return done; });
    return out;
  }

  event::EventLoop loop_;
  std::unique_ptr<Service> service_;
  int port_ = 0;
  int least_ping_ms_ = 300'000;  // the library's default
  std::unique_ptr<::grpc::Server> server_;
};

TEST_F(Library, UnaryAndMetadata) {
  StartServer();
  Channel channel(loop_, Options());
  auto [status, response] = Unary(channel, "/t/Echo", "hello");
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(response, "hello");
  EXPECT_EQ(Unary(channel, "/t/Echo", "").second, "");
  EXPECT_EQ(Unary(channel, "/t/Meta", "x", {}, {{"x-probe", "42"}}).second, "42");
}

TEST_F(Library, BidirectionalStream) {
  StartServer();
  Channel channel(loop_, Options());
  Client client;
  CallPtr call = channel.Start({"/t/Echo", {}, {}}, &client);
  for (size_t i = 0; i < 500; ++i) {
    call->Send("message " + std::to_string(i) + std::string(i * 7, '.'));
    RunUntil([&] { return client.messages.size() == i + 1; });
  }
  EXPECT_EQ(client.messages[499], "message 499" + std::string(499 * 7, '.'));
  call->HalfClose();
  RunUntil([&] { return client.closed; });
  EXPECT_TRUE(client.status.ok()) << client.status.ToString();
}

TEST_F(Library, Statuses) {
  StartServer();
  Channel channel(loop_, Options());
  auto [status, response] = Unary(channel, "/t/Fail", "7 not you: 100% \xc3\xa4\n");
  EXPECT_EQ(status.code, StatusCode::kPermissionDenied);
  EXPECT_EQ(status.message, "not you: 100% \xc3\xa4\n");
  EXPECT_EQ(Unary(channel, "/t/Fail", "8 later").first.code, StatusCode::kResourceExhausted);
  EXPECT_EQ(Unary(channel, "/none", "x").first.code, StatusCode::kUnimplemented);
}

TEST_F(Library, BigMessages) {
  StartServer();
  Channel channel(loop_, Options());
  const size_t size = 60 << 20;
  auto [status, response] = Unary(channel, "/t/Big", std::to_string(size));
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_TRUE(response == std::string(size, 'b'));
  const std::string mine(30 << 20, 'm');
  EXPECT_TRUE(Unary(channel, "/t/Echo", mine).second == mine);
}

TEST_F(Library, DeadlineAndCancelReachTheServer) {
  StartServer();
  Channel channel(loop_, Options());
  // Over a connection that stands, and with time to get there on a busy machine.
  EXPECT_EQ(Unary(channel, "/t/Echo", "first").second, "first");
  EXPECT_EQ(Unary(channel, "/t/Hang", "x", milliseconds(1500)).first.code,
            StatusCode::kDeadlineExceeded);
  RunUntil([&] { return service_->cancelled == 1; });
  Client client;
  CallPtr call = channel.Start({"/t/Echo", {}, {}}, &client);
  call->Send("a");
  RunUntil([&] { return client.messages.size() == 1; });
  call.reset();
  RunUntil([&] { return service_->cancelled == 2; });
  // The connection is still good.
  EXPECT_EQ(Unary(channel, "/t/Echo", "still").second, "still");
}

TEST_F(Library, ManyStreamsAtOnce) {
  StartServer();
  Channel channel(loop_, Options());
  int done = 0;
  std::vector<CallPtr> calls;
  for (int i = 0; i < 300; ++i) {
    calls.push_back(channel.Unary({"/t/Echo", {}, {}}, std::string(5000, 'x') + std::to_string(i),
                                  [&done, i](CallStatus s, std::string r) {
                                    EXPECT_TRUE(s.ok()) << s.ToString();
                                    EXPECT_EQ(r.substr(5000), std::to_string(i));
                                    ++done;
                                  }));
  }
  RunUntil([&] { return done == 300; });
}

TEST_F(Library, ServerGoesAndComesBack) {
  StartServer();
  Channel channel(loop_, Options());
  Client client;
  CallPtr call = channel.Start({"/t/Echo", {}, {}}, &client);
  call->Send("a");
  RunUntil([&] { return client.messages.size() == 1; });
  StopServer();
  RunUntil([&] { return client.closed; });
  EXPECT_FALSE(client.status.ok());
  auto refused = Unary(channel, "/t/Echo", "x").first;
  EXPECT_EQ(refused.code, StatusCode::kUnavailable);
  EXPECT_TRUE(refused.connection_error);
  StartServer();
  EXPECT_EQ(Unary(channel, "/t/Echo", "back").second, "back");
}

// Three PINGs that come sooner end the connection; an istiod allows one each 15 s.
TEST_F(Library, PingsThatAreTooManyGetFewer) {
  least_ping_ms_ = 1000;
  StartServer();
  ChannelOptions options = Options();
  options.ping_interval = milliseconds(100);
  options.calm_ping_interval = milliseconds(1200);
  options.ping_timeout = milliseconds(3000);
  options.ping_while_busy = true;
  Channel channel(loop_, options);
  Client first;
  CallPtr call = channel.Start({"/t/Hang", {}, {}}, &first);
  call->Send("a");
  RunUntil([&] { return first.closed; });
  RunUntil([&] { return channel.ping_interval() == milliseconds(1200); });
  Client second;
  call = channel.Start({"/t/Hang", {}, {}}, &second);
  call->Send("a");
  RunUntil([&] { return channel.last_heard().has_value(); });
  const auto end = event::Clock::now() + milliseconds(7000);  // for five of them
  auto oldest = event::Duration::zero();
  RunUntil([&] {
    oldest =
        std::max(oldest, event::Clock::now() - channel.last_heard().value_or(event::TimePoint()));
    return second.closed || event::Clock::now() > end;
  });
  EXPECT_FALSE(second.closed) << second.status.ToString();
  EXPECT_EQ(channel.ping_interval(), milliseconds(1200));
  EXPECT_LT(oldest, milliseconds(3000));
}

TEST_F(Library, Tls) {
  const auto ca = tls::testing::TestCa::Make();
  const auto identity = ca.Issue({{}, {"istiod.istio-system.svc"}, {"127.0.0.1"}});
  ::grpc::SslServerCredentialsOptions options;
  options.pem_key_cert_pairs.push_back(
      {identity.key.ToPem(), identity.certificate.ToPem() + ca.authority.certificate.ToPem()});
  StartServer(::grpc::SslServerCredentials(options));
  ChannelOptions channel_options = Options("https");
  channel_options.root_ca = ca.authority.certificate.ToPem();
  channel_options.metadata = TokenMetadata("a.b.c", "Kubernetes");
  Channel channel(loop_, channel_options);
  const std::string big(5 << 20, 't');
  auto [status, response] = Unary(channel, "/t/Echo", big);
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_TRUE(response == big);
  // Nobody whom the root does not know.
  channel_options.root_ca = tls::testing::TestCa::Make().authority.certificate.ToPem();
  Channel stranger(loop_, channel_options);
  EXPECT_EQ(Unary(stranger, "/t/Echo", "x").first.code, StatusCode::kUnavailable);
}

}  // namespace
}  // namespace qanat::grpc
