// SPDX-License-Identifier: Apache-2.0
// For tests: a user of streams that collects what comes and sends what it is told, and a raw end of
// a pipe that speaks frames by hand.
#pragma once

#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/frame.h"
#include "common/hbone/hpack.h"
#include "common/net/transport.h"

namespace qanat::hbone::testing {

template <typename Until>
bool RunUntil(event::EventLoop& loop, Until until,
              std::chrono::milliseconds limit = std::chrono::seconds(60)) {
  auto end = std::chrono::steady_clock::now() + limit;
  while (!until() && std::chrono::steady_clock::now() < end) {
    loop.RunOnce(std::chrono::milliseconds(2));
  }
  return until();
}
inline void Settle(event::EventLoop& loop, int rounds = 20) {
  for (int i = 0; i < rounds; ++i) loop.RunOnce(std::chrono::milliseconds(0));
}

// Bytes that look random and are the same for the same seed.
inline std::string Pattern(size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::string out(size, '\0');
  for (char& c : out) c = static_cast<char>(random());
  return out;
}

// The user's side of a stream.
class Party final : public net::TransportEvents {
 public:
  explicit Party(net::TransportPtr transport) : transport_(std::move(transport)) {
    transport_->SetEvents(this);
    transport_->ReadEnable(true);
  }
  void Send(std::string_view text) {
    to_send.append(text);
    Pump();
  }
  void Finish() {
    finish = true;
    Pump();
  }
  void OnReadable() override {
    std::vector<uint8_t> buffer(chunk);
    net::IoResult got = transport_->Read(buffer);
    if (got.ok()) {
      received.append(reinterpret_cast<const char*>(buffer.data()), got.bytes);
      if (echo) Send({reinterpret_cast<const char*>(buffer.data()), got.bytes});
    } else if (got.kind != net::IoResult::Kind::kWouldBlock) {
      end = got.kind;
      transport_->ReadEnable(false);
      if (echo && got.kind == net::IoResult::Kind::kEof) Finish();
    }
  }
  void OnWritable() override { Pump(); }
  void Pump() {
    while (!to_send.empty()) {
      size_t n = std::min(to_send.size(), piece);
      iovec part{to_send.data(), n};
      net::IoResult wrote = transport_->Write({&part, 1});
      if (wrote.kind == net::IoResult::Kind::kWouldBlock) {
        ++blocked;
        transport_->WriteEnable(true);
        return;
      }
      if (!wrote.ok()) {
        write_end = wrote.kind;
        to_send.clear();
        transport_->WriteEnable(false);
        return;
      }
      to_send.erase(0, wrote.bytes);
    }
    transport_->WriteEnable(false);
    if (finish && !finished) finished = transport_->ShutdownWrite().ok();
  }
  net::Transport& transport() { return *transport_; }
  void Close() { transport_.reset(); }

  std::string received, to_send;
  std::optional<net::IoResult::Kind> end, write_end;
  bool echo = false, finish = false, finished = false;
  size_t chunk = 65536, piece = 1 << 20;
  int blocked = 0;

