// SPDX-License-Identifier: Apache-2.0
// Both codecs, each against its own other side, over a pipe that cuts everything at random places.
#include "common/http/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/http/connection_fixture.h"

namespace qanat::http {
namespace {

using namespace test;  // NOLINT: this folder's peers
using std::chrono::milliseconds;
using testing::HasSubstr;

class Both : public ConnectionTest, public ::testing::WithParamInterface<Version> {};
INSTANTIATE_TEST_SUITE_P(Versions, Both, testing::Values(Version::kHttp11, Version::kHttp2),
                         [](const auto& p) {
                           return p.param == Version::kHttp2 ? std::string("Http2")
                                                             : std::string("Http1");
                         });

TEST_P(Both, RequestsOneAfterTheOther) {
  EchoServer();
  Connect(GetParam(), 65536, {}, {}, true);
  for (int i = 0; i < 20; ++i) {
    Recorder r;
    const std::string path = "/" + std::to_string(i) + "?q=1";
    ASSERT_TRUE(client_.connection->CanOpen());
    ASSERT_NE(client_.connection->Open(Get(path), true, &r), nullptr);
    RunUntil([&] { return r.closed; });
    EXPECT_EQ(r.reason, CloseReason::kDone) << r.detail << " / " << server_.detail;
    EXPECT_TRUE(r.ended);
    EXPECT_EQ(r.response.status, 200);
    EXPECT_EQ(r.response.headers.Get("x-path"), path);
    EXPECT_EQ(r.response.headers.Get("x-authority"), "shop.example");
  }
  EXPECT_EQ(server_.exchanges.size(), 20u);
  EXPECT_EQ(server_.exchanges[0]->head.version, GetParam());
  EXPECT_FALSE(client_.closed);
}

TEST_P(Both, BigBodiesAreByteExactThroughASmallPipe) {
  EchoServer();
  Options options;
  options.stream_window = 65535;
  options.connection_window = 65535;
  Connect(GetParam(), 1000, options, options);
  std::string body(700'000, 0);
  std::minstd_rand random(7);
  for (char& c : body) c = static_cast<char>(random());
  Recorder r;
  Stream* stream = client_.connection->Open(Post(), false, &r);
  ASSERT_NE(stream, nullptr);
  size_t sent = 0;
  auto pump = [&] {
    while (sent < body.size() && !stream->Overfull()) {
      const size_t n = std::min<size_t>(body.size() - sent, 10'000);
      stream->SendData(std::string_view(body).substr(sent, n), sent + n == body.size());
      sent += n;
    }
  };
  r.on_writable = pump;
  pump();
  EXPECT_LT(sent, body.size()) << "the sender was never stopped";
  RunUntil([&] { return r.closed; });
  EXPECT_EQ(r.reason, CloseReason::kDone);
  EXPECT_TRUE(r.data == body);
  EXPECT_GT(r.writable, 0);
}

TEST_P(Both, TrailersInBothDirections) {
  EchoServer();
  Connect(GetParam());
  Recorder r;
  Stream* stream = client_.connection->Open(Post(), false, &r);
  stream->SendData("abc", false);
  HeaderList trailers;
  trailers.Add("X-Checksum", "1");
  stream->SendTrailers(trailers);
  RunUntil([&] { return r.closed; });
  EXPECT_EQ(r.data, "abc");
  ASSERT_TRUE(server_.exchanges[0]->in.has_trailers);
  EXPECT_EQ(server_.exchanges[0]->in.trailers.Get("x-checksum"), "1");
  ASSERT_TRUE(r.has_trailers);
  EXPECT_EQ(r.trailers.Get("x-checksum"), "1");
}

TEST_P(Both, BackpressureBoundsWhatIsBuffered) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    x.stream->PauseReading(true);
    x.stream->SendInformational(103, {});
  };
  Options options;
  options.stream_window = 65535;
  options.high_watermark = 20'000;
  options.low_watermark = 5'000;
  Connect(GetParam(), 4096, options, options);
  Recorder r;
  Stream* stream = client_.connection->Open(Post(), false, &r);
  size_t sent = 0;
  const std::string piece(1000, 'x');
  auto pump = [&] {
    while (!stream->Overfull() && sent < 2'000'000) {
      stream->SendData(piece, false);
      sent += piece.size();
    }
  };
  r.on_writable = pump;
  pump();
  RunFor(milliseconds(200));
  ASSERT_EQ(server_.exchanges.size(), 1u);
  // Window or unparsed input, pipe, and the sender's high mark.
  EXPECT_LT(sent, 65535u + 64 * 1024 + 4096 + 22'000);
  EXPECT_LT(server_.exchanges[0]->in.data.size(), 66'000u);
  EXPECT_TRUE(stream->Overfull());
  ASSERT_EQ(r.informational.size(), 1u);
  EXPECT_EQ(r.informational[0].status, 103);
  server_.exchanges[0]->stream->PauseReading(false);
  RunUntil([&] { return server_.exchanges[0]->in.data.size() == 2'000'000; });
}

TEST_P(Both, PausedClientStopsTheServer) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    auto pump = [&x] {
      while (x.stream != nullptr && !x.stream->Overfull()) {
        x.stream->SendData(std::string(1000, 'y'), false);
      }
    };
    x.stream->SendResponse(Status(200), false);
    x.in.on_writable = pump;
    pump();
  };
  Options options;
  options.stream_window = 65535;
  options.high_watermark = 20'000;
  options.low_watermark = 5'000;
  Connect(GetParam(), 4096, options, options);
  Recorder r;
  Stream* stream = client_.connection->Open(Get(), true, &r);
  r.on_data = [&] { stream->PauseReading(true); };
  RunUntil([&] { return !r.data.empty(); });
  RunFor(milliseconds(150));
  const size_t got = r.data.size();
  EXPECT_LE(got, 65535u);
  RunFor(milliseconds(50));
  EXPECT_EQ(r.data.size(), got);
  r.on_data = nullptr;
  stream->PauseReading(false);
  RunUntil([&] { return r.data.size() > 500'000; });
  stream->Reset(ResetCode::kCancel);
  RunUntil([&] { return server_.exchanges[0]->in.closed; });
  EXPECT_NE(server_.exchanges[0]->in.reason, CloseReason::kDone);
}

TEST_P(Both, HeadNoContentAndInformational) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    HeaderList hints;
    hints.Add("link", "</a>");
    x.stream->SendInformational(103, hints);
    ResponseHead head = Status(x.head.path == "/204" ? 204 : 200);
    if (x.head.method == "HEAD") head.headers.Add("content-length", "5");
    x.stream->SendResponse(head, false);
    x.stream->SendData("hello", true);  // must not reach the wire
  };
  Connect(GetParam());
  for (const char* path : {"/", "/204"}) {
    RequestHead head = Get(path);
    if (std::string_view(path) == "/") head.method = "HEAD";
    Recorder r;
    ASSERT_NE(client_.connection->Open(head, true, &r), nullptr);
    RunUntil([&] { return r.closed; });
    EXPECT_EQ(r.reason, CloseReason::kDone) << r.detail;
    EXPECT_TRUE(r.ended);
    EXPECT_EQ(r.data, "");
    ASSERT_EQ(r.informational.size(), 1u);
    EXPECT_EQ(r.informational[0].headers.Get("link"), "</a>");
  }
}

TEST_P(Both, ServerResetIsSeen) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    x.stream->SendResponse(Status(200), false);
    x.stream->SendData("part", false);
  };
  Connect(GetParam());
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunUntil([&] { return r.data == "part"; });
  server_.exchanges[0]->stream->Reset(ResetCode::kInternal);
  RunUntil([&] { return r.closed; });
  EXPECT_NE(r.reason, CloseReason::kDone);
  EXPECT_FALSE(r.ended);
}

