// SPDX-License-Identifier: Apache-2.0
// A connection that goes from hand to hand at random points of a dialogue, against BoringSSL, which
// notices a record that is missing, doubled, or sealed with a number that was used before.
#include "common/tls/tls_handover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <random>

#include "common/takeover/fields.h"
#include "common/takeover/fields_for_test.h"
#include "common/tls/established.h"
#include "common/tls/own_records.h"
#include "common/tls/reader_for_test.h"
#include "common/tls/test_certs.h"
#include "common/tls/test_oracle.h"
#include "common/tls/tls_transport.h"

namespace qanat::tls {
namespace {

using net::IoResult;
using testing::kSuites;
using testing::Oracle;

class Dialogue final : private net::TransportEvents {
 public:
  Dialogue(uint16_t suite, Role ours, unsigned seed) : oracle_(suite, ours), random_(seed) {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    wire_.Reset(fds[1]);
    // Little room, so that records stay here in part.
    const int room = 4096;
    setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    auto layer = std::make_unique<RecordLayer>();
    EXPECT_TRUE(layer->FromHandshake(oracle_.ours()));
    Use(MakeEstablished(std::make_unique<OwnRecords>(net::MakeSocketTransport(loop_, Fd(fds[0])),
                                                     std::move(layer), OwnRecords::Rest{}),
                        nullptr, nullptr, nullptr, {}));
  }

  // Hands the connection over; its former holder can do nothing with it any more.
  void Move() {
    net::TransportPtr old = std::move(transport_);
    auto out = Export(*old);
    ASSERT_TRUE(out.has_value());
    waited_plain_ += out->plaintext.empty() ? 0 : 1;
    waited_sealed_ += out->received.empty() ? 0 : 1;
    waited_unsent_ += out->unsent.empty() ? 0 : 1;
    const uint64_t next = out->state.write_sequence;
    auto in = DecodeTls(EncodeTls(*out));
    ASSERT_TRUE(in.has_value()) << in.error().message;
    ASSERT_EQ(EncodeTls(*in), std::string_view(EncodeTls(*out)));
    ASSERT_EQ(in->state.write_sequence, next);
    char text[] = "not mine any more";
    const iovec part{text, sizeof text};
    EXPECT_FALSE(old->Write({&part, 1}).ok());
    EXPECT_FALSE(old->ShutdownWrite().ok());
    uint8_t buffer[16];
    EXPECT_FALSE(old->Read(buffer).ok());
    EXPECT_FALSE(Export(*old).has_value());
    in->socket = std::move(out->socket);
    auto again = Import(loop_, std::move(*in), nullptr);
    ASSERT_TRUE(again.has_value());
    Use(std::move(*again));
    old.reset();  // after the new one is at work: closes nothing, says nothing
    ++moves_;
  }

  void Step() {
    switch (random_() % 8) {
      case 0:
      case 1: Move(); break;
      case 2: {  // the peer writes
        const std::string text = Text(random_() % 40000);
        theirs_ += text;
        const auto bytes = oracle_.PeerWrites(text);
        to_us_.insert(to_us_.end(), bytes.begin(), bytes.end());
        break;
      }
      case 3: {  // part of it arrives
        const size_t n = std::min<size_t>(to_us_.size(), random_() % 30000);
        Deliver(n);
        break;
      }
      case 4: {  // we write
        std::string text = Text(1 + random_() % 40000);
        const iovec part{text.data(), text.size()};
        const IoResult wrote = transport_->Write({&part, 1});
        ASSERT_TRUE(wrote.ok() || wrote.kind == IoResult::Kind::kWouldBlock);
        ours_ += text.substr(0, wrote.bytes);
        break;
      }
      case 5: Collect(random_() % 20000); break;
      case 6:
        read_at_most_ = random_() % 3 == 0 ? 0 : 1 + random_() % 9000;
        transport_->ReadEnable(read_at_most_ > 0);
        break;
      case 7:
        if (random_() % 8 == 0) {
          SSL_key_update(oracle_.peer(), random_() % 2 == 0 ? SSL_KEY_UPDATE_REQUESTED
                                                            : SSL_KEY_UPDATE_NOT_REQUESTED);
        }
        break;
      default: break;
    }
    loop_.RunOnce(std::chrono::milliseconds(0));
  }

