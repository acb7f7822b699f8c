// SPDX-License-Identifier: Apache-2.0
// Our HTTP codecs against programs of others: curl, nghttp, h2load and Python's http.server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstdio>
#include <thread>

#include "common/http/client.h"
#include "common/http/connection.h"
#include "common/net/socket.h"

namespace qanat::http {
namespace {

using ::testing::HasSubstr;

// Echoes: the answer's body is the request's, with its method and path in headers.
class EchoServer final : private ServerEvents {
 public:
  EchoServer() : thread_("echo") {
    acceptor_ = std::make_unique<net::Acceptor>(
        thread_.loop(), *net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")}),
        [this](Fd fd, net::SocketAddress) {
          ServerConnectionPtr c = MakeAutoServer(
              net::MakeSocketTransport(thread_.loop(), std::move(fd)), this, Options{});
          ServerConnection* key = c.get();
          connections_.emplace(key, std::move(c));
        });
    address = acceptor_->local_address();
  }
  ~EchoServer() { thread_.Stop(); }
  net::SocketAddress address;
  std::string url(const std::string& path = "/") const {
    return "http://" + address.ToString() + path;
  }

 private:
  struct Exchange final : StreamEvents {
    ServerStream* stream = nullptr;
    void OnData(std::string_view data, bool end) override {
      stream->SendData(data, end);
      if (stream->Overfull()) stream->PauseReading(true);
    }
    void OnWritable() override { stream->PauseReading(false); }
    void OnTrailers(HeaderList trailers) override { stream->SendTrailers(trailers); }
    void OnClosed(CloseReason, std::string_view) override { delete this; }
  };
  void OnRequest(ServerStream& stream, RequestHead head, bool end) override {
    ResponseHead response;
    response.status = 200;
    response.headers.Add("x-method", head.method);
    response.headers.Add("x-path", head.path);
    response.headers.Add("x-version", VersionName(head.version));
    stream.SendResponse(response, end);
    if (end) return;
    auto* exchange = new Exchange;  // ends itself in its last event
    exchange->stream = &stream;
    stream.SetEvents(exchange);
  }
  void OnConnectionClosed(ServerConnection& c, bool, std::string_view) override {
    auto node = connections_.extract(&c);
    if (node) {
      thread_.loop().DeferDelete(std::move(node.mapped()));
      return;
    }
  }
  event::LoopThread thread_;
  std::unique_ptr<net::Acceptor> acceptor_;
  std::map<ServerConnection*, ServerConnectionPtr> connections_;
};

std::string Shell(const std::string& command) {
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  EXPECT_NE(pipe, nullptr);
  std::string out;
  char buffer[4096];
  while (const size_t n = fread(buffer, 1, sizeof buffer, pipe)) out.append(buffer, n);
  const int status = pclose(pipe);
  EXPECT_EQ(status, 0) << command << "\n" << out;
  return out;
}

TEST(HttpTools, Curl) {
  EchoServer server;
  const std::string h1 = Shell("curl -sS -m 20 -i --http1.1 " + server.url("/a?b=c"));
  EXPECT_THAT(h1, HasSubstr("HTTP/1.1 200 OK"));
  EXPECT_THAT(h1, HasSubstr("x-path: /a?b=c"));
  EXPECT_THAT(Shell("curl -sS -m 20 -i --http2-prior-knowledge " + server.url("/h2")),
              HasSubstr("x-version: HTTP/2"));
  EXPECT_THAT(Shell("curl -sS -m 20 -I " + server.url()), HasSubstr("x-method: HEAD"));
  // Expect: 100-continue and chunked upload, byte exact.
  for (const char* how :
       {"--http1.1", "--http1.1 -H 'Transfer-Encoding: chunked'", "--http2-prior-knowledge"}) {
    EXPECT_THAT(Shell(std::string("head -c 5000000 /dev/urandom > /tmp/qanat-curl-$$; ") +
                      "curl -sS -m 60 " + how +
                      " -T /tmp/qanat-curl-$$ -o /tmp/qanat-curl-$$.out " + server.url("/up") +
                      " && cmp /tmp/qanat-curl-$$ /tmp/qanat-curl-$$.out && echo same; "
                      "rm -f /tmp/qanat-curl-$$ /tmp/qanat-curl-$$.out"),
                HasSubstr("same"))
        << how;
  }
  // Two requests over one connection.
  EXPECT_THAT(Shell("curl -sS -m 20 -v " + server.url("/1") + " " + server.url("/2")),
              HasSubstr("Re-using existing connection"));
}

TEST(HttpTools, Nghttp) {
  EchoServer server;
  const std::string out =
      Shell("nghttp -v -m 20 --trailer 'x-sum: 1' -d /bin/true " + server.url("/ng"));
  EXPECT_THAT(out, HasSubstr(":status: 200"));
  EXPECT_THAT(out, HasSubstr("x-sum: 1"));
}

TEST(HttpTools, H2load) {
  EchoServer server;
  EXPECT_THAT(Shell("h2load -n 20000 -c 10 -m 20 " + server.url()),
              HasSubstr("20000 total, 20000 started, 20000 done, 20000 succeeded, 0 failed"));
  EXPECT_THAT(Shell("h2load --h1 -n 20000 -c 10 " + server.url()),
              HasSubstr("20000 total, 20000 started, 20000 done, 20000 succeeded, 0 failed"));
}

TEST(HttpTools, PythonServer) {
  int out[2];
  ASSERT_EQ(pipe(out), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    dup2(out[1], 1);
    execlp("python3", "python3", "-u", "-c",
           "import http.server\n"
           "class H(http.server.BaseHTTPRequestHandler):\n"
           "  protocol_version='HTTP/1.1'\n"
           "  def log_message(self,*a): pass\n"
           "  def do_POST(self):\n"
           "    body=self.rfile.read(int(self.headers['content-length']))\n"
           "    self.send_response(200)\n"
           "    self.send_header('Transfer-Encoding','chunked')\n"
           "    self.end_headers()\n"
           "    for i in range(0,len(body),999):\n"
           "      p=body[i:i+999]\n"
           "      self.wfile.write(b'%x\\r\\n%s\\r\\n'%(len(p),p))\n"
           "    self.wfile.write(b'0\\r\\n\\r\\n')\n"
           "s=http.server.HTTPServer(('127.0.0.1',0),H)\n"
           "print(s.server_port)\n"
           "s.serve_forever()\n",
           nullptr);
    _exit(127);
  }
  close(out[1]);
  char text[16] = {};
  ASSERT_GT(read(out[0], text, sizeof text - 1), 0);
  FetchRequest request;
  request.address = *net::SocketAddress::Parse("127.0.0.1:" + std::to_string(std::atoi(text)));
  request.method = "POST";
  for (int i = 0; i < 50000; ++i) request.body += std::to_string(i);
  const std::string sent = request.body;
  auto response = FetchBlocking(std::move(request));
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  close(out[0]);
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->status, 200);
  EXPECT_TRUE(response->body == sent);
}

}  // namespace
}  // namespace qanat::http
