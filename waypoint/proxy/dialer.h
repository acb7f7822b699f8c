// SPDX-License-Identifier: Apache-2.0
// Opens byte streams to endpoints: through a shared tunnel (HBONE, mTLS) or plain TCP. One per
// worker.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/hbone/pool.h"
#include "common/net/transport.h"
#include "common/tls/tls_context.h"
#include "waypoint/config/config.h"
#include "waypoint/proxy/settings.h"

namespace qanat::waypoint {

class Dialer {
 public:
  // `client_context` is asked for the present certificate each time a tunnel is made.
  Dialer(event::EventLoop& loop, const ProxySettings& settings,
         std::function<tls::TlsContextPtr()> client_context);

  class Attempt : public event::Deferred {};  // destroying it cancels
  using Done = std::function<void(Result<net::TransportPtr>)>;
  // `done` is called once, never from inside. `for_client`: goes into the tunnel's "forwarded"
  // header when the stream serves one client only; unset otherwise.
  std::unique_ptr<Attempt> Dial(const Endpoint& endpoint, std::chrono::milliseconds timeout,
                                const net::SocketAddress& for_client, Done done);

  // New streams take new tunnels (a new certificate has come).
  void DrainTunnels();
  hbone::PoolStats stats() const { return pool_->stats(); }

 private:
  event::EventLoop& loop_;
  const ProxySettings& settings_;
  std::string baggage_;
  std::unique_ptr<hbone::Pool> pool_;
};

}  // namespace qanat::waypoint
