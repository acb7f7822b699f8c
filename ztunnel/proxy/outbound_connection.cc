// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/outbound_connection.h"

#include <fmt/format.h>

#include <utility>

#include "common/base/log.h"
#include "common/route/on_demand.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

Reason ReasonOf(const Error& error, bool tunnel) {
  if (tunnel && error.sys_errno == tls::kRevoked) return Reason::kCertificateRevoked;
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

Reason TunnelReasonOf(const Error& error) { return ReasonOf(error, true); }

OutboundConnection::OutboundConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer,
                                       OriginalDestination original)
    : UserConnection(worker, std::move(pod), std::move(fd), Reporter::kSource, peer),
      original_(original),
      setup_(std::make_unique<Setup>(worker.loop().memory(), load_->memory)) {
  flow_.destination = original_.address;
}

void OutboundConnection::Decide(const model::WorkloadPtr& source) {
  flow_.source_workload = source;
  setup_->attempts = Attempts(event::Clock::now());
  std::vector<std::string> missing;
  route::Route route = NextRoute({}, &missing);
  if (worker_.environment().want_names && route.destination != nullptr &&
      worker_.PodByName(route.destination->ns, route.destination->name()) != nullptr) {
    // In one pass the destination's end is decided here as well.
    for (auto& name : route::MissingAround(worker_.snapshot(), *route.destination)) {
      missing.push_back(std::move(name));
    }
  }
  if (AwaitNames(std::move(missing))) return;
  Take(std::move(route));
}

route::Route OutboundConnection::NextRoute(std::vector<std::string> tried,
                                           std::vector<std::string>* missing) const {
  route::OutboundOptions options = worker_.outbound_options(*pod_);
  options.avoid.tried = std::move(tried);
  options.drawn = original_.drawn;
  if (worker_.environment().want_names) options.missing = missing;
  return route::DecideOutbound(
      worker_.snapshot(), *flow_.source_workload, original_.address,
      [this] { return worker_.Random(); }, options);
}

void OutboundConnection::Take(route::Route route) {
  setup_->route = std::move(route);
  kind_ = setup_->route.kind;
  via_waypoint_ = setup_->route.via_waypoint;
  flow_.service = setup_->route.service;
  flow_.destination_workload = setup_->route.destination;
  if (!setup_->route.host.empty()) return Resolve();
  switch (setup_->route.kind) {
    case route::Route::Kind::kRefuse: return Refuse(setup_->route.reason, setup_->route.detail);
    case route::Route::Kind::kPassthrough:
    case route::Route::Kind::kTcp:
      flow_.destination = setup_->route.to;
      return ConnectPlain(setup_->route.to, worker_.environment().config.packet_mark);
    case route::Route::Kind::kHbone:
    case route::Route::Kind::kDoubleHbone: break;
  }
  flow_.source_identity = worker_.Shared(flow_.source_workload->identity());
  const bool through_gateway = setup_->route.kind == route::Route::Kind::kDoubleHbone;
  const auto& far = through_gateway ? setup_->route.inner_identities : setup_->route.identities;
  // Which of several it will prove over there is not known.
  if (!through_gateway || far.size() == 1) {
    const auto identity = model::Identity::Parse(far.back());
    flow_.destination_identity = identity ? worker_.Shared(*identity) : SharedIdentity();
  }
  if (TryOnePass()) return;
  flow_.destination = setup_->route.to;
  flow_.target = setup_->route.target;
  flow_.tunnelled = true;
  flow_.mutual_tls = true;
  if (worker_.FindCertificate(*flow_.source_identity) != nullptr) return OpenTunnel();
  state_ = State::kCertificate;
  worker_.AwaitCertificate(*flow_.source_identity, this);
}

// ---- another endpoint, when one cannot be reached

void OutboundConnection::TryFailed(Reason reason, std::string detail) {
  if (Attempts::IsEndpointFailure(reason)) worker_.EndpointFailed(*pod_, setup_->route);
  if (TryAnother(reason, detail)) return;
  if (setup_->attempts.number() > 1) detail += fmt::format(" (try {})", setup_->attempts.number());
  Refuse(reason, std::move(detail));
}

