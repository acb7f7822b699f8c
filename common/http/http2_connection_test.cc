// SPDX-License-Identifier: Apache-2.0
// What only HTTP/2 connections have: many streams, resets, pings.
#include "common/http/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/http/connection_fixture.h"
#include "common/http/ping_guard_for_test.h"

namespace qanat::http {
namespace {

using namespace test;  // NOLINT: this folder's peers
using std::chrono::milliseconds;
using testing::HasSubstr;

TEST_F(ConnectionTest, Http2ManyStreamsAtOnce) {
  EchoServer();
  Options options;
  options.max_concurrent_streams = 50;
  Connect(Version::kHttp2, 65536, options);
  RunFor(milliseconds(20));  // SETTINGS
  std::vector<std::unique_ptr<Recorder>> all;
  std::vector<Stream*> streams;
  while (client_.connection->CanOpen()) {
    all.push_back(std::make_unique<Recorder>());
    streams.push_back(
        client_.connection->Open(Post("/" + std::to_string(all.size())), false, all.back().get()));
    ASSERT_NE(streams.back(), nullptr);
  }
  EXPECT_EQ(all.size(), 50u);
  for (size_t i = 0; i < streams.size(); ++i) {
    streams[i]->SendData(std::string(1000 + i, 'a'), true);
  }
  RunUntil([&] { return std::all_of(all.begin(), all.end(), [](auto& r) { return r->closed; }); });
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i]->data.size(), 1000 + i);
  EXPECT_GT(client_.capacity, 0);
  EXPECT_TRUE(client_.connection->CanOpen());
}

TEST_F(ConnectionTest, Http2OnePausedStreamDoesNotStopTheOthers) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    x.stream->SendResponse(Status(200), false);
    x.stream->SendData(std::string(300'000, 'z'), true);
  };
  Options options;
  options.stream_window = 65535;
  options.connection_window = 65535;
  Connect(Version::kHttp2, 8192, options, options);
  Recorder slow, fast;
  Stream* stuck = client_.connection->Open(Get(), true, &slow);
  slow.on_data = [&] { stuck->PauseReading(true); };
  RunUntil([&] { return !slow.data.empty(); });
  client_.connection->Open(Get(), true, &fast);
  RunUntil([&] { return fast.closed; });
  EXPECT_EQ(fast.data.size(), 300'000u);
  EXPECT_FALSE(slow.ended);
  slow.on_data = nullptr;
  stuck->PauseReading(false);
  RunUntil([&] { return slow.closed; });
  EXPECT_EQ(slow.data.size(), 300'000u);
}

TEST_F(ConnectionTest, Http2RefusedStreamsMayBeRetried) {
  server_.on_request = [](ServerEnd::Exchange& x) { x.stream->Reset(ResetCode::kRefused); };
  Connect(Version::kHttp2);
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunUntil([&] { return r.closed; });
  EXPECT_EQ(r.reason, CloseReason::kRefused);
}

TEST_F(ConnectionTest, Http2RapidResetEndsTheConnection) {
  Options options;
  options.reset_burst = 20;
  options.reset_rate = 1;
  Connect(Version::kHttp2, 65536, options);
  for (int i = 0; i < 200 && !client_.closed; ++i) {
    Recorder r;
    Stream* s = client_.connection->Open(Get(), true, &r);
    if (s == nullptr) break;
    RunFor(milliseconds(1));
    if (!r.closed) s->Reset(ResetCode::kCancel);
    RunFor(milliseconds(1));
  }
  RunUntil([&] { return server_.closed; });
  EXPECT_FALSE(server_.clean);
  EXPECT_LT(server_.exchanges.size(), 60u);
}

TEST_F(ConnectionTest, Http2PingTimeout) {
  auto [a, b] = net::MakePipe(loop_, 65536);
  Options options;
  options.ping_interval = milliseconds(50);
  options.ping_timeout = milliseconds(100);
  client_.connection = MakeHttp2Client(std::move(a), &client_, options);
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunUntil([&] { return client_.closed; });  // nobody reads b
  EXPECT_THAT(client_.detail, HasSubstr("PING"));
  EXPECT_TRUE(r.closed);
}

TEST_F(ConnectionTest, Http2PingsKeepAQuietConnection) {
  EchoServer();
  Options options;
  options.ping_interval = milliseconds(20);
  options.ping_timeout = milliseconds(60000);
  Connect(Version::kHttp2, 65536, {}, options);
  RunFor(milliseconds(400));
  EXPECT_FALSE(client_.closed) << client_.detail;
}

TEST_F(ConnectionTest, Http2PingsThatAreTooManyForTheServer) {
  auto [a, b] = net::MakePipe(loop_, 65536);
  server_.connection =
      MakeHttp2Server(std::make_unique<PingGuard>(std::move(b), milliseconds(15000)), &server_, {});
  Options options;
  options.ping_interval = milliseconds(20);
  options.ping_timeout = milliseconds(60000);
  client_.connection = MakeHttp2Client(std::move(a), &client_, options);
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunUntil([&] { return server_.closed; });
  server_.connection.reset();
  RunUntil([&] { return client_.closed; });
  EXPECT_EQ(client_.calm_downs, 1);
  EXPECT_THAT(client_.detail, HasSubstr("ENHANCE_YOUR_CALM: too_many_pings"));
  EXPECT_TRUE(r.closed);
}

TEST_F(ConnectionTest, Http2AServerThatDrainsSaysNothingOfPings) {
  EchoServer();
  Connect(Version::kHttp2);
  server_.connection->Drain();
  RunUntil([&] { return client_.closed; });
  EXPECT_EQ(client_.calm_downs, 0);
}

TEST_F(ConnectionTest, Http2GarbageEndsTheConnectionOnly) {
  auto [a, b] = net::MakePipe(loop_, 65536);
  server_.connection = MakeHttp2Server(std::move(a), &server_, {});
  const std::string garbage = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  const iovec part{const_cast<char*>(garbage.data()), garbage.size()};
  b->Write({&part, 1});
  RunUntil([&] { return server_.closed; });
  EXPECT_FALSE(server_.clean);
}

}  // namespace
}  // namespace qanat::http
