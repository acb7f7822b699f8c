// SPDX-License-Identifier: Apache-2.0
#include "common/tls/record_layer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <new>
#include <random>

#include "common/tls/test_oracle.h"

namespace qanat::tls {
namespace {

using Kind = RecordLayer::Opened::Kind;
using testing::kSuites;
using testing::Oracle;

std::vector<uint8_t> FromHex(std::string_view text) {
  std::vector<uint8_t> out;
  int high = -1;
  for (char c : text) {
    if (c == ' ') continue;
    int value = c <= '9' ? c - '0' : c - 'a' + 10;
    if (high < 0) {
      high = value;
    } else {
      out.push_back(static_cast<uint8_t>(high << 4 | value));
      high = -1;
    }
  }
  return out;
}

std::vector<uint8_t> Seal(RecordLayer& layer, std::string_view text) {
  std::vector<uint8_t> out(text.size() + RecordLayer::kOverhead);
  iovec piece{const_cast<char*>(text.data()), text.size()};
  out.resize(layer.Seal({&piece, 1}, out.data()));
  return out;
}

// Opens every record of `wire` with `room` bytes for the plaintext of each.
struct Outcome {
  std::string text;
  Kind last = Kind::kControl;
  int controls = 0;
};
Outcome OpenAll(RecordLayer& layer, std::vector<uint8_t> wire, size_t room = 16384) {
  Outcome out;
  std::span<uint8_t> left(wire);
  while (!left.empty()) {
    size_t size = RecordLayer::SizeOfRecord(left);
    if (size == 0 || size > left.size()) {
      ADD_FAILURE() << "half a record";
      return out;
    }
    std::vector<uint8_t> into(room);
    auto opened = layer.Open(left.first(size), into);
    out.last = opened.kind;
    if (opened.kind == Kind::kData) {
      out.text.append(reinterpret_cast<char*>(into.data()), opened.copied);
      out.text.append(reinterpret_cast<char*>(opened.rest.data()), opened.rest.size());
    } else if (opened.kind == Kind::kControl) {
      ++out.controls;
    } else {
      return out;
    }
    left = left.subspan(size);
  }
  return out;
}

TlsState StateOf(uint16_t cipher, uint8_t read_fill, uint8_t write_fill) {
  TlsState state;
  state.cipher = cipher;
  std::vector<uint8_t> secret(cipher == 0x1302 ? 48 : 32, read_fill);
  state.read_secret = Secret(secret);
  std::fill(secret.begin(), secret.end(), write_fill);
  state.write_secret = Secret(secret);
  return state;
}

// Two of ours, connected.
struct Two {
  RecordLayer a, b;
  explicit Two(uint16_t cipher = 0x1301, uint64_t sequence = 0) {
    TlsState state = StateOf(cipher, 1, 2);
    state.read_sequence = state.write_sequence = sequence;
    EXPECT_TRUE(a.Import(state));
    state = StateOf(cipher, 2, 1);
    state.read_sequence = state.write_sequence = sequence;
    state.server = true;
    EXPECT_TRUE(b.Import(state));
  }
};

// A record of any type with any inner plaintext, sealed with the key that `a` of Two writes with.
std::vector<uint8_t> Forge(std::span<const uint8_t> inner, uint64_t sequence) {
  RecordKey key;
  TlsState state = StateOf(0x1301, 1, 2);
  EXPECT_TRUE(key.Set(0x1301, state.write_secret, sequence));
  uint8_t nonce[12];
  EXPECT_TRUE(key.NextNonce(nonce));
  std::vector<uint8_t> out = {23, 3, 3, static_cast<uint8_t>((inner.size() + 16) >> 8),
                              static_cast<uint8_t>(inner.size() + 16)};
  out.resize(5 + inner.size() + 16);
  size_t size = 0;
  EXPECT_EQ(EVP_AEAD_CTX_seal(key.aead(), out.data() + 5, &size, inner.size() + 16, nonce, 12,
                              inner.data(), inner.size(), out.data(), 5),
            1);
  return out;
}

// RFC 8448 section 3: application data and close_notify of both sides.
TEST(RecordLayerTest, Rfc8448) {
  const auto client = FromHex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
  const auto server = FromHex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
  std::string payload;
  for (int i = 0; i < 50; ++i) payload.push_back(static_cast<char>(i));
  TlsState state;
  state.cipher = 0x1301;
  state.write_secret = Secret(client);
  state.read_secret = Secret(server);
  state.read_sequence = 1;  // its ticket was the first record
  RecordLayer layer;
  ASSERT_TRUE(layer.Import(state));
  EXPECT_EQ(Seal(layer, payload),
            FromHex("17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9"
                    "14 aa 66 bc ab 3f 2b 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f"
                    "5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4"));
  Outcome got = OpenAll(
      layer,
      FromHex("17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f"
              "82 aa 1b 36 e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2"
              "1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d"));
  EXPECT_EQ(got.text, payload);
  std::vector<uint8_t> alert(RecordLayer::kOverhead + 2);
  alert.resize(layer.SealAlert(1, 0, alert.data()));
  EXPECT_EQ(alert, FromHex("17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0"
                           "e3"));
  got = OpenAll(layer, FromHex("17 03 03 00 13 b5 8f d6 71 66 eb f5 99 d2 47 20 cf be 7e fa 7a 88"
                               "64 a9"));
  EXPECT_EQ(got.last, Kind::kClosed);
}

class OracleTest : public ::testing::TestWithParam<std::tuple<uint16_t, Role>> {};

TEST_P(OracleTest, BothDirectionsWithRandomSplitsAndKeyUpdates) {
  auto [suite, role] = GetParam();
  std::mt19937 random(7 * suite + static_cast<int>(role));
  Oracle oracle(suite, role);
  RecordLayer layer;
  ASSERT_TRUE(layer.FromHandshake(oracle.ours()));
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE(round);
    // Ours to theirs: random sizes, pieces, in place or gathered.
    std::string text(random() % 3 == 0 ? random() % 16385 : random() % 60, '\0');
    for (char& c : text) c = static_cast<char>(random());
    std::vector<uint8_t> out(text.size() + RecordLayer::kOverhead);
    size_t size = 0;
    if (random() % 2 == 0) {
      std::memcpy(out.data() + RecordLayer::kHead, text.data(), text.size());
      size = layer.SealInPlace(out);
    } else {
      std::vector<iovec> pieces;
      size_t at = 0;
      int cuts = static_cast<int>(random() % 11);
      for (int i = 0; i < cuts && at < text.size(); ++i) {
        size_t n = random() % (text.size() - at + 1);
        pieces.push_back({text.data() + at, n});
        at += n;
      }
      pieces.push_back({text.data() + at, text.size() - at});
      size = layer.Seal(pieces, out.data());
    }
    ASSERT_EQ(size, out.size());
    oracle.ToPeer(out);
    ASSERT_EQ(oracle.PeerReads(), text);
    if (random() % 8 == 0) {
      uint8_t update[RecordLayer::kOverhead + 5];
      ASSERT_EQ(layer.SealKeyUpdate(random() % 2 == 0, update), sizeof update);
      EXPECT_EQ(layer.write_sequence(), 0u);
      oracle.ToPeer(update);
      ASSERT_EQ(oracle.PeerReads(), "");
    }
    // Theirs to ours; their answer to a KeyUpdate comes with it.
    if (random() % 8 == 0) {
      SSL_key_update(oracle.peer(),
                     random() % 2 == 0 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);
    }
    text.assign(1 + random() % 40000, '\0');
    for (char& c : text) c = static_cast<char>(random());
    Outcome got =
        OpenAll(layer, oracle.PeerWrites(text), random() % 4 == 0 ? random() % 300 : 20000);
    ASSERT_EQ(got.text, text);
    if (layer.key_update_due()) {
      uint8_t update[RecordLayer::kOverhead + 5];
      ASSERT_EQ(layer.SealKeyUpdate(false, update), sizeof update);
      oracle.ToPeer(update);
    }
    if (round % 50 == 49) {
      // A hand-over in the middle.
      TlsState state = layer.Export();
      uint8_t none[64];
      EXPECT_EQ(layer.SealAlert(1, 0, none), 0u) << "the old one has nothing to say any more";
      ASSERT_TRUE(layer.Import(state));
    }
  }
  // close_notify both ways.
  SSL_shutdown(oracle.peer());
  EXPECT_EQ(OpenAll(layer, Oracle::Wire(oracle.peer())).last, Kind::kClosed);
  uint8_t alert[RecordLayer::kOverhead + 2];
  oracle.ToPeer({alert, layer.SealAlert(1, 0, alert)});
  int error = 0;
  EXPECT_EQ(oracle.PeerReads(&error), "");
  EXPECT_EQ(error, SSL_ERROR_ZERO_RETURN);
}

TEST_P(OracleTest, FatalAlertsBothWays) {
  auto [suite, role] = GetParam();
  {
    Oracle oracle(suite, role);
    RecordLayer layer;
    ASSERT_TRUE(layer.FromHandshake(oracle.ours()));
    SSL_send_fatal_alert(oracle.peer(), SSL_AD_CERTIFICATE_REVOKED);
    EXPECT_EQ(OpenAll(layer, Oracle::Wire(oracle.peer())).last, Kind::kFailed);
    EXPECT_EQ(layer.failure().received_alert, SSL_AD_CERTIFICATE_REVOKED);
    EXPECT_EQ(layer.failure().alert, 0);
  }
  Oracle oracle(suite, role);
  RecordLayer layer;
  ASSERT_TRUE(layer.FromHandshake(oracle.ours()));
  uint8_t alert[RecordLayer::kOverhead + 2];
  oracle.ToPeer({alert, layer.SealAlert(2, SSL_AD_BAD_RECORD_MAC, alert)});
  char byte;
  ERR_clear_error();
  EXPECT_LE(SSL_read(oracle.peer(), &byte, 1), 0);
  EXPECT_EQ(ERR_GET_REASON(ERR_peek_error()), SSL_R_SSLV3_ALERT_BAD_RECORD_MAC);
  EXPECT_EQ(layer.SealAlert(1, 0, alert), 0u) << "nothing may follow a fatal alert";
}

INSTANTIATE_TEST_SUITE_P(All, OracleTest,
                         ::testing::Combine(::testing::ValuesIn(kSuites),
                                            ::testing::Values(Role::kClient, Role::kServer)));

TEST(RecordLayerTest, TicketsOfAServer) {
  for (bool keep : {false, true}) {
    Oracle oracle(0x1301, Role::kClient, /*tickets=*/true);
    RecordLayer layer;
    ASSERT_TRUE(layer.FromHandshake(oracle.ours()));
    if (keep) layer.KeepTickets();
    // The server sends them in front of its first data.
    Outcome got = OpenAll(layer, oracle.PeerWrites("data"));
    EXPECT_EQ(got.text, "data");
    EXPECT_GT(got.controls, 0);
    auto tickets = layer.TakeTickets();
    EXPECT_EQ(tickets.size(), keep ? 2u : 0u);
    for (const auto& ticket : tickets) {
      bssl::UniquePtr<SSL_SESSION> session(
          SSL_process_tls13_new_session_ticket(oracle.ours(), ticket.data(), ticket.size()));
      EXPECT_TRUE(session);
    }
    EXPECT_EQ(OpenAll(layer, oracle.PeerWrites("after")).text, "after");
  }
}

TEST(RecordLayerTest, NothingOfAForgedRecordComesOut) {
  for (uint16_t suite : kSuites) {
    Two two(suite);
    std::vector<uint8_t> record = Seal(two.a, "a secret that nobody may see before it is checked");
    for (size_t bit = 5 * 8; bit < record.size() * 8; bit += 7) {
      RecordLayer reader;
      TlsState state = StateOf(suite, 2, 1);
      ASSERT_TRUE(reader.Import(state));
      std::vector<uint8_t> changed = record;
      changed[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      std::vector<uint8_t> into(20, 0);
      auto opened = reader.Open(changed, into);
      ASSERT_EQ(opened.kind, Kind::kFailed);
      EXPECT_EQ(reader.failure().alert, SSL_AD_BAD_RECORD_MAC);
      EXPECT_EQ(into, std::vector<uint8_t>(20, 0));
      EXPECT_EQ(std::string(changed.begin(), changed.end()).find("secret"), std::string::npos);
      // Nothing more is opened, not even the genuine record.
      std::vector<uint8_t> good = record;
      EXPECT_EQ(reader.Open(good, into).kind, Kind::kFailed);
    }
  }
}

TEST(RecordLayerTest, RecordsAreBoundToTheirPlace) {
  Two two;
  std::vector<uint8_t> first = Seal(two.a, "first"), second = Seal(two.a, "second");
  EXPECT_NE(Seal(two.a, "same"), Seal(two.a, "same"));
  EXPECT_EQ(OpenAll(two.b, second).last, Kind::kFailed) << "out of order";
  Two again;
  first = Seal(again.a, "first");
  EXPECT_EQ(OpenAll(again.b, first).text, "first");
  EXPECT_EQ(OpenAll(again.b, first).last, Kind::kFailed) << "a replay";
}

TEST(RecordLayerTest, SequenceNumbersEndInsteadOfWrapping) {
  Two two(0x1303, std::numeric_limits<uint64_t>::max() - 1);
  std::vector<uint8_t> last = Seal(two.a, "the last one");
  ASSERT_FALSE(last.empty());
  EXPECT_EQ(OpenAll(two.b, last).text, "the last one");
  EXPECT_TRUE(Seal(two.a, "one more").empty());
  EXPECT_EQ(OpenAll(two.b, last).last, Kind::kFailed);
}

TEST(RecordLayerTest, OurKeyIsChangedBeforeItsLimit) {
  Two two(0x1301, RecordLayer::kRekeyAfter - 1);
  EXPECT_FALSE(two.a.key_update_due());
  EXPECT_EQ(OpenAll(two.b, Seal(two.a, "x")).text, "x");
  ASSERT_TRUE(two.a.key_update_due());
  uint8_t update[RecordLayer::kOverhead + 5];
  ASSERT_GT(two.a.SealKeyUpdate(false, update), 0u);
  EXPECT_FALSE(two.a.key_update_due());
  EXPECT_EQ(two.a.write_sequence(), 0u);
  EXPECT_EQ(OpenAll(two.b, {update, update + sizeof update}).last, Kind::kControl);
  EXPECT_EQ(two.b.read_sequence(), 0u);
  EXPECT_EQ(OpenAll(two.b, Seal(two.a, "with the new key")).text, "with the new key");
}

TEST(RecordLayerTest, PaddingIsTakenOff) {
  for (size_t zeros : {0u, 1u, 40u, 3000u}) {
    for (size_t room : {0u, 1u, 4u, 5u, 6u, 20u, 5000u}) {
      Two two;
      std::vector<uint8_t> inner = {'h', 'e', 'l', 'l', 'o', 23};
      inner.resize(inner.size() + zeros);
      Outcome got = OpenAll(two.b, Forge(inner, 0), room);
      EXPECT_EQ(got.text, "hello") << zeros << " zeros, room for " << room;
    }
  }
}

TEST(RecordLayerTest, WhatIsNoGoodIsNamed) {
  struct Case {
    std::vector<uint8_t> inner;
    uint8_t alert;
  };
  std::vector<Case> cases = {
      {{0, 0, 0}, SSL_AD_UNEXPECTED_MESSAGE},                 // no type
      {{1, 20}, SSL_AD_UNEXPECTED_MESSAGE},                   // change_cipher_spec
      {{1, 99}, SSL_AD_UNEXPECTED_MESSAGE},                   // no such type
      {{1, 21}, SSL_AD_DECODE_ERROR},                         // half an alert
      {{22}, SSL_AD_UNEXPECTED_MESSAGE},                      // empty handshake record
      {{24, 0, 0, 1, 2, 22}, SSL_AD_DECODE_ERROR},            // KeyUpdate with a third value
      {{24, 0, 0, 2, 0, 0, 22}, SSL_AD_DECODE_ERROR},         // of the wrong size
      {{24, 0, 0, 1, 0, 24, 22}, SSL_AD_UNEXPECTED_MESSAGE},  // with something behind it
      {{4, 0, 0, 1, 0, 22}, SSL_AD_UNEXPECTED_MESSAGE},       // a ticket for a server
      {{13, 0, 0, 1, 0, 22}, SSL_AD_UNEXPECTED_MESSAGE},      // a certificate request
      {{24, 1, 0, 0, 22}, SSL_AD_ILLEGAL_PARAMETER},          // longer than any
      {std::vector<uint8_t>(16386, 1), SSL_AD_RECORD_OVERFLOW},
  };
  for (const Case& one : cases) {
    Two two;
    EXPECT_EQ(OpenAll(two.b, Forge(one.inner, 0)).last, Kind::kFailed);
    EXPECT_EQ(two.b.failure().alert, one.alert) << two.b.failure().why;
  }
  for (auto [head, alert] : std::vector<std::pair<std::vector<uint8_t>, uint8_t>>{
           {{22, 3, 3, 0, 1, 0}, SSL_AD_UNEXPECTED_MESSAGE},
           {{'G', 'E', 'T', 0, 1, 0}, SSL_AD_UNEXPECTED_MESSAGE},
           {{23, 3, 1, 0, 1, 0}, SSL_AD_PROTOCOL_VERSION},
           {{23, 3, 3, 0, 1, 0}, SSL_AD_BAD_RECORD_MAC},
           {{23, 3, 3, 0xff, 0xff}, SSL_AD_RECORD_OVERFLOW}}) {
    Two two;
    std::vector<uint8_t> into(10);
    EXPECT_EQ(two.b.Open(head, into).kind, Kind::kFailed);
    EXPECT_EQ(two.b.failure().alert, alert);
  }
}

TEST(RecordLayerTest, AMessageInManyRecordsAndManyInOne) {
  Two two;
  const std::vector<uint8_t> update = {24, 0, 0, 1, 1};
  for (size_t i = 0; i < update.size(); ++i) {
    EXPECT_FALSE(two.b.key_update_due());
    uint8_t inner[2] = {update[i], 22};
    ASSERT_EQ(OpenAll(two.b, Forge(inner, i)).last, Kind::kControl);
  }
  EXPECT_TRUE(two.b.key_update_due());
  EXPECT_EQ(two.b.read_sequence(), 0u);
  // Data in the middle of a message.
  Two other;
  uint8_t begun[2] = {24, 22};
  ASSERT_EQ(OpenAll(other.b, Forge(begun, 0)).last, Kind::kControl);
  uint8_t data[2] = {'x', 23};
  EXPECT_EQ(OpenAll(other.b, Forge(data, 1)).last, Kind::kFailed);
}

TEST(RecordLayerTest, APeerMayNotKeepUsBusyForNothing) {
  Two two;
  uint8_t empty[1] = {23};
  uint64_t sequence = 0;
  for (; sequence < 32; ++sequence) {
    ASSERT_EQ(OpenAll(two.b, Forge(empty, sequence)).last, Kind::kControl);
  }
  EXPECT_EQ(OpenAll(two.b, Forge(empty, sequence)).last, Kind::kFailed);
  Two both;  // a message between them is no data, nor an empty record
  sequence = 0;
  const std::vector<uint8_t> canceled = {1, 90, 21};
  for (int i = 0; i < 65; ++i) {
    std::span<const uint8_t> inner(empty);
    if (i == 32) inner = canceled;
    ASSERT_EQ(OpenAll(both.b, Forge(inner, sequence++)).last, Kind::kControl) << i;
  }
  EXPECT_EQ(OpenAll(both.b, Forge(empty, sequence)).last, Kind::kFailed);
  Two updates;
  for (int i = 0;; ++i) {
    uint8_t update[RecordLayer::kOverhead + 5];
    ASSERT_GT(updates.a.SealKeyUpdate(true, update), 0u);
    Kind kind = OpenAll(updates.b, {update, update + sizeof update}).last;
    ASSERT_EQ(kind, i < 32 ? Kind::kControl : Kind::kFailed) << i;
    if (kind == Kind::kFailed) break;
  }
}

TEST(RecordLayerTest, AMessageMayComeByteByByte) {
  Two two;
  std::vector<uint8_t> ticket = {4, 0, 0, 77, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 64};
  ticket.resize(4 + 77, 0);
  two.b.KeepTickets();
  TlsState state = StateOf(0x1301, 2, 1);
  ASSERT_TRUE(two.b.Import(state));  // a client
  uint64_t sequence = 0;
  for (uint8_t byte : ticket) {
    uint8_t inner[2] = {byte, 22};
    ASSERT_EQ(OpenAll(two.b, Forge(inner, sequence++)).last, Kind::kControl) << sequence;
  }
  EXPECT_EQ(two.b.TakeTickets().size(), 1u);
  uint8_t data[2] = {'x', 23};
  EXPECT_EQ(OpenAll(two.b, Forge(data, sequence)).text, "x");
  // Without end it may not.
  Two other;
  uint8_t begun[5] = {4, 0, 64, 1, 22};
  EXPECT_EQ(OpenAll(other.b, Forge(begun, 0)).last, Kind::kFailed);
}

TEST(RecordLayerTest, OneAnswerToManyKeyUpdates) {
  Two two;
  uint8_t record[RecordLayer::kOverhead + 5];
  const auto request = [&] {
    ASSERT_GT(two.a.SealKeyUpdate(true, record), 0u);
    ASSERT_EQ(OpenAll(two.b, {record, record + sizeof record}).last, Kind::kControl);
  };
  request();
  ASSERT_TRUE(two.b.key_update_due());  // the first key, even if nothing was sealed with it
  ASSERT_GT(two.b.SealKeyUpdate(false, record), 0u);
  request();
  EXPECT_FALSE(two.b.key_update_due());
  Seal(two.b, "x");
  request();
  EXPECT_TRUE(two.b.key_update_due());
}

TEST(RecordLayerTest, StateThatMakesNoSenseIsRefused) {
  RecordLayer layer;
  TlsState state = StateOf(0x1301, 1, 2);
  state.cipher = 0x1304;
  EXPECT_FALSE(layer.Import(state));
  state.cipher = 0x1302;  // wants 48 bytes
  EXPECT_FALSE(layer.Import(state));
  uint8_t out[64];
  EXPECT_EQ(layer.SealAlert(1, 0, out), 0u);
}

TEST(SecretTest, IsOverwritten) {
  std::vector<uint8_t> bytes(32, 0xa5);
  alignas(Secret) unsigned char memory[sizeof(Secret)];
  auto* secret = new (memory) Secret(bytes);
  Secret moved = std::move(*secret);
  EXPECT_TRUE(secret->empty());
  EXPECT_EQ(std::count(std::begin(memory), std::end(memory), 0xa5), 0);
  *secret = moved;
  EXPECT_EQ(std::count(std::begin(memory), std::end(memory), 0xa5), 32);
  secret->~Secret();
  // The compiler may not know that somebody looks.
  EXPECT_EQ(std::count(std::begin(memory), std::end(memory), 0xa5), 0);
}

}  // namespace
}  // namespace qanat::tls
