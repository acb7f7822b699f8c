// SPDX-License-Identifier: Apache-2.0
// Our records on real transports: against BoringSSL over a socket, and what they cost.
#include "common/tls/own_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <sys/socket.h>

#include <random>
#include <thread>

#include "common/tls/boring.h"
#include "common/tls/reader_for_test.h"
#include "common/tls/test_certs.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/allocator_interface.h>
#define QANAT_ALLOCATED() __sanitizer_get_current_allocated_bytes()
#endif
#endif
#ifndef QANAT_ALLOCATED
#define QANAT_ALLOCATED() mallinfo2().uordblks
#endif

namespace qanat::tls {
namespace {

using net::IoResult;
using ::testing::HasSubstr;
using testing::Pair;
using testing::Reader;
using testing::Shake;
using testing::TestCa;
using namespace std::chrono_literals;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";
constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";

// Forwards, and counts what goes down.
class Counting final : public net::Transport {
 public:
  struct Counts {
    int writes = 0, reads = 0;
    std::vector<size_t> parts;
  };
  Counting(net::TransportPtr inner, Counts* counts) : inner_(std::move(inner)), counts_(counts) {}
  void SetEvents(net::TransportEvents* events) override { inner_->SetEvents(events); }
  void ReadEnable(bool on) override { inner_->ReadEnable(on); }
  void WriteEnable(bool on) override { inner_->WriteEnable(on); }
  IoResult Read(std::span<uint8_t> into) override {
    ++counts_->reads;
    return inner_->Read(into);
  }
  IoResult Write(std::span<const iovec> from) override {
    ++counts_->writes;
    counts_->parts.push_back(from.size());
    return inner_->Write(from);
  }
  IoResult ShutdownWrite() override { return inner_->ShutdownWrite(); }
  void Abort() override { inner_->Abort(); }
  event::EventLoop& loop() override { return inner_->loop(); }
  net::SocketAddress local_address() const override { return inner_->local_address(); }
  net::SocketAddress peer_address() const override { return inner_->peer_address(); }

