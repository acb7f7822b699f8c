// SPDX-License-Identifier: Apache-2.0
#include "common/kube/websocket.h"

#include <array>

#include "common/tls/crypto.h"

namespace qanat::kube {
namespace {

constexpr uint8_t kFinal = 0x80;
constexpr uint8_t kMasked = 0x80;
constexpr size_t kMaxControl = 125;

uint64_t BigEndian(std::string_view bytes) {
  uint64_t out = 0;
  for (const char c : bytes) out = out << 8 | static_cast<uint8_t>(c);
  return out;
}

bool Known(uint8_t opcode) { return opcode <= 2 || (opcode >= 8 && opcode <= 10); }

}  // namespace

std::string EncodeFrame(WsOpcode opcode, std::string_view payload, uint32_t mask) {
  std::string out;
  out.push_back(static_cast<char>(kFinal | static_cast<uint8_t>(opcode)));
  const uint64_t size = payload.size();
  int length_bytes = 0;
  if (size < 126) {
    out.push_back(static_cast<char>(kMasked | size));
  } else if (size < 65536) {
    out.push_back(static_cast<char>(kMasked | 126));
    length_bytes = 2;
  } else {
    out.push_back(static_cast<char>(kMasked | 127));
    length_bytes = 8;
  }
  for (int i = length_bytes - 1; i >= 0; --i) out.push_back(static_cast<char>(size >> (8 * i)));
  std::array<char, 4> key{};
  for (size_t i = 0; i < key.size(); ++i) key[i] = static_cast<char>(mask >> (8 * i));
  out.append(key.data(), key.size());
  const size_t begin = out.size();
  out.append(payload);
  for (size_t i = 0; i < payload.size(); ++i) {
    out[begin + i] = static_cast<char>(out[begin + i] ^ key[i % 4]);
  }
  return out;
}

Result<std::optional<WsMessage>> WsDecoder::Next() {
  for (;;) {
    if (in_.size() < 2) return std::nullopt;
    const auto first = static_cast<uint8_t>(in_[0]);
    const auto second = static_cast<uint8_t>(in_[1]);
    const uint8_t opcode = first & 0x0F;
    const bool final = (first & kFinal) != 0;
    if ((first & 0x70) != 0 || !Known(opcode) || (second & kMasked) != 0) {
      return Fail(Code::kInvalidArgument, "the server does not speak WebSocket as RFC 6455 has it");
    }
    uint64_t size = second & 0x7F;
    size_t header = 2;
    if (size >= 126) {
      const size_t bytes = size == 126 ? 2 : 8;
      if (in_.size() < header + bytes) return std::nullopt;
      size = BigEndian(std::string_view(in_).substr(header, bytes));
      header += bytes;
    }
    const bool control = opcode >= 8;
    if ((control && (size > kMaxControl || !final)) || size > max_ ||
        fragments_.size() + size > max_) {
      return Fail(Code::kResourceExhausted,
                  "a WebSocket frame of " + std::to_string(size) + " bytes is over the limit");
    }
    if (in_.size() < header + size) return std::nullopt;
    std::string payload = in_.substr(header, size);
    in_.erase(0, header + size);
    if (control) return WsMessage{static_cast<WsOpcode>(opcode), std::move(payload)};
    if ((opcode == 0) != fragmented_.has_value()) {
      return Fail(Code::kInvalidArgument, "WebSocket fragments out of order");
    }
    if (opcode != 0) fragmented_ = static_cast<WsOpcode>(opcode);
    fragments_ += payload;
    if (!final) continue;
    WsMessage out{*fragmented_, std::move(fragments_)};
    fragments_.clear();
    fragmented_.reset();
    return out;
  }
}

std::string UpgradeRequest(std::string_view target, std::string_view host,
                           std::string_view subprotocol, std::string_view headers) {
  const std::vector<uint8_t> random = tls::RandomBytes(16);
  std::string out;
  out.append("GET ").append(target).append(" HTTP/1.1\r\nHost: ").append(host);
  out.append("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
  out.append("Sec-WebSocket-Key: ");
  out += tls::Base64Encode({reinterpret_cast<const char*>(random.data()), random.size()});
  out.append("\r\nSec-WebSocket-Protocol: ").append(subprotocol).append("\r\n");
  out.append(headers).append("\r\n");
  return out;
}

}  // namespace qanat::kube
