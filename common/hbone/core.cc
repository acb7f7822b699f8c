// SPDX-License-Identifier: Apache-2.0
// The session's life: begin, the calling of its streams, keepalive, drain and end.
#include "common/hbone/core.h"

#include <algorithm>
#include <random>
#include <utility>

#include "common/event/scratch.h"

namespace qanat::hbone {

using net::IoResult;

namespace {

constexpr size_t kReadSize = 64 * 1024;
constexpr int kReadsPerRound = 4;
constexpr auto kLinger = std::chrono::seconds(1);

SessionOptions Complete(Core::Side side, SessionOptions options) {
  uint32_t& first = options.initial_stream_window;
  if (first == 0 && side == Core::Side::kServer) first = options.small_stream_window;
  if (first == 0 || first > options.stream_window) first = options.stream_window;
  options.connection_window = std::max(options.connection_window, kDefaultWindow);
  options.max_frame_size = std::max(options.max_frame_size, kDefaultFrameSize);
  options.header_table = std::min(options.header_table, HpackTable::kMostBytes);
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

Core::Core(Bare, Side side, net::TransportPtr transport, const SessionOptions& options,
           Callbacks callbacks)
    : side_(side),
      options_(Complete(side, options)),
      // Stock: 16 KiB towards servers, 64 KiB towards clients.
      max_header_list_(options.max_header_list != 0 ? options.max_header_list
                       : side == Side::kClient      ? 16u << 10
                                                    : 64u << 10),
      transport_(std::move(transport)),
      loop_(transport_->loop()),
      ends_(std::make_shared<const Ends>(
          Ends{transport_->local_address(), transport_->peer_address()})),
      callbacks_(std::make_shared<Callbacks>(std::move(callbacks))),
      decoder_(max_header_list_),
      wake_(loop_, [this] { Wake(); }),
      flush_(loop_, [this] { FlushDue(); }),
      ping_(loop_, [this] { SendPing(); }),
      ping_deadline_(loop_, [this] { PingExpired(); }) {}

Core::Core(Side side, net::TransportPtr transport, const SessionOptions& options,
           Callbacks callbacks)
    : Core(Bare(), side, std::move(transport), options, std::move(callbacks)) {
  if (side_ == Side::kClient) out_.Append(kPreface);
  state_.first_window = loop_.memory().scarce()
                            ? std::min(options_.initial_stream_window, options_.small_stream_window)
                            : options_.initial_stream_window;
  std::vector<std::pair<SettingId, uint32_t>> settings = {
      {kSettingHeaderTableSize, options_.header_table},
      {kSettingInitialWindow, state_.first_window},
      {kSettingMaxFrameSize, options_.max_frame_size},
      {kSettingMaxHeaderList, static_cast<uint32_t>(max_header_list_)},
  };
  if (side_ == Side::kClient) {
    settings.emplace_back(kSettingEnablePush, 0);
  } else {
    settings.emplace_back(kSettingMaxConcurrentStreams, options_.max_concurrent_streams);
    if (options_.takes_source) settings.emplace_back(kSettingTakesSource, 1);
    if (options_.takes_early) settings.emplace_back(kSettingTakesEarly, 1);
  }
  PutSettings(out_, settings);
  state_.recv_window = options_.connection_window;
  growth_left_ = options_.connection_window;
  if (options_.connection_window > kDefaultWindow) {
    PutWindowUpdate(out_, 0, options_.connection_window - kDefaultWindow);
  }
  FlushSoon();
  if (options_.preface_timeout.count() > 0) ping_deadline_.Start(options_.preface_timeout);
  made_ = last_input_ = loop_.now();
  handshake_time_ = transport_->handshake_time();
  if (options_.ping_interval.count() > 0) ping_.Start(UntilPing());
  transport_->SetEvents(this);
  transport_->ReadEnable(true);
}

Core::~Core() {
  if (transport_) transport_->SetEvents(nullptr);
}

// ---- calling streams ----

void Core::Kick(Stream& stream) {
  if (stream.queued || stream.events == nullptr) return;
  bool read = stream.reading && stream.Readable();
  bool write = stream.writing && (stream.write_broken || Writable(stream));
  if (!read && !write) return;
  stream.queued = true;
  ready_.push_back(stream.shared_from_this());
  WakeSoon();
}

void Core::WakeSoon() {
  if (!wake_.armed()) wake_.Start({});
}

void Core::Wake() {
  if (std::exchange(dribble_, false)) {
    Calm(Abuse::kWindowGames, "the peer opens its windows by a few bytes at a time");
    Fail(H2Error::kEnhanceYourCalm, std::exchange(why_, {}));
  }
  auto failing = std::exchange(failing_, {});
  for (Failing& one : failing) {
    FailPending(*one.stream, std::move(one.failure.error), one.failure.retry_safe);
  }
  calling_.swap(ready_);  // both keep their memory
  for (const auto& stream : calling_) stream->queued = false;
  for (const auto& stream : calling_) {
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
  calling_.clear();
  if (phase_ != Phase::kOpen) return;
  if (std::exchange(change_pending_, false)) {
    CheckDrained();
    std::shared_ptr<Callbacks> callbacks = callbacks_;
    if (callbacks->on_change) callbacks->on_change();
  }
}

// As many as have something at once on a tunnel that is not busy; of larger ones nothing is kept.
constexpr size_t kSpareViews = 8;
constexpr size_t kSparePieces = 16;

std::unique_ptr<Stream::Views> Core::LendViews() {
  if (views_.empty()) return std::make_unique<Stream::Views>();
  auto out = std::move(views_.back());
  views_.pop_back();
  return out;
}

void Core::TakeBack(std::unique_ptr<Stream::Views> views) {
  if (views == nullptr || views_.size() >= kSpareViews || views->capacity() > kSparePieces) return;
  views_.push_back(std::move(views));
}

void Core::DeliverTouched() {
  delivering_.swap(touched_);
  for (const auto& stream : delivering_) {
    while (stream->unread > 0 && stream->reading && stream->events != nullptr) {
      size_t before = stream->unread;
      stream->events->OnReadable();
      if (stream->unread >= before) break;
    }
  }
  // The buffer that the views point into goes away now.
  for (const auto& stream : delivering_) {
    stream->KeepViews(loop_.memory());
    TakeBack(std::move(stream->views));
    if (stream->core == this) Kick(*stream);
  }
  delivering_.clear();
  if (unread_ > (loop_.memory().scarce() ? 0 : options_.max_unread / 4)) ShrinkWindows();
  while (unread_ > options_.max_unread && phase_ == Phase::kOpen && ShedLargest()) {
  }
}

// ---- reading and the end ----

void Core::OnReadable() {
  event::Scratch buffer(loop_);
  for (int i = 0; i < kReadsPerRound; ++i) {
    if (phase_ == Phase::kOver) return;
    IoResult got = transport_->Read({buffer.data(), kReadSize});
    if (got.kind == IoResult::Kind::kWouldBlock) return;
    if (!got.ok()) return ConnectionLost(got.kind);
    last_input_ = loop_.now();
    if (phase_ == Phase::kClosing) continue;  // nobody listens any more
    std::span<const uint8_t> input(buffer.data(), got.bytes);
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
    WatchHeaders();
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
  if (!reason_.message.empty()) {  // what its GOAWAY said
    reason.message = reason_.message;
    reason.code = reason_.code;
  }
  reason.failed = !reason.message.empty();
  phase_ = Phase::kClosing;
  stopped_ = true;
  reason_ = reason;
  EndAllStreams(reason);
  Over();
}

void Core::Fail(H2Error code, std::string message) {
  if (phase_ != Phase::kOpen) return;
  PutGoaway(out_, state_.last_peer_stream, code, message);
  BeginClose({code, false, std::move(message), abuse_, true});
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
  auto streams = streams_.TakeAll();
  active_ = 0;
  unread_ = 0;  // what is left is their users' alone
  if (headers_deadline_) headers_deadline_->Stop();
  ready_.clear();
  for (auto& [id, stream] : streams) {
    stream->core = nullptr;
    stream->queued = false;
    if (!stream->state.remote_ended) stream->end = IoResult::Kind::kReset;
    if (!stream->state.local_ended) stream->write_broken = true;
    stream->retired = true;
    if (!reason.message.empty() && stream->error().empty()) stream->SetError(reason.message);
  }
  for (auto& [id, stream] : streams) {
    if (stream->handle != nullptr) stream->handle->Arm();
    FailPending(*stream,
                // HTTP/2 itself went wrong, or else the connection below.
                {reason.code != H2Error::kNoError ? Code::kInternal : Code::kUnavailable,
                 reason.message.empty() ? "the tunnel was closed" : reason.message, 0},
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
  CloseReason reason = reason_;  // what its GOAWAY said
  reason.by_peer = state_.goaway_seen && !state_.drain_wanted;
  reason.failed = !reason.message.empty();
  BeginClose(std::move(reason));
}

// At the interval's end or up to a half of it sooner: tunnels that were made in one moment, by the
// hundred, would else keep asking all at once, and everything else would wait for that.
event::Duration Core::UntilPing() const {
  thread_local std::minstd_rand random{std::random_device{}()};
  const event::Duration half = options_.ping_interval / 2;
  return half + half * (random() % 1024) / 1023;
}

void Core::SendPing() {
  // Who was heard lately is there; a PING of its own is a sign too.
  const event::Duration silent = loop_.now() - last_input_;
  if (silent < options_.ping_interval / 2) return ping_.Start(UntilPing() - silent);
  ping_.Start(UntilPing());
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
    abuse_ = Abuse::kSlowPeer;
    Fail(H2Error::kSettingsTimeout, "the peer sent no HTTP/2 preface within " + text);
  } else {
    Fail(H2Error::kNoError, "the peer did not answer a PING within " + text);
  }
}

}  // namespace qanat::hbone
