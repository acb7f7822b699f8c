// SPDX-License-Identifier: Apache-2.0
#include "common/http/http2_core.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/http/http1_head.h"

namespace qanat::http {
namespace {

// Streams may be opened until the client has seen our GOAWAY; this is how long the notice precedes
// the final one (RFC 9113 6.8).
constexpr std::chrono::milliseconds kDrainNotice{200};
constexpr size_t kMaxContinuations = 8;
constexpr size_t kMaxSettingsEntries = 32;
constexpr size_t kMaxOutboundAcks = 1000;

std::string_view View(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace

Http2Core::Http2Core(bool server, net::TransportPtr transport, const Options& options,
                     std::string initial)
    : options_(options),
      server_(server),
      wire_(std::move(transport), *this),
      initial_(std::move(initial)),
      header_deadline_(wire_.loop(),
                       [this] { wire_.Abort("the head of a request did not arrive in time"); }),
      idle_deadline_(wire_.loop(),
                     [this] {
                       if (streams_.empty()) StartDrain();
                     }),
      ping_deadline_(wire_.loop(), [this] { PingTick(); }),
      drain_timer_(wire_.loop(), [this] {
        goaway_sent_ = true;
        nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE,
                              nghttp2_session_get_last_proc_stream_id(session_), NGHTTP2_NO_ERROR,
                              nullptr, 0);
        wire_.Kick();
      }) {
  StartSession();
  idle_deadline_.Set(options_.idle_timeout);
  ping_deadline_.Set(options_.ping_interval);
  wire_.Read(true);
  wire_.Kick();
}

Http2Core::~Http2Core() { nghttp2_session_del(session_); }

void Http2Core::StartSession() {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, OnBeginHeaders);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, OnHeader);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, OnFrameRecv);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, OnFrameSend);
  nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, OnInvalidFrame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, OnDataChunk);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, OnStreamClose);
  nghttp2_session_callbacks_set_send_data_callback(callbacks, SendDataFrame);
  nghttp2_option* option = nullptr;
  nghttp2_option_new(&option);
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_max_settings(option, kMaxSettingsEntries);
  nghttp2_option_set_max_outbound_ack(option, kMaxOutboundAcks);
  nghttp2_option_set_max_continuations(option, kMaxContinuations);
  nghttp2_option_set_stream_reset_rate_limit(option, options_.reset_burst, options_.reset_rate);
  // A server forgets closed streams at once; nobody here uses priorities.
  nghttp2_option_set_no_closed_streams(option, 1);
  std::vector<nghttp2_settings_entry> settings = {
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, options_.stream_window},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, options_.max_frame_size},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, static_cast<uint32_t>(options_.max_header_bytes)},
  };
  if (server_) {
    settings.push_back({NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options_.max_concurrent_streams});
    nghttp2_session_server_new2(&session_, callbacks, this, option);
  } else {
    settings.push_back({NGHTTP2_SETTINGS_ENABLE_PUSH, 0});
    nghttp2_session_client_new2(&session_, callbacks, this, option);
  }
  nghttp2_option_del(option);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0,
                                        static_cast<int32_t>(options_.connection_window));
}

Http2Stream* Http2Core::Find(int32_t id) {
  const auto it = streams_.find(id);
  return it == streams_.end() ? nullptr : it->second.get();
}

// ---- receiving ----