TEST_P(Both, ConnectionLossIsSeenByBoth) {
  Connect(GetParam());
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunUntil([&] { return server_.exchanges.size() == 1; });
  client_.connection->Close("test");
  EXPECT_FALSE(r.closed) << "no callback inside the call";
  RunUntil([&] { return r.closed && client_.closed && server_.closed; });
  EXPECT_EQ(r.reason, CloseReason::kConnectionLost);
  EXPECT_TRUE(server_.exchanges[0]->in.closed);
  EXPECT_EQ(server_.exchanges[0]->in.reason, CloseReason::kConnectionLost);
  EXPECT_FALSE(client_.connection->CanOpen());
}

TEST_P(Both, AnswerBeforeTheRequestIsComplete) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    x.stream->SendResponse(Status(403), false);
    x.stream->SendData("no", true);
  };
  Connect(GetParam(), 4096);
  Recorder r;
  Stream* stream = client_.connection->Open(Post(), false, &r);
  stream->SendData(std::string(100'000, 'x'), false);
  RunUntil([&] { return r.ended; });
  EXPECT_EQ(r.response.status, 403);
  EXPECT_EQ(r.data, "no");
  RunUntil([&] { return r.closed; });
}

TEST_P(Both, DrainFinishesWhatRunsThenCloses) {
  EchoServer();
  Connect(GetParam());
  Recorder r;
  Stream* stream = client_.connection->Open(Post(), false, &r);
  RunUntil([&] { return server_.exchanges.size() == 1; });
  server_.connection->Drain();
  RunFor(milliseconds(300));
  EXPECT_FALSE(server_.closed);
  stream->SendData("late", true);
  RunUntil([&] { return r.closed; });
  EXPECT_EQ(r.data, "late");
  EXPECT_EQ(r.reason, CloseReason::kDone);
  RunUntil([&] { return server_.closed && client_.closed; });
  EXPECT_TRUE(server_.clean) << server_.detail;
  EXPECT_TRUE(client_.connection->Finished());
}

TEST_P(Both, IdleServerDrainsAtOnce) {
  EchoServer();
  Connect(GetParam());
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunUntil([&] { return r.closed; });
  server_.connection->Drain();
  RunUntil([&] { return server_.closed && client_.closed; });
  EXPECT_TRUE(server_.clean) << server_.detail;
}

TEST_P(Both, IdleTimeout) {
  EchoServer();
  Options options;
  options.idle_timeout = milliseconds(100);
  Connect(GetParam(), 65536, options);
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunUntil([&] { return r.closed; });
  RunUntil([&] { return server_.closed; });
  EXPECT_TRUE(server_.clean) << server_.detail;
}

TEST_P(Both, WrongContentLengthNeverLooksComplete) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    ResponseHead head = Status(200);
    head.headers.Add("content-length", "10");
    x.stream->SendResponse(head, false);
    x.stream->SendData("short", true);
  };
  Connect(GetParam());
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunUntil([&] { return r.closed; });
  EXPECT_NE(r.reason, CloseReason::kDone);
}

