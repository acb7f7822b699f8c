// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/inbound_connection.h"

#include <fmt/format.h>

#include <cerrno>

#include "common/base/log.h"
#include "common/route/on_demand.h"
#include "common/route/outbound.h"
#include "common/route/required_waypoint.h"
#include "ztunnel/proxy/proxy_header.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/route/described.h"
#include "ztunnel/route/stream_source.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

// Each attempt draws one of about 14,000 ports at random and may meet one that the same client's
// other connections to the same port have: with 4 attempts one in sixty failed at 5,000
// connections; 64 serve 12,000.
constexpr int kSpoofAttempts = 64;

// How long the control plane may take to say who a stream's source is. The sender has another way,
// which it takes by itself a little later (outbound_tunnel.cc).
constexpr auto kSourceTimeout = std::chrono::seconds(1);

}  // namespace

InboundConnection::InboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                                     net::SocketAddress target)
    : UserConnection(worker, std::move(pod), std::move(fd), Reporter::kDestination, peer) {
  flow_.destination = flow_.target = target;
}

InboundConnection::InboundConnection(Worker& worker, PodPtr pod, net::SocketAddress peer,
                                     net::SocketAddress tunnel, Proven proven,
                                     hbone::InboundConnect request, hbone::Responder responder)
    : UserConnection(worker, std::move(pod), Fd(), Reporter::kDestination, peer),
      proven_by_(std::move(proven.by)) {
  setup_->request = std::move(request);
  setup_->responder = std::move(responder);
  flow_.destination = tunnel;
  flow_.tunnelled = true;
  flow_.mutual_tls = true;
  flow_.source_identity = std::move(proven.identity);
  if (proven_by_ == nullptr) worker_.CountUntracked(Reporter::kDestination);
  for (const hbone::Header& header : setup_->request.headers) {
    if (header.name != hbone::kSourceHeader) continue;
    setup_->source_said =
        setup_->source_said ? *setup_->source_said + ", " + header.value : header.value;
  }
}

void InboundConnection::Start() {
  if (!plaintext()) {
    setup_->responder.OnGone([this] { End(Reason::kReset, "the client gave up", false); });
  } else if (route::IsProxyPort(flow_.target.port(), worker_.environment().config.socks5)) {
    return RefuseWith(503, Reason::kSelfCall,
                      fmt::format("{} is a port of the proxy", flow_.target.ToString()));
  }
  if (Admit()) TryIdentify();
}

void InboundConnection::Decide(const model::WorkloadPtr& local) {
  if (worker_.environment().want_names &&
      AwaitNames(Missing(*local), setup_->source_said ? kSourceTimeout : kIdentifyTimeout)) {
    return;
  }
  flow_.destination_workload = local;
  if (!plaintext()) {
    // At the other end, and of a request that came through a waypoint, the same id.
    LOG_DEBUG("inbound", "{} from {}: trace {}", setup_->request.authority, flow_.source.ToString(),
              TraceId(hbone::Find(setup_->request.headers, "traceparent")));
  }
  if (!TakeSource(*local)) return;
  NameSource(*local);
  if (!plaintext()) {
    flow_.destination_identity = worker_.Shared(local->identity());
    if (!Resolve(*local))
      return RefuseWith(setup_->target.status, setup_->target.reason, setup_->target.detail);
  } else {
    setup_->target.target = setup_->target.connect = flow_.target;
  }
  const event::TimePoint asked = event::Clock::now();
  const policy::Decision decision = Check(*local);
  SpentOn(SetupPhase::kPolicy, event::Clock::now() - asked);
  if (!decision.dry_run.empty()) {
    LOG_INFO("access", "dry run: policy {} would refuse {} to {}", decision.dry_run,
             flow_.source.ToString(), flow_.target.ToString());
  }
  if (!decision.allowed) {
    return RefuseWith(401, decision.reason,
                      fmt::format("{} {}", Explanation(decision.reason), decision.policy));
  }
  const route::RequiredWaypoint required =
      worker_.CheckWaypoint(*local, flow_.target, {Copy(flow_.source_identity), flow_.source.ip()});
  if (required.reason != Reason::kNone) return RefuseWith(401, required.reason, required.detail);
  state_ = State::kConnecting;
  // In the proxy's own namespace nothing brings the answer to a foreign address back to us.
  Connect(worker_.environment().config.orig_src.value_or(true) && !pod_->proxy_itself);
}

