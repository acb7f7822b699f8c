// SPDX-License-Identifier: Apache-2.0
// A user's connection stands still, goes on, or is another process's.
#include <fcntl.h>

#include <array>

#include "ztunnel/proxy/user_connection.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/takeover/sockets.h"

namespace qanat::ztunnel {

SavedConnection UserConnection::Save() const {
  SavedConnection saved;
  saved.pod_uid = pod_->uid;
  saved.netns_cookie = pod_->netns_cookie;
  saved.age = std::chrono::duration_cast<std::chrono::milliseconds>(event::Clock::now() - started_);
  saved.flow = SaveFlow(flow_);
  SaveMore(saved);
  return saved;
}

std::optional<takeover::Parcel> UserConnection::Freeze() {
  if (!CanFreeze()) return std::nullopt;
  frozen_ = std::make_unique<RelayState>(relay_->Freeze());
  relay_.reset();
  state_ = State::kFrozen;
  std::array<Fd, 2> copies;
  size_t made = 0;
  for (const Fd* fd : {&frozen_->downstream, &frozen_->upstream}) {
    ResetWhenClosed(fd->get(), true);
    copies[made].Reset(fcntl(fd->get(), F_DUPFD_CLOEXEC, 0));
    if (!copies[made++]) {
      Thaw();
      return std::nullopt;
    }
  }
  return EncodeConnection(Save(), frozen_->up, frozen_->down, std::move(copies[0]),
                          std::move(copies[1]));
}

void UserConnection::Thaw() {
  if (state_ != State::kFrozen || frozen_ == nullptr) return;
  const std::unique_ptr<RelayState> state = std::move(frozen_);
  Run(std::move(*state));
  CloseNowIfAsked();
}

void UserConnection::CloseNowIfAsked() {
  const auto close = std::move(close_later_);
  if (close) Close(close->first, close->second);
}

bool UserConnection::Forget() {
  if (state_ != State::kFrozen) return false;
  state_ = State::kOver;
  frozen_.reset();
  worker_.Release(this);
  return true;
}

void UserConnection::Restore(const SavedConnection& saved) {
  started_ = event::Clock::now() - saved.age;
  RestoreFlow(saved.flow, worker_.snapshot(), flow_);
  RestoreMore(saved);
}

void UserConnection::Run(RelayState state) {
  for (const Fd* fd : {&state.downstream, &state.upstream}) ResetWhenClosed(fd->get(), false);
  MakeRelay(net::MakeSocketTransport(worker_.loop(), std::move(state.downstream)),
            net::MakeSocketTransport(worker_.loop(), std::move(state.upstream)));
  relay_->Resume(std::move(state.up), std::move(state.down));
}

// ---- of a tunnel

SavedTunnel::Stream UserConnection::FreezeStream() {
  RelayState relay = relay_->Freeze();
  ForgetStream();
  relay_.reset();  // and the stream's handle, of which its session knows nothing any more
  state_ = State::kFrozen;
  Fd& socket = relay.downstream ? relay.downstream : relay.upstream;
  ResetWhenClosed(socket.get(), true);
  return {Save(), std::move(relay.up), std::move(relay.down), std::move(socket)};
}

void UserConnection::RunStream(SavedTunnel::Stream state, net::TransportPtr stream,
                               tls::VerifiedPeerPtr proven) {
  ResetWhenClosed(state.socket.get(), false);
  flow_.tunnelled = true;
  SetProven(std::move(proven));
  net::TransportPtr socket = net::MakeSocketTransport(worker_.loop(), std::move(state.socket));
  if (flow_.reporter == Reporter::kDestination) std::swap(socket, stream);
  MakeRelay(std::move(socket), std::move(stream));
  relay_->Resume(std::move(state.up), std::move(state.down));
  CloseNowIfAsked();
}

void UserConnection::LoseStream() { End(model::Reason::kReset, "its tunnel is lost", true); }

void UserConnection::ForgetStream() {
  if (stream_ != nullptr) worker_.mover().tunnels().OnStreamGone(stream_);
  stream_ = nullptr;
}

}  // namespace qanat::ztunnel
