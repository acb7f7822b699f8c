// SPDX-License-Identifier: Apache-2.0
// Sessions that stand still at random points of a random exchange, become bytes, and go on: neither
// end's users notice, and no byte is lost, doubled or moved.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nghttp2/nghttp2.h>

#include <map>
#include <random>

#include "common/hbone/client_session.h"
#include "common/hbone/saved_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_bulk.h"
#include "common/hbone/test_link.h"
#include "common/hbone/test_peer.h"

namespace qanat::hbone {
namespace {

using net::IoResult;
using testing::BulkAt;
using testing::LinkEnd;
using testing::LinkOptions;
using testing::RunUntil;
using testing::Settle;

// Sends `size` bytes and its end; compares what comes with what the other one sends.
class User final : public net::TransportEvents {
 public:
  User(uint64_t size, uint64_t expected, std::mt19937& random)
      : left(size), wanted(expected), random_(random) {}
  void Use(net::TransportPtr transport) {
    transport_ = std::move(transport);
    transport_->SetEvents(this);
    transport_->ReadEnable(!end);
    transport_->WriteEnable(left > 0 || !told_);
  }
  const net::Transport* transport() const { return transport_.get(); }
  net::TransportPtr Leave() { return std::move(transport_); }
  void OnReadable() override {
    if (random_() % 4 == 0) return;  // it is busy
    std::vector<uint8_t> buffer(1 + random_() % 30000);
    const IoResult got = transport_->Read(buffer);
    if (got.ok()) {
      for (size_t at = 0; at < got.bytes;) {
        const auto expected = BulkAt(received + at);
        const size_t n = std::min(expected.size(), got.bytes - at);
        in_order = in_order && std::equal(expected.begin(), expected.begin() + ssize_t(n),
                                          buffer.begin() + ssize_t(at));
        at += n;
      }
      received += got.bytes;
    } else if (got.kind != IoResult::Kind::kWouldBlock) {
      end = got.kind;
      transport_->ReadEnable(false);
    }
  }
  void OnWritable() override {
    if (left > 0) {
      const auto bytes = BulkAt(sent_);
      iovec part{const_cast<uint8_t*>(bytes.data()),
                 std::min<uint64_t>({1 + random_() % 40000, left, bytes.size()})};
      const IoResult wrote = transport_->Write({&part, 1});
      if (!wrote.ok() && wrote.kind != IoResult::Kind::kWouldBlock) {
        broken = true;
        left = 0;
      }
      sent_ += wrote.bytes;
      left -= std::min<uint64_t>(left, wrote.bytes);
      return;
    }
    if (!std::exchange(told_, true)) transport_->ShutdownWrite();
    transport_->WriteEnable(false);
  }
  bool done() const { return end.has_value() && told_; }
  bool good() const {
    return in_order && !broken && received == wanted && end == IoResult::Kind::kEof;
  }

  uint64_t left, wanted, received = 0;
  bool in_order = true, broken = false;
  std::optional<IoResult::Kind> end;

