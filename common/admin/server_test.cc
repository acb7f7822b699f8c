// SPDX-License-Identifier: Apache-2.0
#include "common/admin/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "common/http/client.h"

namespace qanat::admin {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class AdminServer : public ::testing::Test {
 protected:
  AdminServer() : AdminServer(std::chrono::seconds(60)) {}
  explicit AdminServer(std::chrono::milliseconds header_timeout)
      : server_(loop_, Options{.header_timeout = header_timeout,
                               .max_body_bytes = 1000,
                               .max_connections = 4}) {
    net::ListenOptions listen;
    listen.address = *net::SocketAddress::Parse("127.0.0.1:0");
    address_ = *server_.Listen(listen);
  }

  void RunUntil(const std::function<bool()>& done) {
    const auto end = event::Clock::now() + std::chrono::seconds(30);
    while (!done() && event::Clock::now() < end) loop_.RunOnce(std::chrono::milliseconds(20));
    ASSERT_TRUE(done()) << "timed out";
  }
  Result<http::FetchResponse> Get(http::FetchRequest request) {
    if (request.unix_path.empty()) request.address = address_;
    Result<http::FetchResponse> out = Fail(Code::kInternal, "nothing");
    bool done = false;
    http::Fetch fetch(loop_, std::move(request), [&](Result<http::FetchResponse> r) {
      out = std::move(r);
      done = true;
    });
    RunUntil([&] { return done; });
    return out;
  }
  Result<http::FetchResponse> Get(const std::string& path, const std::string& method = "GET",
                                  const std::string& body = "") {
    http::FetchRequest r;
    r.path = path;
    r.method = method;
    r.body = body;
    return Get(r);
  }
  // What the server answers to raw bytes until it closes.
  std::string Raw(const std::string& bytes) {
    auto fd = net::StartConnect({.to = address_});
    auto transport = net::MakeSocketTransport(loop_, std::move(*fd));
    std::string out;
    bool sent = false;
    bool ended = false;
    RunUntil([&] {
      const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
      if (!sent) sent = transport->Write({&part, 1}).ok();
      uint8_t buffer[4096];
      const net::IoResult r = transport->Read(buffer);
      if (r.ok()) out.append(reinterpret_cast<char*>(buffer), r.bytes);
      ended = r.kind != net::IoResult::Kind::kOk && r.kind != net::IoResult::Kind::kWouldBlock;
      return ended;
    });
    return out;
  }

  event::EventLoop loop_;
  Server server_;
  net::SocketAddress address_;
};

TEST_F(AdminServer, RoutesByPathAndMethod) {
  server_.Route("GET", "/ready", [](const Request&) { return Text(200, "ready\n"); });
  server_.Route("POST", "/logging", [](const Request& r) {
    return Json(200, "{\"level\":\"" + r.Parameter("level").value_or("?") + "\",\"body\":\"" +
                         r.body + "\"}");
  });
  server_.RoutePrefix("GET", "/debug/", [](const Request& r) { return Text(200, r.path); });
  server_.RoutePrefix("GET", "/debug/why/", [](const Request&) { return Text(200, "why"); });

  auto ready = Get("/ready");
  ASSERT_TRUE(ready) << ready.error().ToString();
  EXPECT_EQ(ready->status, 200);
  EXPECT_EQ(ready->body, "ready\n");
  EXPECT_EQ(Get("/logging?level=debug%20x", "POST", "abc")->body,
            R"({"level":"debug x","body":"abc"})");
  EXPECT_EQ(Get("/debug/pods")->body, "/debug/pods");
  EXPECT_EQ(Get("/debug/why/outbound")->body, "why");
  EXPECT_EQ(Get("/nothing")->status, 404);
  auto wrong = Get("/logging");
  EXPECT_EQ(wrong->status, 405);
  EXPECT_EQ(wrong->headers.Get("allow"), "POST");
  auto head = Get("/ready", "HEAD");
  EXPECT_EQ(head->status, 200);
  EXPECT_EQ(head->body, "");
  EXPECT_EQ(head->headers.Get("content-length"), "6");
}

TEST_F(AdminServer, DeferredAnswer) {
  std::optional<Responder> kept;
  server_.RouteDeferred("POST", "/cmdadd",
                        [&](const Request&, Responder r) { kept = std::move(r); });
  event::Timer later(loop_, [&] {
    kept->Send(Text(200, "done"));
    kept->Send(Text(500, "ignored"));
  });
  later.Start(std::chrono::milliseconds(50));
  auto answer = Get("/cmdadd", "POST", "{}");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->body, "done");
}

TEST_F(AdminServer, ADroppedResponderIsAnError) {
  server_.RouteDeferred("GET", "/lost", [](const Request&, Responder) {});
  auto answer = Get("/lost");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 500);
}

