// SPDX-License-Identifier: Apache-2.0
// What HBONE sessions of both sides share: header lists, limits, and why a session ended.
// HBONE is HTTP/2 over mTLS with plain CONNECT only; each stream is one TCP connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::hbone {

inline constexpr uint16_t kPort = 15008;

struct Header {
  std::string name;  // lower case
  std::string value;
  bool operator==(const Header&) const = default;
};
using Headers = std::vector<Header>;
// The first value of that name, "" when absent.
std::string_view Find(const Headers& headers, std::string_view name);

// Defaults: stock ztunnel's (HTTP2_STREAM_WINDOW_SIZE, _CONNECTION_WINDOW_SIZE, _FRAME_SIZE and the
// constants of its client and server builders).
struct SessionOptions {
  uint32_t stream_window = 4u << 20;
  uint32_t connection_window = 16u << 20;
  uint32_t max_frame_size = 1u << 20;
  uint32_t max_header_list = 0;           // 0: 16 KiB as client, 64 KiB as server
  uint32_t max_concurrent_streams = 200;  // announced by a server
  // Plaintext that may wait in the session when the transport is full; then streams block.
  size_t send_buffer = 256u << 10;
  std::chrono::milliseconds ping_interval{10000};  // 0: no keepalive
  std::chrono::milliseconds ping_timeout{20000};
  std::chrono::milliseconds preface_timeout{10000};  // until the peer's first SETTINGS
};

// HTTP/2 error codes (RFC 9113 section 7).
enum class H2Error : uint32_t {
  kNoError = 0,
  kProtocolError = 1,
  kInternalError = 2,
  kFlowControlError = 3,
  kSettingsTimeout = 4,
  kStreamClosed = 5,
  kFrameSizeError = 6,
  kRefusedStream = 7,
  kCancel = 8,
  kCompressionError = 9,
  kConnectError = 10,
  kEnhanceYourCalm = 11,
  kInadequateSecurity = 12,
  kHttp11Required = 13,
};
std::string_view H2ErrorName(uint32_t code);

// How a session ended, for logs and metrics. Empty message: in order.
struct CloseReason {
  H2Error code = H2Error::kNoError;
  bool by_peer = false;
  std::string message;
};

}  // namespace qanat::hbone
