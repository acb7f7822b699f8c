// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/user_connection.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>

#include "common/route/on_demand.h"
#include "ztunnel/memory/budget.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

}  // namespace

UserConnection::UserConnection(Worker& worker, PodPtr pod, Fd fd, Reporter reporter,
                               net::SocketAddress peer)
    : Connection(worker, std::move(pod)), fd_(std::move(fd)), load_(pod_->load) {
  load_->connections.fetch_add(1, std::memory_order_relaxed);
  flow_.reporter = reporter;
  flow_.source = peer;
  worker_.open_sockets(reporter).Add();
}

UserConnection::~UserConnection() {
  ForgetStream();
  load_->connections.fetch_sub(1, std::memory_order_relaxed);
  worker_.open_sockets(flow_.reporter).Sub();
}

bool UserConnection::Admit() {
  const uint32_t most = worker_.environment().config.max_pod_connections;
  if (load_->connections.load(std::memory_order_relaxed) > most) {
    Refuse(Reason::kResourceExhausted,
           fmt::format("the pod has {} connections (QANAT_MAX_CONNECTIONS_PER_POD)", most));
    return false;
  }
  std::string full = MemoryFull(worker_.loop().memory(), load_->memory);
  if (full.empty()) return true;
  Refuse(Reason::kMemoryExhausted, std::move(full));
  return false;
}

void UserConnection::TryIdentify() {
  route::Identified found = worker_.Identify(*pod_);
  if (found.reason == Reason::kNone) {
    beginning_->decided = event::Clock::now();
    Decide(found.workload);
    if (beginning_ && state_ != State::kIdentifying) beginning_->unidentified.reset();
    return;
  }
  if (worker_.environment().want_names && found.reason == Reason::kSourceUnknown) {
    std::vector<std::string> names;
    for (const auto& ip : pod_->addresses) {
      names.push_back(route::NameOf(worker_.environment().mesh.network, ip));
    }
    worker_.environment().want_names(std::move(names));
  }
  if (found.reason == Reason::kAddressMismatch) {
    worker_.environment().reread_addresses(pod_->uid);
  } else if (flow_.reporter == Reporter::kDestination) {
    found.reason = Reason::kDestinationUnknown;
  }
  WaitForMore(std::move(found));
}

bool UserConnection::AwaitNames(std::vector<std::string> names, event::Duration most) {
  if (names.empty() || !worker_.environment().want_names) return false;
  WaitForMore({Reason::kDestinationUnknown,
               fmt::format("the control plane has not said who {} is", names.front()), nullptr},
              most);
  worker_.environment().want_names(std::move(names));
  return true;
}

void UserConnection::WaitForMore(route::Identified why, event::Duration most) {
  if (beginning_->unidentified == nullptr) {
    beginning_->unidentified = std::make_unique<Unidentified>(worker_.loop(), [this] {
      Refuse(beginning_->unidentified->why.reason, beginning_->unidentified->why.detail);
    });
    beginning_->unidentified->timer.Start(most);
  }
  beginning_->unidentified->why = std::move(why);
}

void UserConnection::BeginConnect(const net::ConnectOptions& options, bool near,
                                  net::Connector::Done done) {
  Result<Fd> started = worker_.spare_sockets().StartConnect(options);
  if (near && started && net::IsConnected(started->get())) return done(std::move(started));
  beginning_->connector = std::make_unique<net::Connector>(worker_.loop(), options,
                                                           std::move(started), std::move(done));
}

const Series& UserConnection::MakeRelay(net::TransportPtr client, net::TransportPtr other) {
  state_ = State::kRelaying;
  beginning_.reset();
  OnRelaying();
  for (const net::Transport* side : {client.get(), other.get()}) {
    if (side->splice_fd() >= 0) continue;
    stream_ = side;
    worker_.mover().tunnels().OnStream(stream_, this);
  }
  const Series& series = worker_.series().For(flow_, Reason::kNone);
  Relay::Owner& owner = *this;
  relay_ = std::make_unique<Relay>(worker_.relay_shared(), std::move(client), std::move(other),
                                   Relay::Counters{series.received, series.sent}, owner);
  relay_->ChargeTo(&load_->memory);
  return series;
}

void UserConnection::StartRelay(net::TransportPtr client, net::TransportPtr other,
                                RelayEarly early) {
  const Beginning beginning = std::move(*beginning_);
  MakeRelay(std::move(client), std::move(other)).opened->Add();
  SetupTimes& setup = worker_.setup_times(flow_.reporter);
  setup.Observe(SetupPhase::kQueue, beginning.decided - started_);
  setup.Observe(SetupPhase::kConnect,
                event::Clock::now() - beginning.decided - beginning.spent_elsewhere);
  worker_.LogOpened(flow_);
  relay_->Start(std::move(early));
}

void UserConnection::SpentOn(SetupPhase phase, event::Duration time) {
  worker_.setup_times(flow_.reporter).Observe(phase, time);
  beginning_->spent_elsewhere += time;
}

void UserConnection::LookAtIdleness(event::TimePoint now) {
  const auto limit = worker_.environment().config.half_closed_timeout;
  if (relay_ == nullptr || state_ == State::kOver || limit.count() == 0) return;
  const uint64_t bytes = relay_->bytes_up() + relay_->bytes_down();
  if (!relay_->half_closed()) return;
  if (silent_since_ == event::TimePoint{} || silent_at_ != bytes) {
    silent_since_ = now;
    silent_at_ = bytes;
  } else if (now - silent_since_ >= limit) {
    Close(Reason::kTimeout, "half closed, and silent for too long (QANAT_HALF_CLOSED_TIMEOUT)");
  }
}

void UserConnection::ResetClient() {
  const linger reset{1, 0};
  if (fd_) setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

void UserConnection::Close(Reason reason, const std::string& detail) {
  if (state_ == State::kOver) return;
  if (state_ == State::kFrozen) {
    close_later_ = std::make_unique<std::pair<Reason, std::string>>(reason, detail);
    return;
  }
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
  end.early = !opened && IsEarly(reason);
  end.duration =
      std::chrono::duration_cast<std::chrono::milliseconds>(event::Clock::now() - started_);
  if (relay_) {
    end.bytes_up = relay_->bytes_up();
    end.bytes_down = relay_->bytes_down();
  }
  worker_.LogFlow(flow_, end);
  beginning_.reset();
  fd_.Reset();
  ForgetStream();
  OnEnd(end);
  worker_.Release(this);
}

std::optional<ConnectionInfo> UserConnection::Describe() const {
  if (relay_ == nullptr || state_ == State::kOver) return std::nullopt;
  return ConnectionInfo{
      pod_->uid, flow_, PathName(), relay_->bytes_up(), relay_->bytes_down(), flow_.destination};
}

}  // namespace qanat::ztunnel