std::vector<std::string> InboundConnection::Missing(const model::Workload& local) const {
  if (plaintext()) return route::MissingAround(worker_.snapshot(), local);
  const auto for_sender = [&](const net::IpAddress& sender) {
    return route::MissingForInbound(worker_.snapshot(), local, flow_.destination,
                                    setup_->request.authority, sender);
  };
  std::vector<std::string> missing = for_sender(flow_.source.ip());
  if (const auto said = net::SocketAddress::Parse(setup_->source_said.value_or(""))) {
    for (auto& name : for_sender(said->ip())) missing.push_back(std::move(name));
  }
  return missing;
}

// On a tunnel that several pods share each stream says whose it is. From here on everything goes by
// that address: policies, the waypoint that was to be passed, the log, and what the application
// sees.
bool InboundConnection::TakeSource(const model::Workload& local) {
  if (!setup_->source_said) return true;
  if (!worker_.environment().config.shared_tunnels) {
    // Announced by the process before this one, on a tunnel that was taken over.
    RefuseWith(hbone::kMisdirected, Reason::kSourceUnproven, "shared tunnels are switched off");
    return false;
  }
  const route::Sender tunnel{Copy(flow_.source_identity), flow_.source.ip()};
  const Config& config = worker_.environment().config;
  StreamSource said =
      CheckStreamSource(worker_.snapshot(), local.network, tunnel, *setup_->source_said,
                        {config.pod_namespace, config.service_account});
  if (said.reason != Reason::kNone) {
    RefuseWith(hbone::kMisdirected, said.reason, std::move(said.detail));
    return false;
  }
  if (said.source.ip() != flow_.source.ip()) flow_.tunnel = flow_.source;
  flow_.source = said.source;
  setup_->source_said.reset();  // a second look would take the source for the tunnel
  return true;
}

bool InboundConnection::Resolve(const model::Workload& local) {
  InboundOptions options;
  options.localhost_app_tunnel = worker_.environment().config.localhost_app_tunnel;
  options.socks = worker_.environment().config.socks5;
  setup_->target = DecideInbound(worker_.snapshot(), local, flow_.destination,
                                 setup_->request.authority, setup_->request.forwarded(), options);
  flow_.target = setup_->target.target;
  flow_.service = setup_->target.service;
  return setup_->target.reason == Reason::kNone;
}

// For labels and the log only: an address proves nothing, and baggage less.
void InboundConnection::NameSource(const model::Workload& local) {
  const std::string_view network = hbone::Find(setup_->request.headers, "x-forwarded-network");
  if (!network.empty() && network != local.network) {
    flow_.source_workload =
        ForwardedSource(worker_.snapshot(), {Copy(flow_.source_identity), flow_.source.ip()},
                        network, setup_->request.baggage());
    if (flow_.source_workload != nullptr) return;
    worker_.metrics().forwarded_network_ignored.Get().Add();
  }
  flow_.source_workload = worker_.snapshot().WorkloadByAddress(local.network, flow_.source.ip());
  // Through a gateway that passes the inner tunnel on the address is the gateway's, or nobody's
  // whom we know: what remains is what the certificate proved.
  if (!network.empty() && flow_.source_identity &&
      (flow_.source_workload == nullptr ||
       flow_.source_workload->identity() != *flow_.source_identity)) {
    model::Workload proven;
    proven.ns = flow_.source_identity->ns;
    flow_.source_workload = model::WorkloadPtr(std::move(proven));
  }
}

policy::Decision InboundConnection::Check(const model::Workload& local) const {
  return worker_.CheckPolicy(local, {Copy(flow_.source_identity), flow_.source.ip(),
                                     flow_.target.ip(), flow_.target.port()});
}

void InboundConnection::OnSnapshot() {
  if (state_ == State::kOver) return;
  if (state_ == State::kIdentifying) return TryIdentify();
  const route::Identified found = worker_.Identify(*pod_);
  // Not announced any more is no reason by itself: the pod's end comes from the node agent.
  if (found.reason == Reason::kSourceUnknown) return;
  if (found.reason != Reason::kNone) return Close(Reason::kIdentityChanged, found.detail);
  const policy::Decision decision = Check(*found.workload);
  if (!decision.allowed) {
    Close(decision.reason, fmt::format("policy changed: {}", decision.policy));
  }
}