void Http2Core::OnBytes(std::string_view bytes) {
  if (!initial_.empty()) OnBytes(std::exchange(initial_, {}));  // they came first
  if (failed_) return;
  const ssize_t n = nghttp2_session_mem_recv(
      session_, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  if (n < 0) Fail(nghttp2_strerror(static_cast<int>(n)));
  if (ping_outstanding_ || options_.ping_interval.count() == 0) return;
  if (options_.ping_while_busy) return;
  ping_deadline_.Set(options_.ping_interval);
}

void Http2Core::Fail(std::string_view detail) {
  if (failed_) return;
  failed_ = true;
  detail_ = detail;
  wire_.CloseAfterFlush();  // a GOAWAY with the reason may be on its way
}

int Http2Core::OnBeginHeaders(nghttp2_session*, const nghttp2_frame* frame, void* self) {
  Http2Core& core = Self(self);
  if (frame->hd.type != NGHTTP2_HEADERS) return 0;
  const int32_t id = frame->hd.stream_id;
  Http2Stream* s = core.Find(id);
  if (core.server_ && frame->headers.cat == NGHTTP2_HCAT_REQUEST && s == nullptr) {
    s = core.streams_.emplace(id, std::make_unique<Http2Stream>(core, id)).first->second.get();
  }
  if (s != nullptr) s->head_bytes_ = s->head_count_ = 0;
  if (core.server_) core.header_deadline_.Set(core.options_.header_timeout);
  return 0;
}

int Http2Core::OnHeader(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name_data,
                        size_t name_size, const uint8_t* value_data, size_t value_size, uint8_t,
                        void* self) {
  Http2Core& core = Self(self);
  Http2Stream* s = core.Find(frame->hd.stream_id);
  if (frame->hd.type != NGHTTP2_HEADERS || s == nullptr || s->too_large_) return 0;
  const std::string_view name = View(name_data, name_size);
  const std::string_view value = View(value_data, value_size);
  s->head_bytes_ += name_size + value_size + 32;
  if (s->head_bytes_ > core.options_.max_header_bytes ||
      ++s->head_count_ > core.options_.max_headers + 6) {  // pseudo headers come on top
    s->too_large_ = true;
    return 0;
  }
  if (s->head_done_) {
    s->trailers_.Add(name, value);
  } else if (name == ":method") {
    s->request_.method = value;
  } else if (name == ":scheme") {
    s->request_.scheme = value;
  } else if (name == ":authority") {
    s->request_.authority = value;
  } else if (name == ":path") {
    s->request_.path = value;
  } else if (name == ":status") {
    s->response_.status = std::atoi(std::string(value).c_str());
  } else if (!name.starts_with(':')) {
    (core.server_ ? s->request_.headers : s->response_.headers).Add(name, value);
  }
  return 0;
}

int Http2Core::OnFrameRecv(nghttp2_session*, const nghttp2_frame* frame, void* self) {
  Http2Core& core = Self(self);
  switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
      core.header_deadline_.Clear();
      if (Http2Stream* s = core.Find(frame->hd.stream_id)) core.Deliver(*s, *frame);
      break;
    case NGHTTP2_SETTINGS: core.capacity_changed_ = true; break;
    case NGHTTP2_PING:
      if ((frame->hd.flags & NGHTTP2_FLAG_ACK) != 0 && core.ping_outstanding_) {
        core.ping_outstanding_ = false;
        core.ping_deadline_.Clear();
        core.ping_deadline_.Set(core.options_.ping_interval);
        core.OnPingAnswered(core.ping_sent_);
      }
      break;
    case NGHTTP2_GOAWAY:
      core.goaway_received_ = true;
      if (frame->goaway.error_code != NGHTTP2_NO_ERROR && core.detail_.empty()) {
        core.detail_ = fmt::format("the peer sent GOAWAY {}: {}",
                                   nghttp2_http2_strerror(frame->goaway.error_code),
                                   View(frame->goaway.opaque_data, frame->goaway.opaque_data_len));
      }
      if (frame->goaway.error_code == NGHTTP2_ENHANCE_YOUR_CALM) core.OnCalmDown();
      break;
    default: break;  // nghttp2's own affair; frame types are an open set
  }
  return 0;
}

