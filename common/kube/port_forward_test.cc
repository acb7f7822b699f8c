// SPDX-License-Identifier: Apache-2.0
#include "common/kube/port_forward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "common/kube/websocket.h"
#include "common/net/socket.h"

namespace qanat::kube {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

// As a server frames: not masked.
std::string Frame(WsOpcode opcode, const std::string& payload, bool final = true) {
  std::string out(1, static_cast<char>((final ? 0x80 : 0) | static_cast<uint8_t>(opcode)));
  if (payload.size() < 126) {
    out.push_back(static_cast<char>(payload.size()));
  } else {
    out.push_back(126);
    out.push_back(static_cast<char>(payload.size() >> 8));
    out.push_back(static_cast<char>(payload.size()));
  }
  return out + payload;
}
std::string Data(const std::string& text) {
  return Frame(WsOpcode::kBinary, std::string(1, '\0') + text);
}
std::string Begin() {
  return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n" + Data("\x98\x3a") +
         Frame(WsOpcode::kBinary, "\x01\x98\x3a");
}

// Accepts one connection, reads the upgrade, says its piece in pieces of `cut` bytes, and goes.
class Scripted {
 public:
  explicit Scripted(std::string piece, size_t cut = 1 << 20)
      : listener_(*net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")})) {
    config.server = "http://" + net::SocketAddress::OfLocal(listener_.get())->ToString();
    config.token = "abc";
    thread_ = std::thread([this, piece = std::move(piece), cut] { Run(piece, cut); });
  }
  ~Scripted() { thread_.join(); }
  std::string Join() {
    thread_.join();
    thread_ = std::thread([] {});
    return seen_;
  }
  ClientConfig config;

 private:
  void Run(const std::string& piece, size_t cut) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(listener_.get(), &set);
    timeval limit{5, 0};
    if (select(listener_.get() + 1, &set, nullptr, nullptr, &limit) != 1) return;
    const Fd fd(accept(listener_.get(), nullptr, nullptr));
    char buffer[4096];
    while (seen_.find("\r\n\r\n") == std::string::npos) {
      const ssize_t n = read(fd.get(), buffer, sizeof buffer);
      if (n <= 0) return;
      seen_.append(buffer, static_cast<size_t>(n));
    }
    for (size_t at = 0; at < piece.size(); at += cut) {
      const std::string part = piece.substr(at, cut);
      if (send(fd.get(), part.data(), part.size(), MSG_NOSIGNAL) < 0) return;
      if (cut < 100) usleep(200);
    }
    shutdown(fd.get(), SHUT_WR);
    for (ssize_t n = 0; (n = read(fd.get(), buffer, sizeof buffer)) > 0;) {
      seen_.append(buffer, static_cast<size_t>(n));
    }
  }
  Fd listener_;
  std::string seen_;
  std::thread thread_;
};

Result<std::string> Ask(Scripted& server, std::chrono::milliseconds timeout = 3s) {
  return ExchangeWithPod(
      server.config, {"shop", "web-1", 15000}, "GET /x HTTP/1.1\r\n\r\n", timeout,
      [](std::string_view bytes, bool ended) { return ended || bytes.ends_with("END"); });
}

TEST(PortForward, AnswerInAnyPieces) {
  for (const size_t cut : {1U, 3U, 1000U}) {
    Scripted server(Begin() + Frame(WsOpcode::kPing, "p") + Data("HTTP/1.1 200 OK\r\n") +
                        Frame(WsOpcode::kBinary, std::string(1, '\0') + "bo", false) +
                        Frame(static_cast<WsOpcode>(0), "dyEND"),
                    cut);
    auto answer = Ask(server);
    ASSERT_TRUE(answer.has_value()) << answer.error().message;
    EXPECT_EQ(*answer, "HTTP/1.1 200 OK\r\nbodyEND");
    const std::string seen = server.Join();
    EXPECT_THAT(seen,
                HasSubstr("GET /api/v1/namespaces/shop/pods/web-1/portforward?ports=15000 HTTP"));
    EXPECT_THAT(seen, HasSubstr("Authorization: Bearer abc\r\n"));
  }
}

TEST(PortForward, EndOfTheStreamIsTheEnd) {
  Scripted server(Begin() + Data("all there is") + Frame(WsOpcode::kClose, ""));
  EXPECT_EQ(*Ask(server), "all there is");
}

TEST(PortForward, Errors) {
  const auto says = [](const std::string& script, const char* what) {
    Scripted server(script);
    auto answer = Ask(server, 1s);
    ASSERT_FALSE(answer.has_value()) << what;
    EXPECT_THAT(answer.error().message, HasSubstr(what));
    EXPECT_THAT(answer.error().message, HasSubstr("port 15000 of pod shop/web-1"));
  };
  says(Begin() + Frame(WsOpcode::kBinary,
                       "\x01"
                       "connection refused"),
       "does the program in it listen");
  says(
      "HTTP/1.1 403 Forbidden\r\n\r\n"
      R"({"kind":"Status","reason":"Forbidden","message":"User \"u\" cannot get","code":403})",
      R"(resources ["pods/portforward"], verbs ["get"])");
  says("HTTP/1.1 404 Not Found\r\n\r\nno", "404");
  says("", "ended the connection");
  says("nonsense\r\n\r\n", "502");
  says(Begin() + "\xff\xff", "RFC 6455");
  says(Begin() + Frame(WsOpcode::kClose, ""), "closed the stream");
}

TEST(PortForward, Deadline) {
  event::EventLoop loop;
  // Nobody answers: the listener never accepts.
  const Fd listener = *net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")});
  ClientConfig config;
  config.server = "http://" + net::SocketAddress::OfLocal(listener.get())->ToString();
  auto answer = ExchangeWithPod(config, {"a", "b", 1}, "x", 100ms,
                                [](std::string_view, bool) { return false; });
  ASSERT_FALSE(answer.has_value());
  EXPECT_EQ(answer.error().code, Code::kDeadlineExceeded);
}

TEST(WebSocket, EncodedFramesAreMasked) {
  for (const size_t size : {0U, 5U, 125U, 126U, 65535U, 65536U}) {
    const std::string payload(size, 'x');
    std::string frame = EncodeFrame(WsOpcode::kBinary, payload, 0x01020304);
    EXPECT_NE(frame[1] & 0x80, 0);
    // Unmasked it is what a server sends.
    const size_t header = frame.size() - size - 4;
    std::string clear = frame.substr(0, header) + std::string(size, 'x');
    clear[1] = static_cast<char>(clear[1] & 0x7F);
    WsDecoder decoder;
    decoder.Add(clear);
    auto message = decoder.Next();
    ASSERT_TRUE(message.has_value() && message->has_value()) << size;
    EXPECT_EQ((*message)->payload, payload);
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(frame[header + 4 + i], static_cast<char>('x' ^ frame[header + i % 4]));
    }
  }
}

}  // namespace
}  // namespace qanat::kube