 private:
  std::mt19937& random_;
  net::TransportPtr transport_;
  uint64_t sent_ = 0;
  bool told_ = false;
};

class HandoverTest : public ::testing::Test {
 protected:
  void Start(unsigned seed, SessionOptions options = {}) {
    random_.seed(seed);
    options_ = options;
    LinkOptions link;
    link.capacity = 60000;
    link.cut = [this](size_t n) { return random_() % 5 == 0 ? 0 : 1 + random_() % n; };
    auto [a, b] = LinkEnd::Make(loop_, link);
    client_ = std::make_unique<ClientSession>(std::move(a), options, ClientEvents());
    server_ = std::make_unique<ServerSession>(std::move(b), options, ServerEvents());
  }
  ClientSession::Events ClientEvents() {
    return {nullptr,
            [this](const CloseReason& reason) { ends_ += "client: " + reason.message + ";"; }};
  }
  ServerSession::Events ServerEvents() {
    return {[this](InboundConnect request, Responder responder) {
              const auto number = static_cast<size_t>(std::stoul(request.authority));
              auto accept = [this, number,
                             held = std::make_shared<Responder>(std::move(responder))] {
                if (auto stream = held->Accept()) {
                  auto& user = *there_.at(number);
                  user.Use(std::move(stream));
                }
              };
              if (random_() % 2 == 0) return accept();
              later_.push_back(accept);  // unanswered for a while
            },
            [this](const CloseReason& reason) { ends_ += "server: " + reason.message + ";"; }};
  }
  void Open() {
    const uint64_t up = random_() % 300000, down = random_() % 300000;
    here_.push_back(std::make_unique<User>(up, down, random_));
    there_.push_back(std::make_unique<User>(down, up, random_));
    const size_t number = here_.size() - 1;
    pending_.push_back(
        client_->Connect({std::to_string(number), {{"x-a", std::to_string(random_() % 5)}}},
                         [this, number](ClientSession::ConnectResult result) {
                           if (result && result->stream)
                             here_.at(number)->Use(std::move(result->stream));
                           if (!result) ends_ += "connect: " + result.error().error.message + ";";
                         }));
  }
  // One side goes through bytes. False: not now.
  template <typename Session, typename Events>
  bool Move(std::unique_ptr<Session>& session, std::vector<std::unique_ptr<User>>& users,
            Events events) {
    const auto handles = session->Freezable();
    if (!handles) return false;
    net::TransportPtr transport;
    const SavedSession saved = session->Export(transport);
    EXPECT_EQ(saved.streams.size(), handles->size());
    const WipedString bytes = EncodeSession(saved);
    auto decoded = DecodeSession(bytes);
    EXPECT_TRUE(decoded.has_value()) << decoded.error().message;
    if (!decoded) return false;
    EXPECT_EQ(EncodeSession(*decoded), std::string_view(bytes));
    partial_ += decoded->frame.bytes.empty() ? 0 : 1;
    in_data_ += decoded->frame.left > 0 ? 1 : 0;
    unsent_ += decoded->unsent.empty() ? 0 : 1;
    for (const SavedStream& stream : decoded->streams) unread_ += stream.input.empty() ? 0 : 1;
    std::vector<User*> order;
    std::vector<net::TransportPtr> old;
    for (const net::Transport* handle : *handles) {
      User* user = nullptr;
      for (const auto& one : users) user = one->transport() == handle ? one.get() : user;
      EXPECT_NE(user, nullptr);
      if (user == nullptr) return false;
      old.push_back(user->Leave());
      order.push_back(user);
    }
    session.reset();
    std::vector<net::TransportPtr> streams;
    session = std::make_unique<Session>(std::move(transport), options_, std::move(events),
                                        std::move(*decoded), streams);
    for (size_t i = 0; i < order.size(); ++i) order[i]->Use(std::move(streams[i]));
    old.clear();
    ++moves_;
    return true;
  }
  void Exchange(int rounds) {
    for (int round = 0; round < rounds; ++round) {
      if (random_() % 60 == 0 && here_.size() < 40) Open();
      if (random_() % 40 == 0 && !later_.empty()) {
        later_.front()();
        later_.erase(later_.begin());
      }
      if (random_() % 12 == 0) Move(client_, here_, ClientEvents());
      if (random_() % 12 == 0) Move(server_, there_, ServerEvents());
      loop_.RunOnce(std::chrono::milliseconds(0));
    }
  }
  void Finish() {
    EXPECT_TRUE(RunUntil(
        loop_,
        [&] {
          // Also what comes now: the last request may still be on its way.
          for (auto& accept : std::exchange(later_, {})) accept();
          for (const auto* users : {&here_, &there_}) {
            for (const auto& user : *users) {
              if (!user->done()) return false;
            }
          }
          return true;
        },
        std::chrono::seconds(20)));
    for (const auto* users : {&here_, &there_}) {
      for (size_t i = 0; i < users->size(); ++i) {
        const User& user = *(*users)[i];
        EXPECT_TRUE(user.good()) << (users == &here_ ? "client " : "server ") << i << ": "
                                 << user.received << " of " << user.wanted;
      }
    }
    EXPECT_EQ(ends_, "");
  }