void Http2Core::Deliver(Http2Stream& s, const nghttp2_frame& frame) {
  const bool end = (frame.hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
  if (s.too_large_ || s.bad_head_) return RejectHead(s);
  if (frame.hd.type == NGHTTP2_HEADERS) {
    if (!s.head_done_) return HeadComplete(s, end);
    s.ended_remote_ = true;  // nghttp2 refuses trailers without END_STREAM
    if (s.events_ != nullptr) s.events_->OnTrailers(std::move(s.trailers_));
    return;
  }
  if (end && !s.ended_remote_) {
    s.ended_remote_ = true;
    if (s.events_ != nullptr) s.events_->OnData({}, true);
  }
}

void Http2Core::HeadComplete(Http2Stream& s, bool end) {
  if (!server_ && s.response_.status < 200) {
    ResponseHead head = std::exchange(s.response_, {});
    head.version = Version::kHttp2;
    if (s.events_ != nullptr) s.events_->OnInformational(std::move(head));
    return;
  }
  if (server_ && !CheckRequest(s)) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, s.id_, NGHTTP2_PROTOCOL_ERROR);
    return;
  }
  s.head_done_ = true;
  s.ended_remote_ = end;
  s.head_bytes_ = 0;
  s.head_count_ = 0;
  if (server_) {
    idle_deadline_.Clear();
    s.request_.version = Version::kHttp2;
    s.head_request_ = s.request_.method == "HEAD";
    return OnHead(s, end);
  }
  s.response_.version = Version::kHttp2;
  if (s.events_ != nullptr) s.events_->OnResponse(std::move(s.response_), end);
}

// What nghttp2's own checks of a request leave open.
bool Http2Core::CheckRequest(Http2Stream& s) {
  RequestHead& r = s.request_;
  if (auto host = r.headers.Get("host")) {
    if (r.authority.empty()) r.authority = *host;
    // Two names for one request: somebody behind us might take the other one.
    if (!EqualsIgnoreCase(r.authority, *host)) return false;
    r.headers.Remove("host");
  }
  if (!r.authority.empty() && !IsAuthority(r.authority)) return false;
  if (r.method == "CONNECT") return r.path.empty() && !r.authority.empty();
  return IsToken(r.method) && IsRequestTarget(r.path) &&
         (r.path[0] == '/' || (r.path == "*" && r.method == "OPTIONS"));
}

void Http2Core::RejectHead(Http2Stream& s) {
  if (server_ && !s.head_done_) {
    const std::string status = s.too_large_ ? "431" : "400";
    const nghttp2_nv nv = {reinterpret_cast<uint8_t*>(const_cast<char*>(":status")),
                           reinterpret_cast<uint8_t*>(const_cast<char*>(status.data())), 7,
                           status.size(), NGHTTP2_NV_FLAG_NONE};
    s.head_done_ = true;
    nghttp2_submit_response(session_, s.id_, &nv, 1, nullptr);
    return;
  }
  const int32_t id = s.id_;
  Close(id, CloseReason::kTooLarge, "headers over the limit");
  nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_ENHANCE_YOUR_CALM);
}

int Http2Core::OnDataChunk(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data,
                           size_t size, void* self) {
  Http2Core& core = Self(self);
  Http2Stream* s = core.Find(id);
  // The connection's credit is given back at once: one slow stream must not stop the others. What
  // a paused stream can still take is bounded by its own window.
  nghttp2_session_consume_connection(session, size);
  if (s == nullptr || s->events_ == nullptr) {
    nghttp2_session_consume_stream(session, id, size);
    return 0;
  }
  if (s->paused_) {
    s->withheld_ += size;
  } else {
    nghttp2_session_consume_stream(session, id, size);
  }
  s->events_->OnData(View(data, size), false);
  return 0;
}

int Http2Core::OnInvalidFrame(nghttp2_session*, const nghttp2_frame* frame, int error, void* self) {
  Http2Core& core = Self(self);
  // Stream errors (a malformed head) end that stream only: OnStreamClose follows.
  if (frame->hd.stream_id == 0 || nghttp2_is_fatal(error) != 0) {
    core.detail_ = nghttp2_strerror(error);
  }
  return 0;
}