bool OutboundConnection::TryAnother(Reason reason, const std::string& detail) {
  if (setup_->early.given()) return false;
  // A pod that was asked for by its address has no substitute; a waypoint on the way to it has.
  if (setup_->route.picked_port == 0) return false;
  if (!setup_->attempts.MayRetry(reason, event::Clock::now())) return false;
  std::vector<std::string> tried = setup_->attempts.tried();
  tried.push_back(setup_->route.destination->uid.str());
  route::Route next = NextRoute(std::move(tried));
  if (next.kind == route::Route::Kind::kRefuse || next.destination == nullptr) return false;
  LOG_DEBUG("outbound", "{} to {}: {} failed ({}: {}), trying {}", pod_->name,
            original_.address.ToString(), setup_->route.destination->uid, ToString(reason), detail,
            next.destination->uid);
  worker_.metrics().connect_retries.With({std::string(ToString(reason))})->Add();
  setup_->attempts.Next(setup_->route.destination->uid.str());
  flow_.tries = setup_->attempts.number();
  setup_->try_timer.reset();
  beginning_->connector.reset();
  setup_->lookup.reset();
  setup_->pending.reset();
  setup_->shared_timer.reset();
  one_pass_ = false;
  if (reason != Reason::kConnectTimeout)
    setup_->own_tunnel_only = false;  // there is not time for both
  destination_pod_ = nullptr;
  flow_.tunnelled = flow_.mutual_tls = false;
  flow_.target = {};
  flow_.source_identity.reset();
  flow_.destination_identity.reset();
  Take(std::move(next));
  return true;
}

// Its share of the time is over. Where nobody else is left it goes on waiting: to the end of the
// time for all tries, or, if it was the only one, of its own.
void OutboundConnection::OnTryTimeout() {
  if (state_ != State::kConnecting) return;
  const std::string detail =
      fmt::format("{} did not answer in time",
                  setup_->route.host.empty() ? setup_->route.to.ToString()
                                             : "the name server asked for " + setup_->route.host);
  const route::Route slow = setup_->route;
  const bool shared = setup_->shared_timer != nullptr;
  if (shared) SharedFailed("timeout", "no answer in time");
  if (TryAnother(Reason::kConnectTimeout, detail)) {
    worker_.EndpointFailed(*pod_, slow);
  } else if (const auto left = setup_->attempts.Left(event::Clock::now()); left.count() > 0) {
    setup_->try_timer->Start(left);
    if (shared) UseOwn();
  } else {
    TryFailed(Reason::kConnectTimeout, detail);
  }
}

// ---- one pass: both ends are pods of this node

bool OutboundConnection::TryOnePass() {
  const Environment& environment = worker_.environment();
  // Where addresses are rewritten (iptables) a connection of ours with another mark would be sent
  // back to us; and a client whose address is not its namespace's is nobody we know.
  if (!environment.config.one_pass || original_.by_nat) return false;
  // What nobody has confirmed since the restart is not enough to leave TLS out.
  if (worker_.snapshot().freshness() != state::Freshness::kLive) return false;
  if (setup_->route.kind != route::Route::Kind::kHbone) return false;
  if (!pod_->HasAddress(flow_.source.ip())) return false;
  PodPtr far = worker_.PodByName(setup_->route.destination->ns, setup_->route.destination->name());
  const route::OnePass one_pass = route::DecideOnePass(setup_->route, far.get());
  if (!one_pass.possible) {
    LOG_DEBUG("outbound", "{} to {}: {}", pod_->name, setup_->route.target.ToString(),
              one_pass.why_not);
    return false;
  }
  destination_pod_ = std::move(far);
  flow_.destination = setup_->route.target;
  policy::Decision decision;
  const route::Identified both = CheckOnePass(decision);
  if (both.reason != Reason::kNone) {
    destination_pod_ = nullptr;
    return false;
  }
  const route::RequiredWaypoint required = worker_.CheckWaypoint(
      *both.workload, setup_->route.target, {Copy(flow_.source_identity), flow_.source.ip()});
  one_pass_ = true;
  if (!decision.allowed) {
    worker_.metrics().one_pass.With({"denied"})->Add();
    Refuse(decision.reason, fmt::format("{} {}", Explanation(decision.reason), decision.policy));
    return true;
  }
  if (required.reason != Reason::kNone) {
    worker_.metrics().one_pass.With({"denied"})->Add();
    Refuse(required.reason, required.detail);
    return true;
  }
  worker_.metrics().one_pass.With({"taken"})->Add();
  ConnectPlain(setup_->route.target, environment.config.one_pass_mark);
  return true;
}

