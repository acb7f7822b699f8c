// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/worker.h"

#include <utility>

#include "common/base/log.h"
#include "waypoint/proxy/downstream.h"
#include "waypoint/proxy/sniffer.h"
#include "waypoint/proxy/tcp_connection.h"
#include "waypoint/proxy/tunnel.h"

namespace qanat::waypoint {
namespace {

// Connections to endpoints that are gone are looked for when a burst of changes is over.
constexpr std::chrono::seconds kRetainDelay{1};

}  // namespace

Worker::Worker(event::EventLoop& loop, const ProxySettings& settings, TelemetryFamilies& families)
    : telemetry_(families, settings),
      dialer_(loop, settings, [this] { return certificates_.client; }),
      upstream_(loop, dialer_),
      context_{loop,      settings,  std::make_shared<ConfigSnapshot>(), {}, dialer_,
               upstream_, telemetry_},
      retain_timer_(loop, [this] { RetainUpstreams(); }) {}

Worker::~Worker() {
  // Objects ask to be released while they die: they must not find the map that is being emptied.
  acceptor_.reset();
  auto owned = std::exchange(owned_, {});
  tunnels_.clear();
  http_.clear();
  tcp_.clear();
  drained_ = nullptr;
  owned.clear();
}

void Worker::Listen(Fd listener) {
  acceptor_ = std::make_unique<net::Acceptor>(
      context_.loop, std::move(listener),
      [this](Fd fd, net::SocketAddress peer) { Accept(std::move(fd), peer); });
}

void Worker::Accept(Fd fd, net::SocketAddress peer) {
  if (!certificates_.server) {
    LOG_WARN("tunnel", "{}: closed, there is no certificate yet", peer.ToString());
    return;
  }
  if (tunnels_.size() >= context_.settings.max_tunnels) {
    telemetry_.BadInput("too_many_tunnels");
    return;
  }
  net::SetStreamOptions(fd.get());
  auto tunnel = std::make_unique<Tunnel>(
      *this, net::MakeSocketTransport(context_.loop, std::move(fd)), certificates_.server);
  tunnels_.insert(tunnel.get());
  event::Deferred* key = tunnel.get();
  owned_.emplace(key, std::move(tunnel));
}

void Worker::Serve(PeerPtr peer, Authority authority, ChainPtr chain, hbone::Responder responder) {
  if (chain->http && chain->tcp) {
    if (net::TransportPtr t = responder.Accept()) {
      Sniff(std::move(peer), std::move(authority), std::move(chain), std::move(t));
    }
    return;
  }
  if (chain->tcp) {
    AddTcp(std::make_unique<TcpConnection>(context_, *this, std::move(peer), std::move(authority),
                                           std::move(chain), std::move(responder)));
    return;
  }
  net::TransportPtr transport = responder.Accept();
  if (!transport) return;
  AddHttp(std::make_unique<Downstream>(context_, *this, std::move(transport), std::move(peer),
                                       std::move(authority), std::move(chain),
                                       Downstream::Codec::kAuto, std::string()));
}

void Worker::Sniff(PeerPtr peer, Authority authority, ChainPtr chain, net::TransportPtr transport) {
  auto sniffer = std::make_unique<Sniffer>(
      context_, *this, std::move(transport),
      [this, peer, authority, chain](http::Detected protocol, net::TransportPtr t,
                                     std::string bytes) {
        using Detected = http::Detected;
        if (protocol == Detected::kHttp1 || protocol == Detected::kHttp2) {
          AddHttp(std::make_unique<Downstream>(
              context_, *this, std::move(t), peer, authority, chain,
              protocol == Detected::kHttp2 ? Downstream::Codec::kHttp2 : Downstream::Codec::kHttp1,
              std::move(bytes)));
        } else {
          AddTcp(std::make_unique<TcpConnection>(context_, *this, peer, authority, chain,
                                                 std::move(t), std::move(bytes)));
        }
      });
  event::Deferred* key = sniffer.get();
  owned_.emplace(key, std::move(sniffer));
}

void Worker::AddHttp(std::unique_ptr<Downstream> connection) {
  http_.insert(connection.get());
  if (context_.draining) connection->Drain();
  event::Deferred* key = connection.get();
  owned_.emplace(key, std::move(connection));
}

void Worker::AddTcp(std::unique_ptr<TcpConnection> connection) {
  TcpConnection* raw = connection.get();
  tcp_.insert(raw);
  owned_.emplace(raw, std::move(connection));
  raw->Start();
}

void Worker::Release(event::Deferred* object) {
  auto it = owned_.find(object);
  if (it == owned_.end()) return;
  context_.loop.DeferDelete(std::move(it->second));
  owned_.erase(it);
  // One of the three; the pointers are compared, not followed.
  std::erase_if(tunnels_, [&](Tunnel* t) { return t == object; });
  std::erase_if(http_, [&](Downstream* d) { return d == object; });
  std::erase_if(tcp_, [&](TcpConnection* c) { return c == object; });
  CheckDrained();
}

void Worker::SetSnapshot(SnapshotPtr snapshot) {
  context_.snapshot = std::move(snapshot);
  context_.clusters.Prune(*context_.snapshot);
  // HTTP asks for its policy with each request; a TCP connection was asked once.
  std::vector<TcpConnection*> live(tcp_.begin(), tcp_.end());
  for (TcpConnection* c : live) c->Recheck();
  if (!retain_timer_.armed()) retain_timer_.Start(kRetainDelay);
}

void Worker::RetainUpstreams() {
  struct Known {
    bool hbone;
    std::string_view identity;
  };
  std::unordered_multimap<net::SocketAddress, Known> known;
  for (const auto& [name, set] : context_.snapshot->endpoints) {
    for (const Endpoint& e : set->endpoints) known.emplace(e.address, Known{e.hbone, e.identity});
  }
  for (const auto& [name, cluster] : context_.snapshot->clusters) {
    if (!cluster->inline_endpoints) continue;
    for (const Endpoint& e : cluster->inline_endpoints->endpoints) {
      known.emplace(e.address, Known{e.hbone, e.identity});
    }
  }
  upstream_.Retain([&](const net::SocketAddress& address, bool hbone, const std::string& identity) {
    auto [begin, end] = known.equal_range(address);
    for (auto it = begin; it != end; ++it) {
      if (it->second.hbone == hbone && it->second.identity == identity) return true;
    }
    return false;
  });
}

void Worker::SetCertificates(WorkerCertificates certificates) {
  const bool renewed = certificates_.client != nullptr;
  certificates_ = std::move(certificates);
  // Tunnels that we opened were authenticated with the old one; they end with their last stream,
  // and HTTP connections inside of them make room, or they would keep the old ones for ever.
  if (renewed) {
    dialer_.DrainTunnels();
    upstream_.DrainAll();
  }
}

void Worker::Drain(std::function<void()> drained) {
  context_.draining = true;
  drained_ = std::move(drained);
  acceptor_.reset();
  std::vector<Tunnel*> tunnels(tunnels_.begin(), tunnels_.end());
  for (Tunnel* t : tunnels) t->Drain();
  std::vector<Downstream*> http(http_.begin(), http_.end());
  for (Downstream* d : http) d->Drain();
  CheckDrained();
}

void Worker::CheckDrained() {
  if (!drained_ || !owned_.empty()) return;
  auto drained = std::exchange(drained_, nullptr);
  drained();
}

WorkerStats Worker::Stats() const {
  WorkerStats out;
  out.tunnels = tunnels_.size();
  out.http_connections = http_.size();
  out.tcp_connections = tcp_.size();
  out.upstream_connections = upstream_.connections();
  out.pool = dialer_.stats();
  for (const auto& [name, cluster] : context_.clusters.all()) {
    if (!cluster->endpoints()) continue;
    const auto& endpoints = cluster->endpoints()->endpoints;
    for (size_t i = 0; i < endpoints.size(); ++i) {
      const HostState& s = *cluster->states()[i];
      out.hosts.push_back(
          {name, endpoints[i].address.ToString(), s.active, s.ejected_until > context_.loop.now()});
    }
  }
  return out;
}

}  // namespace qanat::waypoint
