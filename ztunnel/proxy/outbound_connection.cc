// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/outbound_connection.h"

#include <fmt/format.h>

#include "common/base/log.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/telemetry/headers.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

Reason ReasonOf(const Error& error, bool tunnel) {
  switch (error.code) {
    case Code::kDeadlineExceeded: return Reason::kConnectTimeout;
    case Code::kUnauthenticated: return Reason::kPeerIdentityMismatch;
    case Code::kResourceExhausted: return Reason::kResourceExhausted;
    case Code::kFailedPrecondition: return tunnel ? Reason::kNoCertificate : Reason::kConnectFailed;
    case Code::kInvalidArgument: return tunnel ? Reason::kTlsFailure : Reason::kConnectFailed;
    case Code::kInternal: return tunnel ? Reason::kHttp2Failure : Reason::kInternal;
    case Code::kUnavailable:
    case Code::kIo:
    case Code::kNotFound:
    case Code::kAlreadyExists:
    case Code::kPermissionDenied:
    case Code::kCancelled:
    case Code::kUnimplemented: break;
  }
  return Reason::kConnectFailed;
}

}  // namespace

OutboundConnection::OutboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                                       OriginalDestination original)
    : UserConnection(worker, std::move(pod), std::move(fd), Reporter::kSource, peer),
      original_(original) {
  flow_.destination = original_.address;
}

void OutboundConnection::Decide(const model::WorkloadPtr& source) {
  flow_.source_workload = source;
  route_ = DecideOutbound(worker_.snapshot(), *source, original_.address,
                          [this] { return worker_.Random(); });
  flow_.service = route_.service;
  flow_.destination_workload = route_.destination;
  switch (route_.kind) {
    case Route::Kind::kRefuse: return Refuse(route_.reason, route_.detail);
    case Route::Kind::kPassthrough:
    case Route::Kind::kTcp:
      flow_.destination = route_.to;
      return ConnectPlain(route_.to, worker_.environment().config.packet_mark);
    case Route::Kind::kHbone: break;
  }
  flow_.source_identity = source->identity();
  flow_.destination_identity = model::Identity::Parse(route_.identities.back());
  if (TryOnePass()) return;
  flow_.destination = route_.to;
  flow_.target = route_.target;
  flow_.tunnelled = true;
  flow_.mutual_tls = true;
  if (worker_.FindCertificate(*flow_.source_identity) != nullptr) return OpenTunnel();
  state_ = State::kCertificate;
  worker_.AwaitCertificate(*flow_.source_identity, this);
}

// ---- one pass: both ends are pods of this node

bool OutboundConnection::TryOnePass() {
  const Environment& environment = worker_.environment();
  // Where addresses are rewritten (iptables) a connection of ours with another mark would be sent
  // back to us; and a client whose address is not its namespace's is nobody we know.
  if (!environment.config.one_pass || original_.by_nat) return false;
  if (!pod_->HasAddress(flow_.source.ip())) return false;
  OnePass one_pass =
      DecideOnePass(route_, worker_.PodByName(route_.destination->ns, route_.destination->name));
  if (one_pass.pod == nullptr) {
    LOG_DEBUG("outbound", "{} to {}: {}", pod_->name, route_.target.ToString(), one_pass.why_not);
    return false;
  }
  destination_pod_ = std::move(one_pass.pod);
  policy::Decision decision;
  if (CheckOnePass(decision).reason != Reason::kNone) {
    destination_pod_ = nullptr;
    return false;
  }
  one_pass_ = true;
  flow_.destination = route_.target;
  if (!decision.allowed) {
    environment.metrics->one_pass.With({"denied"})->Add();
    Refuse(decision.reason, fmt::format("{} {}", Explanation(decision.reason), decision.policy));
    return true;
  }
  environment.metrics->one_pass.With({"taken"})->Add();
  ConnectPlain(route_.target, environment.config.one_pass_mark);
  return true;
}

// Both ends are still who they were, and what the destination's policies say of them.
Identified OutboundConnection::CheckOnePass(policy::Decision& decision) const {
  Identified source = worker_.Identify(*pod_);
  if (source.reason != Reason::kNone) return source;
  Identified destination = worker_.Identify(*destination_pod_);
  if (destination.reason != Reason::kNone) return destination;
  if (destination.workload->uid != route_.destination->uid ||
      destination.workload->identity() != route_.destination->identity() ||
      source.workload->identity() != *flow_.source_identity) {
    return {Reason::kIdentityChanged, "one end of the connection has another identity", nullptr};
  }
  decision = worker_.CheckPolicy(
      *destination.workload,
      {source.workload->identity(), flow_.source.ip(), route_.target.ip(), route_.target.port()});
  return destination;
}

