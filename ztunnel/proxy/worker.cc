// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>

#include "common/base/log.h"
#include "common/net/socket.h"
#include "ztunnel/proxy/inbound_connection.h"
#include "ztunnel/proxy/original_destination.h"
#include "ztunnel/proxy/outbound_connection.h"
#include "ztunnel/proxy/tunnel_session.h"

namespace qanat::ztunnel {

using model::Reason;

struct Worker::PodEntry {
  PodPtr pod;
  // What verdicts about the pod's connections depend on, as of the present snapshot.
  Reason identified = Reason::kNone;
  model::Identity identity;
  policy::PolicySet policies;
  std::unique_ptr<net::Acceptor> outbound, inbound_plain, inbound_hbone;
};

Worker::Worker(unsigned index, const Environment& environment)
    : environment_(environment),
      series_(*environment.metrics),
      random_((static_cast<uint64_t>(std::random_device{}()) << 32) ^ std::random_device{}()),
      source_sockets_(environment.metrics->sockets_open.With({"source"})),
      destination_sockets_(environment.metrics->sockets_open.With({"destination"})),
      thread_(fmt::format("worker-{}", index).c_str()) {
  const Config& config = environment_.config;
  hbone::PoolOptions options;
  options.session.stream_window = config.stream_window;
  options.session.connection_window = config.connection_window;
  options.session.max_frame_size = config.frame_size;
  options.max_streams = config.pool_max_streams;
  options.idle_release = config.pool_idle;
  // Everything on the loop is made on its thread; this runs before whatever is posted later.
  loop().Post([this, options] {
    pool_ = std::make_unique<hbone::Pool>(
        loop(), options,
        hbone::MakeTlsDial(
            loop(), [this](const hbone::PoolKey& key) { return PlanDial(key); },
            options.connect_timeout));
  });
}

Worker::~Worker() { Stop(); }

void Worker::Stop() {
  if (stopped_) return;
  stopped_ = true;
  // What lives on the loop dies on its thread; one round later nothing of it is left.
  std::promise<void> gone;
  loop().Post([this, &gone] {
    for (auto& [pointer, connection] : connections_) loop().DeferDelete(std::move(connection));
    connections_.clear();
    waiting_for_certificate_.clear();
    pods_.clear();
    loop().Post([this, &gone] {
      pool_.reset();
      gone.set_value();
    });
  });
  gone.get_future().wait();
  thread_.Stop();
}

// ---- pods

void Worker::AddPod(PodPtr pod, PodListeners listeners) {
  if (draining_) return;
  auto entry = std::make_unique<PodEntry>();
  const std::string uid = pod->uid;
  pods_by_name_[{pod->ns, pod->name}] = pod;
  entry->pod = std::move(pod);
  const auto accept = [&](Fd fd, void (Worker::*handler)(const PodPtr&, Fd, net::SocketAddress)) {
    return std::make_unique<net::Acceptor>(
        loop(), std::move(fd),
        [this, handler, raw = entry.get()](Fd connection, net::SocketAddress peer) {
          (this->*handler)(raw->pod, std::move(connection), peer);
        });
  };
  entry->outbound = accept(std::move(listeners.outbound), &Worker::OnOutbound);
  entry->inbound_plain = accept(std::move(listeners.inbound_plain), &Worker::OnInboundPlain);
  entry->inbound_hbone = accept(std::move(listeners.inbound_hbone), &Worker::OnInboundHbone);
  RefreshVerdict(*entry);
  pods_[uid] = std::move(entry);
}

void Worker::UpdatePod(PodPtr pod) {
  const auto it = pods_.find(pod->uid);
  if (it == pods_.end()) return;
  pods_by_name_[{pod->ns, pod->name}] = pod;
  it->second->pod = std::move(pod);
  RefreshVerdict(*it->second);
  // Waiting connections hold the old description; they look again with the new one.
  ForEachConnection([&](Connection& connection) { connection.UpdatePod(it->second->pod); });
}

void Worker::RemovePod(const std::string& uid) {
  const auto it = pods_.find(uid);
  if (it == pods_.end()) return;
  const PodPtr pod = it->second->pod;
  pods_.erase(it);
  const auto named = pods_by_name_.find({pod->ns, pod->name});
  if (named != pods_by_name_.end() && named->second->uid == uid) pods_by_name_.erase(named);
  ForEachConnection([&](Connection& connection) {
    if (connection.Touches(uid)) connection.Close(Reason::kDraining, "the pod was removed");
  });
  pool_->Close([&](const hbone::PoolKey& key) { return key.source_netns == pod->netns_cookie; },
               "the pod was removed");
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

Connection& Worker::Adopt(std::unique_ptr<Connection> connection) {
  Connection* raw = connection.get();
  connections_.emplace(raw, std::move(connection));
  return *raw;
}

void Worker::Release(Connection* connection) {
  const auto it = connections_.find(connection);
  if (it == connections_.end()) return;
  std::erase_if(waiting_for_certificate_,
                [&](const auto& item) { return item.second == connection; });
  loop().DeferDelete(std::move(it->second));
  connections_.erase(it);
}

template <typename Visit>
void Worker::ForEachConnection(Visit visit) {
  // A visit may release its connection, which lives until the end of the round.
  std::vector<Connection*> all;
  all.reserve(connections_.size());
  for (const auto& [pointer, owned] : connections_) all.push_back(pointer);
  for (Connection* connection : all) visit(*connection);
}

// ---- what is known

void Worker::SetSnapshot(state::SnapshotPtr snapshot) {
  snapshot_ = std::move(snapshot);
  // A large mesh changes all the time, what concerns one node's pods rarely does: connections are
  // checked again only where the pod's identity or the policies for it are other ones than before.
  std::vector<std::string> concerned;
  for (const auto& [uid, entry] : pods_) {
    if (RefreshVerdict(*entry)) concerned.push_back(uid);
  }
  ForEachConnection([&](Connection& connection) {
    const bool look = connection.Waiting() ||
                      std::any_of(concerned.begin(), concerned.end(),
                                  [&](const std::string& uid) { return connection.Touches(uid); });
    if (look) connection.OnSnapshot();
  });
}

bool Worker::RefreshVerdict(PodEntry& entry) const {
  const Identified found = Identify(*entry.pod);
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

Identified Worker::Identify(const Pod& pod) const {
  return IdentifyPod(*snapshot_, environment_.mesh, pod);
}

policy::Decision Worker::CheckPolicy(const model::Workload& destination,
                                     const policy::Request& request) const {
  return policy::Evaluate(snapshot_->PoliciesFor(destination), request);
}

// ---- certificates

identity::CertificatePtr Worker::FindCertificate(const model::Identity& identity) const {
  const auto it = certificates_.find(identity);
  if (it == certificates_.end()) return nullptr;
  return it->second->not_after() > std::chrono::system_clock::now() ? it->second : nullptr;
}

void Worker::AwaitCertificate(const model::Identity& identity, Connection* connection) {
  waiting_for_certificate_.emplace(identity, connection);
  environment_.want_certificate(identity);
}

void Worker::SetCertificate(const model::Identity& identity, identity::CertificatePtr certificate) {
  if (certificate == nullptr) {
    certificates_.erase(identity);
    return;
  }
  identity::CertificatePtr& held = certificates_[identity];
  const bool renewed = held != nullptr && held != certificate;
  held = certificate;
  if (renewed) {
    // New streams go over tunnels that were made with the new certificate.
    const std::string spiffe = identity.ToString();
    pool_->Drain([&](const hbone::PoolKey& key) { return key.source_identity == spiffe; });
  }
  AnswerWaiting(identity, std::move(certificate));
}

void Worker::CertificateFailed(const model::Identity& identity, const Error& error) {
  AnswerWaiting(identity, Fail(error));
}

void Worker::AnswerWaiting(const model::Identity& identity,
                           const Result<identity::CertificatePtr>& answer) {
  const auto [begin, end] = waiting_for_certificate_.equal_range(identity);
  std::vector<Connection*> waiting;
  for (auto it = begin; it != end; ++it) waiting.push_back(it->second);
  waiting_for_certificate_.erase(begin, end);
  for (Connection* connection : waiting) connection->OnCertificate(answer);
}

Result<hbone::DialPlan> Worker::PlanDial(const hbone::PoolKey& key) const {
  const auto identity = model::Identity::Parse(key.source_identity);
  const auto certificate = identity ? FindCertificate(*identity) : nullptr;
  if (certificate == nullptr) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("no valid certificate for {}", key.source_identity));
  }
  for (const auto& [uid, entry] : pods_) {
    if (entry->pod->netns_cookie != key.source_netns) continue;
    hbone::DialPlan plan;
    plan.context = certificate->client;
    plan.connect.mark = environment_.config.packet_mark;
    plan.connect.netns = entry->pod->netns.get();
    return plan;
  }
  return Fail(Code::kUnavailable, "the pod is no longer here");
}

// ---- telemetry

void Worker::CountRefused(Reporter reporter, Reason reason) {
  environment_.metrics->refused
      .With(
          {reporter == Reporter::kSource ? "source" : "destination", std::string(ToString(reason))})
      ->Add();
}

void Worker::CountTunnelError(Reason reason) {
  environment_.metrics->tunnel_errors.With({std::string(ToString(reason))})->Add();
}

void Worker::LogFlow(const Flow& flow, const FlowEnd& end) {
  const Series& series = series_.For(flow, end.reason);
  if (end.reason != Reason::kNone) {
    CountRefused(flow.reporter, end.reason);
    if (series.failed) series.failed->Add();  // a reset by an application has no flag
  }
  if (end.opened) series.closed->Add();
  const log::Level level = !end.opened                   ? log::Level::kWarn
                           : end.reason != Reason::kNone ? log::Level::kError
                                                         : log::Level::kInfo;
  if (!log::Enabled("access", level)) return;
  log::WriteRaw(AccessLine(flow, end, log::CurrentFormat(), log::Timestamp()));
}

// ---- draining

void Worker::StartDrain() {
  draining_ = true;
  for (auto& [uid, entry] : pods_) {
    entry->outbound.reset();
    entry->inbound_plain.reset();
    entry->inbound_hbone.reset();
  }
  ForEachConnection([](Connection& connection) { connection.Drain(); });
}

void Worker::CloseAll(Reason reason) {
  ForEachConnection([&](Connection& connection) { connection.Close(reason, ""); });
}

size_t Worker::user_connections() const {
  size_t count = 0;
  for (const auto& [pointer, owned] : connections_) count += pointer->IsUserConnection() ? 1 : 0;
  return count;
}

std::vector<ConnectionInfo> Worker::Describe() const {
  std::vector<ConnectionInfo> out;
  for (const auto& [pointer, owned] : connections_) {
    if (auto info = pointer->Describe()) out.push_back(std::move(*info));
  }
  return out;
}

hbone::PoolStats Worker::pool_stats() const { return pool_->stats(); }

}  // namespace qanat::ztunnel