TEST_P(Both, HeadersThatWouldSplitAMessageAreNotSent) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    ResponseHead head = Status(200);
    head.headers.Add("x-bad", "a\r\nset-cookie: evil");
    head.headers.Add("x bad", "a");
    head.headers.Add("x-good", "a");
    head.headers.Add("connection", "upgrade");
    x.stream->SendResponse(head, true);
  };
  Connect(GetParam());
  Recorder r;
  RequestHead head = Get();
  head.headers.Add("x-evil", "1\r\n\r\nGET /admin HTTP/1.1\r\n\r\n");
  ASSERT_NE(client_.connection->Open(head, true, &r), nullptr);
  RunUntil([&] { return r.closed; });
  EXPECT_EQ(server_.exchanges.size(), 1u);
  EXPECT_FALSE(server_.exchanges[0]->head.headers.Has("x-evil"));
  EXPECT_EQ(r.response.headers.Get("x-good"), "a");
  EXPECT_FALSE(r.response.headers.Has("set-cookie"));
  EXPECT_FALSE(r.response.headers.Has("x-bad"));
  RequestHead bad = Get("/a b\r\nX: y");
  EXPECT_EQ(client_.connection->Open(bad, true, &r), nullptr);
}

TEST_P(Both, HeadersOverTheLimitAreRefused) {
  EchoServer();
  Options options;
  options.max_header_bytes = 4096;
  Connect(GetParam(), 65536, options);
  RequestHead head = Get();
  head.headers.Add("x-big", std::string(6000, 'a'));
  Recorder r;
  client_.connection->Open(head, true, &r);
  RunUntil([&] { return r.closed; });
  EXPECT_EQ(r.response.status, 431);
  EXPECT_TRUE(server_.exchanges.empty());
}

