// SPDX-License-Identifier: Apache-2.0
// For tests: what one end of a connection gives to its reader, until its end.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/net/transport.h"

namespace qanat::tls::testing {

class Reader final : public net::TransportEvents {
 public:
  explicit Reader(net::Transport& transport) : transport_(transport) {
    transport_.SetEvents(this);
    transport_.ReadEnable(true);
  }
  void OnReadable() override {
    ++calls;
    std::vector<uint8_t> buffer(chunk);
    net::IoResult got = transport_.Read(buffer);
    if (got.ok()) {
      text.append(reinterpret_cast<const char*>(buffer.data()), got.bytes);
    } else if (got.kind != net::IoResult::Kind::kWouldBlock) {
      end = got.kind;
      transport_.ReadEnable(false);
    }
  }
  void OnWritable() override {
    transport_.WriteEnable(false);
    if (on_writable) on_writable();
  }

  std::string text;
  std::optional<net::IoResult::Kind> end;
  size_t chunk = 1 << 16;
  int calls = 0;
  std::function<void()> on_writable;

 private:
  net::Transport& transport_;
};

}  // namespace qanat::tls::testing
