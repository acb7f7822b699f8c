// SPDX-License-Identifier: Apache-2.0
// Both codecs, each against its own other side, over a pipe that cuts everything at random places.
#include "common/http/connection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/http/test_peers.h"

namespace qanat::http {
namespace {

using namespace test;  // NOLINT: this folder's peers
using std::chrono::milliseconds;
using testing::HasSubstr;

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
  void RunUntil(const std::function<bool()>& done, milliseconds limit = milliseconds(10000)) {
    const auto end = event::Clock::now() + limit;
    while (!done() && event::Clock::now() < end) loop_.RunOnce(milliseconds(5));
    EXPECT_TRUE(done()) << "timed out";
  }
  void RunFor(milliseconds time) {
    const auto end = event::Clock::now() + time;
    // At least so many rounds: on a busy machine the time alone may be one round.
    for (int i = 0; i < 40 || event::Clock::now() < end; ++i) loop_.RunOnce(milliseconds(1));
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
    const auto end = event::Clock::now() + std::chrono::seconds(20);
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
  options.ping_timeout = milliseconds(3000);
  Connect(Version::kHttp2, 65536, {}, options);
  RunFor(milliseconds(400));
  EXPECT_FALSE(client_.closed) << client_.detail;
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

// ---- HTTP/1 only: bytes ----

class Http1Raw : public ConnectionTest {
 protected:
  void Start(Options options = {}) {
    auto [a, b] = net::MakePipe(loop_, 65536);
    server_.connection = MakeHttp1Server(std::move(a), &server_, options);
    peer_ = std::move(b);
  }
  void Send(const std::string& bytes) {
    const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    ASSERT_TRUE(peer_->Write({&part, 1}).ok());
  }
  std::string Receive() {
    RunFor(milliseconds(20));
    std::string out;
    uint8_t buffer[4096];
    for (;;) {
      const net::IoResult r = peer_->Read(buffer);
      if (!r.ok()) break;
      out.append(reinterpret_cast<char*>(buffer), r.bytes);
    }
    return out;
  }
  net::TransportPtr peer_;
};

TEST_F(Http1Raw, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  Send(
      "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
      "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  RunFor(milliseconds(20));
  ASSERT_EQ(server_.exchanges.size(), 1u) << "the second waits for the first's answer";
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(server_.exchanges.size(), i + 1);
    ResponseHead head = Status(200);
    head.headers.Add("x", server_.exchanges[i]->head.path);
    server_.exchanges[i]->stream->SendResponse(head, true);
    RunFor(milliseconds(10));
  }
  EXPECT_EQ(Receive(),
            "HTTP/1.1 200 OK\r\nx: /1\r\ncontent-length: 0\r\n\r\n"
            "HTTP/1.1 200 OK\r\nx: /2\r\ncontent-length: 0\r\n\r\n"
            "HTTP/1.1 200 OK\r\nx: /3\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
}

TEST_F(Http1Raw, ExpectContinue) {
  Start();
  Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(Receive(), "HTTP/1.1 100 Continue\r\n\r\n");
  Send("hi");
  RunFor(milliseconds(10));
  EXPECT_EQ(server_.exchanges[0]->in.data, "hi");
  EXPECT_FALSE(server_.exchanges[0]->head.headers.Has("expect"));
}

TEST_F(Http1Raw, ExpectContinueRefused) {
  server_.on_request = [](ServerEnd::Exchange& x) { x.stream->SendResponse(Status(403), true); };
  Start();
  Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(Receive(), "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
  RunUntil([&] { return server_.exchanges[0]->in.closed; });
}

TEST_F(Http1Raw, Http10GetsABodyUntilClose) {
  server_.on_request = [](ServerEnd::Exchange& x) {
    x.stream->SendResponse(Status(200), false);
    x.stream->SendData("body", true);
  };
  Start();
  Send("GET / HTTP/1.0\r\n\r\n");
  EXPECT_EQ(Receive(), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody");
}

TEST_F(Http1Raw, ErrorAfterAGoodRequestDoesNotTouchItsAnswer) {
  Start();
  Send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost : a\r\n\r\n");
  RunFor(milliseconds(20));
  server_.exchanges[0]->stream->SendResponse(Status(204), true);
  const std::string out = Receive();
  EXPECT_THAT(out, HasSubstr("HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 400 Bad Request\r\n"));
  peer_.reset();
  RunUntil([&] { return server_.closed; });
  EXPECT_FALSE(server_.clean);
  EXPECT_EQ(server_.exchanges.size(), 1u);
}

TEST_F(Http1Raw, BadChunkEndsTheExchange) {
  Start();
  Send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nZZ\r\n");
  EXPECT_THAT(Receive(), HasSubstr("HTTP/1.1 400 "));
  EXPECT_TRUE(server_.exchanges[0]->in.closed);
  EXPECT_EQ(server_.exchanges[0]->in.reason, CloseReason::kProtocolError);
}

TEST_F(Http1Raw, HeaderTimeoutAnswers408) {
  Options options;
  options.header_timeout = milliseconds(60);
  Start(options);
  RunFor(milliseconds(100));
  EXPECT_EQ(Receive(), "") << "nothing was begun";
  Send("GET / HT");
  RunFor(milliseconds(100));
  EXPECT_THAT(Receive(), HasSubstr("HTTP/1.1 408 "));
}

TEST_F(Http1Raw, ClientLeavesDuringTheRequest) {
  Start();
  Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc");
  RunFor(milliseconds(10));
  peer_.reset();
  RunUntil([&] { return server_.closed; });
  EXPECT_TRUE(server_.exchanges[0]->in.closed);
  EXPECT_FALSE(server_.exchanges[0]->in.ended);
  EXPECT_EQ(server_.exchanges[0]->in.reason, CloseReason::kConnectionLost);
}

TEST_F(ConnectionTest, Http1ClientRefusesBytesThatNoRequestAskedFor) {
  auto [a, b] = net::MakePipe(loop_, 65536);
  client_.connection = MakeHttp1Client(std::move(a), &client_, {});
  const std::string planted = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
  const iovec part{const_cast<char*>(planted.data()), planted.size()};
  b->Write({&part, 1});
  RunUntil([&] { return client_.closed; });
  EXPECT_FALSE(client_.clean);
  EXPECT_FALSE(client_.connection->CanOpen());
}

TEST_F(ConnectionTest, Http1ClientBodyUntilClose) {
  auto [a, b] = net::MakePipe(loop_, 65536);
  client_.connection = MakeHttp1Client(std::move(a), &client_, {});
  Recorder r;
  client_.connection->Open(Get(), true, &r);
  RunFor(milliseconds(10));
  const std::string answer = "HTTP/1.1 200 OK\r\n\r\nall of it";
  const iovec part{const_cast<char*>(answer.data()), answer.size()};
  b->Write({&part, 1});
  RunFor(milliseconds(10));
  EXPECT_FALSE(r.ended);
  b->ShutdownWrite();
  RunUntil([&] { return r.closed; });
  EXPECT_EQ(r.data, "all of it");
  EXPECT_TRUE(r.ended);
  EXPECT_EQ(r.reason, CloseReason::kDone);
}

TEST_F(ConnectionTest, Http1ServerThatLeavesInTheMiddle) {
  for (const std::string answer :
       {"", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"}) {
    ClientEnd client;
    auto [a, b] = net::MakePipe(loop_, 65536);
    client.connection = MakeHttp1Client(std::move(a), &client, {});
    Recorder r;
    client.connection->Open(Get(), true, &r);
    RunFor(milliseconds(10));
    uint8_t buffer[4096];
    ASSERT_TRUE(b->Read(buffer).ok());
    const iovec part{const_cast<char*>(answer.data()), answer.size()};
    b->Write({&part, 1});
    b.reset();
    RunUntil([&] { return r.closed && client.closed; });
    // Nothing of an answer: lost, and a retry on a fresh connection may be in order.
    EXPECT_EQ(r.reason, answer.empty() ? CloseReason::kConnectionLost : CloseReason::kPeerReset);
    EXPECT_FALSE(r.ended);
  }
}

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