// Many streaming echoes with random sizes, pauses and resets: whatever is said to be complete is
// byte exact, every stream is closed exactly once, and nothing is left.
TEST_P(Both, RandomTraffic) {
  std::minstd_rand random(42);
  for (int round = 0; round < 12; ++round) {
    server_ = {};
    client_ = {};
    server_.on_request = [&random](ServerEnd::Exchange& x) {
      x.stream->SendResponse(Status(200), false);
      auto forward = [&x, &random] {
        if (x.stream == nullptr) return;
        x.stream->SendData(std::exchange(x.in.data, {}), false);
        if (random() % 400 == 0) {
          x.stream->Reset(ResetCode::kInternal);
          x.stream = nullptr;
          return;
        }
        if (x.stream->Overfull()) x.stream->PauseReading(true);
      };
      x.in.on_data = forward;
      x.in.on_writable = [&x] {
        if (x.stream != nullptr) x.stream->PauseReading(false);
      };
      x.in.on_end = [&x] {
        if (x.stream != nullptr) x.stream->SendData({}, true);
      };
      if (x.in.ended) x.in.on_end();
    };
    Options options;
    options.stream_window = 65535;
    options.high_watermark = 10'000;
    options.low_watermark = 2'000;
    Connect(GetParam(), 500 + random() % 20'000, options, options, round % 2 == 0);
    struct Job {
      std::string body;
      size_t sent = 0;
      Stream* stream = nullptr;
      Recorder r;
      int closed = 0;
      bool reset = false;
    };
    std::vector<std::unique_ptr<Job>> jobs;
    size_t begun = 0;
    const auto end = event::Clock::now() + std::chrono::seconds(60);
    auto open_jobs = [&] {
      return std::count_if(jobs.begin(), jobs.end(),
                           [](auto& j) { return !j->reset && j->closed == 0; });
    };
    while ((begun < 40 && !client_.connection->Finished()) || open_jobs() > 0) {
      ASSERT_LT(event::Clock::now(), end) << "stuck";
      if (begun < 40 && client_.connection->CanOpen() && random() % 2 == 0) {
        auto job = std::make_unique<Job>();
        job->body.resize(random() % 30'000);
        for (char& c : job->body) c = static_cast<char>(random());
        Job& ref = *job;
        ref.r.on_closed = [&ref] {
          ++ref.closed;
          ref.stream = nullptr;
        };
        ref.stream = client_.connection->Open(Post(), false, &ref.r);
        ASSERT_NE(ref.stream, nullptr);
        jobs.push_back(std::move(job));
        ++begun;
      }
      for (auto& j : jobs) {
        if (j->stream == nullptr || random() % 3 != 0) continue;
        if (random() % 2000 == 0) {
          j->stream->Reset(ResetCode::kCancel);
          j->stream = nullptr;
          j->reset = true;
          continue;
        }
        if (j->stream->Overfull() || j->sent > j->body.size()) continue;
        const size_t n = std::min<size_t>(random() % 5000, j->body.size() - j->sent);
        const bool last = j->sent + n == j->body.size();
        j->stream->SendData(std::string_view(j->body).substr(j->sent, n), last);
        j->sent += n + (last ? 1 : 0);
        if (random() % 10 == 0) j->stream->PauseReading(true);
        if (random() % 3 == 0) j->stream->PauseReading(false);
      }
      for (auto& j : jobs) {
        if (j->stream != nullptr && j->sent > j->body.size()) j->stream->PauseReading(false);
      }
      loop_.RunOnce({});
    }
    size_t complete = 0;
    for (auto& j : jobs) {
      EXPECT_EQ(j->closed, j->reset ? 0 : 1);
      if (!j->r.ended) continue;
      ++complete;
      EXPECT_TRUE(j->r.data == j->body);
    }
    if (GetParam() == Version::kHttp2) EXPECT_GT(complete, 20u);
    RunFor(milliseconds(5));
    EXPECT_EQ(client_.connection->active_streams(), 0u);
  }
}

// ---- HTTP/2 only ----

TEST(Detect, Protocols) {
  EXPECT_EQ(DetectProtocol(""), Detected::kMore);
  EXPECT_EQ(DetectProtocol("P"), Detected::kMore);
  EXPECT_EQ(DetectProtocol("PRI * HTTP/2.0\r\n\r\nSM"), Detected::kMore);
  EXPECT_EQ(DetectProtocol("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Detected::kHttp2);
  EXPECT_EQ(DetectProtocol("PRIX / "), Detected::kHttp1);
  EXPECT_EQ(DetectProtocol("POST"), Detected::kMore);
  EXPECT_EQ(DetectProtocol("POST /"), Detected::kHttp1);
  EXPECT_EQ(DetectProtocol("M-SEARCH *"), Detected::kHttp1);
  EXPECT_EQ(DetectProtocol("\x16\x03\x01"), Detected::kOther);
  EXPECT_EQ(DetectProtocol(" GET"), Detected::kOther);
  EXPECT_EQ(DetectProtocol("SSH-2.0-OpenSSH"), Detected::kOther);
  EXPECT_EQ(DetectProtocol("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), Detected::kOther);
}

}  // namespace
}  // namespace qanat::http
