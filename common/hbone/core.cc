// SPDX-License-Identifier: Apache-2.0
// The session's life, its output, and the calling of its streams.
#include "common/hbone/core.h"

#include <algorithm>
#include <array>
#include <utility>

namespace qanat::hbone {

using net::IoResult;

namespace {

constexpr size_t kReadSize = 64 * 1024;
constexpr int kReadsPerRound = 4;
// With its header a DATA frame fills one TLS record.
constexpr size_t kDataPerFrame = 16384 - kFrameHeaderSize;
constexpr size_t kDirectFrom = 8 * 1024;  // writes of this size skip the session's buffer
constexpr size_t kMaxDirect = 256 * 1024;
// More than data can explain: the peer has us answer and does not read the answers.
constexpr size_t kControlSlack = 1 << 20;
constexpr auto kLinger = std::chrono::seconds(1);
constexpr uint64_t kDrainPing = ~uint64_t{0};
constexpr size_t kRememberedResets = 64;

SessionOptions Complete(SessionOptions options) {
  options.connection_window = std::max(options.connection_window, kDefaultWindow);
  options.max_frame_size = std::max(options.max_frame_size, kDefaultFrameSize);
  return options;
}

}  // namespace

bool TokenBucket::Take(event::TimePoint now) {
  if (last_ != event::TimePoint{}) {
    tokens_ =
        std::min(burst_, tokens_ + rate_ * std::chrono::duration<double>(now - last_).count());
  }
  last_ = now;
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

Core::Core(Side side, net::TransportPtr transport, const SessionOptions& options,
           Callbacks callbacks)
    : side_(side),
      options_(Complete(options)),
      // Stock: 16 KiB towards servers, 64 KiB towards clients.
      max_header_list_(options.max_header_list != 0 ? options.max_header_list
                       : side == Side::kClient      ? 16u << 10
                                                    : 64u << 10),
      transport_(std::move(transport)),
      loop_(transport_->loop()),
      local_(transport_->local_address()),
      peer_(transport_->peer_address()),
      callbacks_(std::make_shared<Callbacks>(std::move(callbacks))),
      decoder_(max_header_list_),
      wake_(loop_, [this] { Wake(); }),
      flush_(loop_, [this] { Flush(); }),
      ping_(loop_, [this] { SendPing(); }),
      ping_deadline_(loop_, [this] { PingExpired(); }) {
  if (side_ == Side::kClient) out_.Append(kPreface);
  std::vector<std::pair<SettingId, uint32_t>> settings = {
      {kSettingHeaderTableSize, 0},
      {kSettingInitialWindow, options_.stream_window},
      {kSettingMaxFrameSize, options_.max_frame_size},
      {kSettingMaxHeaderList, static_cast<uint32_t>(max_header_list_)},
  };
  if (side_ == Side::kClient) {
    settings.emplace_back(kSettingEnablePush, 0);
  } else {
    settings.emplace_back(kSettingMaxConcurrentStreams, options_.max_concurrent_streams);
  }
  PutSettings(out_, settings);
  state_.recv_window = options_.connection_window;
  if (options_.connection_window > kDefaultWindow) {
    PutWindowUpdate(out_, 0, options_.connection_window - kDefaultWindow);
  }
  FlushSoon();
  if (options_.preface_timeout.count() > 0) ping_deadline_.Start(options_.preface_timeout);
  if (options_.ping_interval.count() > 0) ping_.Start(options_.ping_interval);
  transport_->SetEvents(this);
  transport_->ReadEnable(true);
}

Core::~Core() {
  if (transport_) transport_->SetEvents(nullptr);
}

// ---- streams ----

std::shared_ptr<Stream> Core::Lookup(uint32_t id) const {
  auto it = streams_.find(id);
  return it != streams_.end() ? it->second : nullptr;
}

std::shared_ptr<Stream> Core::NewStream(uint32_t id) {
  auto stream = std::make_shared<Stream>();
  stream->core = this;
  stream->state.id = id;
  stream->state.send_window = state_.peer.initial_window;
  stream->state.recv_window = options_.stream_window;
  streams_[id] = stream;
  ++active_;
  return stream;
}

net::TransportPtr Core::MakeHandle(const std::shared_ptr<Stream>& stream) {
  return std::make_unique<StreamTransport>(stream, loop_, local_, peer_);
}

bool Core::CanOpen() const {
  return phase_ == Phase::kOpen && !state_.drain_wanted && !state_.goaway_seen &&
         active_ < peer_max_streams() && state_.next_stream < kMaxStreamId - 1;
}

uint32_t Core::peer_max_streams() const {
  return state_.settings_seen ? state_.peer.max_concurrent_streams : 100;
}

namespace {

class Pending final : public PendingConnect {
 public:
  explicit Pending(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {}
  ~Pending() override {
    if (!stream_->on_response) return;
    stream_->on_response = nullptr;
    if (stream_->core != nullptr) stream_->core->ResetStream(*stream_, H2Error::kCancel);
  }

 private:
  std::shared_ptr<Stream> stream_;
};

}  // namespace

std::unique_ptr<PendingConnect> Core::Connect(const ConnectRequest& request,
                                              ClientSession::OnResponse done) {
  Headers headers = {{":method", "CONNECT"}, {":authority", request.authority}};
  headers.insert(headers.end(), request.headers.begin(), request.headers.end());
  size_t list = 0;
  bool valid = !request.authority.empty();
  for (const Header& header : headers) {
    list += header.name.size() + header.value.size() + 32;
    valid = valid && ValidHeader(header);
  }
  std::shared_ptr<Stream> stream;
  Error error;
  if (!CanOpen()) {
    error = {Code::kUnavailable, "the tunnel takes no more streams", 0};
  } else if (!valid) {
    error = {Code::kInvalidArgument, "the CONNECT request has a malformed authority or header", 0};
  } else if (list > state_.peer.max_header_list) {
    error = {Code::kResourceExhausted, "the headers are larger than the peer accepts", 0};
  }
  if (!error.message.empty()) {
    stream = std::make_shared<Stream>();
    stream->on_response = std::move(done);
    bool retry_safe = error.code == Code::kUnavailable;
    failing_.push_back({stream, {std::move(error), retry_safe}});
    WakeSoon();
    return std::make_unique<Pending>(std::move(stream));
  }
  stream = NewStream(state_.next_stream);
  state_.next_stream += 2;
  stream->on_response = std::move(done);
  PutHeaders(out_, stream->state.id, encoder_.Encode(headers), false, state_.peer.max_frame_size);
  FlushSoon();
  return std::make_unique<Pending>(std::move(stream));
}

net::TransportPtr Core::Accept(const std::shared_ptr<Stream>& stream, const Headers& headers) {
  Headers all = {{":status", "200"}};
  all.insert(all.end(), headers.begin(), headers.end());
  stream->state.answered = true;
  PutHeaders(out_, stream->state.id, encoder_.Encode(all), false, state_.peer.max_frame_size);
  FlushSoon();
  return MakeHandle(stream);
}

void Core::Reject(const std::shared_ptr<Stream>& stream, int status, const Headers& headers) {
  Headers all = {{":status", std::to_string(status)}};
  all.insert(all.end(), headers.begin(), headers.end());
  stream->state.answered = true;
  PutHeaders(out_, stream->state.id, encoder_.Encode(all), true, state_.peer.max_frame_size);
  stream->state.local_ended = true;
  if (size_t n = stream->DropInput(); n > 0) Consumed(*stream, n);
  if (!stream->state.remote_ended) {
    // The answer is whole; the peer need not go on (RFC 9113 8.1).
    PutRstStream(out_, stream->state.id, H2Error::kNoError);
    RememberReset(stream->state.id);
    stream->state.remote_ended = true;
  }
  FlushSoon();
  Retire(*stream);
}

void Core::EndStream(Stream& stream) {
  PutEndStream(out_, stream.state.id);
  stream.state.local_ended = true;
  FlushSoon();
  Retire(stream);
}

void Core::ResetStream(Stream& stream, H2Error code) {
  if (stream.retired) return;
  PutRstStream(out_, stream.state.id, code);
  RememberReset(stream.state.id);
  FlushSoon();
  if (!stream.state.remote_ended) stream.end = IoResult::Kind::kReset;
  stream.write_broken = true;
  stream.state.local_ended = stream.state.remote_ended = true;
  if (stream.handle == nullptr) {
    if (size_t n = stream.DropInput(); n > 0) Consumed(stream, n);
  }
  Kick(stream);
  Retire(stream);
}

void Core::RememberReset(uint32_t id) {
  if (recently_reset_.size() < kRememberedResets) {
    recently_reset_.push_back(id);
    return;
  }
  recently_reset_[recently_reset_next_++ % kRememberedResets] = id;
}

bool Core::RecentlyReset(uint32_t id) const {
  return std::find(recently_reset_.begin(), recently_reset_.end(), id) != recently_reset_.end();
}

// Both directions are over. The caller holds a reference of its own.
void Core::Retire(Stream& stream) {
  if (!stream.state.local_ended || !stream.state.remote_ended) return;
  if (!stream.retired) {
    stream.retired = true;
    --active_;
    // A stream that lived may have some frames cross its end.
    busywork_.Refund(4);
    change_pending_ = true;
    WakeSoon();
  }
  if (stream.handle == nullptr) streams_.erase(stream.state.id);
}

void Core::HandleGone(Stream& stream) {
  std::shared_ptr<Stream> keep = Lookup(stream.state.id);
  if (size_t n = stream.DropInput(); n > 0) Consumed(stream, n);
  if (!stream.retired) {
    H2Error code = !stream.state.local_ended ? H2Error::kConnectError
                   : side_ == Side::kClient  ? H2Error::kCancel
                                             : H2Error::kNoError;
    ResetStream(stream, code);
  }
  Retire(stream);
}

void Core::FailPending(Stream& stream, Error error, bool retry_safe) {
  if (stream.on_response) {
    auto done = std::exchange(stream.on_response, nullptr);
    done(tl::unexpected(ClientSession::ConnectFailure{std::move(error), retry_safe}));
  }
  if (stream.on_gone) {
    auto gone = std::exchange(stream.on_gone, nullptr);
    gone();
  }
}

// Gives back credit for what the stream's user has taken.
void Core::Consumed(Stream& stream, size_t bytes) {
  if (phase_ != Phase::kOpen) return;
  auto count = static_cast<uint32_t>(bytes);
  state_.recv_unacked += count;
  if (state_.recv_unacked >= options_.connection_window / 2) {
    PutWindowUpdate(out_, 0, state_.recv_unacked);
    state_.recv_window += std::exchange(state_.recv_unacked, 0);
    FlushSoon();
  }
  if (stream.state.remote_ended) return;
  stream.state.recv_unacked += count;
  if (stream.state.recv_unacked >= options_.stream_window / 2) {
    PutWindowUpdate(out_, stream.state.id, stream.state.recv_unacked);
    stream.state.recv_window += std::exchange(stream.state.recv_unacked, 0);
    FlushSoon();
  }
}

// ---- output ----

bool Core::Writable(const Stream& stream) const {
  return phase_ == Phase::kOpen && stream.state.answered && !stream.state.local_ended &&
         stream.state.send_window > 0 && state_.send_window > 0 &&
         out_.size() < options_.send_buffer;
}

IoResult Core::Write(Stream& stream, std::span<const iovec> from) {
  size_t wanted = 0;
  for (const iovec& part : from) wanted += part.iov_len;
  if (wanted == 0) return {};
  if (!Writable(stream)) return {IoResult::Kind::kWouldBlock, 0};
  size_t size = std::min({wanted, static_cast<size_t>(stream.state.send_window),
                          static_cast<size_t>(state_.send_window)});
  next_writer_ = stream.state.id;
  if (size >= kDirectFrom && !transport_full_ && !transport_ended_) {
    size = WriteDirect(stream, from, std::min(size, kMaxDirect));
  } else {
    size = std::min(size, options_.send_buffer - out_.size());
    size_t frame_limit = std::min<size_t>(kDataPerFrame, state_.peer.max_frame_size);
    size_t offset = 0;
    for (size_t left = size; left > 0;) {
      size_t frame = std::min(left, frame_limit);
      uint8_t raw[kFrameHeaderSize];
      FormatFrameHeader({static_cast<uint32_t>(frame), kData, 0, stream.state.id}, raw);
      out_.Append(raw, sizeof raw);
      left -= frame;
      while (frame > 0) {
        size_t n = std::min(frame, from[0].iov_len - offset);
        if (n > 0) out_.Append(static_cast<const uint8_t*>(from[0].iov_base) + offset, n);
        frame -= n;
        offset += n;
        if (offset == from[0].iov_len) {
          from = from.subspan(1);
          offset = 0;
        }
      }
    }
    FlushSoon();
  }
  stream.state.send_window -= static_cast<int64_t>(size);
  state_.send_window -= static_cast<int64_t>(size);
  if (size == 0) return {IoResult::Kind::kWouldBlock, 0};
  return {IoResult::Kind::kOk, size};
}

// Hands the caller's bytes to the transport without copying them. A frame that went out in part is
// completed from the session's buffer; frames that did not begin count as not written.
size_t Core::WriteDirect(Stream& stream, std::span<const iovec> from, size_t size) {
  constexpr size_t kFrames = kMaxDirect / kDataPerFrame + 1;
  size_t frame_limit = std::min<size_t>(kDataPerFrame, state_.peer.max_frame_size);
  size = std::min(size, kFrames * frame_limit);
  std::array<std::array<uint8_t, kFrameHeaderSize>, kFrames> headers;
  std::vector<iovec> parts;
  parts.reserve(1 + 2 * kFrames + from.size());
  size_t waiting = out_.size();
  if (waiting > 0) {
    parts.push_back({const_cast<uint8_t*>(out_.front().data()), waiting});
  }
  size_t total = waiting, offset = 0, used = 0;
  for (size_t left = size; left > 0; ++used) {
    size_t frame = std::min(left, frame_limit);
    FormatFrameHeader({static_cast<uint32_t>(frame), kData, 0, stream.state.id},
                      headers[used].data());
    parts.push_back({headers[used].data(), kFrameHeaderSize});
    total += kFrameHeaderSize + frame;
    left -= frame;
    while (frame > 0) {
      size_t n = std::min(frame, from[0].iov_len - offset);
      if (n > 0) parts.push_back({static_cast<uint8_t*>(from[0].iov_base) + offset, n});
      frame -= n;
      offset += n;
      if (offset == from[0].iov_len) {
        from = from.subspan(1);
        offset = 0;
      }
    }
  }
  IoResult wrote = transport_->Write(parts);
  if (!wrote.ok() && wrote.kind != IoResult::Kind::kWouldBlock) {
    transport_ended_ = true;  // reading will say why
    out_.Clear();
    return size;
  }
  size_t taken = wrote.bytes;
  if (taken < total) {
    transport_full_ = true;
    transport_->WriteEnable(true);
  }
  if (waiting > 0) out_.Consume(std::min(taken, waiting));
  if (taken <= waiting) return 0;
  taken -= waiting;
  // Complete the frame that was cut.
  size_t per_frame = kFrameHeaderSize + frame_limit;
  size_t whole = taken / per_frame, rest = taken % per_frame;
  size_t payload = whole * frame_limit;
  if (rest == 0 || payload >= size) return std::min(payload, size);
  size_t frame = std::min(size - payload, frame_limit);
  size_t skip = taken;  // bytes of ours that went out
  size_t end = whole * per_frame + kFrameHeaderSize + frame;
  size_t at = 0;
  for (size_t i = waiting > 0 ? 1 : 0; i < parts.size() && at < end; ++i) {
    size_t from_byte = std::max(at, skip), to_byte = std::min(at + parts[i].iov_len, end);
    if (from_byte < to_byte) {
      out_.Append(static_cast<uint8_t*>(parts[i].iov_base) + (from_byte - at), to_byte - from_byte);
    }
    at += parts[i].iov_len;
  }
  return payload + frame;
}

void Core::FlushSoon() {
  if (!flush_.armed() && phase_ != Phase::kOver) flush_.Start({});
}

void Core::Flush() {
  flush_.Stop();
  if (phase_ == Phase::kOver) return;
  while (!out_.empty() && !transport_ended_) {
    auto front = out_.front();
    iovec part{const_cast<uint8_t*>(front.data()), front.size()};
    IoResult wrote = transport_->Write({&part, 1});
    if (wrote.kind == IoResult::Kind::kWouldBlock) {
      transport_full_ = true;
      transport_->WriteEnable(true);
      if (phase_ == Phase::kOpen && out_.size() > options_.send_buffer + kControlSlack) {
        Fail(H2Error::kEnhanceYourCalm, "the peer does not read our answers");
      }
      return;
    }
    if (!wrote.ok()) {
      // What the peer said before it went is still to be read, and its end too.
      transport_ended_ = true;
      break;
    }
    out_.Consume(wrote.bytes);
  }
  if (transport_ended_) out_.Clear();
  if (transport_full_) {
    transport_full_ = false;
    transport_->WriteEnable(false);
  }
  if (phase_ == Phase::kClosing) TryShutdown();
}

void Core::OnWritable() {
  if (phase_ == Phase::kOver) return;
  if (phase_ == Phase::kClosing && out_.empty()) return TryShutdown();
  Flush();
  if (phase_ == Phase::kOpen && out_.size() < options_.send_buffer) KickWriters();
}

void Core::KickWriters() {
  auto start = streams_.upper_bound(next_writer_);
  for (auto it = start; it != streams_.end(); ++it) {
    if (it->second->writing) Kick(*it->second);
  }
  for (auto it = streams_.begin(); it != start; ++it) {
    if (it->second->writing) Kick(*it->second);
  }
}

// ---- calling streams ----

void Core::Kick(Stream& stream) {
  if (stream.queued || stream.events == nullptr) return;
  bool read = stream.reading && stream.Readable();
  bool write = stream.writing && (stream.write_broken || Writable(stream));
  if (!read && !write) return;
  std::shared_ptr<Stream> shared = Lookup(stream.state.id);
  if (!shared) return;
  stream.queued = true;
  ready_.push_back(std::move(shared));
  WakeSoon();
}

void Core::WakeSoon() {
  if (!wake_.armed()) wake_.Start({});
}

void Core::Wake() {
  auto failing = std::exchange(failing_, {});
  for (Failing& one : failing) {
    FailPending(*one.stream, std::move(one.failure.error), one.failure.retry_safe);
  }
  auto ready = std::exchange(ready_, {});
  for (const auto& stream : ready) stream->queued = false;
  for (const auto& stream : ready) {
    if (stream->core != this) continue;  // the session is over: the handle sees to it
    if (stream->reading && stream->events != nullptr && stream->Readable()) {
      stream->events->OnReadable();
    }
    if (stream->core != this) continue;
    if (stream->writing && stream->events != nullptr &&
        (stream->write_broken || Writable(*stream))) {
      stream->events->OnWritable();
    }
    if (stream->core == this) Kick(*stream);
  }
  if (phase_ != Phase::kOpen) return;
  if (std::exchange(change_pending_, false)) {
    CheckDrained();
    std::shared_ptr<Callbacks> callbacks = callbacks_;
    if (callbacks->on_change) callbacks->on_change();
  }
}

void Core::DeliverTouched() {
  auto touched = std::exchange(touched_, {});
  for (const auto& stream : touched) {
    while (stream->unread > 0 && stream->reading && stream->events != nullptr) {
      size_t before = stream->unread;
      stream->events->OnReadable();
      if (stream->unread >= before) break;
    }
  }
  // The buffer that the views point into goes away now.
  for (const auto& stream : touched) {
    stream->KeepViews();
    if (stream->core == this) Kick(*stream);
  }
}

// ---- reading and the end ----

void Core::OnReadable() {
  auto buffer = std::unique_ptr<uint8_t[]>(new uint8_t[kReadSize]);
  for (int i = 0; i < kReadsPerRound; ++i) {
    if (phase_ == Phase::kOver) return;
    IoResult got = transport_->Read({buffer.get(), kReadSize});
    if (got.kind == IoResult::Kind::kWouldBlock) return;
    if (!got.ok()) return ConnectionLost(got.kind);
    if (phase_ == Phase::kClosing) continue;  // nobody listens any more
    std::span<const uint8_t> input(buffer.get(), got.bytes);
    if (side_ == Side::kServer && preface_have_ < kPreface.size()) {
      size_t n = std::min(input.size(), kPreface.size() - preface_have_);
      if (!std::equal(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(n),
                      kPreface.begin() + static_cast<std::ptrdiff_t>(preface_have_))) {
        return Fail(H2Error::kProtocolError, "what came is not HTTP/2 (no connection preface)");
      }
      preface_have_ += n;
      input = input.subspan(n);
    }
    H2Error error = reader_.Consume(input, *this, stopped_);
    if (error != H2Error::kNoError && phase_ == Phase::kOpen) {
      Fail(error, why_.empty() ? std::string("malformed frame") : std::exchange(why_, {}));
    }
    DeliverTouched();
    if (got.bytes < kReadSize / 2) return;  // most likely all; if not, we are called again
  }
}

void Core::ConnectionLost(IoResult::Kind kind) {
  if (phase_ != Phase::kOpen) return Over();
  CloseReason reason;
  reason.by_peer = true;
  if (kind == IoResult::Kind::kEof) {
    if (active_ > 0) reason.message = "the peer closed the tunnel while streams were open";
    transport_->ShutdownWrite();
  } else {
    std::string detail = transport_->error();
    reason.message = "the tunnel broke" + (detail.empty() ? detail : ": " + detail);
  }
  if (!reason_.message.empty()) reason.message = reason_.message;  // what its GOAWAY said
  phase_ = Phase::kClosing;
  stopped_ = true;
  reason_ = reason;
  EndAllStreams(reason);
  Over();
}

void Core::Fail(H2Error code, std::string message) {
  if (phase_ != Phase::kOpen) return;
  PutGoaway(out_, state_.last_peer_stream, code, message);
  BeginClose({code, false, std::move(message)});
}

void Core::BeginClose(CloseReason reason) {
  if (phase_ != Phase::kOpen) return;
  phase_ = Phase::kClosing;
  stopped_ = true;
  reason_ = reason;
  ping_.Stop();
  ping_deadline_.Start(kLinger);
  EndAllStreams(reason);
  if (phase_ == Phase::kClosing) Flush();
}

void Core::TryShutdown() {
  if (transport_ended_) return;
  IoResult ended = transport_->ShutdownWrite();
  bool again = ended.kind == IoResult::Kind::kWouldBlock;
  if (!again) transport_ended_ = true;
  transport_->WriteEnable(again);
}

void Core::EndAllStreams(const CloseReason& reason) {
  auto streams = std::exchange(streams_, {});
  active_ = 0;
  ready_.clear();
  for (auto& [id, stream] : streams) {
    stream->core = nullptr;
    stream->queued = false;
    if (!stream->state.remote_ended) stream->end = IoResult::Kind::kReset;
    if (!stream->state.local_ended) stream->write_broken = true;
    stream->retired = true;
    if (stream->error.empty()) stream->error = reason.message;
  }
  for (auto& [id, stream] : streams) {
    if (stream->handle != nullptr) stream->handle->Arm();
    FailPending(
        *stream,
        {Code::kUnavailable, reason.message.empty() ? "the tunnel was closed" : reason.message, 0},
        false);
  }
}

void Core::Over() {
  if (phase_ == Phase::kOver) return;
  phase_ = Phase::kOver;
  stopped_ = true;
  flush_.Stop();
  ping_.Stop();
  ping_deadline_.Stop();
  transport_->SetEvents(nullptr);
  loop_.DeferDelete(std::move(transport_));
  auto closed = std::exchange(callbacks_->on_closed, nullptr);
  CloseReason reason = reason_;
  if (closed) closed(reason);  // may destroy the handle
}

void Core::CloseNow(std::string_view why) {
  if (phase_ != Phase::kOpen) return;
  PutGoaway(out_, state_.last_peer_stream, H2Error::kNoError, why);
  BeginClose({H2Error::kNoError, false, std::string(why)});
}

void Core::Abandon() {
  callbacks_ = std::make_shared<Callbacks>();
  if (phase_ == Phase::kOpen) CloseNow("closed");
  Over();
  // Promised calls must happen even if nobody wakes this session again.
  auto failing = std::exchange(failing_, {});
  for (Failing& one : failing) {
    FailPending(*one.stream, std::move(one.failure.error), one.failure.retry_safe);
  }
}

void Core::Drain() {
  if (phase_ != Phase::kOpen || state_.drain_wanted) return;
  state_.drain_wanted = true;
  if (side_ == Side::kServer) {
    // Streams that are on their way must still be taken (RFC 9113 6.8).
    PutGoaway(out_, kMaxStreamId, H2Error::kNoError, "draining");
    PutPing(out_, kDrainPing, false);
    drain_ping_ = true;
    if (!ping_deadline_.armed()) ping_deadline_.Start(options_.ping_timeout);
    FlushSoon();
  }
  change_pending_ = true;
  WakeSoon();
}

void Core::CheckDrained() {
  if (phase_ != Phase::kOpen || active_ > 0) return;
  bool over = side_ == Side::kClient ? state_.drain_wanted || state_.goaway_seen
                                     : state_.goaway_sent || state_.goaway_seen;
  if (!over) return;
  if (!state_.goaway_sent) {
    PutGoaway(out_, state_.last_peer_stream, H2Error::kNoError, {});
    state_.goaway_sent = true;
  }
  BeginClose({H2Error::kNoError, state_.goaway_seen && !state_.drain_wanted, reason_.message});
}

void Core::SendPing() {
  ping_.Start(options_.ping_interval);
  if (!state_.settings_seen || ping_deadline_.armed()) return;
  PutPing(out_, ++ping_sent_, false);
  ping_deadline_.Start(options_.ping_timeout);
  FlushSoon();
}

void Core::PingExpired() {
  if (phase_ != Phase::kOpen) return Over();
  auto wait = state_.settings_seen ? options_.ping_timeout : options_.preface_timeout;
  std::string text = std::to_string(wait.count()) + " ms";
  if (!state_.settings_seen) {
    Fail(H2Error::kSettingsTimeout, "the peer sent no HTTP/2 preface within " + text);
  } else {
    Fail(H2Error::kNoError, "the peer did not answer a PING within " + text);
  }
}

}  // namespace qanat::hbone
