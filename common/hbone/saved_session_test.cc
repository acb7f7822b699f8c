// SPDX-License-Identifier: Apache-2.0
// A session's state that another process says, or another version: what cannot be gone on with.
#include "common/hbone/saved_session.h"

#include <gtest/gtest.h>

#include <functional>

#include "common/takeover/fields.h"
#include "common/takeover/fields_for_test.h"

namespace qanat::hbone {
namespace {

SavedSession Whole() {
  SavedSession out;
  out.server = true;
  out.options.max_header_list = 65536;
  out.options.initial_stream_window = out.state.first_window = 1 << 20;
  out.state.settings_seen = true;
  out.state.last_peer_stream = 9;
  out.state.recv_window = 1000;
  SavedStream stream;
  stream.state = {5, 3, 100, 200, out.options.initial_stream_window, false, true, true};
  stream.input = {1, 2, 3};
  out.streams.push_back(stream);
  stream.state.id = 9;
  out.streams.push_back(stream);
  return out;
}

TEST(SavedSessionTest, WhatCannotBeIsRefused) {
  ASSERT_TRUE(DecodeSession(EncodeSession(Whole())).has_value());
  const auto refused = [](const std::function<void(SavedSession&)>& change) {
    SavedSession session = Whole();
    change(session);
    return !DecodeSession(EncodeSession(session)).has_value();
  };
  EXPECT_TRUE(refused([](auto& s) { s.streams[0].state.id = 9; }));     // twice
  EXPECT_TRUE(refused([](auto& s) { s.streams[0].state.id = 4; }));     // not a client's
  EXPECT_TRUE(refused([](auto& s) { s.state.last_peer_stream = 7; }));  // not opened yet
  EXPECT_TRUE(refused([](auto& s) { s.state.peer.max_frame_size = 0; }));
  EXPECT_TRUE(refused([](auto& s) { s.options.max_frame_size = 100; }));
  EXPECT_TRUE(refused([](auto& s) { s.streams[0].state.window = 10; }));
  EXPECT_TRUE(refused([](auto& s) { s.state.recv_window = -1; }));
  const auto take_back = [](auto& s) {  // of every stream's window, to 4 KiB
    s.state.settings_unacked = 1;
    s.state.taken_back = s.state.first_window - 4096;
    s.state.first_window = 4096;
    s.streams[0].state.recv_window = -1;
  };
  EXPECT_FALSE(refused(take_back));
  EXPECT_TRUE(refused([&](auto& s) { take_back(s), s.state.taken_back = 7; }));
  EXPECT_TRUE(refused([&](auto& s) { take_back(s), s.state.settings_unacked = 0; }));
  EXPECT_TRUE(refused([&](auto& s) { take_back(s), s.state.first_window = 0; }));
  EXPECT_TRUE(refused([](auto& s) { s.state.first_window = s.options.initial_stream_window + 1; }));
  EXPECT_TRUE(refused([](auto& s) { s.growth_left = s.options.connection_window + 1; }));
  EXPECT_TRUE(refused([](auto& s) { s.table.entries = {{"x", std::string(5000, 'y')}}; }));
  EXPECT_TRUE(refused(
      [](auto& s) { s.frame.bytes = {0, 0, 4, kWindowUpdate, 0, 0, 0, 0, 0, 1, 2, 3, 4}; }));
  EXPECT_FALSE(
      refused([](auto& s) { s.frame.bytes = {0, 0, 4, kWindowUpdate, 0, 0, 0, 0, 0, 1, 2, 3}; }));
  EXPECT_TRUE(refused([](auto& s) { s.frame.bytes = {0, 0, 4, kContinuation, 0, 0, 0, 0, 5, 1}; }));
  EXPECT_TRUE(refused([](auto& s) {
    s.frame.bytes = {0, 0, 4, kData, 0, 0, 0, 0, 5};
    s.frame.left = 5;
  }));
  EXPECT_TRUE(refused([](auto& s) {
    s.frame.bytes = {0, 0, 4, kData, 0, 0, 0, 0, 5};
    s.frame.left = 3;
    s.frame.padding = 1;  // no flag
  }));
  takeover::FieldWriter writer;
  writer.Number(99 | takeover::kCritical, 1);
  WipedString newer = EncodeSession(Whole());
  newer += writer.Take();
  EXPECT_FALSE(DecodeSession(newer).has_value());
  const std::string all(EncodeSession(Whole()));
  for (size_t cut = 0; cut < all.size(); ++cut) {
    EXPECT_FALSE(DecodeSession(std::string_view(all).substr(0, cut)).has_value()) << cut;
  }
}

// Of a version that says less, or more, where it matters.
TEST(SavedSessionTest, WhatIsNotAllThereIsRefused) {
  SavedSession streamless = Whole();
  streamless.streams.clear();
  for (const SavedSession& session : {Whole(), streamless}) {
    const WipedString whole = EncodeSession(session);
    for (const auto& [tag, less] : takeover::Crippled(whole)) {
      EXPECT_FALSE(DecodeSession(less).has_value()) << "without field " << tag;
    }
    const takeover::RawFields all = takeover::TakeApart(whole);
    int longer = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const int tag = all[i].first & ~takeover::kCritical;
      const bool text = tag == 8 || tag == 15;  // bytes of any length
      takeover::RawFields more = all;
      more[i].second += std::string(8, '\0');
      const bool critical = (all[i].first & takeover::kCritical) != 0;
      if (!critical || text) continue;
      ++longer;
      if (tag == 16) {  // a stream: its own fields
        for (const auto& [own, less] : takeover::Crippled(all[i].second)) {
          more[i].second = less;
          EXPECT_FALSE(DecodeSession(takeover::PutTogether(more)).has_value()) << own;
        }
        takeover::RawFields stream = takeover::TakeApart(all[i].second);
        stream[0].second += std::string(8, '\0');
        more[i].second = takeover::PutTogether(stream);
      }
      EXPECT_FALSE(DecodeSession(takeover::PutTogether(more)).has_value()) << "longer " << tag;
    }
    EXPECT_GE(longer, 9);
  }
  // What does not matter may be missing, longer, or new.
  takeover::RawFields other = takeover::TakeApart(EncodeSession(Whole()));
  std::erase_if(other, [](const auto& field) { return field.first == 9 || field.first == 14; });
  for (auto& [tag, bytes] : other) {
    if (tag == 13) bytes += std::string(8, '\1');
  }
  other.emplace_back(uint16_t{99}, "new");
  EXPECT_TRUE(DecodeSession(takeover::PutTogether(other)).has_value());
}

}  // namespace
}  // namespace qanat::hbone