  void Finish() {
    read_at_most_ = 65536;
    transport_->ReadEnable(true);
    for (int i = 0; i < 2000 && !(we_read_ == theirs_ && peer_read_ == ours_); ++i) {
      Deliver(to_us_.size());
      Collect(SIZE_MAX);
      loop_.RunOnce(std::chrono::milliseconds(0));
    }
    EXPECT_EQ(we_read_.size(), theirs_.size());
    EXPECT_TRUE(we_read_ == theirs_);
    EXPECT_EQ(peer_read_.size(), ours_.size());
    EXPECT_TRUE(peer_read_ == ours_);
    EXPECT_TRUE(error_ == SSL_ERROR_WANT_READ) << error_;
  }

  int moves_ = 0, waited_plain_ = 0, waited_sealed_ = 0, waited_unsent_ = 0;

 private:
  void Use(net::TransportPtr transport) {
    transport_ = std::move(transport);
    transport_->SetEvents(this);
    transport_->ReadEnable(read_at_most_ > 0);
  }
  std::string Text(size_t size) {
    std::string out(size, '\0');
    for (char& c : out) c = static_cast<char>(random_());
    return out;
  }
  void OnReadable() override {
    std::vector<uint8_t> buffer(read_at_most_);
    if (buffer.empty()) return;
    const IoResult got = transport_->Read(buffer);
    if (got.ok()) {
      we_read_.append(reinterpret_cast<char*>(buffer.data()), got.bytes);
    } else {
      EXPECT_EQ(got.kind, IoResult::Kind::kWouldBlock) << transport_->error();
      if (got.kind != IoResult::Kind::kWouldBlock) transport_->ReadEnable(false);
    }
  }
  void OnWritable() override {}
  void Deliver(size_t n) {
    if (n == 0) return;
    const ssize_t sent = send(wire_.get(), to_us_.data(), n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) to_us_.erase(to_us_.begin(), to_us_.begin() + sent);
  }
  void Collect(size_t n) {
    std::vector<uint8_t> buffer(std::min<size_t>(n, 30000));
    const ssize_t got = recv(wire_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got > 0) oracle_.ToPeer({buffer.data(), static_cast<size_t>(got)});
    peer_read_ += oracle_.PeerReads(&error_);
    // What reading made it want to say (KeyUpdate).
    const auto more = Oracle::Wire(oracle_.peer());
    to_us_.insert(to_us_.end(), more.begin(), more.end());
  }

