// SPDX-License-Identifier: Apache-2.0
// HEADERS and CONTINUATION: put together, decoded, and understood as a request, a response or
// trailers.
#include <algorithm>
#include <charconv>

#include "common/hbone/core.h"

namespace qanat::hbone {

namespace {

constexpr unsigned kMaxBlockFrames = 32;
constexpr size_t kBlockSlack = 16384;  // a compressed block is rarely larger than the list

}  // namespace

H2Error Core::StartHeaders(const FrameHeader& header) {
  if (header.stream == 0) return Because(H2Error::kProtocolError, "HEADERS on stream 0");
  if (header.type == kContinuation && block_stream_ == 0) {
    return Because(H2Error::kProtocolError, "CONTINUATION without HEADERS");
  }
  if (header.type == kHeaders) {
    if (header.stream % 2 == 0 || (side_ == Side::kClient && header.stream >= state_.next_stream)) {
      return Because(H2Error::kProtocolError, "HEADERS on a stream that was never opened");
    }
    block_frames_ = 0;
  }
  if (++block_frames_ > kMaxBlockFrames ||
      block_.size() + header.length > max_header_list_ + kBlockSlack) {
    return Calm(Abuse::kHeaderFlood, "a header block without end");
  }
  headers_open_ = true;
  return H2Error::kNoError;
}

H2Error Core::EndHeaders(const FrameHeader& header, std::span<const uint8_t> payload) {
  if (header.type == kHeaders) {
    block_stream_ = header.stream;
    block_end_stream_ = header.has(kFlagEndStream);
    block_.clear();
  }
  block_.insert(block_.end(), payload.begin(), payload.end());
  if (!header.has(kFlagEndHeaders)) return H2Error::kNoError;
  block_stream_ = 0;
  headers_open_ = false;
  H2Error error = HeaderBlock(header.stream, block_end_stream_);
  std::vector<uint8_t>().swap(block_);
  return error;
}

namespace {

// RFC 9113 8.1: no pseudo header, and nothing that may not be in any head.
bool WellFormedTrailers(const Headers& headers) {
  return std::all_of(headers.begin(), headers.end(), [](const Header& header) {
    return !header.name.starts_with(':') && ValidHeader(header) && !ConnectionSpecific(header);
  });
}

}  // namespace

H2Error Core::HeaderBlock(uint32_t id, bool end_stream) {
  // Decoded whatever becomes of it: the table must stay in step.
  Headers headers;
  bool too_large = false;
  switch (decoder_.Decode(block_, headers)) {
    case HpackDecoder::Outcome::kOk: break;
    case HpackDecoder::Outcome::kTooLarge: too_large = true; break;
    case HpackDecoder::Outcome::kMalformed:
      return Because(H2Error::kCompressionError, "a header block cannot be decoded");
    case HpackDecoder::Outcome::kBomb:
      return Calm(Abuse::kHeaderBomb, "a header list far over the limit");
  }
  std::shared_ptr<Stream> stream = Hold(id);
  if (!stream) {
    if (side_ == Side::kServer && id > state_.last_peer_stream) {
      if (state_.goaway_sent) return H2Error::kNoError;  // ours to ignore (RFC 9113 6.8)
      state_.last_peer_stream = id;
      return Request(id, std::move(headers), too_large, end_stream);
    }
    if (RecentlyReset(id) || side_ == Side::kClient) return H2Error::kNoError;
    return Because(H2Error::kStreamClosed, "HEADERS on a closed stream");
  }
  if (stream->retired) {
    if (RecentlyReset(id)) return H2Error::kNoError;
    return Because(H2Error::kStreamClosed, "HEADERS on a closed stream");
  }
  if (side_ == Side::kClient && !stream->state.answered) {
    if (too_large) {
      FailPending(*stream, {Code::kResourceExhausted, "the response's headers are too large", 0},
                  false);
      if (stream->core == this) ResetStream(*stream, H2Error::kProtocolError);
      return H2Error::kNoError;
    }
    return Response(*stream, std::move(headers), end_stream);
  }
  // Trailers: nothing in them is of interest, but they must be the end, and trailers.
  if (stream->state.remote_ended) {
    return PeerCausedReset(*stream, H2Error::kStreamClosed,
                           "the peer sent headers after its end of the stream");
  }
  if (!end_stream) {
    return PeerCausedReset(*stream, H2Error::kProtocolError,
                           "the peer sent headers in the middle of a stream");
  }
  if (!WellFormedTrailers(headers)) {
    return PeerCausedReset(*stream, H2Error::kProtocolError, "the peer's trailers are malformed");
  }
  RemoteEnded(*stream);
  return H2Error::kNoError;
}

namespace {

struct RequestHead {
  bool well_formed = true;
  std::string method, authority, scheme, path;
  bool extended = false;
  Headers rest;
};

RequestHead Sort(Headers headers) {
  RequestHead head;
  bool regular = false;
  auto pseudo = [&](std::string& into, std::string value) {
    if (!into.empty() || regular || value.empty()) head.well_formed = false;
    into = std::move(value);
  };
  for (Header& header : headers) {
    if (!ValidHeader(header)) head.well_formed = false;
    if (header.name.starts_with(':')) {
      if (header.name == ":method") {
        pseudo(head.method, std::move(header.value));
      } else if (header.name == ":authority") {
        pseudo(head.authority, std::move(header.value));
      } else if (header.name == ":scheme") {
        pseudo(head.scheme, std::move(header.value));
      } else if (header.name == ":path") {
        pseudo(head.path, std::move(header.value));
      } else if (header.name == ":protocol") {
        head.extended = true;
      } else {
        head.well_formed = false;
      }
      continue;
    }
    regular = true;
    if (ConnectionSpecific(header)) head.well_formed = false;
    head.rest.push_back(std::move(header));
  }
  if (head.method.empty()) head.well_formed = false;
  // RFC 9113 8.5: CONNECT has an authority and neither scheme nor path; all others have both.
  // (RFC 8441's :protocol was not announced, so it is just a wrong request.)
  bool connect = head.method == "CONNECT" && !head.extended;
  if (connect && (head.authority.empty() || !head.scheme.empty() || !head.path.empty())) {
    head.well_formed = false;
  }
  if (!connect && (head.scheme.empty() || head.path.empty())) head.well_formed = false;
  return head;
}

}  // namespace

H2Error Core::Request(uint32_t id, Headers headers, bool too_large, bool end_stream) {
  // Streams that ended but whose users have not let go yet count too, or they could pile up.
  if (active_ >= options_.max_concurrent_streams ||
      streams_.size() >= 2 * size_t{options_.max_concurrent_streams} + 16) {
    if (!Busywork()) return Calm(Abuse::kRequestFlood, "too many streams");
    PutRstStream(out_, id, H2Error::kRefusedStream);
    RememberReset(id);
    FlushSoon();
    return H2Error::kNoError;
  }
  std::shared_ptr<Stream> stream = NewStream(id);
  stream->state.remote_ended = end_stream;
  if (too_large) {
    Reject(stream, 431, {});
    return H2Error::kNoError;
  }
  RequestHead head = Sort(std::move(headers));
  if (!head.well_formed) {
    if (!Busywork()) return Calm(Abuse::kRequestFlood, "too many malformed requests");
    ResetStream(*stream, H2Error::kProtocolError);
    return H2Error::kNoError;
  }
  if (head.method != "CONNECT" || head.extended) {
    if (!Busywork()) return Calm(Abuse::kRequestFlood, "too many requests but CONNECT");
    Reject(stream, 400, {});
    return H2Error::kNoError;
  }
  std::shared_ptr<Callbacks> callbacks = callbacks_;
  if (!callbacks->on_connect) {
    Reject(stream, 503, {});
    return H2Error::kNoError;
  }
  callbacks->on_connect({std::move(head.authority), std::move(head.rest)},
                        Responder(std::move(stream)));
  return H2Error::kNoError;
}

H2Error Core::Response(Stream& stream, Headers headers, bool end_stream) {
  std::shared_ptr<Stream> keep = stream.shared_from_this();
  int status = 0;
  bool valid = true;
  ConnectResponse response;
  for (Header& header : headers) {
    valid = valid && ValidHeader(header) && !ConnectionSpecific(header);
    if (header.name == ":status") {
      const char* end = header.value.data() + header.value.size();
      auto [stop, bad] = std::from_chars(header.value.data(), end, status);
      valid = valid && status >= 100 && status <= 999 && stop == end && bad == std::errc();
    } else if (header.name.starts_with(':')) {
      valid = false;
    } else {
      response.headers.push_back(std::move(header));
    }
  }
  if (!valid || status == 0 || status == 101 || (status < 200 && end_stream)) {
    FailPending(stream, {Code::kInternal, "the peer's response is malformed", 0}, false);
    if (keep->core == this) ResetStream(stream, H2Error::kProtocolError);
    return H2Error::kNoError;
  }
  if (status < 200) {  // informational; the answer follows
    return Busywork() ? H2Error::kNoError
                      : Calm(Abuse::kUselessFrames, "too many informational responses");
  }
  stream.state.answered = true;
  response.status = status;
  response.peer_takes_source = peer_takes_source();
  response.tunnel_made = made_;
  response.tunnel_handshake = handshake_time_;
  const auto asked = std::move(stream.unanswered);
  if (asked) response.early = asked->early;
  if (status == 200) {
    response.stream = MakeHandle(keep);
    if (end_stream) RemoteEnded(stream);
  } else {
    if (end_stream) stream.state.remote_ended = true;
    // Nothing more is wanted in either direction.
    if (stream.state.remote_ended) {
      EndStream(stream);
    } else {
      ResetStream(stream, H2Error::kCancel);
    }
  }
  if (asked && asked->on_response) asked->on_response(std::move(response));
  return H2Error::kNoError;
}

}  // namespace qanat::hbone
