// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/worker.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <future>

#include "common/base/log.h"
#include "common/base/log_line.h"
#include "common/net/socket.h"
#include "ztunnel/proxy/inbound_connection.h"
#include "ztunnel/proxy/original_destination.h"
#include "ztunnel/proxy/outbound_connection.h"
#include "ztunnel/proxy/pod_entry.h"
#include "ztunnel/proxy/socks.h"
#include "ztunnel/proxy/tunnel_session.h"

namespace qanat::ztunnel {

using model::Reason;

namespace {

constexpr auto kTellExhausted = std::chrono::seconds(10);
constexpr auto kLookAtIdleness = std::chrono::seconds(60);
constexpr auto kLookOftenest = std::chrono::milliseconds(100);
// An inner tunnel ends at one endpoint of the far service, which the gateway picked: calls that go
// on coming are to reach the others too, and to leave a gateway that is going away.
constexpr auto kInnerTunnelAge = std::chrono::seconds(60);

}  // namespace

Worker::Worker(unsigned index, const Environment& environment)
    : environment_(environment),
      log_(environment.access_log->AddSource()),
      metrics_(*environment.metrics),
      series_(*environment.metrics),
      random_((static_cast<uint64_t>(std::random_device{}()) << 32) ^ std::random_device{}()),
      source_sockets_(metrics_.sockets_open.With({"source"})),
      destination_sockets_(metrics_.sockets_open.With({"destination"})),
      source_setup_(metrics_, "source"),
      destination_setup_(metrics_, "destination"),
      thread_(fmt::format("worker-{}", index).c_str()) {
  relay_shared_.pipes.KeepFrom(environment.descriptors.made);
  // Everything on the loop is made on its thread; this runs before whatever is posted later.
  loop().Post([this] {
    log::SendThisThreadTo([this](std::string_view line) { log_.Write(line); });
    handshakes_ = std::make_unique<tls::HandshakeShared>(loop());
    handshakes_->on_outcome = [this](const tls::HandshakeOutcome& o) { CountHandshake(o); };
    handshakes_->verifier.OnUnknownIssuer([this](const std::string& own) {
      if (const auto identity = model::Identity::Parse(own)) {
        environment_.renew_certificate(*identity);
      }
    });
    MakePools();
    spare_sockets_ = std::make_unique<SpareSockets>(loop(), environment_.descriptors.made);
    resolver_ = std::make_unique<dns::Resolver>(loop(), environment_.config);
    idleness_ = std::make_unique<event::Timer>(loop(), [this] { LookAtIdleness(); });
    LookAtIdleness();
  });
}

Worker::~Worker() { Stop(); }

void Worker::Stop() {
  if (stopped_) return;
  stopped_ = true;
  // What lives on the loop dies on its thread; one round later nothing of it is left.
  std::promise<void> gone;
  loop().Post([this, &gone] {
    mover_.Clear();
    for (auto& [pointer, connection] : connections_) loop().DeferDelete(std::move(connection));
    connections_.clear();
    waiting_for_certificate_.clear();
    pods_.clear();
    loop().Post([this, &gone] {
      idleness_.reset();
      resolver_.reset();
      spare_sockets_.reset();
      inner_pool_.reset();
      pool_.reset();
      loop().Post([this, &gone] {
        handshakes_.reset();
        gone.set_value();
      });
    });
  });
  gone.get_future().wait();
  thread_.Stop();
}

// ---- pods

void Worker::AddPod(PodPtr pod, Listeners listeners) {
  if (draining_) return;
  auto entry = std::make_unique<PodEntry>();
  const std::string uid = pod->uid;
  if (!pod->proxy_itself) pods_by_name_[{pod->ns, pod->name}] = pod;  // for one pass
  entry->pod = std::move(pod);
  dns::Sockets dns_sockets;
  for (Listening& one : listeners) {
    const auto accept = [&](void (Worker::*handler)(const PodPtr&, Fd, net::SocketAddress)) {
      entry->acceptors.emplace_back(
          one.role, std::make_unique<net::Acceptor>(
                        loop(), std::move(one.fd),
                        [this, handler, raw = entry.get()](Fd connection, net::SocketAddress peer) {
                          (this->*handler)(raw->pod, std::move(connection), peer);
                        },
                        [this](const Error& error) { OnExhausted(error); }));
      entry->acceptors.back().second->KeepFrom(environment_.descriptors.accepted);
    };
    switch (one.role) {
      case Role::kOutbound: accept(&Worker::OnOutbound); break;
      case Role::kInboundPlain: accept(&Worker::OnInboundPlain); break;
      case Role::kInboundHbone: accept(&Worker::OnInboundHbone); break;
      case Role::kSocks: accept(&Worker::OnSocks); break;
      case Role::kDnsUdp: dns_sockets.udp.push_back(std::move(one.fd)); break;
      case Role::kDnsTcp: dns_sockets.tcp.push_back(std::move(one.fd)); break;
    }
  }
  RefreshVerdict(*entry);
  if (!dns_sockets.udp.empty()) {
    entry->dns = std::make_unique<dns::Server>(
        loop(), entry->pod, std::move(dns_sockets),
        dns::Server::Hooks{environment_.config, metrics_,
                           [this]() -> const state::MeshSnapshot& { return *snapshot_; },
                           [this](const Pod& of) { return Identify(of); },
                           [this](const Error& error) { OnExhausted(error); },
                           environment_.descriptors.accepted});
  }
  pods_[uid] = std::move(entry);
  CountPods();
}

void Worker::UpdatePod(PodPtr pod) {
  const auto it = pods_.find(pod->uid);
  if (it == pods_.end()) return;
  pods_by_name_[{pod->ns, pod->name}] = pod;
  it->second->pod = std::move(pod);
  if (RefreshVerdict(*it->second)) CountPods();
  if (it->second->dns) it->second->dns->Update(it->second->pod);
  // Waiting connections hold the old description; they look again with the new one.
  ForEachConnection([&](Connection& connection) { connection.UpdatePod(it->second->pod); });
}

void Worker::RemovePod(const std::string& uid) {
  const auto it = pods_.find(uid);
  if (it == pods_.end()) return;
  const PodPtr pod = it->second->pod;
  pods_.erase(it);
  CountPods();
  const auto named = pods_by_name_.find({pod->ns, pod->name});
  if (named != pods_by_name_.end() && named->second->uid == uid) pods_by_name_.erase(named);
  ForEachConnection([&](Connection& connection) {
    if (connection.Touches(uid)) connection.Close(Reason::kDraining, "the pod was removed");
  });
  if (pod->netns != nullptr) spare_sockets_->Forget(*pod->netns);
  resolver_->RemovePod(uid);
  EndTunnelsOf(*pod);
}

Listeners Worker::ShareListeners(const std::string& uid) const {
  Listeners out;
  const auto it = pods_.find(uid);
  if (it == pods_.end()) return out;
  const auto share = [&out](Role role, int fd) {
    Fd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
    if (copy) out.push_back({role, std::move(copy)});
  };
  for (const auto& [role, acceptor] : it->second->acceptors) share(role, acceptor->fd());
  if (const dns::Server* dns = it->second->dns.get()) {
    for (const int fd : dns->udp_sockets()) share(Role::kDnsUdp, fd);
    for (const int fd : dns->tcp_sockets()) share(Role::kDnsTcp, fd);
  }
  return out;
}

void Worker::PauseListeners(const std::string& uid, bool paused) {
  const auto it = pods_.find(uid);
  if (it == pods_.end()) return;
  for (const auto& [role, acceptor] : it->second->acceptors) acceptor->SetPaused(paused);
  if (it->second->dns) it->second->dns->SetPaused(paused);
}

PodPtr Worker::PodByUid(const std::string& uid) const {
  const auto it = pods_.find(uid);
  return it == pods_.end() ? nullptr : it->second->pod;
}

PodPtr Worker::PodByCookie(uint64_t netns_cookie) const {
  for (const auto& [uid, entry] : pods_) {
    if (entry->pod->netns_cookie == netns_cookie) return entry->pod;
  }
  return nullptr;
}

PodPtr Worker::PodByName(std::string_view ns, std::string_view name) const {
  const auto it = pods_by_name_.find({std::string(ns), std::string(name)});
  return it == pods_by_name_.end() ? nullptr : it->second;
}

// ---- accepting

void Worker::OnOutbound(const PodPtr& pod, Fd fd, net::SocketAddress peer) {
  const auto original = FindOriginalDestination(fd.get(), 15001);
  if (!original) {
    // Somebody connected to the proxy's port itself: there is nowhere to go to.
    CountRefused(Reporter::kSource, Reason::kSelfCall);
    LOG_WARN("outbound", "{} connected to the proxy's port 15001 itself; closed", peer.ToString());
    return;
  }
  auto connection =
      std::make_unique<OutboundConnection>(*this, pod, std::move(fd), peer, *original);
  OutboundConnection& started = *connection;
  Adopt(std::move(connection));
  started.Start();
}

void Worker::OnInboundPlain(const PodPtr& pod, Fd fd, net::SocketAddress peer) {
  const auto original = FindOriginalDestination(fd.get(), 15006);
  if (!original) {
    CountRefused(Reporter::kDestination, Reason::kSelfCall);
    LOG_WARN("inbound", "{} connected to the proxy's port 15006 itself; closed", peer.ToString());
    return;
  }
  auto connection =
      std::make_unique<InboundConnection>(*this, pod, std::move(fd), peer, original->address);
  InboundConnection& started = *connection;
  Adopt(std::move(connection));
  started.Start();
}

void Worker::OnInboundHbone(const PodPtr& pod, Fd fd, net::SocketAddress peer) {
  const auto local = net::SocketAddress::OfLocal(fd.get());
  if (!local) return;
  auto session = std::make_unique<TunnelSession>(*this, pod, std::move(fd), peer, *local);
  TunnelSession& started = *session;
  Adopt(std::move(session));
  started.Start();
}

// Every listener says so every 100 ms.
void Worker::OnExhausted(const Error& error) {
  spare_sockets_->Clear();
  metrics_.accept_paused.Get().Add();
  const event::TimePoint now = loop().now();
  if (told_exhausted_ != event::TimePoint{} && now - told_exhausted_ < kTellExhausted) return;
  told_exhausted_ = now;
  LOG_ERROR("proxy",
            "{}: new connections wait in their listeners' queues, those that are open go on; raise "
            "the limit of open files, or see who has so many (/debug/connections)",
            error.message);
}

void Worker::LookAtIdleness() {
  const event::TimePoint now = loop().now();
  ForEachConnection([now](Connection& connection) { connection.LookAtIdleness(now); });
  if (now - inner_since_ >= kInnerTunnelAge) {
    inner_since_ = now;
    inner_pool_->Drain([](const hbone::PoolKey&) { return true; });
  }
  sharing_.Sweep(now);
  const Config& config = environment_.config;
  event::Duration next = kLookAtIdleness;
  for (const auto limit : {config.half_closed_timeout, config.idle_tunnel_timeout}) {
    if (limit.count() > 0) next = std::min<event::Duration>(next, limit / 4);
  }
  next = std::max<event::Duration>(next, kLookOftenest);
  idleness_->Start(next);
}

void Worker::OnSocks(const PodPtr& pod, Fd fd, net::SocketAddress peer) {
  auto client = std::make_unique<SocksConnection>(*this, pod, std::move(fd), peer);
  SocksConnection& started = *client;
  Adopt(std::move(client));
  started.Start();
}

Connection& Worker::Adopt(std::unique_ptr<Connection> connection) {
  Connection* raw = connection.get();
  connections_.emplace(raw, std::move(connection));
  alive_.store(connections_.size(), std::memory_order_relaxed);
  return *raw;
}

void Worker::Release(Connection* connection) {
  const auto it = connections_.find(connection);
  if (it == connections_.end()) return;
  std::erase_if(waiting_for_certificate_,
                [&](const auto& item) { return item.second == connection; });
  mover_.OnReleased(connection);
  loop().DeferDelete(std::move(it->second));
  connections_.erase(it);
  alive_.store(connections_.size(), std::memory_order_relaxed);
}

// ---- what is known

void Worker::SetSnapshot(state::SnapshotPtr snapshot) {
  snapshot_ = std::move(snapshot);
  series_.ForgetPointers();
  SweepPicks();
  // A large mesh changes all the time, what concerns one node's pods rarely does: connections are
  // checked again only where the pod's identity or the policies for it are other ones than before.
  std::vector<std::string> concerned;
  for (const auto& [uid, entry] : pods_) {
    if (RefreshVerdict(*entry)) concerned.push_back(uid);
    if (entry->dns) entry->dns->OnSnapshot();
  }
  if (!concerned.empty()) CountPods();
  std::vector<Connection*> look;  // a connection that looks may be released
  for (const auto& [pointer, owned] : connections_) {
    if (pointer->Waiting() ||
        std::any_of(concerned.begin(), concerned.end(),
                    [&](const std::string& uid) { return pointer->Touches(uid); })) {
      look.push_back(pointer);
    }
  }
  for (Connection* connection : look) connection->OnSnapshot();
}

bool Worker::RefreshVerdict(PodEntry& entry) const {
  const route::Identified found = Identify(*entry.pod);
  model::Identity identity;
  policy::PolicySet policies;
  if (found.workload != nullptr) {
    identity = found.workload->identity();
    policies = snapshot_->PoliciesFor(*found.workload);
  }
  if (found.reason == entry.identified && identity == entry.identity &&
      policies == entry.policies) {
    return false;
  }
  entry.identified = found.reason;
  entry.identity = std::move(identity);
  entry.policies = std::move(policies);
  return true;
}

route::Identified Worker::Identify(const Pod& pod) const {
  return route::IdentifyPod(*snapshot_, environment_.mesh, pod);
}

policy::Decision Worker::CheckPolicy(const model::Workload& destination,
                                     const policy::Request& request) const {
  policy::Decision decision = policy::Evaluate(snapshot_->PoliciesFor(destination), request);
  const log::Level level =
      environment_.config.authz_info_logging ? log::Level::kInfo : log::Level::kDebug;
  if (log::Enabled("authz", level)) {
    log::Write(
        "authz", level,
        fmt::format("{} ({}) to {} port {}: {}{}{}", request.source_ip.ToString(),
                    request.source ? request.source->ToString() : "no identity", destination.uid,
                    request.destination_port, decision.allowed ? "allowed" : "denied",
                    decision.policy.empty() ? "" : " by policy ", decision.policy));
  }
  return decision;
}

route::RequiredWaypoint Worker::CheckWaypoint(const model::Workload& destination,
                                              const net::SocketAddress& target,
                                              const route::Sender& sender) const {
  if (!environment_.config.enforce_waypoint) return {};
  return route::CheckRequiredWaypoint(*snapshot_, destination, target, sender);
}

// ---- draining

void Worker::StartDrain(bool kept) {
  draining_ = true;
  for (auto& [uid, entry] : pods_) {
    for (auto& [role, acceptor] : entry->acceptors) {
      if (!kept) acceptor->TakeWaiting();
    }
    entry->acceptors.clear();
    if (entry->dns) entry->dns->Drain();
  }
  ForEachConnection([](Connection& connection) { connection.Drain(); });
}

void Worker::CloseAll(Reason reason) {
  ForEachConnection([&](Connection& connection) { connection.Close(reason, ""); });
}

}  // namespace qanat::ztunnel