int Http2Core::OnStreamClose(nghttp2_session*, int32_t id, uint32_t error_code, void* self) {
  Http2Core& core = Self(self);
  Http2Stream* s = core.Find(id);
  if (s == nullptr) return 0;
  CloseReason reason = core.ReasonOf(error_code);
  // RST_STREAM(NO_ERROR) after a complete response is the server's way to stop a request body.
  if (error_code == NGHTTP2_NO_ERROR && !(core.server_ ? s->ended_local_ : s->ended_remote_)) {
    reason = CloseReason::kPeerReset;
  }
  core.Close(id, reason, reason == CloseReason::kDone ? "" : nghttp2_http2_strerror(error_code));
  return 0;
}

CloseReason Http2Core::ReasonOf(uint32_t error_code) const {
  switch (error_code) {
    case NGHTTP2_NO_ERROR: return CloseReason::kDone;
    case NGHTTP2_REFUSED_STREAM: return CloseReason::kRefused;
    case NGHTTP2_PROTOCOL_ERROR: return CloseReason::kProtocolError;
    default: return CloseReason::kPeerReset;  // an open set
  }
}

void Http2Core::Close(int32_t id, CloseReason reason, std::string_view detail) {
  const auto it = streams_.find(id);
  if (it == streams_.end()) return;
  std::unique_ptr<Http2Stream> s = std::move(it->second);
  streams_.erase(it);
  StreamEvents* events = std::exchange(s->events_, nullptr);
  graveyard_.push_back(std::move(s));
  capacity_changed_ = true;
  if (streams_.empty()) idle_deadline_.Set(options_.idle_timeout);
  if (events != nullptr) events->OnClosed(reason, detail);
}

// ---- connection ----

void Http2Core::PingTick() {
  if (ping_outstanding_) {
    if (detail_.empty()) detail_ = "no answer to the keepalive PING";
    return wire_.Abort(detail_);
  }
  ping_outstanding_ = true;
  ping_sent_ = event::Clock::now();  // not the round's beginning, which may be long ago
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, nullptr);
  ping_deadline_.Set(options_.ping_timeout);
  wire_.Kick();
}

void Http2Core::StartDrain() {
  if (draining_) return;
  draining_ = true;
  if (server_) {
    nghttp2_submit_shutdown_notice(session_);
    drain_timer_.Start(kDrainNotice);
  } else {
    goaway_sent_ = true;
    nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, nullptr, 0);
  }
  wire_.Kick();
}

void Http2Core::OnEnd(bool, std::string_view detail) {
  ended_ = true;
  if (detail_.empty()) detail_ = detail;
  if (wire_.aborted()) failed_ = true;
  if (streams_.empty()) wire_.EndWrite();
}

void Http2Core::OnSettled() {
  for (const int32_t id : std::exchange(writable_, {})) {
    Http2Stream* s = Find(id);
    if (s != nullptr && s->events_ != nullptr && !ended_) s->events_->OnWritable();
  }
  if (ended_) {
    while (!streams_.empty()) {
      // After GOAWAY nghttp2 has already closed the streams that the peer did not act on.
      Close(streams_.begin()->first, CloseReason::kConnectionLost, detail_);
    }
    graveyard_.clear();
    if (!std::exchange(reported_, true)) OnConnectionClosed(!failed_, detail_);
    return;
  }
  graveyard_.clear();
  if (std::exchange(capacity_changed_, false)) OnCapacity();
  const bool drained = streams_.empty() && (goaway_sent_ || goaway_received_);
  const bool finished =
      nghttp2_session_want_read(session_) == 0 && nghttp2_session_want_write(session_) == 0;
  if (finished && !drained) failed_ = true;  // nghttp2 ended the session: a protocol error
  if ((drained && nghttp2_session_want_write(session_) == 0) || finished) wire_.CloseAfterFlush();
}

}  // namespace qanat::http