// Both ends are still who they were, and what the destination's policies say of them.
route::Identified OutboundConnection::CheckOnePass(policy::Decision& decision) const {
  route::Identified source = worker_.Identify(*pod_);
  if (source.reason != Reason::kNone) return source;
  route::Identified destination = worker_.Identify(*destination_pod_);
  if (destination.reason != Reason::kNone) return destination;
  if (destination.workload->uid != flow_.destination_workload->uid ||
      destination.workload->identity() != flow_.destination_workload->identity() ||
      source.workload->identity() != *flow_.source_identity) {
    return {Reason::kIdentityChanged, "one end of the connection has another identity", nullptr};
  }
  decision = worker_.CheckPolicy(*destination.workload,
                                 {source.workload->identity(), flow_.source.ip(),
                                  flow_.destination.ip(), flow_.destination.port()});
  return destination;
}

void OutboundConnection::OnSnapshot() {
  if (state_ == State::kIdentifying) return TryIdentify();
  if (!one_pass_ || state_ == State::kOver) return;
  policy::Decision decision;
  const route::Identified both = CheckOnePass(decision);
  // Not announced any more is no reason by itself: the pod's end comes from the node agent.
  if (both.reason == Reason::kSourceUnknown) return;
  if (both.reason != Reason::kNone) return Close(Reason::kIdentityChanged, both.detail);
  if (!decision.allowed) {
    Close(decision.reason, fmt::format("policy changed: {}", decision.policy));
  }
}

void OutboundConnection::OnRevocations() {
  if (proven_by_ == nullptr || state_ == State::kOver) return;
  if (const auto why = worker_.handshakes().verifier.Revoked(*proven_by_)) {
    Close(Reason::kCertificateRevoked, *why);
  }
}

bool OutboundConnection::Touches(const std::string& pod_uid) const {
  return Connection::Touches(pod_uid) ||
         (destination_pod_ != nullptr && destination_pod_->uid == pod_uid);
}

// ---- getting there

void OutboundConnection::Connecting() {
  state_ = State::kConnecting;
  if (setup_->route.picked_port == 0) return;
  setup_->try_timer = std::make_unique<event::Timer>(worker_.loop(), [this] { OnTryTimeout(); });
  setup_->try_timer->Start(setup_->attempts.ForThisTry(event::Clock::now()));
}

// As the pod itself would resolve it: the name servers and the cache are the pod's.
void OutboundConnection::Resolve() {
  Connecting();
  worker_.metrics().on_demand_dns.With(OnDemandDnsLabels(flow_, setup_->route.host))->Add();
  setup_->asked = event::Clock::now();
  setup_->lookup = worker_.resolver().Resolve(
      pod_, setup_->route.host, original_.address.ip().is_v4() ? AF_INET : AF_INET6,
      [this](auto addresses) { OnResolved(std::move(addresses)); });
}

void OutboundConnection::OnResolved(Result<std::vector<net::IpAddress>> addresses) {
  const auto lookup = std::move(setup_->lookup);
  SpentOn(SetupPhase::kDns, event::Clock::now() - setup_->asked);
  if (!addresses) {
    return TryFailed(Reason::kDnsFailure,
                     fmt::format("{}: {}", setup_->route.host, addresses.error().message));
  }
  route::Route route = std::move(setup_->route);
  route.Resolved((*addresses)[worker_.Random() % addresses->size()], route.picked_port);
  Take(std::move(route));
}

