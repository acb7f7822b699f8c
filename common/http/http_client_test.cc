// SPDX-License-Identifier: Apache-2.0
#include "common/http/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "common/http/test_peers.h"
#include "common/net/socket.h"

namespace qanat::http {
namespace {

using namespace test;  // NOLINT: this folder's peers
using std::chrono::milliseconds;
using testing::HasSubstr;

// A server on a thread of its own, as the blocking client needs it.
class FetchTest : public ::testing::Test {
 protected:
  FetchTest() {
    acceptor_ = std::make_unique<net::Acceptor>(
        loop_, *net::Listen({.address = *net::SocketAddress::Parse("127.0.0.1:0")}),
        [this](Fd fd, net::SocketAddress) {
          server_.connection =
              MakeHttp1Server(net::MakeSocketTransport(loop_, std::move(fd)), &server_, {});
        });
    address_ = acceptor_->local_address();
    thread_ = std::thread([this] { loop_.Run(); });
  }
  ~FetchTest() override {
    loop_.Stop();
    thread_.join();
  }
  event::EventLoop loop_;
  ServerEnd server_;
  std::unique_ptr<net::Acceptor> acceptor_;
  net::SocketAddress address_;
  std::thread thread_;
};

TEST_F(FetchTest, Blocking) {
  loop_.Post([this] {
    server_.on_request = [](ServerEnd::Exchange& x) {
      x.in.on_end = [&x] {
        x.stream->SendResponse(Status(201), false);
        x.stream->SendData("got " + x.in.data, true);
      };
    };
  });
  FetchRequest request;
  request.address = address_;
  request.method = "POST";
  request.path = "/x";
  request.body = std::string(100'000, 'b');
  auto response = FetchBlocking(request);
  ASSERT_TRUE(response) << response.error().ToString();
  EXPECT_EQ(response->status, 201);
  EXPECT_EQ(response->body.size(), 100'004u);
}

TEST_F(FetchTest, Timeout) {
  FetchRequest request;
  request.address = address_;
  request.timeout = milliseconds(80);
  auto response = FetchBlocking(request);  // nobody answers
  ASSERT_FALSE(response);
  EXPECT_EQ(response.error().code, Code::kDeadlineExceeded);
}

TEST(Fetch, NobodyListens) {
  FetchRequest request;
  request.address = *net::SocketAddress::Parse("127.0.0.1:1");
  auto response = FetchBlocking(request);
  ASSERT_FALSE(response);
  EXPECT_THAT(response.error().message, HasSubstr("127.0.0.1:1"));
  request = {};
  request.unix_path = "/nonexistent/socket";
  EXPECT_EQ(FetchBlocking(request).error().code, Code::kNotFound);
}

}  // namespace
}  // namespace qanat::http
