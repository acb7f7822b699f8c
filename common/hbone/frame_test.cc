// SPDX-License-Identifier: Apache-2.0
// Bytes on the wire: frames and header compression.
#include "common/hbone/frame.h"

#include <gtest/gtest.h>

#include "common/hbone/hpack.h"

namespace qanat::hbone {
namespace {

std::string Hex(std::span<const uint8_t> bytes) {
  std::string out;
  char text[3];
  for (uint8_t b : bytes) {
    std::snprintf(text, sizeof text, "%02x", b);
    out += text;
  }
  return out;
}
std::string Hex(const ByteQueue& queue) { return Hex(queue.front()); }

std::vector<uint8_t> FromHex(std::string_view hex) {
  std::vector<uint8_t> out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    out.push_back(static_cast<uint8_t>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return out;
}

TEST(Frames, AsTheRfcDrawsThem) {
  struct Case {
    const char* name;
    std::function<void(ByteQueue&)> put;
    const char* hex;
  };
  const Case kCases[] = {
      {"settings", [](ByteQueue& q) { PutSettings(q, {{kSettingInitialWindow, 4u << 20}}); },
       "000006040000000000000400400000"},
      {"settings ack", [](ByteQueue& q) { PutSettingsAck(q); }, "000000040100000000"},
      {"window update", [](ByteQueue& q) { PutWindowUpdate(q, 5, 0x01020304); },
       "00000408000000000501020304"},
      {"rst_stream", [](ByteQueue& q) { PutRstStream(q, 7, H2Error::kConnectError); },
       "0000040300000000070000000a"},
      {"goaway", [](ByteQueue& q) { PutGoaway(q, 9, H2Error::kEnhanceYourCalm, "hi"); },
       "00000a070000000000000000090000000b6869"},
      {"end of stream", [](ByteQueue& q) { PutEndStream(q, 3); }, "000000000100000003"},
      {"headers in one", [](ByteQueue& q) { PutHeaders(q, 1, "abc", true, 16384); },
       "000003010500000001616263"},
      {"headers cut", [](ByteQueue& q) { PutHeaders(q, 1, "abcde", false, 2); },
       "000002010000000001"
       "6162"
       "000002090000000001"
       "6364"
       "000001090400000001"
       "65"},
      {"headers that fit exactly", [](ByteQueue& q) { PutHeaders(q, 1, "ab", true, 2); },
       "0000020105000000016162"},
  };
  for (const Case& c : kCases) {
    ByteQueue queue;
    c.put(queue);
    EXPECT_EQ(Hex(queue), c.hex) << c.name;
  }
}

TEST(Frames, HeaderRoundTrip) {
  uint8_t raw[kFrameHeaderSize];
  FormatFrameHeader({0xfedcba, 0x42, 0x81, 0x7fffffff}, raw);
  FrameHeader header = ParseFrameHeader(raw);
  EXPECT_EQ(header.length, 0xfedcbau);
  EXPECT_EQ(header.type, 0x42);
  EXPECT_EQ(header.flags, 0x81);
  EXPECT_EQ(header.stream, 0x7fffffffu);
  raw[5] |= 0x80;  // the reserved bit is ignored
  EXPECT_EQ(ParseFrameHeader(raw).stream, 0x7fffffffu);
}

TEST(Frames, SettingsOfAPeer) {
  Settings settings;
  auto payload = FromHex(
      "000100000000"
      "000300000064"
      "00040000ffff"
      "abcd01020304");
  EXPECT_EQ(ApplySettings(payload, settings), H2Error::kNoError);
  EXPECT_EQ(settings.header_table_size, 0u);
  EXPECT_EQ(settings.max_concurrent_streams, 100u);
  EXPECT_EQ(settings.initial_window, 65535u);
  EXPECT_EQ(settings.max_frame_size, 16384u);
  EXPECT_EQ(ApplySettings(FromHex("000500003fff"), settings), H2Error::kProtocolError);
  EXPECT_EQ(ApplySettings(FromHex("000480000000"), settings), H2Error::kFlowControlError);
  EXPECT_EQ(ApplySettings(FromHex("000200000002"), settings), H2Error::kProtocolError);
  EXPECT_EQ(ApplySettings(FromHex("0002000000"), settings), H2Error::kFrameSizeError);
}

TEST(Queue, KeepsOrderThroughCompaction) {
  ByteQueue queue;
  std::string in, out;
  for (unsigned i = 0; i < 2000; ++i) {
    std::string piece(i % 97, static_cast<char>(i));
    in += piece;
    queue.Append(std::string_view(piece));
    size_t take = std::min<size_t>(queue.size(), i % 83);
    auto front = queue.front().first(take);
    out.append(front.begin(), front.end());
    queue.Consume(take);
  }
  out.append(queue.front().begin(), queue.front().end());
  EXPECT_EQ(in, out);
}

TEST(Hpack, WhatWeSendIsReadBack) {
  HpackEncoder encoder;
  HpackDecoder decoder(1 << 20);
  for (size_t size : {0u, 1u, 126u, 127u, 128u, 254u, 255u, 300u, 20000u}) {
    Headers in = {
        {":method", "CONNECT"}, {":authority", "10.0.0.1:80"}, {"baggage", std::string(size, 'b')}};
    std::string block = encoder.Encode(in);
    Headers out;
    ASSERT_EQ(decoder.Decode({reinterpret_cast<const uint8_t*>(block.data()), block.size()}, out),
              HpackDecoder::Outcome::kOk);
    EXPECT_EQ(in, out);
  }
}

TEST(Hpack, BytesOfARequest) {
  HpackEncoder encoder;
  Headers headers = {{":method", "CONNECT"}, {":authority", "a:1"}, {"x", "y"}};
  auto hex = [](const std::string& s) {
    return Hex({reinterpret_cast<const uint8_t*>(s.data()), s.size()});
  };
  // Table size 0 first, then literals without indexing.
  EXPECT_EQ(hex(encoder.Encode(headers)),
            "20"
            "0207434f4e4e454354"
            "0103613a31"
            "0001780179");
  EXPECT_EQ(hex(encoder.Encode({{":status", "200"}})), "88");
  EXPECT_EQ(hex(encoder.Encode({{":status", "401"}})), "0803343031");
}

// RFC 7541 C.4: Huffman coded requests that build on each other's dynamic table. A peer may send
// such before it has seen our table size of 0.
TEST(Hpack, DynamicTableAndHuffmanOfThePeer) {
  HpackDecoder decoder(1 << 20);
  Headers out;
  auto block = FromHex("828684418cf1e3c2e5f23a6ba0ab90f4ff");
  ASSERT_EQ(decoder.Decode(block, out), HpackDecoder::Outcome::kOk);
  EXPECT_EQ(Find(out, ":authority"), "www.example.com");
  out.clear();
  block = FromHex("828684be5886a8eb10649cbf");
  ASSERT_EQ(decoder.Decode(block, out), HpackDecoder::Outcome::kOk);
  EXPECT_EQ(Find(out, ":authority"), "www.example.com");
  EXPECT_EQ(Find(out, "cache-control"), "no-cache");
}

TEST(Hpack, Limits) {
  HpackDecoder decoder(100);
  HpackEncoder encoder;
  auto decode = [&](const Headers& headers, Headers& out) {
    std::string block = encoder.Encode(headers);
    return decoder.Decode({reinterpret_cast<const uint8_t*>(block.data()), block.size()}, out);
  };
  Headers out;
  EXPECT_EQ(decode({{"a", std::string(60, 'x')}}, out), HpackDecoder::Outcome::kOk);
  EXPECT_EQ(decode({{"a", std::string(90, 'x')}}, out), HpackDecoder::Outcome::kTooLarge);
  out.clear();
  EXPECT_EQ(decode({{"a", "b"}}, out), HpackDecoder::Outcome::kOk);  // still in step
  EXPECT_EQ(decode({{"a", std::string(2000, 'x')}}, out), HpackDecoder::Outcome::kBomb);
  HpackDecoder other(100);
  EXPECT_EQ(other.Decode(FromHex("40"), out), HpackDecoder::Outcome::kMalformed);
  HpackDecoder third(100);
  EXPECT_EQ(third.Decode(FromHex("ff"), out), HpackDecoder::Outcome::kMalformed);
}

}  // namespace
}  // namespace qanat::hbone
