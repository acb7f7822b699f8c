// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/tunnel_state.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <utility>

#include "common/takeover/fields.h"
#include "common/takeover/fields_for_test.h"
#include "common/tls/test_certs.h"

namespace qanat::ztunnel {
namespace {

using testing::HasSubstr;

constexpr char kAlice[] = "spiffe://cluster.local/ns/shop/sa/alice";
constexpr char kBob[] = "spiffe://cluster.local/ns/shop/sa/bob";

Fd Socket() { return Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)); }

SavedTunnel Whole(bool inbound) {
  static const auto* const ca = new tls::testing::TestCa(tls::testing::TestCa::Make());
  static const auto* const peer = new tls::testing::TestCa::Identity(ca->Issue(kAlice));
  SavedTunnel out;
  out.pod_uid = "uid-1";
  out.netns_cookie = 77;
  if (inbound) {
    out.inbound = SavedTunnel::Inbound{*net::SocketAddress::Parse("10.0.0.1:4000"),
                                       *net::SocketAddress::Parse("10.0.0.2:15008"), kBob, kAlice};
  } else {
    hbone::PoolKey key;
    key.source_identity = kBob;
    key.destination_identities = {kAlice, "spiffe://cluster.local/ns/shop/sa/carol"};
    key.destination = *net::SocketAddress::Parse("10.0.0.1:15008");
    key.source_ip = *net::IpAddress::Parse("10.0.0.2");
    key.source_netns = 77;
    out.outbound = SavedTunnel::Outbound{key, true};
  }
  out.tls.state.server = inbound;
  out.tls.state.cipher = 0x1301;
  const std::vector<uint8_t> secret(32, 9);
  out.tls.state.read_secret = tls::Secret(secret);
  out.tls.state.write_secret = tls::Secret(secret);
  out.tls.state.write_sequence = 12;
  out.tls.peer = tls::MakeVerifiedPeer({peer->certificate, ca->authority.certificate});
  out.tls.socket = Socket();
  out.session.server = inbound;
  out.session.options.max_header_list = 65536;
  out.session.options.initial_stream_window = out.session.state.first_window = 256 << 10;
  out.session.state.settings_seen = true;
  out.session.state.last_peer_stream = 3;
  out.session.state.next_stream = 5;
  for (uint32_t id : {1u, 3u}) {
    hbone::SavedStream stream;
    stream.state = {id, 10, 20, 0, out.session.options.initial_stream_window, false, false, true};
    out.session.streams.push_back(stream);
    SavedTunnel::Stream user;
    user.connection.pod_uid = "uid-1";
    user.connection.netns_cookie = 77;
    user.connection.flow.source = *net::SocketAddress::Parse("10.0.0.1:5000");
    user.connection.flow.source_identity = kAlice;
    if (!inbound) {
      user.connection.outbound = SavedConnection::Outbound{
          *net::SocketAddress::Parse("10.9.9.9:80"), false, 3, false, false, {}, {}, {}};
    }
    user.up.pending = {1, 2, static_cast<uint8_t>(id)};
    user.down.eof = user.down.done = true;
    user.socket = Socket();
    out.streams.push_back(std::move(user));
  }
  return out;
}

// One that two pods share.
SavedTunnel Shared() {
  SavedTunnel out = Whole(false);
  out.pod_uid.clear();
  out.netns_cookie = 0;
  out.outbound->key.shared = true;
  out.outbound->key.source_ip = {};
  out.outbound->key.source_netns = 0;
  out.session.state.peer.takes_source = true;
  out.streams[1].connection.pod_uid = "uid-2";
  out.streams[1].connection.netns_cookie = 78;
  return out;
}

// One to a gateway: its first stream carries a tunnel that has two streams, its second one is a
// user's.
SavedTunnel Double() {
  SavedTunnel out = Whole(false);
  SavedTunnel far = Whole(false);
  SavedTunnel::Inner inner;
  inner.stream = 1;
  inner.key = out.outbound->key;
  inner.key.through_authority = "bob.shop.svc:80";
  inner.key.through_identities = std::exchange(inner.key.destination_identities, {kAlice});
  inner.leaving = true;
  inner.tls = std::move(far.tls);
  inner.tls.socket.Reset();
  inner.session = std::move(far.session);
  out.inner.push_back(std::move(inner));
  out.streams.push_back(std::move(far.streams[0]));
  return out;
}