 private:
  net::TransportPtr inner_;
  Counts* counts_;
};

class OwnRecordsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    fds_[0] = fds[0];
    fds_[1] = fds[1];
  }
  // Both ends are ours; the client's lower transport is counted.
  Pair Good() {
    HandshakeOptions expect;
    expect.peer.uris = {kBob};
    Pair pair =
        Shake(loop_, ca_.Context(kAlice), expect, ca_.Context(kBob), {},
              {std::make_unique<Counting>(net::MakeSocketTransport(loop_, Fd(fds_[0])), &counts_),
               net::MakeSocketTransport(loop_, Fd(fds_[1]))});
    EXPECT_TRUE(*pair.client && *pair.server);
    return pair;
  }
  // Our server, a client that is BoringSSL alone.
  struct Foreign {
    bssl::UniquePtr<SSL_CTX> ctx;
    bssl::UniquePtr<SSL> ssl;
    Fd fd;
    net::TransportPtr server;
  };
  Foreign WithBoringssl(bool tickets = false) {
    Foreign out;
    out.fd.Reset(fds_[0]);
    out.ctx.reset(SSL_CTX_new(TLS_method()));
    auto alice = ca_.Issue(kAlice);
    SSL_CTX_use_certificate(out.ctx.get(), alice.certificate.impl()->cert.get());
    SSL_CTX_use_PrivateKey(out.ctx.get(), alice.key.impl()->key.get());
    SSL_CTX_set_alpn_protos(out.ctx.get(), reinterpret_cast<const uint8_t*>("\2h2"), 3);
    if (!tickets) SSL_CTX_set_options(out.ctx.get(), SSL_OP_NO_TICKET);
    out.ssl.reset(SSL_new(out.ctx.get()));
    SSL_set_mode(out.ssl.get(),
                 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_set_fd(out.ssl.get(), out.fd.get());
    SSL_set_connect_state(out.ssl.get());
    HandshakeOptions options;
    options.role = Role::kServer;
    std::optional<Result<TlsConnection>> result;
    TlsHandshake handshake(net::MakeSocketTransport(loop_, Fd(fds_[1])), ca_.Context(kBob), options,
                           [&](Result<TlsConnection> r) { result = std::move(r); });
    for (int i = 0; i < 400 && (!result || SSL_in_init(out.ssl.get())); ++i) {
      SSL_do_handshake(out.ssl.get());
      loop_.RunOnce(1ms);
    }
    EXPECT_TRUE(result && *result);
    out.server = std::move((*result)->transport);
    return out;
  }
  template <typename Until>
  void RunUntil(Until until, std::chrono::milliseconds limit = 60s) {
    auto end = std::chrono::steady_clock::now() + limit;
    while (!until() && std::chrono::steady_clock::now() < end) loop_.RunOnce(2ms);
    EXPECT_TRUE(until());
  }
  // Everything on the wire now, as the sizes of records.
  std::vector<size_t> RecordSizes() {
    std::string bytes(1 << 20, '\0');
    ssize_t n = ::recv(fds_[1], bytes.data(), bytes.size(), MSG_DONTWAIT);
    std::vector<size_t> out;
    for (size_t at = 0; n > 0 && at + 5 <= static_cast<size_t>(n);) {
      size_t size = RecordLayer::SizeOfRecord(
          {reinterpret_cast<uint8_t*>(bytes.data()) + at, static_cast<size_t>(n) - at});
      out.push_back(size);
      at += size;
    }
    return out;
  }

  event::EventLoop loop_;
  TestCa ca_ = TestCa::Make();
  Counting::Counts counts_;
  int fds_[2] = {-1, -1};
};

TEST_F(OwnRecordsTest, BoringsslReadsAndWritesTheSame) {
  Foreign foreign = WithBoringssl();
  Reader at_server(*foreign.server);
  std::mt19937 random(5);
  std::string up(3 << 20, '\0'), down(3 << 20, '\0'), got;
  for (char& c : up) c = static_cast<char>(random());
  for (char& c : down) c = static_cast<char>(random());
  size_t sent_up = 0, sent_down = 0;
  bool shut = false;
  auto pump = [&] {
    while (sent_down < down.size()) {
      size_t n = std::min<size_t>(1 + random() % 100000, down.size() - sent_down);
      size_t first = random() % (n + 1);
      iovec pieces[2] = {{down.data() + sent_down, first},
                         {down.data() + sent_down + first, n - first}};
      IoResult wrote = foreign.server->Write(pieces);
      if (wrote.kind == IoResult::Kind::kWouldBlock) return foreign.server->WriteEnable(true);
      ASSERT_TRUE(wrote.ok());
      sent_down += wrote.bytes;
    }
    if (!shut) shut = foreign.server->ShutdownWrite().ok();
    if (!shut) foreign.server->WriteEnable(true);
  };
  at_server.on_writable = pump;
  pump();
  bool closed = false;
  int updates = 0;
  size_t retry = 0;
  RunUntil(
      [&] {
        at_server.chunk = 1 + random() % 70000;
        std::vector<char> buffer(1 + random() % 40000);
        int n = SSL_read(foreign.ssl.get(), buffer.data(), static_cast<int>(buffer.size()));
        if (n > 0) got.append(buffer.data(), static_cast<size_t>(n));
        if (n == 0 || SSL_get_error(foreign.ssl.get(), n) == SSL_ERROR_ZERO_RETURN) closed = true;
        if (sent_up < up.size()) {
          if (random() % 20 == 0 && ++updates < 20) {
            SSL_key_update(foreign.ssl.get(), SSL_KEY_UPDATE_REQUESTED);
          }
          // A write that blocked is to be made again as it was.
          size_t size =
              retry > 0 ? retry : std::min<size_t>(1 + random() % 50000, up.size() - sent_up);
          n = SSL_write(foreign.ssl.get(), up.data() + sent_up, static_cast<int>(size));
          if (n > 0) sent_up += static_cast<size_t>(n);
          retry = n > 0 ? 0 : size;
        } else if (closed) {
          SSL_shutdown(foreign.ssl.get());
        }
        ERR_clear_error();
        return closed && at_server.end.has_value();
      },
      60s);
  EXPECT_TRUE(got == down);
  EXPECT_TRUE(at_server.text == up);
  EXPECT_EQ(*at_server.end, IoResult::Kind::kEof);
  EXPECT_GT(updates, 0);
}

TEST_F(OwnRecordsTest, HeaderAndPayloadAreOneRecordAndOneCall) {
  Pair pair = Good();
  Reader at_server(*(*pair.server)->transport);
  counts_ = {};
  char header[9] = "headerXX", payload[600] = "payload";
  iovec pieces[2] = {{header, sizeof header}, {payload, sizeof payload}};
  EXPECT_EQ((*pair.client)->transport->Write(pieces).bytes, sizeof header + sizeof payload);
  EXPECT_EQ(counts_.writes, 1);
  EXPECT_EQ(counts_.parts, std::vector<size_t>{1});
  EXPECT_EQ(RecordSizes(),
            std::vector<size_t>{sizeof header + sizeof payload + RecordLayer::kOverhead});
}

TEST_F(OwnRecordsTest, SmallRecordsFirstLargeOnesInBulk) {
  Pair pair = Good();
  net::Transport& client = *(*pair.client)->transport;
  std::string data(OwnRecords::kSmallUntil + 40000, 'x');
  size_t sent = 0;
  std::vector<size_t> sizes;
  auto send = [&](size_t until) {
    while (sent < until) {
      iovec piece{data.data(), std::min<size_t>(until - sent, 20000)};
      IoResult wrote = client.Write({&piece, 1});
      ASSERT_TRUE(wrote.ok());
      sent += wrote.bytes;
      for (size_t size : RecordSizes()) sizes.push_back(size);
    }
  };
  loop_.RunOnce(0ms);
  send(OwnRecords::kSmallUntil);
  for (size_t size : sizes) EXPECT_LE(size, OwnRecords::kSmallRecord + RecordLayer::kOverhead);
  sizes.clear();
  send(data.size());
  EXPECT_THAT(sizes, ::testing::Contains(RecordLayer::kMaxPlaintext + RecordLayer::kOverhead));
  // After a pause the path's window is small again.
  std::this_thread::sleep_for(OwnRecords::kPause + 50ms);
  loop_.RunOnce(0ms);
  sizes.clear();
  sent = 0;
  send(10000);
  EXPECT_GE(sizes.size(), 8u);
}

TEST_F(OwnRecordsTest, AnIdleConnectionHoldsNoBuffers) {
  Pair pair = Good();
  net::Transport& client = *(*pair.client)->transport;
  auto at_server = std::make_unique<Reader>(*(*pair.server)->transport);
  std::string data(200000, 'x');
  auto cycle = [&] {
    at_server->text.clear();
    at_server->text.shrink_to_fit();
    size_t sent = 0;
    while (sent < data.size()) {
      iovec piece{data.data() + sent, data.size() - sent};
      IoResult wrote = client.Write({&piece, 1});
      if (wrote.ok()) sent += wrote.bytes;
      client.WriteEnable(!wrote.ok());
      loop_.RunOnce(1ms);
    }
    client.WriteEnable(false);
    RunUntil([&] { return at_server->text.size() == data.size(); });
    loop_.RunOnce(0ms);
    at_server->text.clear();
    at_server->text.shrink_to_fit();
  };
  cycle();  // the loop's scratch memory exists now
  const size_t before = QANAT_ALLOCATED();
  cycle();
  EXPECT_LE(QANAT_ALLOCATED(), before + 1024);
  // A record that came in part costs its size, and no more than that.
  const size_t half = 100;
  std::string part = {0x17, 3, 3, 0x40, 0x11};
  part.resize(half);
  ASSERT_EQ(::send(fds_[0], part.data(), part.size(), 0), static_cast<ssize_t>(half));
  for (int i = 0; i < 5; ++i) loop_.RunOnce(1ms);
  EXPECT_LE(QANAT_ALLOCATED(), before + 1024);
}

TEST_F(OwnRecordsTest, AReaderThatAsksForKeyUpdatesAndReadsNothing) {
  Foreign foreign = WithBoringssl();
  Reader at_server(*foreign.server);
  // The server's way out is full, so its answers cannot go.
  std::string data(1 << 20, 'x');
  for (;;) {
    iovec piece{data.data(), data.size()};
    if (!foreign.server->Write({&piece, 1}).ok()) break;
  }
  const size_t before = QANAT_ALLOCATED();
  for (int i = 0; i < 2000; ++i) {
    SSL_key_update(foreign.ssl.get(), SSL_KEY_UPDATE_REQUESTED);
    ASSERT_EQ(SSL_write(foreign.ssl.get(), "x", 1), 1);
    RunUntil([&] { return at_server.text.size() == static_cast<size_t>(i) + 1; });
  }
  EXPECT_LE(QANAT_ALLOCATED(), before + 16384);
}

TEST_F(OwnRecordsTest, TheAlertForABadRecordReachesThePeer) {
  Foreign foreign = WithBoringssl();
  Reader at_server(*foreign.server);
  std::string forged = {0x17, 3, 3, 0, 20};
  forged.resize(25, 'x');
  ASSERT_EQ(::send(fds_[0], forged.data(), forged.size(), 0), 25);
  RunUntil([&] { return at_server.end.has_value(); });
  EXPECT_EQ(*at_server.end, IoResult::Kind::kError);
  EXPECT_THAT(foreign.server->error(), HasSubstr("changed on its way"));
  char byte;
  ERR_clear_error();
  EXPECT_LE(SSL_read(foreign.ssl.get(), &byte, 1), 0);
  EXPECT_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
  EXPECT_FALSE(foreign.server->Write({}).ok());
}

TEST_F(OwnRecordsTest, BytesThatCameWithTheHandshakeAreNotLost) {
  // The client's data is on the wire together with its Finished.
  HandshakeOptions expect;
  expect.peer.uris = {kBob};
  std::optional<Result<TlsConnection>> client, server;
  HandshakeOptions accept;
  accept.role = Role::kServer;
  TlsHandshake c(net::MakeSocketTransport(loop_, Fd(fds_[0])), ca_.Context(kAlice), expect,
                 [&](Result<TlsConnection> r) {
                   client = std::move(r);
                   std::string text(30000, 'y');
                   iovec piece{text.data(), text.size()};
                   ASSERT_TRUE((*client)->transport->Write({&piece, 1}).ok());
                 });
  TlsHandshake s(net::MakeSocketTransport(loop_, Fd(fds_[1])), ca_.Context(kBob), accept,
                 [&](Result<TlsConnection> r) { server = std::move(r); });
  RunUntil([&] { return client && server; });
  ASSERT_TRUE(*client && *server);
  Reader at_server(*(*server)->transport);
  RunUntil([&] { return at_server.text.size() == 30000; });
  EXPECT_EQ(at_server.text, std::string(30000, 'y'));
  EXPECT_FALSE(at_server.end);
}

}  // namespace
}  // namespace qanat::tls
