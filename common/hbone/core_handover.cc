// SPDX-License-Identifier: Apache-2.0
// A session stands still and becomes a value; a value becomes a session again.
#include <algorithm>
#include <utility>

#include "common/hbone/core.h"

namespace qanat::hbone {

namespace {

SessionOptions Announced(const SavedSession& saved, const SessionOptions& times) {
  SessionOptions out = times;
  out.initial_stream_window = saved.options.initial_stream_window;
  out.stream_window = saved.options.stream_window;
  out.connection_window = saved.options.connection_window;
  out.max_frame_size = saved.options.max_frame_size;
  out.max_header_list = saved.options.max_header_list;
  out.header_table = saved.options.header_table;
  out.max_concurrent_streams = saved.options.max_concurrent_streams;
  return out;
}

uint64_t Thousandths(double tokens) {
  return tokens > 0 ? static_cast<uint64_t>(tokens * 1000) : uint64_t{0};
}

uint64_t Count(std::chrono::nanoseconds time) {
  constexpr std::chrono::nanoseconds kMost = std::chrono::hours(1);
  return static_cast<uint64_t>(std::clamp(time, std::chrono::nanoseconds(0), kMost).count());
}

}  // namespace

std::optional<std::vector<const net::Transport*>> Core::Freezable() const {
  const bool quiet = phase_ == Phase::kOpen && state_.settings_seen && !transport_ended_ &&
                     !dribble_ && failing_.empty() && touched_.empty() && delivering_.empty() &&
                     calling_.empty() && block_stream_ == 0;
  if (!quiet) return std::nullopt;
  std::vector<const net::Transport*> handles;
  for (const auto& [id, stream] : streams_.rows()) {
    if (!stream->state.answered || stream->handle == nullptr || stream->unanswered) {
      return std::nullopt;
    }
    handles.push_back(stream->handle);
  }
  return handles;
}

SavedSession Core::Export(net::TransportPtr& transport) {
  SavedSession out;
  out.server = side_ == Side::kServer;
  out.options = options_;
  out.options.max_header_list = static_cast<uint32_t>(max_header_list_);
  out.state = state_;
  out.encoder_started = encoder_.started();
  out.table = decoder_.Export();
  out.frame = reader_.Export();
  if (out.frame.left > 0) {
    out.data_seen = data_seen_;
    out.discard_data = discard_data_;
  }
  out.recently_reset = recently_reset_;
  out.recently_reset_next = recently_reset_next_;
  out.next_writer = next_writer_;
  out.paid_updates = paid_updates_;
  out.growth_left = growth_left_;
  out.shed = shed_;
  out.rtt_ns = Count(rtt_);
  out.rtt_ping = rtt_ping_;
  out.rtt_waiting = rtt_waiting_;
  if (rtt_waiting_) out.rtt_waited_ns = Count(event::Clock::now() - rtt_asked_);
  out.ping_sent = ping_sent_;
  out.ping_waiting = ping_deadline_.armed();
  out.drain_ping = drain_ping_;
  out.resets_left = Thousandths(resets_.left());
  out.busywork_left = Thousandths(busywork_.left());
  out.close_message = reason_.message;
  const auto waiting = out_.front();
  out.unsent.assign(waiting.begin(), waiting.end());
  for (auto& [id, stream] : streams_.TakeAll()) {
    const auto input = stream->kept ? stream->kept->bytes.front() : std::span<const uint8_t>();
    out.streams.push_back({stream->state,
                           stream->end,
                           stream->write_broken,
                           stream->discard(),
                           stream->error(),
                           {input.begin(), input.end()},
                           stream->moved});
    // What is still held of it reads a reset, and tells nobody.
    stream->core = nullptr;
    stream->queued = false;
    stream->retired = true;
    stream->write_broken = true;
    stream->end = net::IoResult::Kind::kReset;
    stream->events = nullptr;
    stream->reading = stream->writing = false;
    stream->DropInput();
  }
  phase_ = Phase::kOver;
  stopped_ = true;
  active_ = 0;
  unread_ = 0;
  out_.Clear();
  out_charge_.Set(0);
  ready_.clear();
  wake_.Stop();
  flush_.Stop();
  lingering_ = nullptr;
  ping_.Stop();
  ping_deadline_.Stop();
  if (headers_deadline_) headers_deadline_->Stop();
  callbacks_ = std::make_shared<Callbacks>();
  transport_->SetEvents(nullptr);
  transport_->ReadEnable(false);
  transport = std::move(transport_);
  return out;
}

Core::Core(Side side, net::TransportPtr transport, const SessionOptions& options,
           Callbacks callbacks, SavedSession saved, std::vector<net::TransportPtr>& handles)
    : Core(Bare(), side, std::move(transport), Announced(saved, options), std::move(callbacks)) {
  state_ = saved.state;
  preface_have_ = kPreface.size();
  encoder_ = HpackEncoder(saved.encoder_started);
  decoder_.Import(saved.table);  // checked where it was decoded
  recently_reset_ = std::move(saved.recently_reset);
  recently_reset_next_ = static_cast<size_t>(saved.recently_reset_next);
  next_writer_ = saved.next_writer;
  paid_updates_ = saved.paid_updates;
  growth_left_ = static_cast<size_t>(saved.growth_left);
  shed_ = saved.shed;
  rtt_ = std::chrono::nanoseconds(saved.rtt_ns);
  rtt_ping_ = saved.rtt_ping;
  rtt_waiting_ = saved.rtt_waiting;
  rtt_asked_ = event::Clock::now() - std::chrono::nanoseconds(saved.rtt_waited_ns);
  ping_sent_ = saved.ping_sent;
  drain_ping_ = saved.drain_ping;
  resets_.SetLeft(static_cast<double>(saved.resets_left) / 1000);
  busywork_.SetLeft(static_cast<double>(saved.busywork_left) / 1000);
  reason_.message = std::move(saved.close_message);
  out_.Append(saved.unsent.data(), saved.unsent.size());
  data_seen_ = saved.data_seen;
  discard_data_ = saved.discard_data;
  for (SavedStream& from : saved.streams) {
    auto stream = std::make_shared<Stream>();
    stream->core = this;
    stream->state = from.state;
    stream->end = from.end;
    stream->write_broken = from.write_broken;
    if (from.discard) stream->MakeEnding().discard = static_cast<size_t>(*from.discard);
    if (!from.error.empty()) stream->SetError(std::move(from.error));
    stream->Keep(from.input, loop_.memory());
    stream->unread = from.input.size();
    stream->moved = from.moved;
    stream->retired = from.state.local_ended && from.state.remote_ended;
    unread_ += stream->unread;
    if (!stream->retired) ++active_;
    streams_.Insert(from.state.id, stream);
    handles.push_back(MakeHandle(stream));
  }
  if (options_.ping_interval.count() > 0) ping_.Start(options_.ping_interval);
  if (saved.ping_waiting) ping_deadline_.Start(options_.ping_timeout);
  transport_->SetEvents(this);
  transport_->ReadEnable(true);
  // Half a frame: nothing comes of it yet but the checks of its beginning.
  const std::vector<uint8_t> begun = reader_.Import(std::move(saved.frame));
  const H2Error error = reader_.Consume(begun, *this, stopped_);
  if (error != H2Error::kNoError) {
    Fail(error, why_.empty() ? std::string("malformed frame") : std::exchange(why_, {}));
  }
  WatchHeaders();
  change_pending_ = true;
  WakeSoon();
  if (!out_.empty()) FlushSoon();
}

}  // namespace qanat::hbone
