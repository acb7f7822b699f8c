// SPDX-License-Identifier: Apache-2.0
// nghttp2's sessions as an independent implementation of the other end, in both roles.
#include <gtest/gtest.h>
#include <nghttp2/nghttp2.h>

#include <map>

#include "common/hbone/client_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using testing::Party;
using testing::Pattern;
using testing::RunUntil;
using namespace std::chrono_literals;

// One nghttp2 session on one end of a pipe. Every stream sends what `to_send` holds and keeps what
// it receives.
class Foreign final : public net::TransportEvents {
 public:
  struct Stream {
    std::string to_send, received, method, authority, status, baggage;
    bool finish = false;  // END_STREAM after to_send
    bool ended = false;   // the other side's END_STREAM
    bool echo = false;
    int64_t closed = -1;  // error code once closed
  };

  Foreign(net::TransportPtr transport, bool client) : transport_(std::move(transport)) {
    nghttp2_session_callbacks* calls;
    nghttp2_session_callbacks_new(&calls);
    nghttp2_session_callbacks_set_on_header_callback(calls, OnHeader);
    nghttp2_session_callbacks_set_on_frame_recv_callback(calls, OnFrame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, OnData);
    nghttp2_session_callbacks_set_on_stream_close_callback(calls, OnClose);
    if (client) {
      nghttp2_session_client_new(&session_, calls, this);
    } else {
      nghttp2_session_server_new(&session_, calls, this);
    }
    nghttp2_session_callbacks_del(calls);
    nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 200000},
                                         {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 100}};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, 2);
    transport_->SetEvents(this);
    transport_->ReadEnable(true);
    Pump();
  }
  ~Foreign() { nghttp2_session_del(session_); }

  int32_t Connect(std::string authority) {
    nghttp2_nv nv[] = {Nv(":method", "CONNECT"), Nv(":authority", authority),
                       Nv("baggage", "k8s.namespace.name=shop")};
    nghttp2_data_provider provider = Provider();
    int32_t id = nghttp2_submit_request(session_, nullptr, nv, 3, &provider, nullptr);
    Pump();
    return id;
  }
  void Resume(int32_t id) {
    nghttp2_session_resume_data(session_, id);
    Pump();
  }
  void Reset(int32_t id, uint32_t code) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, code);
    Pump();
  }
  void Goaway() {
    nghttp2_submit_shutdown_notice(session_);
    Pump();
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(session_), 0, nullptr, 0);
    Pump();
  }
  void Trailers(int32_t id) {
    nghttp2_nv nv[] = {Nv("trailer", "ignored")};
    nghttp2_submit_trailer(session_, id, nv, 1);
    Pump();
  }

  void OnReadable() override {
    uint8_t buffer[16384];
    IoResult got = transport_->Read(buffer);
    if (got.ok()) {
      ssize_t used = nghttp2_session_mem_recv(session_, buffer, got.bytes);
      if (used < 0) error = nghttp2_strerror(static_cast<int>(used));
      Pump();
    } else if (got.kind != IoResult::Kind::kWouldBlock) {
      end = got.kind;
      transport_->ReadEnable(false);
    }
  }
  void OnWritable() override { Pump(); }
  void Pump() {
    for (;;) {
      if (out_.empty()) {
        const uint8_t* data;
        ssize_t n = nghttp2_session_mem_send(session_, &data);
        if (n <= 0) break;
        out_.assign(reinterpret_cast<const char*>(data), static_cast<size_t>(n));
      }
      iovec part{out_.data(), out_.size()};
      IoResult wrote = transport_->Write({&part, 1});
      if (!wrote.ok()) {
        transport_->WriteEnable(wrote.kind == IoResult::Kind::kWouldBlock);
        return;
      }
      out_.erase(0, wrote.bytes);
    }
    transport_->WriteEnable(false);
  }
  void Close() { transport_.reset(); }

  std::map<int32_t, Stream> streams;
  std::function<int(int32_t)> on_request;  // server: status to answer, 200 also takes data
  std::string error;
  std::optional<IoResult::Kind> end;
  int goaways = 0;

 private:
  static nghttp2_nv Nv(std::string_view name, std::string_view value) {
    return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
            reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
            NGHTTP2_NV_FLAG_NONE};
  }
  nghttp2_data_provider Provider() {
    nghttp2_data_provider provider{};
    provider.read_callback = ReadData;
    return provider;
  }
  static ssize_t ReadData(nghttp2_session*, int32_t id, uint8_t* buf, size_t size, uint32_t* flags,
                          nghttp2_data_source*, void* user) {
    Stream& stream = static_cast<Foreign*>(user)->streams[id];
    size_t n = std::min(size, stream.to_send.size());
    std::copy_n(stream.to_send.begin(), n, buf);
    stream.to_send.erase(0, n);
    if (stream.to_send.empty() && stream.finish) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
    } else if (n == 0) {
      return NGHTTP2_ERR_DEFERRED;
    }
    return static_cast<ssize_t>(n);
  }
  static int OnHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name,
                      size_t name_size, const uint8_t* value, size_t value_size, uint8_t,
                      void* user) {
    Stream& stream = static_cast<Foreign*>(user)->streams[frame->hd.stream_id];
    std::string n(reinterpret_cast<const char*>(name), name_size);
    std::string v(reinterpret_cast<const char*>(value), value_size);
    if (n == ":method") stream.method = v;
    if (n == ":authority") stream.authority = v;
    if (n == ":status") stream.status = v;
    if (n == "baggage") stream.baggage = v;
    return 0;
  }
  static int OnFrame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    auto* self = static_cast<Foreign*>(user);
    int32_t id = frame->hd.stream_id;
    if (frame->hd.type == NGHTTP2_GOAWAY) ++self->goaways;
    if (frame->hd.type == NGHTTP2_HEADERS && self->on_request) {
      int status = self->on_request(id);
      std::string text = std::to_string(status);
      nghttp2_nv nv[] = {Nv(":status", text), Nv("baggage", "from=nghttp2")};
      nghttp2_data_provider provider = self->Provider();
      nghttp2_submit_response(session, id, nv, 2, status == 200 ? &provider : nullptr);
    }
    if (id != 0 && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 &&
        (frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS)) {
      Stream& stream = self->streams[id];
      stream.ended = true;
      if (stream.echo) {
        stream.finish = true;
        nghttp2_session_resume_data(session, id);
      }
    }
    return 0;
  }
  static int OnData(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t size,
                    void* user) {
    Stream& stream = static_cast<Foreign*>(user)->streams[id];
    std::string_view text(reinterpret_cast<const char*>(data), size);
    stream.received += text;
    if (stream.echo) {
      stream.to_send += text;
      nghttp2_session_resume_data(session, id);
    }
    return 0;
  }
  static int OnClose(nghttp2_session*, int32_t id, uint32_t code, void* user) {
    static_cast<Foreign*>(user)->streams[id].closed = code;
    return 0;
  }

  net::TransportPtr transport_;
  nghttp2_session* session_ = nullptr;
  std::string out_;
};

class ForeignClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto [a, b] = net::MakePipe(loop_, 30000);
    client_ = std::make_unique<Foreign>(std::move(a), true);
    server_ = std::make_unique<ServerSession>(
        std::move(b), SessionOptions{},
        ServerSession::Events{
            [this](InboundConnect request, Responder responder) {
              authority_ = request.authority;
              baggage_ = request.baggage();
              if (status_ != 200) return responder.Reject(status_);
              users_.push_back(std::make_unique<Party>(responder.Accept({{"baggage", "from=us"}})));
              users_.back()->echo = true;
            },
            [this](const CloseReason& r) { closed_ = r; }});
  }
  event::EventLoop loop_;
  std::unique_ptr<Foreign> client_;
  std::unique_ptr<ServerSession> server_;
  std::vector<std::unique_ptr<Party>> users_;
  std::string authority_, baggage_;
  std::optional<CloseReason> closed_;
  int status_ = 200;
};

TEST_F(ForeignClientTest, EchoOfManyMegabytesOnSeveralStreams) {
  std::vector<int32_t> ids;
  for (unsigned i = 0; i < 5; ++i) ids.push_back(client_->Connect("10.0.0.1:80"));
  for (unsigned i = 0; i < 5; ++i) {
    auto& stream = client_->streams[ids[i]];
    stream.to_send = Pattern((1 << 20) + i, i);
    stream.finish = true;
    client_->Resume(ids[i]);
  }
  ASSERT_TRUE(RunUntil(
      loop_,
      [&] {
        for (int32_t id : ids) {
          if (client_->streams[id].closed < 0) return false;
        }
        return true;
      },
      30s));
  EXPECT_EQ(client_->error, "");
  EXPECT_EQ(authority_, "10.0.0.1:80");
  EXPECT_EQ(baggage_, "k8s.namespace.name=shop");
  for (unsigned i = 0; i < 5; ++i) {
    const auto& stream = client_->streams[ids[i]];
    EXPECT_EQ(stream.status, "200");
    EXPECT_EQ(stream.baggage, "from=us");
    EXPECT_EQ(stream.closed, 0);
    EXPECT_TRUE(stream.received == Pattern((1 << 20) + i, i));
  }
}

