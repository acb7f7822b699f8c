// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/inbound_connection.h"

#include <fmt/format.h>

#include <cerrno>

#include "common/base/log.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/route/inbound.h"
#include "ztunnel/route/outbound.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

// Each attempt draws one of about 14,000 ports at random and may meet one that the same client's
// other connections to the same port have: with 4 attempts one in sixty failed at 5,000
// connections; 64 serve 12,000.
constexpr int kSpoofAttempts = 64;

}  // namespace

InboundConnection::InboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                                     net::SocketAddress target)
    : UserConnection(worker, std::move(pod), std::move(fd), Reporter::kDestination, peer) {
  flow_.destination = flow_.target = target;
}

InboundConnection::InboundConnection(Worker& worker, PodPtr pod, net::SocketAddress peer,
                                     net::SocketAddress tunnel, model::Identity peer_identity,
                                     hbone::InboundConnect request, hbone::Responder responder)
    : UserConnection(worker, std::move(pod), Fd(), Reporter::kDestination, peer),
      request_(std::move(request)),
      responder_(std::move(responder)) {
  flow_.destination = tunnel;
  flow_.tunnelled = true;
  flow_.mutual_tls = true;
  flow_.source_identity = std::move(peer_identity);
}

void InboundConnection::Start() {
  if (!plaintext()) {
    responder_.OnGone([this] { End(Reason::kReset, "the client gave up", false); });
  } else if (IsProxyPort(flow_.target.port())) {
    return RefuseWith(503, Reason::kSelfCall,
                      fmt::format("{} is a port of the proxy", flow_.target.ToString()));
  }
  TryIdentify();
}

void InboundConnection::Decide(const model::WorkloadPtr& local) {
  flow_.destination_workload = local;
  // For labels and the log only: an address proves nothing.
  flow_.source_workload = worker_.snapshot().WorkloadByAddress(local->network, flow_.source.ip());
  if (!plaintext()) {
    flow_.destination_identity = local->identity();
    InboundTarget target = DecideInbound(worker_.snapshot(), *local, flow_.destination,
                                         request_.authority, request_.forwarded());
    flow_.target = target.target;
    flow_.service = target.service;
    if (target.reason != Reason::kNone) {
      return RefuseWith(target.status, target.reason, std::move(target.detail));
    }
  }
  const policy::Decision decision = Check(*local);
  if (!decision.dry_run.empty()) {
    LOG_INFO("access", "dry run: policy {} would refuse {} to {}", decision.dry_run,
             flow_.source.ToString(), flow_.target.ToString());
  }
  if (!decision.allowed) {
    return RefuseWith(401, decision.reason,
                      fmt::format("{} {}", Explanation(decision.reason), decision.policy));
  }
  state_ = State::kConnecting;
  Connect(worker_.environment().config.orig_src.value_or(true));
}

policy::Decision InboundConnection::Check(const model::Workload& local) const {
  return worker_.CheckPolicy(
      local, {flow_.source_identity, flow_.source.ip(), flow_.target.ip(), flow_.target.port()});
}

void InboundConnection::OnSnapshot() {
  if (state_ == State::kOver) return;
  if (state_ == State::kIdentifying) return TryIdentify();
  const Identified found = worker_.Identify(*pod_);
  // Not announced any more is no reason by itself: the pod's end comes from the node agent.
  if (found.reason == Reason::kSourceUnknown) return;
  if (found.reason != Reason::kNone) return Close(Reason::kIdentityChanged, found.detail);
  const policy::Decision decision = Check(*found.workload);
  if (!decision.allowed) {
    Close(decision.reason, fmt::format("policy changed: {}", decision.policy));
  }
}

// ---- to the application

void InboundConnection::Connect(bool spoof) {
  net::ConnectOptions options;
  options.to = flow_.target;
  options.mark = worker_.environment().config.packet_mark;
  options.netns = pod_->netns.get();
  // The application sees the client's address. A pod that calls itself keeps its own.
  spoof = spoof && flow_.source.ip() != flow_.target.ip() &&
          flow_.source.ip().family() == flow_.target.ip().family();
  if (spoof) {
    options.bind = net::SocketAddress(flow_.source.ip(), 0);
    options.transparent = true;
  }
  connector_ = std::make_unique<net::Connector>(
      worker_.loop(), options, [this, spoof](Result<Fd> fd) { OnConnected(std::move(fd), spoof); });
}

void InboundConnection::OnConnected(Result<Fd> fd, bool spoofed) {
  auto connector = std::move(connector_);
  if (!fd) {
    const Error& error = fd.error();
    // The port that came with the foreign address made a connection that exists already.
    if (spoofed && (error.sys_errno == EADDRNOTAVAIL || error.sys_errno == EADDRINUSE) &&
        ++attempts_ < kSpoofAttempts) {
      return Connect(true);
    }
    // Without the capability for foreign sources the connection still works, unless it was asked
    // for (ENABLE_ORIG_SRC=true).
    if (spoofed && error.sys_errno == EPERM && !worker_.environment().config.orig_src) {
      LOG_WARN("inbound", "{}; the application will see the proxy's address", error.message);
      return Connect(false);
    }
    const Reason reason = error.code == Code::kDeadlineExceeded    ? Reason::kConnectTimeout
                          : error.code == Code::kResourceExhausted ? Reason::kResourceExhausted
                                                                   : Reason::kConnectFailed;
    return RefuseWith(503, reason, error.message);
  }
  Reached(net::MakeSocketTransport(worker_.loop(), std::move(*fd)));
}

void InboundConnection::Reached(net::TransportPtr application) {
  net::TransportPtr client;
  if (plaintext()) {
    net::SetStreamOptions(fd_.get());
    client = net::MakeSocketTransport(worker_.loop(), std::move(fd_));
  } else {
    hbone::Headers headers;
    if (worker_.environment().config.response_baggage) {
      headers.push_back({"baggage", MakeBaggage(*flow_.destination_workload)});
    }
    client = responder_.Accept(headers);
    if (client == nullptr) return End(Reason::kReset, "the client gave up", false);
  }
  StartRelay(std::move(client), std::move(application));
}

// ---- the end

void InboundConnection::Refuse(Reason reason, std::string detail) {
  RefuseWith(model::IsPolicy(reason) ? 401 : 503, reason, std::move(detail));
}

void InboundConnection::RefuseWith(int status, Reason reason, std::string detail) {
  if (state_ == State::kOver) return;
  ResetClient();
  if (responder_.pending()) responder_.Reject(status);
  End(reason, std::move(detail), false);
}

void InboundConnection::OnEnd(const FlowEnd&) { responder_ = hbone::Responder(); }

}  // namespace qanat::ztunnel