 private:
  net::TransportPtr transport_;
};

// Speaks HTTP/2 by hand on one end of a pipe and keeps every frame that came.
class RawPeer final : public net::TransportEvents, FrameSink {
 public:
  struct Frame {
    FrameHeader header;
    std::string payload;
  };
  RawPeer(net::TransportPtr transport, bool at_server)
      : transport_(std::move(transport)), skip_(at_server ? kPreface.size() : 0) {
    transport_->SetEvents(this);
    transport_->ReadEnable(true);
  }
  void Send(const ByteQueue& bytes) {
    Send({reinterpret_cast<const char*>(bytes.front().data()), bytes.size()});
  }
  void Send(std::string_view bytes) {
    pending_.append(bytes);
    OnWritable();
  }
  void SendFrame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
    uint8_t raw[kFrameHeaderSize];
    FormatFrameHeader({static_cast<uint32_t>(payload.size()), type, flags, stream}, raw);
    Send({reinterpret_cast<const char*>(raw), sizeof raw});
    Send(payload);
  }
  void SendHeaders(uint32_t stream, const Headers& headers, bool last = false) {
    ByteQueue out;
    PutHeaders(out, stream, encoder.Encode(headers), last, kDefaultFrameSize);
    Send(out);
  }
  // What a client (or server) says first.
  void Hello(bool client, const std::vector<std::pair<SettingId, uint32_t>>& settings = {}) {
    if (client) Send(kPreface);
    ByteQueue out;
    PutSettings(out, settings);
    Send(out);
  }
  void SendConnect(uint32_t stream, std::string authority = "10.0.0.1:80") {
    SendHeaders(stream, {{":method", "CONNECT"}, {":authority", std::move(authority)}});
  }
  const Frame* Find(uint8_t type, uint32_t stream) const {
    for (const Frame& frame : frames) {
      if (frame.header.type == type && frame.header.stream == stream) return &frame;
    }
    return nullptr;
  }
  size_t Count(uint8_t type) const {
    size_t n = 0;
    for (const Frame& frame : frames) n += frame.header.type == type ? 1 : 0;
    return n;
  }
  // The code of an RST_STREAM or GOAWAY that came; -1 without.
  int64_t ResetCode(uint32_t stream) const {
    const Frame* f = Find(kRstStream, stream);
    return f ? int64_t{Read32(reinterpret_cast<const uint8_t*>(f->payload.data()))} : -1;
  }
  int64_t GoawayCode() const {
    const Frame* last = nullptr;
    for (const Frame& frame : frames) {
      if (frame.header.type == kGoaway) last = &frame;
    }
    return last ? int64_t{Read32(reinterpret_cast<const uint8_t*>(last->payload.data()) + 4)} : -1;
  }

  void OnReadable() override {
    std::vector<uint8_t> buffer(65536);
    net::IoResult got = transport_->Read(buffer);
    if (got.ok()) {
      std::span<const uint8_t> input(buffer.data(), got.bytes);
      size_t n = std::min(skip_, input.size());
      skip_ -= n;
      reader_.Consume(input.subspan(n), *this, never_);
    } else if (got.kind != net::IoResult::Kind::kWouldBlock) {
      end = got.kind;
      transport_->ReadEnable(false);
    }
  }
  void OnWritable() override {
    while (!pending_.empty()) {
      iovec part{pending_.data(), std::min(pending_.size(), piece)};
      net::IoResult wrote = transport_->Write({&part, 1});
      if (!wrote.ok()) {
        transport_->WriteEnable(wrote.kind == net::IoResult::Kind::kWouldBlock);
        return;
      }
      pending_.erase(0, wrote.bytes);
      if (piece < SIZE_MAX) {
        transport_->WriteEnable(true);  // the next piece in another round
        return;
      }
    }
    transport_->WriteEnable(false);
  }
  net::Transport& transport() { return *transport_; }
  void Close() { transport_.reset(); }

  std::vector<Frame> frames;
  std::optional<net::IoResult::Kind> end;
  HpackEncoder encoder;
  HpackDecoder decoder{1 << 20};
  size_t piece = SIZE_MAX;  // how much at once goes into the pipe

 private:
  H2Error OnFrameStart(const FrameHeader&) override {
    data_.clear();
    return H2Error::kNoError;
  }
  H2Error OnData(const FrameHeader&, std::span<const uint8_t> piece_of) override {
    data_.append(reinterpret_cast<const char*>(piece_of.data()), piece_of.size());
    return H2Error::kNoError;
  }
  H2Error OnFrameEnd(const FrameHeader& header, std::span<const uint8_t> payload) override {
    std::string body(reinterpret_cast<const char*>(payload.data()), payload.size());
    frames.push_back({header, header.type == kData ? data_ : body});
    return H2Error::kNoError;
  }

  net::TransportPtr transport_;
  size_t skip_;
  std::string pending_, data_;
  FrameReader reader_;
  bool never_ = false;
};

}  // namespace qanat::hbone::testing
