// SPDX-License-Identifier: Apache-2.0
// Streams of a session: opened, answered, reset, retired; credit given back.
#include <algorithm>
#include <utility>

#include "common/hbone/core.h"

namespace qanat::hbone {

using net::IoResult;

namespace {

constexpr size_t kRememberedResets = 64;

}  // namespace

// For what may end the stream under way.
std::shared_ptr<Stream> Core::Hold(uint32_t id) const {
  Stream* stream = streams_.Find(id);
  return stream != nullptr ? stream->shared_from_this() : nullptr;
}

std::shared_ptr<Stream> Core::NewStream(uint32_t id) {
  auto stream = std::make_shared<Stream>();
  stream->core = this;
  stream->state.id = id;
  stream->state.send_window = state_.peer.initial_window;
  stream->state.recv_window = stream->state.window = state_.first_window;
  streams_.Insert(id, stream);
  ++active_;
  return stream;
}

net::TransportPtr Core::MakeHandle(const std::shared_ptr<Stream>& stream) {
  return std::make_unique<StreamTransport>(stream, loop_, ends_);
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
    if (!stream_->unanswered) return;
    stream_->unanswered = nullptr;
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
    stream->unanswered =
        std::make_unique<Stream::Unanswered>(Stream::Unanswered{std::move(done), nullptr});
    bool retry_safe = error.code == Code::kUnavailable;
    failing_.push_back({stream, {std::move(error), retry_safe}});
    WakeSoon();
    return std::make_unique<Pending>(std::move(stream));
  }
  stream = NewStream(state_.next_stream);
  state_.next_stream += 2;
  stream->unanswered =
      std::make_unique<Stream::Unanswered>(Stream::Unanswered{std::move(done), nullptr});
  PutHeaders(out_, stream->state.id, encoder_.Encode(headers), false, state_.peer.max_frame_size);
  stream->unanswered->early = PutEarly(*stream, request);
  FlushSoon();
  return std::make_unique<Pending>(std::move(stream));
}

net::TransportPtr Core::Accept(const std::shared_ptr<Stream>& stream, const Headers& headers) {
  Headers all = {{":status", "200"}};
  all.insert(all.end(), headers.begin(), headers.end());
  stream->state.answered = true;
  PutHeaders(out_, stream->state.id, encoder_.Encode(all), false, state_.peer.max_frame_size);
  patient_answers_.push_back(stream->state.id);
  FlushPatiently();
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
  FlushPatiently();
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
  if (stream.handle == nullptr) Forget(stream);
}

void Core::Forget(Stream& stream) {
  growth_left_ += stream.state.window - state_.first_window;
  stream.state.window = state_.first_window;
  streams_.Erase(stream.state.id);
}

void Core::HandleGone(Stream& stream) {
  std::shared_ptr<Stream> keep = stream.shared_from_this();
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
  const auto asked = std::move(stream.unanswered);
  if (!asked) return;
  if (asked->on_response) {
    asked->on_response(tl::unexpected(ClientSession::ConnectFailure{std::move(error), retry_safe}));
  }
  if (asked->on_gone) asked->on_gone();
}

}  // namespace qanat::hbone
