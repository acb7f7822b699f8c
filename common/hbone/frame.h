// SPDX-License-Identifier: Apache-2.0
// HTTP/2 frames (RFC 9113 section 4 and 6) as bytes: headers in and out, settings, and a reader
// that takes input in pieces of any size. Knows nothing of streams or states.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string_view>
#include <vector>

#include "common/hbone/byte_queue.h"
#include "common/hbone/types.h"

namespace qanat::hbone {

inline constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
inline constexpr size_t kFrameHeaderSize = 9;
inline constexpr uint32_t kMaxStreamId = 0x7fffffff;
inline constexpr int64_t kMaxWindow = 0x7fffffff;
inline constexpr uint32_t kDefaultWindow = 65535;
inline constexpr uint32_t kDefaultFrameSize = 16384;

enum FrameType : uint8_t {
  kData = 0,
  kHeaders = 1,
  kPriority = 2,
  kRstStream = 3,
  kSettings = 4,
  kPushPromise = 5,
  kPing = 6,
  kGoaway = 7,
  kWindowUpdate = 8,
  kContinuation = 9,
};

inline constexpr uint8_t kFlagEndStream = 0x1;
inline constexpr uint8_t kFlagAck = 0x1;
inline constexpr uint8_t kFlagEndHeaders = 0x4;
inline constexpr uint8_t kFlagPadded = 0x8;
inline constexpr uint8_t kFlagPriority = 0x20;

struct FrameHeader {
  uint32_t length = 0;
  uint8_t type = 0;
  uint8_t flags = 0;
  uint32_t stream = 0;
  bool has(uint8_t flag) const { return (flags & flag) != 0; }
};

FrameHeader ParseFrameHeader(std::span<const uint8_t, kFrameHeaderSize> bytes);
void FormatFrameHeader(const FrameHeader& header, uint8_t* out);

inline uint32_t Read32(const uint8_t* p) {
  return uint32_t{p[0]} << 24 | uint32_t{p[1]} << 16 | uint32_t{p[2]} << 8 | p[3];
}

// What one side has announced (RFC 9113 6.5.2), with the defaults that hold before.
struct Settings {
  uint32_t header_table_size = 4096;
  uint32_t enable_push = 1;
  uint32_t max_concurrent_streams = std::numeric_limits<uint32_t>::max();
  uint32_t initial_window = kDefaultWindow;
  uint32_t max_frame_size = kDefaultFrameSize;
  uint32_t max_header_list = std::numeric_limits<uint32_t>::max();
  bool takes_source = false;
  bool takes_early = false;
  bool operator==(const Settings&) const = default;
};
enum SettingId : uint16_t {
  kSettingHeaderTableSize = 1,
  kSettingEnablePush = 2,
  kSettingMaxConcurrentStreams = 3,
  kSettingInitialWindow = 4,
  kSettingMaxFrameSize = 5,
  kSettingMaxHeaderList = 6,
  // Ours, of the range for experiments (0xf000 up): this server believes kSourceHeader once it has
  // checked it. 1 is the only version; any other value, and 0, means that it does not.
  kSettingTakesSource = 0xf515,
  // The same: this server keeps DATA that comes before its answer until it has decided, and drops
  // it if that is not 200. 1 is the only version.
  kSettingTakesEarly = 0xf516,
};
// Applies a SETTINGS payload in order; unknown settings are ignored.
H2Error ApplySettings(std::span<const uint8_t> payload, Settings& settings);

// ---- writing whole frames ----
void PutSettings(ByteQueue& out, const std::vector<std::pair<SettingId, uint32_t>>& settings);
void PutSettingsAck(ByteQueue& out);
void PutPing(ByteQueue& out, uint64_t opaque, bool ack);
void PutWindowUpdate(ByteQueue& out, uint32_t stream, uint32_t increment);
void PutRstStream(ByteQueue& out, uint32_t stream, H2Error code);
void PutGoaway(ByteQueue& out, uint32_t last_stream, H2Error code, std::string_view debug);
// HEADERS and, where the peer's frame size asks for it, CONTINUATION.
void PutHeaders(ByteQueue& out, uint32_t stream, std::string_view block, bool end_stream,
                uint32_t max_frame_size);
void PutEndStream(ByteQueue& out, uint32_t stream);  // an empty DATA frame

// ---- reading ----
class FrameSink {
 public:
  // Each returns kNoError to go on; anything else stops the reader for good.
  // Before any payload. The sink refuses here what is too long or not allowed now.
  virtual H2Error OnFrameStart(const FrameHeader& header) = 0;
  // A piece of a DATA frame without its padding; points into the input.
  virtual H2Error OnData(const FrameHeader& header, std::span<const uint8_t> piece) = 0;
  // The frame is complete. `payload` is the whole payload, without padding and without the priority
  // fields of HEADERS; empty for DATA and for frames of unknown type.
  virtual H2Error OnFrameEnd(const FrameHeader& header, std::span<const uint8_t> payload) = 0;

 protected:
  ~FrameSink() = default;
};

class FrameReader {
 public:
  // `pause` is looked at between frames: the sink may have ended the session.
  H2Error Consume(std::span<const uint8_t> input, FrameSink& sink, const bool& pause);
  bool between_frames() const { return have_ == 0; }

  // For a hand-over. `bytes` is a frame's header, with `left` bytes of its payload to come; or,
  // where nothing of it was used yet, all of the frame so far, to be consumed again (left = 0).
  struct State {
    std::vector<uint8_t> bytes;
    uint32_t left = 0, padding = 0;
    bool want_pad_length = false;
    bool operator==(const State&) const = default;
  };
  State Export() const;
  // Into a reader that has consumed nothing; returns what is to be consumed now.
  std::vector<uint8_t> Import(State state);
  static bool Possible(const State& state, uint32_t max_frame_size);

 private:
  H2Error Payload(std::span<const uint8_t>& input, FrameSink& sink);
  H2Error DataPayload(std::span<const uint8_t>& input, FrameSink& sink);
  H2Error Finish(std::span<const uint8_t> payload, FrameSink& sink);

  uint8_t raw_[kFrameHeaderSize] = {};
  size_t have_ = 0;  // bytes of the header; kFrameHeaderSize while in the payload
  FrameHeader header_;
  uint32_t left_ = 0;     // payload bytes still to come
  uint32_t padding_ = 0;  // of a DATA frame, at its end
  bool want_pad_length_ = false;
  std::vector<uint8_t> collected_;
};

}  // namespace qanat::hbone