  event::EventLoop loop_;
  Oracle oracle_;
  std::mt19937 random_;
  Fd wire_;
  net::TransportPtr transport_;
  size_t read_at_most_ = 5000;
  std::vector<uint8_t> to_us_;
  std::string ours_, theirs_, we_read_, peer_read_;
  int error_ = 0;
};

TEST(TlsHandover, AtRandomPointsOfARandomDialogue) {
  int moves = 0, plain = 0, sealed = 0, unsent = 0;
  for (unsigned seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    Dialogue dialogue(kSuites[seed % 3], seed % 2 == 0 ? Role::kServer : Role::kClient, seed);
    for (int step = 0; step < 250; ++step) {
      dialogue.Step();
      if (::testing::Test::HasFatalFailure()) return;
    }
    dialogue.Finish();
    if (::testing::Test::HasFailure()) return;
    moves += dialogue.moves_;
    plain += dialogue.waited_plain_;
    sealed += dialogue.waited_sealed_;
    unsent += dialogue.waited_unsent_;
  }
  // All that can wait did, often.
  EXPECT_GT(moves, 500);
  EXPECT_GT(plain, 20);
  EXPECT_GT(sealed, 20);
  EXPECT_GT(unsent, 20);
}

struct Socket {
  Socket() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    near.Reset(fds[0]);
    far.Reset(fds[1]);
  }
  Fd near, far;
};

TEST(TlsHandover, WhatIsAtItsEndStays) {
  event::EventLoop loop;
  for (const bool by_us : {true, false}) {
    Oracle oracle(0x1301, Role::kServer);
    Socket socket;
    auto layer = std::make_unique<RecordLayer>();
    ASSERT_TRUE(layer->FromHandshake(oracle.ours()));
    auto transport = MakeEstablished(
        std::make_unique<OwnRecords>(net::MakeSocketTransport(loop, std::move(socket.near)),
                                     std::move(layer), OwnRecords::Rest{}),
        nullptr, nullptr, nullptr, {});
    if (by_us) {
      EXPECT_TRUE(transport->ShutdownWrite().ok());
    } else {
      SSL_shutdown(oracle.peer());
      const auto bytes = Oracle::Wire(oracle.peer());
      ASSERT_EQ(send(socket.far.get(), bytes.data(), bytes.size(), 0), ssize_t(bytes.size()));
      uint8_t buffer[100];
      EXPECT_EQ(transport->Read(buffer).kind, IoResult::Kind::kEof);
    }
    EXPECT_FALSE(Export(*transport).has_value());
    if (!by_us) {  // and it is as it was
      char text[] = "still here";
      const iovec part{text, 10};
      EXPECT_TRUE(transport->Write({&part, 1}).ok());
    }
  }
}

TEST(TlsHandover, WhatIsNoTlsOverASocketStays) {
  event::EventLoop loop;
  auto [a, b] = net::MakePipe(loop);
  EXPECT_FALSE(Export(*a).has_value());
  Oracle oracle(0x1301, Role::kServer);
  auto layer = std::make_unique<RecordLayer>();
  ASSERT_TRUE(layer->FromHandshake(oracle.ours()));
  // Over something else (a stream of a tunnel): there is nothing to give.
  auto inner = MakeEstablished(
      std::make_unique<OwnRecords>(std::move(a), std::move(layer), OwnRecords::Rest{}), nullptr,
      nullptr, nullptr, {});
  EXPECT_FALSE(Export(*inner).has_value());
}

// Over another carrier it goes on in the middle of a record, in both directions.
TEST(TlsHandover, OneInsideOfAnotherLeavesWhatCarriesIt) {
  event::EventLoop loop;
  Oracle oracle(0x1301, Role::kServer);
  auto layer = std::make_unique<RecordLayer>();
  ASSERT_TRUE(layer->FromHandshake(oracle.ours()));
  const size_t room = 100;  // of a record, on its way
  auto [first, first_end] = net::MakePipe(loop, room);
  const net::Transport* carrier = first.get();
  auto transport = MakeEstablished(
      std::make_unique<OwnRecords>(std::move(first), std::move(layer), OwnRecords::Rest{}), nullptr,
      nullptr, nullptr, {});
  EXPECT_EQ(CarrierOf(*transport), carrier);
  const std::string ours(500, 'o'), theirs(500, 't');
  auto sealed = oracle.PeerWrites(theirs);
  const iovec begun{sealed.data(), 50};
  ASSERT_EQ(first_end->Write({&begun, 1}).bytes, 50u);
  uint8_t buffer[2000];
  EXPECT_EQ(transport->Read(buffer).kind, IoResult::Kind::kWouldBlock);
  const iovec text{const_cast<char*>(ours.data()), ours.size()};
  ASSERT_EQ(transport->Write({&text, 1}).bytes, ours.size());
  auto out = ExportInner(*transport);
  ASSERT_TRUE(out.has_value());
  EXPECT_FALSE(out->socket.valid());
  EXPECT_EQ(out->received.size(), 50u);
  EXPECT_FALSE(out->unsent.empty());
  EXPECT_EQ(CarrierOf(*transport), nullptr);
  EXPECT_FALSE(ExportInner(*transport).has_value());
  EXPECT_FALSE(transport->Write({&text, 1}).ok());
  auto got = first_end->Read(buffer);
  ASSERT_TRUE(got.ok());
  oracle.ToPeer({buffer, got.bytes});

  auto [second, second_end] = net::MakePipe(loop);
  auto in = DecodeTls(EncodeTls(*out));
  ASSERT_TRUE(in.has_value());
  auto again = ImportInner(std::move(second), std::move(*in), nullptr);
  ASSERT_TRUE(again.has_value());
  const iovec rest{sealed.data() + 50, sealed.size() - 50};
  ASSERT_EQ(second_end->Write({&rest, 1}).bytes, sealed.size() - 50);
  got = (*again)->Read(buffer);
  EXPECT_EQ(std::string(buffer, buffer + got.bytes), theirs);
  ASSERT_EQ((*again)->Write({&text, 1}).bytes, ours.size());
  got = second_end->Read(buffer);
  ASSERT_TRUE(got.ok());
  oracle.ToPeer({buffer, got.bytes});
  int error = 0;
  EXPECT_EQ(oracle.PeerReads(&error), ours + ours);
}

TlsHandover Whole() {
  TlsHandover out;
  out.state.cipher = 0x1302;
  const std::vector<uint8_t> secret(48, 7);
  out.state.read_secret = Secret(secret);
  out.state.write_secret = Secret(secret);
  out.state.read_sequence = 3;
  out.state.write_sequence = 4;
  return out;
}

TEST(TlsHandover, WhatCannotBeIsRefused) {
  EXPECT_TRUE(DecodeTls(EncodeTls(Whole())).has_value());
  TlsHandover bad = Whole();
  bad.state.cipher = 0x1301;  // not of this secret's length
  EXPECT_FALSE(DecodeTls(EncodeTls(bad)).has_value());
  bad = Whole();
  bad.state.cipher = 0xc02f;
  EXPECT_FALSE(DecodeTls(EncodeTls(bad)).has_value());
  bad = Whole();
  bad.state.read_secret = Secret();
  EXPECT_FALSE(DecodeTls(EncodeTls(bad)).has_value());
  // A field of another version that matters; and one without which a number would be used twice.
  takeover::FieldWriter writer;
  writer.Number(99 | takeover::kCritical, 1);
  WipedString newer = EncodeTls(Whole());
  newer += writer.Take();
  EXPECT_FALSE(DecodeTls(newer).has_value());
  const std::string all(EncodeTls(Whole()));
  int taken = 0;
  for (size_t cut = 0; cut < all.size(); ++cut) {
    const auto decoded = DecodeTls(std::string_view(all).substr(0, cut));
    if (!decoded) continue;
    ++taken;
    EXPECT_EQ(decoded->state.write_sequence, 4u);
  }
  EXPECT_EQ(taken, 1);  // without what is not critical, which is the last
  for (const auto& [tag, less] : takeover::Crippled(all)) {
    EXPECT_FALSE(DecodeTls(less).has_value()) << "without field " << tag;
  }
}

TEST(TlsHandover, ThePeerIsWhoItWas) {
  const auto ca = testing::TestCa::Make();
  const auto bob = ca.Issue("spiffe://cluster.local/ns/shop/sa/bob");
  TlsHandover from = Whole();
  from.peer = MakeVerifiedPeer({bob.certificate, ca.authority.certificate});
  const auto decoded = DecodeTls(EncodeTls(from));
  ASSERT_TRUE(decoded.has_value());
  ASSERT_NE(decoded->peer, nullptr);
  EXPECT_THAT(decoded->peer->sans.uri,
              ::testing::ElementsAre("spiffe://cluster.local/ns/shop/sa/bob"));
  ASSERT_EQ(decoded->peer->path.size(), 2u);
  EXPECT_EQ(decoded->peer->path[1].ToDer(), ca.authority.certificate.ToDer());
  EXPECT_EQ(decoded->peer->not_after, from.peer->not_after);
  // It is among those that a revocation ends.
  event::EventLoop loop;
  PeerVerifier verifier;
  Socket socket;
  TlsHandover moved = Whole();
  moved.peer = decoded->peer;
  moved.socket = std::move(socket.near);
  const auto transport = Import(loop, std::move(moved), &verifier);
  ASSERT_TRUE(transport.has_value());
  EXPECT_EQ(verifier.live()->all.size(), 1u);
  EXPECT_EQ((*transport)->verified_peer(), decoded->peer);
  ASSERT_TRUE(Export(**transport).has_value());
  EXPECT_EQ(verifier.live()->all.size(), 0u);
}

// A socket that takes as much as it is told to.
class Dam final : public net::Transport {
 public:
  explicit Dam(net::TransportPtr inner) : inner_(std::move(inner)) {}
  void Open() {
    room = SIZE_MAX;
    inner_->WriteEnable(wanted_);
  }
  void SetEvents(net::TransportEvents* events) override { inner_->SetEvents(events); }
  void ReadEnable(bool on) override { inner_->ReadEnable(on); }
  void WriteEnable(bool on) override {
    wanted_ = on;
    inner_->WriteEnable(on && room > 0);
  }
  IoResult Read(std::span<uint8_t> into) override { return inner_->Read(into); }
  IoResult Write(std::span<const iovec> from) override {
    const iovec part{from.front().iov_base, std::min(from.front().iov_len, room)};
    if (part.iov_len == 0) {
      inner_->WriteEnable(false);
      return {IoResult::Kind::kWouldBlock, 0};
    }
    const IoResult wrote = inner_->Write({&part, 1});
    sent += wrote.bytes;
    if (room != SIZE_MAX) room -= wrote.bytes;
    return wrote;
  }
  IoResult ShutdownWrite() override { return inner_->ShutdownWrite(); }
  void Abort() override { inner_->Abort(); }
  event::EventLoop& loop() override { return inner_->loop(); }
  net::SocketAddress local_address() const override { return inner_->local_address(); }
  net::SocketAddress peer_address() const override { return inner_->peer_address(); }
  int splice_fd() const override { return inner_->splice_fd(); }
  Fd Release() override { return inner_->Release(); }

