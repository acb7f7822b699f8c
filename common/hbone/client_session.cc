// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/client_session.h"

#include "common/hbone/core.h"

namespace qanat::hbone {

ClientSession::ClientSession(net::TransportPtr transport, const SessionOptions& options,
                             Events events)
    : core_(std::make_unique<Core>(
          Core::Side::kClient, std::move(transport), options,
          Core::Callbacks{std::move(events.on_change), nullptr, std::move(events.on_closed)})) {}

ClientSession::ClientSession(net::TransportPtr transport, const SessionOptions& options,
                             Events events, SavedSession saved,
                             std::vector<net::TransportPtr>& streams)
    : core_(std::make_unique<Core>(
          Core::Side::kClient, std::move(transport), options,
          Core::Callbacks{std::move(events.on_change), nullptr, std::move(events.on_closed)},
          std::move(saved), streams)) {}

const net::Transport* ClientSession::transport() const { return core_->transport(); }
std::optional<std::vector<const net::Transport*>> ClientSession::Freezable() const {
  return core_->Freezable();
}
SavedSession ClientSession::Export(net::TransportPtr& transport) {
  return core_->Export(transport);
}
std::shared_ptr<const tls::VerifiedPeer> ClientSession::verified_peer() const {
  return core_->verified_peer();
}

ClientSession::~ClientSession() {
  core_->Abandon();
  event::EventLoop& loop = core_->loop();
  loop.DeferDelete(std::move(core_));
}

std::unique_ptr<PendingConnect> ClientSession::Connect(const ConnectRequest& request,
                                                       OnResponse done) {
  return core_->Connect(request, std::move(done));
}

bool ClientSession::CanOpen() const { return core_->CanOpen(); }
size_t ClientSession::streams() const { return core_->active(); }
uint32_t ClientSession::peer_max_streams() const { return core_->peer_max_streams(); }
bool ClientSession::settings_seen() const { return core_->settings_seen(); }
bool ClientSession::peer_takes_source() const { return core_->peer_takes_source(); }
event::TimePoint ClientSession::made() const { return core_->made(); }
uint64_t ClientSession::bulk() const { return core_->bulk(); }
SessionStats ClientSession::stats() const { return core_->stats(); }
bool ClientSession::closed() const { return core_->closed(); }
void ClientSession::Drain() { core_->Drain(); }
void ClientSession::Close(std::string_view why) { core_->CloseNow(why); }
net::SocketAddress ClientSession::local_address() const { return core_->local_address(); }
net::SocketAddress ClientSession::peer_address() const { return core_->peer_address(); }

}  // namespace qanat::hbone
