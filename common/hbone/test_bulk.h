// SPDX-License-Identifier: Apache-2.0
// For tests: users of streams that move many bytes without keeping them. Both know what byte comes
// where, so that order is checked too.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "common/net/transport.h"

namespace qanat::hbone::testing {

// The bytes of every bulk stream, from position `at` on.
inline std::span<const uint8_t> BulkAt(uint64_t at) {
  static const std::vector<uint8_t> bytes = [] {
    std::vector<uint8_t> out(2 * 65521);
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = static_cast<uint8_t>((i % 65521) * 2654435761u >> 11);
    }
    return out;
  }();
  return std::span(bytes).subspan(at % 65521, 65521);
}

class Source final : public net::TransportEvents {
 public:
  Source(net::TransportPtr transport, uint64_t size)
      : left(size), transport_(std::move(transport)) {
    transport_->SetEvents(this);
    transport_->WriteEnable(true);
    transport_->ReadEnable(true);
  }
  void OnReadable() override {
    uint8_t buffer[4096];
    net::IoResult got = transport_->Read(buffer);
    if (got.ok()) answered += got.bytes;
    if (!got.ok() && got.kind != net::IoResult::Kind::kWouldBlock) {
      end = got.kind;
      transport_->ReadEnable(false);
    }
  }
  void OnWritable() override {
    for (int i = 0; i < 4 && left > 0; ++i) {
      auto bytes = BulkAt(sent_);
      iovec part{const_cast<uint8_t*>(bytes.data()), std::min<uint64_t>(bytes.size(), left)};
      net::IoResult wrote = transport_->Write({&part, 1});
      if (wrote.kind == net::IoResult::Kind::kWouldBlock) return;
      if (!wrote.ok()) {
        broken = true;
        return transport_->WriteEnable(false);
      }
      sent_ += wrote.bytes;
      left -= wrote.bytes;
    }
    if (left > 0) return;
    transport_->ShutdownWrite();
    transport_->WriteEnable(false);
  }
  net::Transport& transport() { return *transport_; }

  uint64_t left;
  uint64_t answered = 0;
  bool broken = false;
  std::optional<net::IoResult::Kind> end;

 private:
  net::TransportPtr transport_;
  uint64_t sent_ = 0;
};

class Drain final : public net::TransportEvents {
 public:
  explicit Drain(net::TransportPtr transport, bool reading = true)
      : transport_(std::move(transport)) {
    transport_->SetEvents(this);
    transport_->ReadEnable(reading);
  }
  void OnReadable() override { Take(65536); }
  void OnWritable() override {}
  void Take(size_t most) {
    buffer_.resize(most);
    net::IoResult got = transport_->Read(buffer_);
    if (got.ok()) {
      for (size_t at = 0; at < got.bytes;) {
        auto expected = BulkAt(received + at);
        const size_t n = std::min(expected.size(), got.bytes - at);
        in_order = in_order &&
                   std::equal(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(n),
                              buffer_.begin() + static_cast<std::ptrdiff_t>(at));
        at += n;
      }
      received += got.bytes;
    } else if (got.kind != net::IoResult::Kind::kWouldBlock) {
      end = got.kind;
      transport_->ReadEnable(false);
      transport_->ShutdownWrite();
    }
  }
  net::Transport& transport() { return *transport_; }

  uint64_t received = 0;
  bool in_order = true;
  std::optional<net::IoResult::Kind> end;

 private:
  net::TransportPtr transport_;
  std::vector<uint8_t> buffer_;
};

}  // namespace qanat::hbone::testing