TEST(TunnelState, SaysTheSameTwice) {
  SavedTunnel all[] = {Whole(true), Whole(false), Shared(), Double()};
  for (const SavedTunnel& from : all) {
    const bool inbound = from.inbound.has_value();
    auto parcel = EncodeTunnel(from);
    ASSERT_TRUE(parcel.has_value());
    EXPECT_TRUE(HoldsTunnel(*parcel));
    EXPECT_EQ(parcel->fds.size(), 1 + from.streams.size());
    EXPECT_NE(parcel->fds[0].get(), from.tls.socket.get());  // a copy: ours may stay
    const WipedString bytes = parcel->state;
    auto to = DecodeTunnel(std::move(*parcel));
    ASSERT_TRUE(to.has_value()) << to.error().message;
    auto again = EncodeTunnel(*to);
    ASSERT_TRUE(again.has_value());
    EXPECT_EQ(again->state, std::string_view(bytes));
    EXPECT_EQ(to->streams[1].up.pending[2], 3);
    EXPECT_EQ(to->streams[1].connection.pod_uid, from.streams[1].connection.pod_uid);
    EXPECT_TRUE(to->streams[1].socket.valid());
    EXPECT_EQ(to->inbound.has_value(), inbound);
    if (inbound) {
      EXPECT_EQ(to->inbound->peer_identity, kAlice);
    } else {
      EXPECT_EQ(to->outbound->key, from.outbound->key);
      EXPECT_TRUE(to->outbound->leaving);
    }
    ASSERT_EQ(to->inner.size(), from.inner.size());
    for (size_t i = 0; i < from.inner.size(); ++i) {
      EXPECT_EQ(to->inner[i].key, from.inner[i].key);
      EXPECT_TRUE(to->inner[i].leaving);
      EXPECT_EQ(to->inner[i].tls.state.write_sequence, 12u);
      EXPECT_EQ(to->InnerOf(1), i);
      EXPECT_EQ(to->InnerOf(3), from.inner.size());
    }
  }
}

TEST(TunnelState, AnInnerTunnelThatCannotBeIsRefused) {
  const auto refused = [](const std::function<void(SavedTunnel&)>& change) {
    SavedTunnel tunnel = Double();
    change(tunnel);
    return !DecodeTunnel(std::move(*EncodeTunnel(tunnel))).has_value();
  };
  using Key = hbone::PoolKey;
  const auto key = [&](const std::function<void(Key&)>& change) {
    return refused([&](SavedTunnel& t) { change(t.inner[0].key); });
  };
  EXPECT_FALSE(refused([](SavedTunnel&) {}));
  EXPECT_TRUE(refused([](SavedTunnel& t) { t.inner[0].stream = 2; })) << "there is none";
  EXPECT_TRUE(refused([](SavedTunnel& t) { t.inner.clear(); }));
  EXPECT_TRUE(refused([](SavedTunnel& t) { t.streams.pop_back(); }));
  EXPECT_TRUE(refused([](SavedTunnel& t) { t.inner[0].session.streams.pop_back(); }));
  EXPECT_TRUE(refused([](SavedTunnel& t) { t.inner[0].session.server = true; }));
  EXPECT_TRUE(refused([](SavedTunnel& t) { t.inner[0].tls.state.server = true; }));
  EXPECT_TRUE(refused([](SavedTunnel& t) { t.inner[0].tls.peer = nullptr; }));
  EXPECT_TRUE(key([](Key& k) { k.through_authority.clear(); }));
  EXPECT_TRUE(key([](Key& k) { k.destination_identities.clear(); }));
  EXPECT_TRUE(refused([](SavedTunnel& t) {  // two through one stream
    SavedTunnel more = Double();
    t.inner.push_back(std::move(more.inner[0]));
    t.streams.push_back(std::move(more.streams[0]));
  }));
  EXPECT_TRUE(refused([](SavedTunnel& t) {  // a pod's, so it cannot be in a shared one
    t.pod_uid.clear();
    t.netns_cookie = 0;
    t.outbound->key.shared = true;
    t.session.state.peer.takes_source = true;
  }));
  SavedTunnel inbound = Whole(true);
  SavedTunnel other = Double();
  inbound.inner = std::move(other.inner);
  inbound.streams.push_back(std::move(other.streams[0]));
  EXPECT_FALSE(DecodeTunnel(std::move(*EncodeTunnel(inbound))).has_value());
  // Every field of it matters.
  const std::string all(EncodeTunnel(Double())->state);
  auto fields = takeover::TakeApart(takeover::TakeApart(all).front().second);
  size_t tried = 0;
  for (auto& [tag, value] : fields) {
    if (tag != (8 | takeover::kCritical)) continue;
    const std::string whole = value;
    for (const auto& [missing, less] : takeover::Crippled(whole)) {
      value = less;
      takeover::Parcel parcel = std::move(*EncodeTunnel(Double()));
      parcel.state = takeover::PutTogether(
          {{uint16_t{100 | takeover::kCritical}, takeover::PutTogether(fields)}});
      EXPECT_FALSE(DecodeTunnel(std::move(parcel)).has_value()) << "without field " << missing;
      ++tried;
    }
    value = whole;
  }
  EXPECT_GT(tried, 5u);
}

