// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/types.h"

#include <array>

namespace qanat::hbone {

std::string_view Find(const Headers& headers, std::string_view name) {
  for (const Header& header : headers) {
    if (header.name == name) return header.value;
  }
  return {};
}

std::string_view AbuseName(Abuse abuse) {
  constexpr std::array<std::string_view, kAbuseKinds> kNames = {
      "none",           "rapid_reset", "request_flood",  "header_flood", "header_bomb",
      "settings_flood", "ping_flood",  "useless_frames", "window_games", "slow_peer"};
  return kNames[static_cast<size_t>(abuse)];
}

std::string_view H2ErrorName(uint32_t code) {
  constexpr std::array<std::string_view, 14> kNames = {"NO_ERROR",
                                                       "PROTOCOL_ERROR",
                                                       "INTERNAL_ERROR",
                                                       "FLOW_CONTROL_ERROR",
                                                       "SETTINGS_TIMEOUT",
                                                       "STREAM_CLOSED",
                                                       "FRAME_SIZE_ERROR",
                                                       "REFUSED_STREAM",
                                                       "CANCEL",
                                                       "COMPRESSION_ERROR",
                                                       "CONNECT_ERROR",
                                                       "ENHANCE_YOUR_CALM",
                                                       "INADEQUATE_SECURITY",
                                                       "HTTP_1_1_REQUIRED"};
  return code < kNames.size() ? kNames[code] : "UNKNOWN_ERROR";
}

}  // namespace qanat::hbone
