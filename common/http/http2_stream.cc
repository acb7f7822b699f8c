// SPDX-License-Identifier: Apache-2.0
// The sending half of an HTTP/2 connection: streams, DATA frames, headers out.
#include <cstring>

#include "common/http/http1_head.h"
#include "common/http/http2_core.h"

namespace qanat::http {
namespace {

nghttp2_nv Pair(std::string_view name, std::string_view value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NONE};
}

// The views must live until nghttp2 has copied them. Connection headers have no place in HTTP/2.
void AppendPairs(const HeaderList& headers, bool trailers, std::vector<nghttp2_nv>& out) {
  for (const Header& h : headers) {
    if (h.name == "connection" || h.name == "keep-alive" || h.name == "proxy-connection" ||
        h.name == "transfer-encoding" || h.name == "upgrade" || h.name == "host") {
      continue;
    }
    if (trailers && h.name == "content-length") continue;
    if (h.name == "te" && h.value != "trailers") continue;
    if (!IsToken(h.name) || !IsHeaderValue(h.value)) continue;
    out.push_back(Pair(h.name, h.value));
  }
}

uint32_t ErrorCode(ResetCode code) {
  switch (code) {
    case ResetCode::kCancel: return NGHTTP2_CANCEL;
    case ResetCode::kRefused: return NGHTTP2_REFUSED_STREAM;
    case ResetCode::kInternal: return NGHTTP2_INTERNAL_ERROR;
    case ResetCode::kProtocolError: return NGHTTP2_PROTOCOL_ERROR;
    case ResetCode::kNoError: return NGHTTP2_NO_ERROR;
  }
  return NGHTTP2_INTERNAL_ERROR;
}

}  // namespace

void Http2Stream::SendInformational(int status, const HeaderList& headers) {
  if (headers_sent_ || !core_.server_) return;
  const std::string text = std::to_string(status);
  std::vector<nghttp2_nv> nv = {Pair(":status", text)};
  AppendPairs(headers, false, nv);
  nghttp2_submit_headers(core_.session_, NGHTTP2_FLAG_NONE, id_, nullptr, nv.data(), nv.size(),
                         nullptr);
  core_.wire_.Kick();
}

void Http2Stream::SendResponse(const ResponseHead& head, bool end) {
  if (headers_sent_ || !core_.server_) return;
  const std::string text = std::to_string(head.status);
  std::vector<nghttp2_nv> nv = {Pair(":status", text)};
  AppendPairs(head.headers, false, nv);
  headers_sent_ = true;
  end_queued_ = end || HasNoBody(head_request_ ? "HEAD" : "", head.status);
  core_.Submit(*this, nv, end_queued_);
}

void Http2Stream::SendData(std::string_view data, bool end) {
  if (!headers_sent_ || end_queued_) return;
  out_.Append(data);
  end_queued_ = end;
  if (out_.size() > core_.options_.high_watermark) overfull_ = true;
  core_.ResumeData(*this);
}

void Http2Stream::SendTrailers(const HeaderList& trailers) {
  if (!headers_sent_ || end_queued_) return;
  end_queued_ = true;
  send_trailers_ = trailers;
  core_.ResumeData(*this);
}

void Http2Stream::Reset(ResetCode code) { core_.StreamReset(*this, code); }

void Http2Stream::PauseReading(bool pause) {
  paused_ = pause;
  if (pause || withheld_ == 0) return;
  core_.Consume(id_, std::exchange(withheld_, 0));
}

void Http2Core::Submit(Http2Stream& s, const std::vector<nghttp2_nv>& nv, bool end) {
  nghttp2_data_provider provider{};
  provider.read_callback = ReadData;
  if (nghttp2_submit_response(session_, s.id_, nv.data(), nv.size(), end ? nullptr : &provider) !=
      0) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, s.id_, NGHTTP2_INTERNAL_ERROR);
  }
  wire_.Kick();
}

Http2Stream* Http2Core::OpenRequest(const RequestHead& head, bool end, StreamEvents* events) {
  std::vector<nghttp2_nv> nv = {Pair(":method", head.method)};
  if (!IsToken(head.method) || !IsHeaderValue(head.authority)) return nullptr;
  if (head.method != "CONNECT") {
    if (!IsRequestTarget(head.path)) return nullptr;
    nv.push_back(Pair(":scheme", head.scheme.empty() ? std::string_view("http") : head.scheme));
    nv.push_back(Pair(":path", head.path));
  }
  nv.push_back(Pair(":authority", head.authority));
  AppendPairs(head.headers, false, nv);
  nghttp2_data_provider provider{};
  provider.read_callback = ReadData;
  const int32_t id = nghttp2_submit_request(session_, nullptr, nv.data(), nv.size(),
                                            end ? nullptr : &provider, nullptr);
  if (id < 0) return nullptr;
  idle_deadline_.Clear();
  auto stream = std::make_unique<Http2Stream>(*this, id);
  stream->events_ = events;
  stream->headers_sent_ = true;
  stream->end_queued_ = end;
  Http2Stream* raw = stream.get();
  streams_.emplace(id, std::move(stream));
  wire_.Kick();
  return raw;
}

