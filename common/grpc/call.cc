// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "common/grpc/channel_impl.h"

namespace qanat::grpc {
namespace {

constexpr size_t kPrefixSize = 5;  // compressed flag, length (big endian)

void Frame(std::string_view message, std::string& out) {
  const auto n = static_cast<uint32_t>(message.size());
  const char prefix[kPrefixSize] = {0, static_cast<char>(n >> 24), static_cast<char>(n >> 16),
                                    static_cast<char>(n >> 8), static_cast<char>(n)};
  out.append(prefix, kPrefixSize).append(message);
}

// gRPC over HTTP/2: what an RST_STREAM means.
CallStatus StatusOfReset(http::CloseReason reason, std::string_view detail) {
  CallStatus status{StatusCode::kInternal, "the stream was reset: " + std::string(detail), false};
  switch (reason) {
    case http::CloseReason::kDone:
      return {StatusCode::kUnknown, "the server ended the stream without a status", false};
    case http::CloseReason::kConnectionLost:
      return {StatusCode::kUnavailable, "connection lost: " + std::string(detail), true};
    case http::CloseReason::kRefused: status.code = StatusCode::kUnavailable; break;
    case http::CloseReason::kTooLarge: status.code = StatusCode::kResourceExhausted; break;
    case http::CloseReason::kProtocolError: break;
    case http::CloseReason::kPeerReset:
      if (detail == "CANCEL") status.code = StatusCode::kCancelled;
      if (detail == "ENHANCE_YOUR_CALM") status.code = StatusCode::kResourceExhausted;
      if (detail == "INADEQUATE_SECURITY") status.code = StatusCode::kPermissionDenied;
      break;
  }
  return status;
}

}  // namespace

CallImpl::CallImpl(std::shared_ptr<Channel::Impl> channel, CallOptions options, CallEvents* events)
    : channel_(std::move(channel)),
      options_(std::move(options)),
      events_(events),
      deadline_(channel_->loop_, [this] {
        Close({StatusCode::kDeadlineExceeded,
               "no answer within " + std::to_string(options_.deadline.count()) + " ms", false});
      }) {
  if (options_.deadline.count() > 0) deadline_.Start(options_.deadline);
  channel_->Add(this);
}

CallImpl::~CallImpl() {
  if (waiting_) channel_->Remove(this);
  if (stream_ != nullptr) stream_->Reset(http::ResetCode::kCancel);
}

void CallImpl::Send(std::string_view message) {
  if (closed_ || half_closed_) return;
  std::string framed;
  framed.reserve(message.size() + kPrefixSize);
  Frame(message, framed);
  if (stream_ != nullptr) {
    stream_->SendData(framed, false);
  } else {
    pending_ += framed;
  }
}

void CallImpl::HalfClose() {
  if (closed_ || half_closed_) return;
  half_closed_ = true;
  if (stream_ != nullptr) stream_->SendData({}, true);
}

void CallImpl::PauseReading(bool pause) {
  paused_ = pause;
  if (stream_ != nullptr) stream_->PauseReading(pause);
}

size_t CallImpl::buffered() const {
  return stream_ != nullptr ? stream_->buffered() : pending_.size();
}

bool CallImpl::Attach(http::ClientConnection& connection) {
  http::RequestHead head;
  head.method = "POST";
  head.scheme = channel_->endpoint_->tls ? "https" : "http";
  head.authority = channel_->endpoint_->authority;
  head.path = options_.method;
  head.headers.Add("te", "trailers");
  head.headers.Add("content-type", "application/grpc");
  const std::string& agent = channel_->options_.user_agent;
  head.headers.Add("user-agent", agent.empty() ? "qanat/" QANAT_VERSION : agent);
  if (options_.deadline.count() > 0) {
    head.headers.Add("grpc-timeout", FormatTimeout(options_.deadline));
  }
  if (channel_->options_.metadata) {
    auto metadata = channel_->options_.metadata();
    if (!metadata) {
      waiting_ = false;
      Close({StatusCode::kUnauthenticated, metadata.error().message, false});
      return true;
    }
    for (const auto& [name, value] : *metadata) head.headers.Add(name, value);
  }
  for (const auto& [name, value] : options_.metadata) head.headers.Add(name, value);
  stream_ = connection.Open(head, false, this);
  if (stream_ == nullptr && !connection.CanOpen()) return false;
  waiting_ = false;
  if (stream_ == nullptr) {
    Close({StatusCode::kInternal, "malformed method name " + options_.method, false});
    return true;
  }
  if (paused_) stream_->PauseReading(true);
  if (!pending_.empty() || half_closed_) stream_->SendData(pending_, half_closed_);
  pending_ = {};
  return true;
}

void CallImpl::Close(const CallStatus& status) {
  if (closed_) return;
  closed_ = true;
  deadline_.Stop();
  if (std::exchange(waiting_, false)) channel_->Remove(this);
  if (http::Stream* stream = std::exchange(stream_, nullptr)) {
    stream->Reset(http::ResetCode::kCancel);
  }
  events_->OnClosed(status);  // may destroy this
}

void CallImpl::OnResponse(http::ResponseHead head, bool end) {
  const std::string_view type = head.headers.Get("content-type").value_or("");
  if (head.status != 200 || !type.starts_with("application/grpc")) {
    if (head.status == 200 && head.headers.Has("grpc-status")) return Finish(head.headers);
    return Close({CodeOfHttpStatus(head.status),
                  "not a gRPC answer: HTTP status " + std::to_string(head.status) +
                      ", content-type \"" + std::string(type) + "\"",
                  false});
  }
  if (end) return Finish(head.headers);  // trailers only
  events_->OnInitialMetadata(head.headers);
}

bool CallImpl::ReadPrefix(std::string_view& data) {
  const size_t n = std::min(kPrefixSize - prefix_.size(), data.size());
  prefix_.append(data.substr(0, n));
  data.remove_prefix(n);
  if (prefix_.size() < kPrefixSize) return false;
  left_ = 0;
  for (size_t i = 1; i < kPrefixSize; ++i) left_ = left_ << 8 | static_cast<uint8_t>(prefix_[i]);
  const bool compressed = prefix_[0] != 0;
  prefix_.clear();
  if (compressed) {
    Close({StatusCode::kInternal, "a compressed message although none was offered", false});
    return false;
  }
  if (left_ > channel_->options_.max_message_bytes) {
    Close({StatusCode::kResourceExhausted,
           "a message of " + std::to_string(left_) + " bytes is over the limit of " +
               std::to_string(channel_->options_.max_message_bytes),
           false});
    return false;
  }
  reading_ = Reading::kMessage;
  return true;
}

void CallImpl::OnData(std::string_view data, bool end) {
  const std::weak_ptr<bool> alive = alive_;
  // The user may destroy the call in any callback, and Close() is the last thing we do.
  while (!data.empty() || (reading_ == Reading::kMessage && left_ == 0)) {
    if (reading_ == Reading::kPrefix) {
      if (!ReadPrefix(data)) {
        if (alive.expired() || closed_) return;
        break;
      }
      events_->OnMessageBegin(left_);
      if (alive.expired() || closed_) return;
    }
    const size_t n = std::min(left_, data.size());
    if (n > 0) {
      left_ -= n;
      events_->OnMessageData(data.substr(0, n));
      if (alive.expired() || closed_) return;
      data.remove_prefix(n);
    }
    if (left_ > 0) break;
    reading_ = Reading::kPrefix;
    events_->OnMessageEnd();
    if (alive.expired() || closed_) return;
  }
  if (end) Close({StatusCode::kUnknown, "the server ended the stream without a status", false});
}

void CallImpl::OnTrailers(http::HeaderList trailers) { Finish(trailers); }

void CallImpl::Finish(const http::HeaderList& trailers) {
  CallStatus status;
  const auto code = trailers.Get("grpc-status");
  status.code = code ? ParseStatusCode(*code) : StatusCode::kUnknown;
  status.message = code ? DecodeStatusMessage(trailers.Get("grpc-message").value_or(""))
                        : "the server gave no grpc-status";
  if (status.ok() && (reading_ != Reading::kPrefix || !prefix_.empty())) {
    status = {StatusCode::kInternal, "the stream ended in the middle of a message", false};
  }
  Close(status);
}

void CallImpl::OnWritable() { events_->OnWritable(); }

void CallImpl::OnClosed(http::CloseReason reason, std::string_view detail) {
  stream_ = nullptr;  // dead: nothing to reset
  Close(StatusOfReset(reason, detail));
}

}  // namespace qanat::grpc
