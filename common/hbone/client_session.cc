// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/client_session.h"

#include "common/hbone/core.h"

namespace qanat::hbone {

ClientSession::ClientSession(net::TransportPtr transport, const SessionOptions& options,
                             Events events)
    : core_(std::make_unique<Core>(
          Core::Side::kClient, std::move(transport), options,
          Core::Callbacks{std::move(events.on_change), nullptr, std::move(events.on_closed)})) {}

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
bool ClientSession::closed() const { return core_->closed(); }
void ClientSession::Drain() { core_->Drain(); }
void ClientSession::Close(std::string_view why) { core_->CloseNow(why); }
net::SocketAddress ClientSession::local_address() const { return core_->local_address(); }
net::SocketAddress ClientSession::peer_address() const { return core_->peer_address(); }

}  // namespace qanat::hbone