TEST_F(ForeignClientTest, RefusalResetTrailersAndDrain) {
  status_ = 401;
  int32_t id = client_->Connect("10.0.0.1:80");
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_->streams[id].closed >= 0; }));
  EXPECT_EQ(client_->streams[id].status, "401");
  EXPECT_TRUE(client_->streams[id].ended);
  status_ = 200;

  id = client_->Connect("[fd00::1]:80");
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  client_->Reset(id, NGHTTP2_CONNECT_ERROR);
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_[0]->end.has_value(); }));
  EXPECT_EQ(*users_[0]->end, IoResult::Kind::kReset);

  id = client_->Connect("x:80");
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 2; }));
  users_[1]->transport().Abort();
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_->streams[id].closed >= 0; }));
  EXPECT_EQ(client_->streams[id].closed, NGHTTP2_CONNECT_ERROR);

  id = client_->Connect("x:80");
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_->streams[id].status == "200"; }));
  server_->Drain();
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_->goaways == 2; }));
  client_->streams[id].to_send = "after goaway";
  client_->streams[id].finish = true;
  client_->Resume(id);
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_->streams[id].closed >= 0; }));
  EXPECT_EQ(client_->streams[id].received, "after goaway");
  ASSERT_TRUE(RunUntil(loop_, [&] { return client_->end.has_value(); }));
  EXPECT_EQ(*client_->end, IoResult::Kind::kEof);
  EXPECT_EQ(client_->error, "");
}

TEST_F(ForeignClientTest, GoneClient) {
  client_->Connect("x:80");
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_.size() == 1; }));
  client_->Close();
  ASSERT_TRUE(RunUntil(loop_, [&] { return users_[0]->end && closed_; }));
  EXPECT_EQ(*users_[0]->end, IoResult::Kind::kReset);
}

class ForeignServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto [a, b] = net::MakePipe(loop_, 30000);
    server_ = std::make_unique<Foreign>(std::move(a), false);
    server_->on_request = [this](int32_t id) {
      server_->streams[id].echo = true;
      return status_;
    };
    client_ = std::make_unique<ClientSession>(
        std::move(b), SessionOptions{},
        ClientSession::Events{nullptr, [this](const CloseReason& r) { closed_ = r; }});
  }
  std::optional<ClientSession::ConnectResult> Open() {
    std::optional<ClientSession::ConnectResult> result;
    auto pending = client_->Connect({"10.0.0.1:80", {{"baggage", "from=us"}}},
                                    [&](ClientSession::ConnectResult r) { result = std::move(r); });
    RunUntil(loop_, [&] { return result.has_value(); });
    return result;
  }
  event::EventLoop loop_;
  std::unique_ptr<Foreign> server_;
  std::unique_ptr<ClientSession> client_;
  std::optional<CloseReason> closed_;
  int status_ = 200;
};

TEST_F(ForeignServerTest, EchoOfManyMegabytes) {
  std::vector<std::unique_ptr<Party>> users;
  for (unsigned i = 0; i < 4; ++i) {
    auto result = Open();
    ASSERT_TRUE(result && *result && (*result)->stream);
    EXPECT_EQ(Find((*result)->headers, "baggage"), "from=nghttp2");
    users.push_back(std::make_unique<Party>(std::move((*result)->stream)));
  }
  EXPECT_EQ(server_->streams[1].method, "CONNECT");
  EXPECT_EQ(server_->streams[1].authority, "10.0.0.1:80");
  EXPECT_EQ(server_->streams[1].baggage, "from=us");
  for (unsigned i = 0; i < 4; ++i) {
    users[i]->piece = 3000 * (i + 1);
    users[i]->Send(Pattern((1 << 20) + i, i));
    users[i]->Finish();
  }
  ASSERT_TRUE(RunUntil(
      loop_,
      [&] {
        for (auto& user : users) {
          if (!user->end) return false;
        }
        return true;
      },
      30s));
  for (unsigned i = 0; i < 4; ++i) {
    EXPECT_EQ(*users[i]->end, IoResult::Kind::kEof);
    EXPECT_TRUE(users[i]->received == Pattern((1 << 20) + i, i));
  }
  EXPECT_EQ(server_->error, "");
  EXPECT_EQ(client_->streams(), 0u);
}

TEST_F(ForeignServerTest, RefusalAndGoaway) {
  status_ = 503;
  auto result = Open();
  EXPECT_EQ((*result)->status, 503);
  EXPECT_EQ((*result)->stream, nullptr);
  status_ = 200;
  result = Open();
  Party user(std::move((*result)->stream));
  server_->Goaway();
  ASSERT_TRUE(RunUntil(loop_, [&] { return !client_->CanOpen(); }));
  user.Send("still");
  user.Finish();
  ASSERT_TRUE(RunUntil(loop_, [&] { return user.end.has_value(); }));
  EXPECT_EQ(user.received, "still");
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_->end.has_value(); }));
  server_->Close();
  ASSERT_TRUE(RunUntil(loop_, [&] { return closed_.has_value(); }));
  EXPECT_EQ(closed_->message, "");
}

}  // namespace
}  // namespace qanat::hbone