  event::EventLoop loop_;
  std::mt19937 random_;
  SessionOptions options_;
  std::unique_ptr<ClientSession> client_;
  std::unique_ptr<ServerSession> server_;
  std::vector<std::unique_ptr<User>> here_, there_;
  std::vector<std::unique_ptr<PendingConnect>> pending_;
  std::vector<std::function<void()>> later_;
  std::string ends_;
  int moves_ = 0, partial_ = 0, in_data_ = 0, unsent_ = 0, unread_ = 0;
};

TEST_F(HandoverTest, AtRandomPointsOfARandomExchange) {
  int moves = 0, partial = 0, in_data = 0, unsent = 0, unread = 0;
  for (unsigned seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(seed);
    SessionOptions options;
    if (seed % 2 == 0) {  // windows that fill up and grow
      options.initial_stream_window = 20000;
      options.stream_window = 100000;
      options.connection_window = 120000;
    }
    Start(seed, options);
    Exchange(2500);
    Finish();
    moves += moves_;
    partial += partial_;
    in_data += in_data_;
    unsent += unsent_;
    unread += unread_;
    here_.clear();
    there_.clear();
    pending_.clear();
    client_.reset();
    server_.reset();
    Settle(loop_);
    ends_.clear();
    if (HasFailure()) return;
  }
  EXPECT_GT(moves, 500);
  EXPECT_GT(partial, 50);
  EXPECT_GT(in_data, 50);
  EXPECT_GT(unsent, 50);
  EXPECT_GT(unread, 50);
}

TEST_F(HandoverTest, NotBeforeTheBeginningAndNotWhileAnAnswerIsOwed) {
  Start(1);
  EXPECT_FALSE(client_->Freezable().has_value());  // nothing is known of the peer
  EXPECT_TRUE(RunUntil(loop_, [&] { return client_->Freezable() && server_->Freezable(); }));
  here_.push_back(std::make_unique<User>(10, 10, random_));
  there_.push_back(std::make_unique<User>(10, 10, random_));
  Responder held;
  server_ = nullptr;  // with a handler that keeps
  auto [a, b] = LinkEnd::Make(loop_, {});
  client_ = std::make_unique<ClientSession>(std::move(a), options_, ClientSession::Events{});
  server_ = std::make_unique<ServerSession>(
      std::move(b), options_,
      ServerSession::Events{
          [&](InboundConnect, Responder responder) { held = std::move(responder); }, nullptr});
  auto pending = client_->Connect({"0", {}}, [&](ClientSession::ConnectResult result) {
    if (result) here_[0]->Use(std::move(result->stream));
  });
  ASSERT_TRUE(RunUntil(loop_, [&] { return held.pending(); }));
  EXPECT_FALSE(client_->Freezable().has_value());
  EXPECT_FALSE(server_->Freezable().has_value());
  there_[0]->Use(held.Accept());
  EXPECT_TRUE(server_->Freezable().has_value());
  EXPECT_TRUE(RunUntil(loop_, [&] { return client_->Freezable().has_value(); }));
  EXPECT_TRUE(Move(server_, there_, ServerSession::Events{}));
  EXPECT_TRUE(Move(client_, here_, ClientSession::Events{}));
  EXPECT_TRUE(RunUntil(loop_, [&] { return here_[0]->done() && there_[0]->done(); }));
  EXPECT_TRUE(here_[0]->good() && there_[0]->good());
}

TEST_F(HandoverTest, ADrainGoesOn) {
  for (const bool server : {true, false}) {
    Start(3);
    Open();
    ASSERT_TRUE(RunUntil(loop_, [&] {
      for (auto& accept : std::exchange(later_, {})) accept();
      return here_.back()->transport() != nullptr && there_.back()->transport() != nullptr;
    }));
    if (server) {
      server_->Drain();
    } else {
      client_->Drain();
    }
    bool moved = false;
    for (int i = 0; i < 5; ++i) {
      moved |= Move(server_, there_, ServerEvents());
      moved |= Move(client_, here_, ClientEvents());
      loop_.RunOnce(std::chrono::milliseconds(0));
    }
    EXPECT_TRUE(moved);
    EXPECT_TRUE(RunUntil(loop_, [&] { return here_.back()->done() && there_.back()->done(); }));
    EXPECT_TRUE(here_.back()->good() && there_.back()->good());
    here_.clear();
    there_.clear();
    // Both ends are over, in order.
    EXPECT_TRUE(RunUntil(loop_, [&] {
      return ends_ == "client: ;server: ;" || ends_ == "server: ;client: ;";
    })) << ends_;
    pending_.clear();
    ends_.clear();
  }
}

// A peer that uses the dynamic table (stock proxies do, before they have read our settings).
TEST(HpackHandover, TheTableGoesAlong) {
  nghttp2_hd_deflater* deflater = nullptr;
  ASSERT_EQ(nghttp2_hd_deflate_new(&deflater, 4096), 0);
  const auto encode = [&](const Headers& headers) {
    std::vector<nghttp2_nv> fields;
    for (const Header& h : headers) {
      fields.push_back({reinterpret_cast<uint8_t*>(const_cast<char*>(h.name.data())),
                        reinterpret_cast<uint8_t*>(const_cast<char*>(h.value.data())),
                        h.name.size(), h.value.size(), NGHTTP2_NV_FLAG_NONE});
    }
    std::vector<uint8_t> out(65536);
    const auto n =
        nghttp2_hd_deflate_hd(deflater, out.data(), out.size(), fields.data(), fields.size());
    out.resize(n > 0 ? size_t(n) : 0);
    return out;
  };
  auto decoder = std::make_unique<HpackDecoder>(65536);
  std::mt19937 random(7);
  size_t entries = 0;
  for (int i = 0; i < 200; ++i) {
    Headers headers = {{":method", "CONNECT"}};
    for (int j = 0; j < 3; ++j) {
      headers.push_back({"x-" + std::to_string(random() % 40), std::string(random() % 90, 'v')});
    }
    if (i == 100) nghttp2_hd_deflate_change_table_size(deflater, 700);
    if (i == 150) nghttp2_hd_deflate_change_table_size(deflater, 0);
    Headers decoded;
    ASSERT_EQ(decoder->Decode(encode(headers), decoded), HpackDecoder::Outcome::kOk) << i;
    ASSERT_EQ(decoded, headers) << i;
    const HpackTable table = decoder->Export();
    entries += table.entries.size();
    EXPECT_EQ(table.limit, i < 100 ? 4096u : i < 150 ? 700u : 0u);
    decoder = std::make_unique<HpackDecoder>(65536);
    ASSERT_TRUE(decoder->Import(table)) << i;
  }
  EXPECT_GT(entries, 1000u);
  nghttp2_hd_deflate_del(deflater);
}

}  // namespace
}  // namespace qanat::hbone
