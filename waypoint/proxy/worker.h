// SPDX-License-Identifier: Apache-2.0
// One thread's whole data path: listening socket, tunnels, connections, pools. Created, used and
// destroyed on its loop's thread (or after that thread has ended).
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/hbone/server_session.h"
#include "common/net/socket.h"
#include "common/tls/tls_context.h"
#include "waypoint/proxy/context.h"
#include "waypoint/proxy/peer.h"

namespace qanat::waypoint {

class Tunnel;
class Downstream;
class TcpConnection;

struct WorkerCertificates {
  tls::TlsContextPtr server, client;
};

// What a worker tells about itself, for the admin pages.
struct WorkerStats {
  size_t tunnels = 0, http_connections = 0, tcp_connections = 0, upstream_connections = 0;
  hbone::PoolStats pool;
  struct Host {
    std::string cluster, address;
    uint32_t active = 0;
    bool ejected = false;
  };
  std::vector<Host> hosts;
};

class Worker final : public Owner {
 public:
  Worker(event::EventLoop& loop, const ProxySettings& settings, TelemetryFamilies& families);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void Listen(Fd listener);
  void SetSnapshot(SnapshotPtr snapshot);
  void SetCertificates(WorkerCertificates certificates);
  // No new tunnels; those that are here are told, requests finish. `drained` once nothing is left.
  void Drain(std::function<void()> drained);
  WorkerStats Stats() const;

  // For Tunnel.
  WorkerContext& context() { return context_; }
  void Serve(PeerPtr peer, Authority authority, ChainPtr chain, hbone::Responder responder);
  void Release(event::Deferred* object) override;

 private:
  void Accept(Fd fd, net::SocketAddress peer);
  void AddHttp(std::unique_ptr<Downstream> connection);
  void AddTcp(std::unique_ptr<TcpConnection> connection);
  void Sniff(PeerPtr peer, Authority authority, ChainPtr chain, net::TransportPtr transport);
  void CheckDrained();
  void RetainUpstreams();

  TelemetrySink telemetry_;
  Dialer dialer_;
  UpstreamPool upstream_;
  WorkerContext context_;
  WorkerCertificates certificates_;
  std::unique_ptr<net::Acceptor> acceptor_;
  std::unordered_map<event::Deferred*, std::unique_ptr<event::Deferred>> owned_;
  std::unordered_set<Tunnel*> tunnels_;
  std::unordered_set<Downstream*> http_;
  std::unordered_set<TcpConnection*> tcp_;
  std::function<void()> drained_;
  event::Timer retain_timer_;
};

}  // namespace qanat::waypoint
