// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/frame.h"

#include <algorithm>
#include <cstring>

namespace qanat::hbone {
namespace {

void Write32(uint8_t* p, uint32_t value) {
  p[0] = static_cast<uint8_t>(value >> 24);
  p[1] = static_cast<uint8_t>(value >> 16);
  p[2] = static_cast<uint8_t>(value >> 8);
  p[3] = static_cast<uint8_t>(value);
}

void PutFrame(ByteQueue& out, const FrameHeader& header, const void* payload) {
  uint8_t raw[kFrameHeaderSize];
  FormatFrameHeader(header, raw);
  out.Append(raw, sizeof raw);
  if (header.length > 0) out.Append(payload, header.length);
}

}  // namespace

FrameHeader ParseFrameHeader(std::span<const uint8_t, kFrameHeaderSize> b) {
  return {uint32_t{b[0]} << 16 | uint32_t{b[1]} << 8 | b[2], b[3], b[4],
          Read32(b.data() + 5) & kMaxStreamId};
}

void FormatFrameHeader(const FrameHeader& header, uint8_t* out) {
  out[0] = static_cast<uint8_t>(header.length >> 16);
  out[1] = static_cast<uint8_t>(header.length >> 8);
  out[2] = static_cast<uint8_t>(header.length);
  out[3] = header.type;
  out[4] = header.flags;
  Write32(out + 5, header.stream);
}

H2Error ApplySettings(std::span<const uint8_t> payload, Settings& settings) {
  if (payload.size() % 6 != 0) return H2Error::kFrameSizeError;
  for (; !payload.empty(); payload = payload.subspan(6)) {
    unsigned id = unsigned{payload[0]} << 8 | payload[1];
    uint32_t value = Read32(payload.data() + 2);
    switch (id) {
      case kSettingHeaderTableSize: settings.header_table_size = value; break;
      case kSettingEnablePush:
        if (value > 1) return H2Error::kProtocolError;
        settings.enable_push = value;
        break;
      case kSettingMaxConcurrentStreams: settings.max_concurrent_streams = value; break;
      case kSettingInitialWindow:
        if (value > kMaxWindow) return H2Error::kFlowControlError;
        settings.initial_window = value;
        break;
      case kSettingMaxFrameSize:
        if (value < kDefaultFrameSize || value > 0xffffff) return H2Error::kProtocolError;
        settings.max_frame_size = value;
        break;
      case kSettingMaxHeaderList: settings.max_header_list = value; break;
      case kSettingTakesSource: settings.takes_source = value == 1; break;
      case kSettingTakesEarly: settings.takes_early = value == 1; break;
      default: break;  // RFC 9113 6.5.2: MUST ignore
    }
  }
  return H2Error::kNoError;
}

void PutSettings(ByteQueue& out, const std::vector<std::pair<SettingId, uint32_t>>& settings) {
  std::vector<uint8_t> payload;
  for (const auto& [id, value] : settings) {
    uint8_t raw[6] = {static_cast<uint8_t>(id >> 8), static_cast<uint8_t>(id)};
    Write32(raw + 2, value);
    payload.insert(payload.end(), raw, raw + sizeof raw);
  }
  PutFrame(out, {static_cast<uint32_t>(payload.size()), kSettings, 0, 0}, payload.data());
}

void PutSettingsAck(ByteQueue& out) { PutFrame(out, {0, kSettings, kFlagAck, 0}, nullptr); }

void PutPing(ByteQueue& out, uint64_t opaque, bool ack) {
  uint8_t raw[8];
  std::memcpy(raw, &opaque, sizeof raw);  // opaque: any order of bytes will do
  PutFrame(out, {8, kPing, ack ? kFlagAck : uint8_t{0}, 0}, raw);
}

void PutWindowUpdate(ByteQueue& out, uint32_t stream, uint32_t increment) {
  uint8_t raw[4];
  Write32(raw, increment);
  PutFrame(out, {4, kWindowUpdate, 0, stream}, raw);
}

void PutRstStream(ByteQueue& out, uint32_t stream, H2Error code) {
  uint8_t raw[4];
  Write32(raw, static_cast<uint32_t>(code));
  PutFrame(out, {4, kRstStream, 0, stream}, raw);
}

void PutGoaway(ByteQueue& out, uint32_t last_stream, H2Error code, std::string_view debug) {
  debug = debug.substr(0, 256);
  std::vector<uint8_t> payload(8);
  Write32(payload.data(), last_stream);
  Write32(payload.data() + 4, static_cast<uint32_t>(code));
  payload.insert(payload.end(), debug.begin(), debug.end());
  PutFrame(out, {static_cast<uint32_t>(payload.size()), kGoaway, 0, 0}, payload.data());
}

void PutHeaders(ByteQueue& out, uint32_t stream, std::string_view block, bool end_stream,
                uint32_t max_frame_size) {
  bool first = true;
  do {
    std::string_view part = block.substr(0, max_frame_size);
    block.remove_prefix(part.size());
    uint8_t flags = block.empty() ? kFlagEndHeaders : uint8_t{0};
    if (first && end_stream) flags |= kFlagEndStream;
    PutFrame(out,
             {static_cast<uint32_t>(part.size()), first ? kHeaders : kContinuation, flags, stream},
             part.data());
    first = false;
  } while (!block.empty());
}

void PutEndStream(ByteQueue& out, uint32_t stream) {
  PutFrame(out, {0, kData, kFlagEndStream, stream}, nullptr);
}

H2Error FrameReader::Consume(std::span<const uint8_t> input, FrameSink& sink, const bool& pause) {
  while (!pause) {
    if (have_ < kFrameHeaderSize) {
      if (input.empty()) break;
      size_t n = std::min(kFrameHeaderSize - have_, input.size());
      std::memcpy(raw_ + have_, input.data(), n);
      have_ += n;
      input = input.subspan(n);
      if (have_ < kFrameHeaderSize) break;
      header_ = ParseFrameHeader(raw_);
      left_ = header_.length;
      padding_ = 0;
      want_pad_length_ = header_.type == kData && header_.has(kFlagPadded);
      if (H2Error e = sink.OnFrameStart(header_); e != H2Error::kNoError) return e;
      // A padded DATA frame without room for the length of its padding.
      if (want_pad_length_ && left_ == 0) return H2Error::kFrameSizeError;
    }
    if (left_ > 0 && input.empty()) break;
    if (H2Error e = Payload(input, sink); e != H2Error::kNoError) return e;
  }
  return H2Error::kNoError;
}

FrameReader::State FrameReader::Export() const {
  State out;
  out.bytes.assign(raw_, raw_ + have_);
  if (have_ < kFrameHeaderSize) return out;
  if (header_.type == kData || header_.type > kContinuation) {
    out.left = left_;
    out.padding = padding_;
    out.want_pad_length = want_pad_length_;
  } else {
    out.bytes.insert(out.bytes.end(), collected_.begin(), collected_.end());
  }
  return out;
}

std::vector<uint8_t> FrameReader::Import(State state) {
  if (state.left == 0) return std::move(state.bytes);
  std::copy(state.bytes.begin(), state.bytes.end(), raw_);
  have_ = kFrameHeaderSize;
  header_ = ParseFrameHeader(raw_);
  left_ = state.left;
  padding_ = state.padding;
  want_pad_length_ = state.want_pad_length;
  return {};
}

bool FrameReader::Possible(const State& state, uint32_t max_frame_size) {
  if (state.bytes.size() < kFrameHeaderSize) return state.left == 0;
  const FrameHeader header =
      ParseFrameHeader(std::span<const uint8_t, kFrameHeaderSize>(state.bytes.data(), 9));
  if (header.length > max_frame_size) return false;
  if (state.left == 0) {  // a frame of use as a whole only, and not whole
    return header.type > kData && header.type < kContinuation &&
           state.bytes.size() - kFrameHeaderSize < header.length;
  }
  if (state.bytes.size() != kFrameHeaderSize || state.left > header.length) return false;
  if (header.type > kContinuation) return state.padding == 0 && !state.want_pad_length;
  if (header.type != kData || header.stream == 0) return false;
  if (state.want_pad_length) {
    return header.has(kFlagPadded) && state.left == header.length && state.padding == 0;
  }
  return state.padding <= state.left && (state.padding == 0 || header.has(kFlagPadded));
}

H2Error FrameReader::Payload(std::span<const uint8_t>& input, FrameSink& sink) {
  if (header_.type == kData) return DataPayload(input, sink);
  if (header_.type > kContinuation) {  // unknown: skipped (RFC 9113 4.1)
    size_t n = std::min<size_t>(left_, input.size());
    input = input.subspan(n);
    left_ -= static_cast<uint32_t>(n);
    return left_ == 0 ? Finish({}, sink) : H2Error::kNoError;
  }
  size_t n = std::min<size_t>(left_, input.size());
  std::span<const uint8_t> part = input.first(n);
  input = input.subspan(n);
  left_ -= static_cast<uint32_t>(n);
  if (collected_.empty() && left_ == 0) return Finish(part, sink);  // the usual case: no copy
  collected_.insert(collected_.end(), part.begin(), part.end());
  if (left_ > 0) return H2Error::kNoError;
  std::vector<uint8_t> whole = std::move(collected_);
  collected_.clear();
  return Finish(whole, sink);
}

H2Error FrameReader::DataPayload(std::span<const uint8_t>& input, FrameSink& sink) {
  if (want_pad_length_) {
    padding_ = input[0];
    input = input.subspan(1);
    --left_;
    want_pad_length_ = false;
    if (padding_ > left_) return H2Error::kProtocolError;
  }
  uint32_t data_left = left_ - padding_;
  size_t n = std::min<size_t>(data_left, input.size());
  if (n > 0) {
    if (H2Error e = sink.OnData(header_, input.first(n)); e != H2Error::kNoError) return e;
    input = input.subspan(n);
    left_ -= static_cast<uint32_t>(n);
  }
  if (left_ == padding_) {
    size_t skip = std::min<size_t>(left_, input.size());
    input = input.subspan(skip);
    left_ -= static_cast<uint32_t>(skip);
    padding_ = left_;
  }
  return left_ == 0 ? Finish({}, sink) : H2Error::kNoError;
}

H2Error FrameReader::Finish(std::span<const uint8_t> payload, FrameSink& sink) {
  have_ = 0;
  if (header_.type == kHeaders) {
    size_t front = (header_.has(kFlagPadded) ? 1 : 0) + (header_.has(kFlagPriority) ? 5 : 0);
    if (payload.size() < front) return H2Error::kFrameSizeError;
    size_t pad = header_.has(kFlagPadded) ? payload[0] : 0;
    if (payload.size() < front + pad) return H2Error::kProtocolError;
    if (header_.has(kFlagPriority)) {
      uint32_t parent = Read32(payload.data() + front - 5) & kMaxStreamId;
      if (parent == header_.stream) return H2Error::kProtocolError;
    }
    payload = payload.subspan(front, payload.size() - front - pad);
  }
  return sink.OnFrameEnd(header_, payload);
}

}  // namespace qanat::hbone