void Http2Core::StreamReset(Http2Stream& s, ResetCode code) {
  const int32_t id = s.id_;
  s.events_ = nullptr;
  if (!s.ended_local_ || !s.ended_remote_) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, ErrorCode(code));
  }
  Close(id, CloseReason::kDone, {});
  wire_.Kick();
}

void Http2Core::Consume(int32_t id, size_t n) {
  nghttp2_session_consume_stream(session_, id, n);
  wire_.Kick();
}

void Http2Core::ResumeData(Http2Stream& s) {
  if (std::exchange(s.deferred_, false)) nghttp2_session_resume_data(session_, s.id_);
  wire_.Kick();
}

ssize_t Http2Core::ReadData(nghttp2_session* session, int32_t id, uint8_t*, size_t size,
                            uint32_t* flags, nghttp2_data_source*, void* self) {
  Http2Stream* s = Self(self).Find(id);
  if (s == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  const size_t n = std::min(size, s->out_.size());
  if (n == 0 && !s->end_queued_) {
    s->deferred_ = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (s->end_queued_ && n == s->out_.size()) {
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    // Here and not before: nghttp2 sends HEADERS ahead of DATA that still waits.
    std::vector<nghttp2_nv> nv;
    AppendPairs(s->send_trailers_, true, nv);
    if (!nv.empty()) {
      *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
      nghttp2_submit_trailer(session, id, nv.data(), nv.size());
    }
  }
  return static_cast<ssize_t>(n);
}

int Http2Core::SendDataFrame(nghttp2_session*, nghttp2_frame* frame, const uint8_t* head,
                             size_t length, nghttp2_data_source*, void* self) {
  Http2Core& core = Self(self);
  if (core.wire_.full()) return NGHTTP2_ERR_WOULDBLOCK;
  Http2Stream* s = core.Find(frame->hd.stream_id);
  if (s == nullptr || s->out_.size() < length) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  // We never pad, so the frame is its nine bytes of head and the payload.
  core.wire_.Append({reinterpret_cast<const char*>(head), 9});
  core.wire_.Append(s->out_.view().substr(0, length));
  s->out_.Consume(length);
  if (s->overfull_ && s->out_.size() <= core.options_.low_watermark) {
    s->overfull_ = false;
    core.writable_.push_back(s->id_);
  }
  return 0;
}

int Http2Core::OnFrameSend(nghttp2_session* session, const nghttp2_frame* frame, void* self) {
  Http2Core& core = Self(self);
  if (frame->hd.type == NGHTTP2_GOAWAY) {
    core.goaway_sent_ = core.goaway_sent_ || frame->goaway.error_code != NGHTTP2_NO_ERROR;
    if (frame->goaway.error_code != NGHTTP2_NO_ERROR) {
      core.failed_ = true;
      if (core.detail_.empty()) {
        core.detail_ = nghttp2_http2_strerror(frame->goaway.error_code);
      }
    }
  }
  if ((frame->hd.type == NGHTTP2_DATA || frame->hd.type == NGHTTP2_HEADERS) &&
      (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
    if (Http2Stream* s = core.Find(frame->hd.stream_id)) {
      s->ended_local_ = true;
      if (core.server_ && !s->ended_remote_) {
        // The answer is complete and the rest of the request is of no use (RFC 9113 8.1).
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, s->id_, NGHTTP2_NO_ERROR);
        s->ended_remote_ = true;
      }
    }
  }
  return 0;
}

void Http2Core::OnFlush() {
  if (!initial_.empty()) OnBytes(std::exchange(initial_, {}));
  while (!wire_.full()) {
    const uint8_t* data = nullptr;
    const ssize_t n = nghttp2_session_mem_send(session_, &data);
    if (n < 0) return Fail(nghttp2_strerror(static_cast<int>(n)));
    // DATA frames have gone straight to the wire by SendDataFrame: zero is also "the wire is full".
    if (n == 0) return;
    wire_.Append({reinterpret_cast<const char*>(data), static_cast<size_t>(n)});
  }
}

}  // namespace qanat::http
