// SPDX-License-Identifier: Apache-2.0
// For tests: a client and a server of ours at the two ends of a pipe that cuts everything at random
// places.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>

#include "common/http/connection.h"
#include "common/http/test_peers.h"

namespace qanat::http::test {

class ConnectionTest : public ::testing::Test {
 protected:
  void Connect(Version version, size_t capacity = 65536, Options server_options = {},
               Options client_options = {}, bool automatic = false) {
    auto [a, b] = net::MakePipe(loop_, capacity);
    auto left = std::make_unique<ChoppyTransport>(std::move(a), 1);
    auto right = std::make_unique<ChoppyTransport>(std::move(b), 2);
    if (automatic) {
      server_.connection = MakeAutoServer(std::move(left), &server_, server_options);
    } else if (version == Version::kHttp2) {
      server_.connection = MakeHttp2Server(std::move(left), &server_, server_options);
    } else {
      server_.connection = MakeHttp1Server(std::move(left), &server_, server_options);
    }
    client_.connection = version == Version::kHttp2
                             ? MakeHttp2Client(std::move(right), &client_, client_options)
                             : MakeHttp1Client(std::move(right), &client_, client_options);
  }
  void RunUntil(const std::function<bool()>& done,
                std::chrono::milliseconds limit = std::chrono::seconds(60)) {
    const auto end = event::Clock::now() + limit;
    while (!done() && event::Clock::now() < end) loop_.RunOnce(std::chrono::milliseconds(5));
    EXPECT_TRUE(done()) << "timed out";
  }
  void RunFor(std::chrono::milliseconds time) {
    const auto end = event::Clock::now() + time;
    // At least so many rounds: on a busy machine the time alone may be one round.
    for (int i = 0; i < 40 || event::Clock::now() < end; ++i)
      loop_.RunOnce(std::chrono::milliseconds(1));
  }
  // Answers every request with its own method, path and body once it is complete.
  void EchoServer() {
    server_.on_request = [](ServerEnd::Exchange& x) {
      auto answer = [&x] {
        ResponseHead head = Status(200);
        head.headers.Add("x-path", x.head.path);
        head.headers.Add("x-authority", x.head.authority);
        x.stream->SendResponse(head, false);
        x.stream->SendData(x.in.data, !x.in.has_trailers);
        if (x.in.has_trailers) x.stream->SendTrailers(x.in.trailers);
      };
      if (x.in.ended) {
        answer();
      } else {
        x.in.on_end = answer;
      }
    };
  }

  event::EventLoop loop_;
  ServerEnd server_;
  ClientEnd client_;
};

}  // namespace qanat::http::test
