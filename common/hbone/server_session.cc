// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/server_session.h"

#include "common/hbone/core.h"

namespace qanat::hbone {

Responder::Responder(Responder&&) noexcept = default;

Responder& Responder::operator=(Responder&& other) noexcept {
  if (this != &other) {
    if (pending()) Reject(503);
    stream_ = std::move(other.stream_);
  }
  return *this;
}

Responder::~Responder() {
  if (pending()) Reject(503);
}

net::TransportPtr Responder::Accept(const Headers& headers) {
  std::shared_ptr<Stream> stream = std::move(stream_);
  if (!stream) return nullptr;
  stream->unanswered = nullptr;
  if (stream->core == nullptr || stream->retired) return nullptr;
  return stream->core->Accept(stream, headers);
}

void Responder::Reject(int status, const Headers& headers) {
  std::shared_ptr<Stream> stream = std::move(stream_);
  if (!stream) return;
  stream->unanswered = nullptr;
  if (stream->core == nullptr || stream->retired) return;
  stream->core->Reject(stream, status, headers);
}

void Responder::OnGone(std::function<void()> gone) {
  if (stream_ && stream_->core != nullptr && !stream_->retired) {
    stream_->unanswered =
        std::make_unique<Stream::Unanswered>(Stream::Unanswered{nullptr, std::move(gone)});
  }
}

ServerSession::ServerSession(net::TransportPtr transport, const SessionOptions& options,
                             Events events)
    : core_(std::make_unique<Core>(
          Core::Side::kServer, std::move(transport), options,
          Core::Callbacks{nullptr, std::move(events.on_connect), std::move(events.on_closed)})) {}

ServerSession::ServerSession(net::TransportPtr transport, const SessionOptions& options,
                             Events events, SavedSession saved,
                             std::vector<net::TransportPtr>& streams)
    : core_(std::make_unique<Core>(
          Core::Side::kServer, std::move(transport), options,
          Core::Callbacks{nullptr, std::move(events.on_connect), std::move(events.on_closed)},
          std::move(saved), streams)) {}

std::optional<std::vector<const net::Transport*>> ServerSession::Freezable() const {
  return core_->Freezable();
}
SavedSession ServerSession::Export(net::TransportPtr& transport) {
  return core_->Export(transport);
}
std::shared_ptr<const tls::VerifiedPeer> ServerSession::verified_peer() const {
  return core_->verified_peer();
}

ServerSession::~ServerSession() {
  core_->Abandon();
  event::EventLoop& loop = core_->loop();
  loop.DeferDelete(std::move(core_));
}

void ServerSession::Drain() { core_->Drain(); }
void ServerSession::Close(std::string_view why) { core_->CloseNow(why); }
size_t ServerSession::streams() const { return core_->active(); }
SessionStats ServerSession::stats() const { return core_->stats(); }
size_t ServerSession::held() const { return core_->held(); }
net::SocketAddress ServerSession::local_address() const { return core_->local_address(); }
net::SocketAddress ServerSession::peer_address() const { return core_->peer_address(); }

}  // namespace qanat::hbone
