// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/user_connection.h"

#include <sys/socket.h>

#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

constexpr auto kIdentifyTimeout = std::chrono::seconds(5);  // as stock ztunnel

}  // namespace

UserConnection::UserConnection(Worker& worker, PodPtr pod, Fd fd, Reporter reporter,
                               net::SocketAddress peer)
    : Connection(worker, std::move(pod)), fd_(std::move(fd)) {
  flow_.reporter = reporter;
  flow_.source = peer;
  worker_.open_sockets(reporter).Add();
}

UserConnection::~UserConnection() { worker_.open_sockets(flow_.reporter).Sub(); }

void UserConnection::TryIdentify() {
  Identified found = worker_.Identify(*pod_);
  if (found.reason == Reason::kNone) {
    timer_.reset();
    return Decide(found.workload);
  }
  if (found.reason == Reason::kAddressMismatch) {
    worker_.environment().reread_addresses(pod_->uid);
  } else if (flow_.reporter == Reporter::kDestination) {
    found.reason = Reason::kDestinationUnknown;
  }
  last_failure_ = std::move(found);
  if (timer_ != nullptr) return;
  timer_ = std::make_unique<event::Timer>(
      worker_.loop(), [this] { Refuse(last_failure_.reason, last_failure_.detail); });
  timer_->Start(kIdentifyTimeout);
}

void UserConnection::StartRelay(net::TransportPtr client, net::TransportPtr other) {
  state_ = State::kRelaying;
  const Series& series = worker_.series().For(flow_, Reason::kNone);
  series.opened->Add();
  relay_ = std::make_unique<Relay>(
      worker_.relay_shared(), std::move(client), std::move(other),
      Relay::Counters{series.received, series.sent},
      [this](const Relay::Result& result) { End(result.reason, result.error, true); });
  relay_->Start();
}

void UserConnection::ResetClient() {
  const linger reset{1, 0};
  if (fd_) setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

void UserConnection::Close(Reason reason, const std::string& detail) {
  if (state_ == State::kOver) return;
  if (relay_ == nullptr) return Refuse(reason, detail);
  relay_->Abort();
  End(reason, detail.empty() ? std::string(Explanation(reason)) : detail, true);
}

void UserConnection::End(Reason reason, std::string error, bool opened) {
  if (state_ == State::kOver) return;
  state_ = State::kOver;
  FlowEnd end;
  end.reason = reason;
  end.error = std::move(error);
  end.opened = opened;
  end.duration =
      std::chrono::duration_cast<std::chrono::milliseconds>(event::Clock::now() - started_);
  if (relay_) {
    end.bytes_up = relay_->bytes_up();
    end.bytes_down = relay_->bytes_down();
  }
  worker_.LogFlow(flow_, end);
  timer_.reset();
  connector_.reset();
  fd_.Reset();
  OnEnd(end);
  worker_.Release(this);
}

std::optional<ConnectionInfo> UserConnection::Describe() const {
  if (relay_ == nullptr || state_ == State::kOver) return std::nullopt;
  return ConnectionInfo{pod_->uid, flow_, PathName(), relay_->bytes_up(), relay_->bytes_down()};
}

}  // namespace qanat::ztunnel
