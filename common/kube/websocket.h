// SPDX-License-Identifier: Apache-2.0
// The client half of WebSocket framing (RFC 6455), as far as the API server's port-forward needs
// it. Pure; a value owned by one connection. Thread: any one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::kube {

enum class WsOpcode : uint8_t { kText = 1, kBinary = 2, kClose = 8, kPing = 9, kPong = 10 };

// One final frame, masked as a client must. `mask` comes from a random source.
std::string EncodeFrame(WsOpcode opcode, std::string_view payload, uint32_t mask);

struct WsMessage {
  WsOpcode opcode = WsOpcode::kBinary;
  std::string payload;
};

// Takes bytes as they come and gives whole messages: fragments are put together, control frames
// come in between as they are.
class WsDecoder {
 public:
  explicit WsDecoder(size_t max_message = 1 << 20) : max_(max_message) {}
  void Add(std::string_view bytes) { in_.append(bytes); }
  // Nothing: more bytes are needed. An error is final.
  Result<std::optional<WsMessage>> Next();

 private:
  size_t max_;
  std::string in_;
  std::string fragments_;
  std::optional<WsOpcode> fragmented_;
};

// The request that turns an HTTP/1.1 connection into a WebSocket; `headers` are whole lines.
std::string UpgradeRequest(std::string_view target, std::string_view host,
                           std::string_view subprotocol, std::string_view headers);

}  // namespace qanat::kube