void OutboundConnection::OnSnapshot() {
  if (state_ == State::kIdentifying) return TryIdentify();
  if (!one_pass_ || state_ == State::kOver) return;
  policy::Decision decision;
  const Identified both = CheckOnePass(decision);
  // Not announced any more is no reason by itself: the pod's end comes from the node agent.
  if (both.reason == Reason::kSourceUnknown) return;
  if (both.reason != Reason::kNone) return Close(Reason::kIdentityChanged, both.detail);
  if (!decision.allowed) {
    Close(decision.reason, fmt::format("policy changed: {}", decision.policy));
  }
}

bool OutboundConnection::Touches(const std::string& pod_uid) const {
  return Connection::Touches(pod_uid) ||
         (destination_pod_ != nullptr && destination_pod_->uid == pod_uid);
}

// ---- getting there

void OutboundConnection::ConnectPlain(const net::SocketAddress& to, uint32_t mark) {
  state_ = State::kConnecting;
  net::ConnectOptions options;
  options.to = to;
  options.mark = mark;
  options.netns = pod_->netns.get();
  connector_ = std::make_unique<net::Connector>(
      worker_.loop(), options, [this](Result<Fd> fd) { OnConnected(std::move(fd)); });
}

void OutboundConnection::OnConnected(Result<Fd> fd) {
  auto connector = std::move(connector_);
  if (!fd) return Refuse(ReasonOf(fd.error(), false), fd.error().message);
  Reached(net::MakeSocketTransport(worker_.loop(), std::move(*fd)));
}

void OutboundConnection::OnCertificate(const Result<identity::CertificatePtr>& certificate) {
  if (state_ != State::kCertificate) return;
  if (!certificate) return Refuse(Reason::kNoCertificate, certificate.error().message);
  OpenTunnel();
}

void OutboundConnection::OpenTunnel() {
  state_ = State::kConnecting;
  hbone::PoolKey key;
  key.source_identity = flow_.source_identity->ToString();
  key.destination_identities = route_.identities;
  key.destination = route_.to;
  key.source_ip = flow_.source.ip();
  key.source_netns = pod_->netns_cookie;
  hbone::ConnectRequest request;
  request.authority = route_.authority;
  const std::string_view host =
      route_.service ? std::string_view(route_.service->hostname) : std::string_view();
  request.headers = {
      {"baggage", MakeBaggage(*flow_.source_workload)},
      {"forwarded", MakeForwarded(flow_.source, host)},
      {"traceparent", MakeTraceparent(worker_.Random(), worker_.Random(), worker_.Random())}};
  pending_ = worker_.pool().Connect(key, std::move(request),
                                    [this](auto result) { OnTunnelResponse(std::move(result)); });
}

void OutboundConnection::OnTunnelResponse(hbone::ClientSession::ConnectResult result) {
  auto pending = std::move(pending_);
  if (!result) {
    const Error& error = result.error().error;
    return Refuse(ReasonOf(error, true), error.message);
  }
  if (result->status != 200 || result->stream == nullptr) {
    return Refuse(result->status == 401 ? Reason::kDeniedByPeer : Reason::kRefusedByPeer,
                  fmt::format("http status: {}", result->status));
  }
  Reached(std::move(result->stream));
}

void OutboundConnection::Reached(net::TransportPtr upstream) {
  net::SetStreamOptions(fd_.get());
  StartRelay(net::MakeSocketTransport(worker_.loop(), std::move(fd_)), std::move(upstream));
}

// ---- the end

void OutboundConnection::Refuse(Reason reason, std::string detail) {
  if (state_ == State::kOver) return;
  ResetClient();
  End(reason, std::move(detail), false);
}

void OutboundConnection::OnEnd(const FlowEnd& end) {
  // There is no second proxy on this path, so the destination's report is ours to make.
  if (one_pass_) LogDestinationSide(end);
  pending_.reset();
}

void OutboundConnection::LogDestinationSide(const FlowEnd& end) {
  Flow flow = flow_;
  flow.reporter = Reporter::kDestination;
  const Series& series = worker_.series().For(flow, Reason::kNone);
  if (end.opened) series.opened->Add();
  series.received->Add(end.bytes_up);
  series.sent->Add(end.bytes_down);
  worker_.LogFlow(flow, end);
}

const char* OutboundConnection::PathName() const {
  if (one_pass_) return "one-pass";
  if (route_.via_waypoint) return "waypoint";
  switch (route_.kind) {
    case Route::Kind::kRefuse: return "refused";
    case Route::Kind::kPassthrough: return "passthrough";
    case Route::Kind::kTcp: return "plain";
    case Route::Kind::kHbone: return "hbone";
  }
  return "";
}

}  // namespace qanat::ztunnel