TEST_F(AdminServer, AResponderDroppedLaterIsAnErrorToo) {
  std::optional<Responder> kept;
  server_.RouteDeferred("GET", "/lost", [&](const Request&, Responder r) { kept = std::move(r); });
  event::Timer later(loop_, [&] { kept.reset(); });
  later.Start(std::chrono::milliseconds(30));
  auto answer = Get("/lost");
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 500);
}

TEST_F(AdminServer, AnswerAfterTheClientHasGone) {
  std::optional<Responder> kept;
  server_.RouteDeferred("GET", "/slow", [&](const Request&, Responder r) { kept = std::move(r); });
  {
    http::FetchRequest r;
    r.address = address_;
    r.path = "/slow";
    http::Fetch fetch(loop_, r, [](auto) { FAIL() << "cancelled"; });
    RunUntil([&] { return kept.has_value(); });
  }
  RunUntil([&] { return server_.connections() == 0; });
  kept->Send(Text(200, "nobody"));
  kept.reset();
}

TEST_F(AdminServer, Limits) {
  server_.Route("POST", "/", [](const Request&) { return Text(200, "ok"); });
  EXPECT_EQ(Get("/", "POST", std::string(1001, 'x'))->status, 413);
  EXPECT_EQ(Get("/", "POST", std::string(1000, 'x'))->status, 200);
}

// Half a request, then nothing.
class ImpatientServer : public AdminServer {
 protected:
  ImpatientServer() : AdminServer(std::chrono::milliseconds(200)) {}
};
TEST_F(ImpatientServer, HeaderTimeout) {
  EXPECT_THAT(Raw("GET / HTTP/1.1\r\nHost:"), StartsWith("HTTP/1.1 408 "));
}

TEST_F(AdminServer, GarbageGetsAnErrorAndTheServerLives) {
  server_.Route("GET", "/", [](const Request&) { return Text(200, "ok"); });
  EXPECT_THAT(Raw("\x16\x03\x01 not http"), StartsWith("HTTP/1.1 400 "));
  EXPECT_THAT(Raw("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), StartsWith("HTTP/1.1 400 "));
  EXPECT_EQ(Get("/")->body, "ok");
}

TEST_F(AdminServer, TooManyConnections) {
  std::vector<net::TransportPtr> held;
  for (int i = 0; i < 4; ++i) {
    held.push_back(net::MakeSocketTransport(loop_, *net::StartConnect({.to = address_})));
  }
  RunUntil([&] { return server_.connections() == 4; });
  EXPECT_FALSE(Get("/"));
  held.clear();
  RunUntil([&] { return server_.connections() == 0; });
  EXPECT_TRUE(Get("/"));
}

TEST_F(AdminServer, UnixSocket) {
  char dir[] = "/tmp/qanat-admin-XXXXXX";
  ASSERT_NE(mkdtemp(dir), nullptr);
  const std::string path = std::string(dir) + "/admin.sock";
  server_.Route("GET", "/", [](const Request&) { return Text(200, "by unix"); });
  {
    Server other(loop_);
    ASSERT_TRUE(other.ListenUnix(path, 0600));
    struct stat info{};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600u);
    // A second server must not take the place of a live one.
    EXPECT_EQ(server_.ListenUnix(path).error().code, Code::kAlreadyExists);
  }
  std::ofstream(path) << "";  // not a socket: never removed
  EXPECT_FALSE(server_.ListenUnix(path));
  std::filesystem::remove(path);
  {
    // The leftover of a server that was killed.
    auto dead = http::ListenUnix(path, 0600);
    ASSERT_TRUE(dead);
  }
  ASSERT_TRUE(server_.ListenUnix(path));
  http::FetchRequest r;
  r.unix_path = path;
  auto answer = Get(r);
  ASSERT_TRUE(answer) << answer.error().ToString();
  EXPECT_EQ(answer->body, "by unix");
  std::filesystem::remove_all(dir);
}

TEST_F(AdminServer, Metrics) {
  metrics::Registry registry;
  registry.AddCounter("c", "C").Get().Add(2);
  server_.AddMetricsRoutes(registry);
  auto plain = Get("/metrics");
  EXPECT_THAT(std::string(*plain->headers.Get("content-type")), HasSubstr("version=0.0.4"));
  EXPECT_THAT(plain->body, HasSubstr("c_total 2\n"));
  http::FetchRequest r;
  r.path = "/stats/prometheus";
  r.headers.Add("Accept", "application/openmetrics-text");
  EXPECT_THAT(Get(r)->body, HasSubstr("# EOF"));
}

}  // namespace
}  // namespace qanat::admin