void InboundConnection::OnRevocations() {
  if (proven_by_ == nullptr || state_ == State::kOver) return;
  if (const auto why = worker_.handshakes().verifier.Revoked(*proven_by_)) {
    Close(Reason::kCertificateRevoked, *why);
  }
}

// ---- to the application

void InboundConnection::Connect(bool spoof) {
  net::ConnectOptions options;
  options.to = setup_->target.connect;
  options.mark = worker_.environment().config.packet_mark;
  // The kernel that serves both ends cannot forget one of them.
  options.keepalive.enabled = false;
  options.no_delay = false;
  options.netns = pod_->netns.get();
  // The application sees the client's address. A pod that calls itself keeps its own, and nothing
  // but loopback may come from outside to loopback.
  spoof = spoof && flow_.source.ip() != options.to.ip() && !options.to.ip().is_loopback() &&
          flow_.source.ip().family() == options.to.ip().family();
  if (spoof) {
    options.bind = net::SocketAddress(flow_.source.ip(), 0);
    options.transparent = true;
  }
  BeginConnect(options, true, [this, spoof](Result<Fd> fd) { OnConnected(std::move(fd), spoof); });
}

void InboundConnection::OnConnected(Result<Fd> fd, bool spoofed) {
  auto connector = std::move(beginning_->connector);
  if (!fd) {
    const Error& error = fd.error();
    // The port that came with the foreign address made a connection that exists already.
    if (spoofed && (error.sys_errno == EADDRNOTAVAIL || error.sys_errno == EADDRINUSE) &&
        ++setup_->attempts < kSpoofAttempts) {
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
  Reached(net::MakeSocketTransport(worker_.loop(), std::move(*fd), net::Delay::kNagle));
}

// The socket has just been connected: its buffer holds what is far less than its least size.
bool InboundConnection::SendProxyHeader(net::Transport& application) const {
  std::string bytes =
      EncodeProxyV2({flow_.source, setup_->target.proxy_destination,
                     flow_.source_identity ? flow_.source_identity->ToString() : std::string(),
                     setup_->target.proxy_hostname});
  const iovec all{bytes.data(), bytes.size()};
  const net::IoResult sent = application.Write({&all, 1});
  return sent.ok() && sent.bytes == bytes.size();
}

void InboundConnection::Reached(net::TransportPtr application) {
  if (setup_->target.proxy_protocol && !SendProxyHeader(*application)) {
    return RefuseWith(503, Reason::kConnectFailed, "the application took no PROXY header");
  }
  net::TransportPtr client;
  if (plaintext()) {
    client = net::MakeSocketTransport(worker_.loop(), std::move(fd_));
  } else {
    hbone::Headers headers;
    if (worker_.environment().config.response_baggage) {
      headers.push_back({"baggage", MakeBaggage(*flow_.destination_workload)});
    }
    client = setup_->responder.Accept(headers);
    if (client == nullptr) return End(Reason::kReset, "the client gave up", false);
  }
  StartRelay(std::move(client), std::move(application));
}

// ---- the end

void InboundConnection::Refuse(Reason reason, std::string detail) {
  // Whose the stream is cannot be told: on the source's own tunnel that is no question.
  if (setup_ && setup_->source_said && reason == Reason::kDestinationUnknown) {
    return RefuseWith(hbone::kMisdirected, Reason::kSourceUnproven, std::move(detail));
  }
  RefuseWith(model::IsPolicy(reason) ? 401 : 503, reason, std::move(detail));
}

void InboundConnection::RefuseWith(int status, Reason reason, std::string detail) {
  if (state_ == State::kOver) return;
  ResetClient();
  if (setup_ && setup_->responder.pending()) setup_->responder.Reject(status);
  End(reason, std::move(detail), false);
}

void InboundConnection::OnEnd(const FlowEnd&) {
  if (setup_) setup_->responder = hbone::Responder();
}

}  // namespace qanat::ztunnel
