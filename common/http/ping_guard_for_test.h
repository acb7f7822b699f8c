// SPDX-License-Identifier: Apache-2.0
// For tests: a server's transport that counts PINGs as gRPC servers do. One that comes sooner than
// `least` after the one before is a strike; what the server sends meanwhile (HEADERS, DATA) takes
// strikes back; the third ends the connection: GOAWAY ENHANCE_YOUR_CALM "too_many_pings".
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/net/transport.h"

namespace qanat::http::test {

class PingGuard final : public net::Transport {
 public:
  PingGuard(net::TransportPtr inner, std::chrono::milliseconds least)
      : inner_(std::move(inner)), least_(least) {}
  void SetEvents(net::TransportEvents* events) override { inner_->SetEvents(events); }
  void ReadEnable(bool on) override { inner_->ReadEnable(on); }
  void WriteEnable(bool on) override { inner_->WriteEnable(on); }
  net::IoResult Read(std::span<uint8_t> into) override {
    if (ended_) return {net::IoResult::Kind::kEof, 0};
    const net::IoResult got = inner_->Read(into);
    if (got.ok()) {
      in_.Scan({reinterpret_cast<const char*>(into.data()), got.bytes},
               [this](int type, int flags) {
                 if (type == kPing && (flags & kAck) == 0) OnPing();
               });
    }
    return ended_ ? net::IoResult{net::IoResult::Kind::kEof, 0} : got;
  }
  net::IoResult Write(std::span<const iovec> from) override {
    const net::IoResult put = inner_->Write(from);
    size_t left = put.ok() ? put.bytes : 0;
    for (const iovec& part : from) {
      const size_t n = std::min(left, part.iov_len);
      left -= n;
      out_.Scan({static_cast<const char*>(part.iov_base), n}, [this](int type, int) {
        if (type == kData || type == kHeaders) said_ = true;
      });
    }
    return put;
  }
  net::IoResult ShutdownWrite() override { return inner_->ShutdownWrite(); }
  void Abort() override { inner_->Abort(); }
  event::EventLoop& loop() override { return inner_->loop(); }
  net::SocketAddress local_address() const override { return inner_->local_address(); }
  net::SocketAddress peer_address() const override { return inner_->peer_address(); }
  std::string error() const override { return inner_->error(); }

 private:
  static constexpr int kData = 0, kHeaders = 1, kPing = 6, kAck = 1;
  static constexpr size_t kHead = 9;

  // Finds the heads of frames in bytes that come in pieces.
  class Frames {
   public:
    explicit Frames(size_t preface) : skip_(preface) {}
    template <typename OnFrame>
    void Scan(std::string_view bytes, OnFrame on_frame) {
      for (const char c : bytes) {
        if (skip_ > 0) {
          --skip_;
          continue;
        }
        head_.push_back(c);
        if (head_.size() < kHead) continue;
        const std::string head = std::exchange(head_, {});
        const auto at = [&head](size_t i) { return static_cast<uint8_t>(head[i]); };
        skip_ = size_t{at(0)} << 16 | size_t{at(1)} << 8 | at(2);
        on_frame(at(3), at(4));
      }
    }

   private:
    size_t skip_;
    std::string head_;
  };

  void OnPing() {
    const auto now = event::Clock::now();
    const auto before = std::exchange(last_, now);
    if (std::exchange(said_, false)) {
      strikes_ = 0;
    } else if (before && now - *before < least_ && ++strikes_ > 2) {
      EndConnection();
    }
  }
  void EndConnection() {
    ended_ = true;
    static constexpr std::string_view kGoaway{
        "\0\0\x16\x7\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\xbtoo_many_pings", kHead + 22};
    const iovec part{const_cast<char*>(kGoaway.data()), kGoaway.size()};
    inner_->Write({&part, 1});
  }

  net::TransportPtr inner_;
  const std::chrono::milliseconds least_;
  Frames in_{24}, out_{0};
  std::optional<event::TimePoint> last_;
  bool said_ = false, ended_ = false;
  int strikes_ = 0;
};

}  // namespace qanat::http::test