  size_t room = SIZE_MAX, sent = 0;

 private:
  net::TransportPtr inner_;
  bool wanted_ = false;
};

// A client is ready while its last flight is on its way. What the socket did not take goes out by
// itself, also when its user says nothing, and also in another process.
TEST(TlsHandover, TheHandshakesOutputThatWaits) {
  constexpr char kClient[] = "spiffe://cluster.local/ns/shop/sa/client";
  constexpr char kServer[] = "spiffe://cluster.local/ns/shop/sa/server";
  const auto ca = testing::TestCa::Make();
  for (const bool moves : {false, true}) {
    SCOPED_TRACE(moves);
    event::EventLoop loop;
    Socket socket;
    HandshakeOptions as_client, as_server;
    as_client.role = Role::kClient;
    as_client.peer.uris = {kServer};
    as_server.role = Role::kServer;
    std::optional<Result<TlsConnection>> client, server;
    auto dammed = std::make_unique<Dam>(net::MakeSocketTransport(loop, std::move(socket.near)));
    Dam& dam = *dammed;
    TlsHandshake c(std::move(dammed), ca.Context(kClient), as_client,
                   [&](Result<TlsConnection> r) { client = std::move(r); });
    TlsHandshake s(net::MakeSocketTransport(loop, std::move(socket.far)), ca.Context(kServer),
                   as_server, [&](Result<TlsConnection> r) { server = std::move(r); });
    const auto until = [&](const std::function<bool()>& over, int rounds = 2000) {
      for (int i = 0; i < rounds && !over(); ++i) loop.RunOnce(std::chrono::milliseconds(1));
      return over();
    };
    ASSERT_TRUE(until([&] { return dam.sent > 0; }));
    dam.room = 100;  // of the certificate that comes next
    ASSERT_TRUE(until([&] { return client.has_value(); }));
    ASSERT_TRUE(client->has_value()) << client->error().message;
    EXPECT_FALSE(until([&] { return server.has_value(); }, 20));
    EXPECT_EQ(dam.room, 0u);
    net::TransportPtr transport = std::move((*client)->transport);
    if (moves) {
      auto out = Export(*transport);
      ASSERT_TRUE(out.has_value());
      EXPECT_GT(out->unsent.size(), 500u);
      auto in = DecodeTls(EncodeTls(*out));
      ASSERT_TRUE(in.has_value()) << in.error().message;
      in->socket = std::move(out->socket);
      auto again = Import(loop, std::move(*in), nullptr);
      ASSERT_TRUE(again.has_value());
      transport = std::move(*again);
    } else {
      dam.Open();
    }
    ASSERT_TRUE(until([&] { return server.has_value(); }));
    ASSERT_TRUE(server->has_value()) << server->error().message;
    char text[] = "and then";
    const iovec part{text, 8};
    EXPECT_TRUE(transport->Write({&part, 1}).ok());
    testing::Reader reader(*(*server)->transport);
    EXPECT_TRUE(until([&] { return reader.text == "and then"; })) << reader.text;
  }
}

}  // namespace
}  // namespace qanat::tls