TEST(TunnelState, WhoKnowsConnectionsOnlyRefusesIt) {
  auto parcel = EncodeTunnel(Whole(true));
  ASSERT_TRUE(parcel.has_value());
  const auto connection = DecodeConnection(std::move(*parcel));
  ASSERT_FALSE(connection.has_value());
  EXPECT_THAT(connection.error().message, HasSubstr("another version"));
  // And the other way round.
  EXPECT_FALSE(
      HoldsTunnel(EncodeConnection(Whole(true).streams[0].connection, {}, {}, Fd(), Fd())));
}

TEST(TunnelState, WhatCannotBeIsRefused) {
  const auto refused = [](bool inbound, const std::function<void(SavedTunnel&)>& change) {
    SavedTunnel tunnel = Whole(inbound);
    change(tunnel);
    auto parcel = EncodeTunnel(tunnel);
    return !DecodeTunnel(std::move(*parcel)).has_value();
  };
  for (const bool inbound : {true, false}) {
    EXPECT_FALSE(refused(inbound, [](SavedTunnel&) {}));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) { t.pod_uid.clear(); }));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) { t.tls.peer = nullptr; }));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) { t.session.server = !t.session.server; }));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) { t.tls.state.server = !t.tls.state.server; }));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) { t.streams.pop_back(); }));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) { t.session.streams.pop_back(); }));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) { t.streams[0].connection.pod_uid = "x"; }));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) { t.streams[0].connection.netns_cookie = 1; }));
    EXPECT_TRUE(refused(inbound, [](SavedTunnel& t) {
      t.inbound.reset();
      t.outbound.reset();
    }));
  }
  // Its streams are judged by who its certificate says they come from.
  for (const char* other : {"", kBob}) {
    EXPECT_TRUE(refused(
        true, [&](SavedTunnel& t) { t.streams[1].connection.flow.source_identity = other; }));
  }
  SavedTunnel shared = Shared();
  shared.pod_uid = "uid-1";  // it belongs to nobody
  EXPECT_FALSE(DecodeTunnel(std::move(*EncodeTunnel(shared))).has_value());
  shared = Shared();
  shared.session.state.peer.takes_source = false;
  EXPECT_FALSE(DecodeTunnel(std::move(*EncodeTunnel(shared))).has_value());
  auto lost = EncodeTunnel(Whole(true));
  lost->fds.pop_back();
  for (const bool inbound : {true, false}) {
    const std::string all(EncodeTunnel(Whole(inbound))->state);
    const std::string inside = takeover::TakeApart(all).front().second;
    for (const auto& [tag, less] : takeover::Crippled(inside)) {
      takeover::Parcel parcel = std::move(*EncodeTunnel(Whole(inbound)));
      parcel.state = takeover::PutTogether({{uint16_t{100 | takeover::kCritical}, less}});
      EXPECT_FALSE(DecodeTunnel(std::move(parcel)).has_value()) << "without field " << tag;
    }
  }
  EXPECT_FALSE(DecodeTunnel(std::move(*lost)).has_value());
}

}  // namespace
}  // namespace qanat::ztunnel