void OutboundConnection::ConnectPlain(const net::SocketAddress& to, uint32_t mark) {
  Connecting();
  net::ConnectOptions options;
  options.to = to;
  options.mark = mark;
  options.keepalive = worker_.environment().config.keepalive;
  // The kernel that serves both ends cannot forget one of them.
  if (one_pass_) options.keepalive.enabled = false;
  options.no_delay = false;
  options.netns = pod_->netns.get();
  BeginConnect(options, one_pass_, [this](Result<Fd> fd) { OnConnected(std::move(fd)); });
}

void OutboundConnection::OnConnected(Result<Fd> fd) {
  auto connector = std::move(beginning_->connector);
  if (!fd) return TryFailed(ReasonOf(fd.error(), false), fd.error().message);
  Reached(net::MakeSocketTransport(worker_.loop(), std::move(*fd), net::Delay::kNagle));
}

void OutboundConnection::OnCertificate(const Result<identity::CertificatePtr>& certificate) {
  if (state_ != State::kCertificate) return;
  if (!certificate) return Refuse(Reason::kNoCertificate, certificate.error().message);
  OpenTunnel();
}

void OutboundConnection::Reached(net::TransportPtr upstream, size_t early_sent) {
  worker_.EndpointGood(*pod_, setup_->route);
  if (!setup_->early.error().empty()) {
    upstream->Abort();
    return End(Reason::kReset, "client side: " + setup_->early.error(), false);
  }
  StartRelay(net::MakeSocketTransport(worker_.loop(), std::move(fd_)), std::move(upstream),
             setup_->early.Take(early_sent));
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
  if (!setup_) return;
  if (setup_->pending) EarlyEnded("unknown");
  setup_->try_timer.reset();
  setup_->shared_timer.reset();
  setup_->lookup.reset();
  setup_->pending.reset();
}

void OutboundConnection::OnRelaying() {
  // What calls is a timer, a connector or a stream's answer, of which nothing is needed any more.
  setup_.reset();
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

std::optional<ConnectionInfo> OutboundConnection::Describe() const {
  auto info = UserConnection::Describe();
  if (info) info->dialled = original_.address;
  return info;
}

// ---- hand-over

void OutboundConnection::SaveMore(SavedConnection& saved) const {
  saved.outbound = SavedConnection::Outbound{original_.address,
                                             original_.by_nat,
                                             static_cast<uint64_t>(kind_),
                                             via_waypoint_,
                                             one_pass_,
                                             {},
                                             {},
                                             {}};
  if (!one_pass_) return;
  saved.outbound->destination_pod = destination_pod_->uid;
  saved.outbound->destination = flow_.destination_workload->uid;
  saved.outbound->target = flow_.destination;
}

void OutboundConnection::RestoreMore(const SavedConnection& saved) {
  const SavedConnection::Outbound& from = *saved.outbound;
  original_ = {from.original, from.by_nat, 0};
  kind_ = static_cast<route::Route::Kind>(from.kind);
  via_waypoint_ = from.via_waypoint;
  one_pass_ = from.one_pass;
  if (!one_pass_) return;
  destination_pod_ = worker_.PodByUid(from.destination_pod);
  flow_.destination_workload = worker_.snapshot().WorkloadByUid(from.destination);
  flow_.destination = from.target;
}

const char* OutboundConnection::PathName() const {
  if (one_pass_) return "one-pass";
  if (via_waypoint_) return "waypoint";
  switch (kind_) {
    case route::Route::Kind::kRefuse: return "refused";
    case route::Route::Kind::kPassthrough: return "passthrough";
    case route::Route::Kind::kTcp: return "plain";
    case route::Route::Kind::kHbone: return "hbone";
    case route::Route::Kind::kDoubleHbone: return "double-hbone";
  }
  return "";
}

}  // namespace qanat::ztunnel
