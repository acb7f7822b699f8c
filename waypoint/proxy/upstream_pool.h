// SPDX-License-Identifier: Apache-2.0
// HTTP connections to endpoints, reused: HTTP/1.1 one request at a time, HTTP/2 many. A request
// that finds none has one made and waits. One per worker.
#pragma once

#include <compare>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/http/connection.h"
#include "waypoint/proxy/dialer.h"

namespace qanat::waypoint {

class UpstreamPool {
 public:
  UpstreamPool(event::EventLoop& loop, Dialer& dialer);
  ~UpstreamPool();

  struct Limits {
    std::chrono::milliseconds connect_timeout{10000};
    std::chrono::milliseconds idle_timeout{3600000};
    uint32_t max_requests = 0;     // per connection; 0: any number
    uint32_t max_connections = 0;  // per endpoint here; 0: any number
    uint32_t max_pending = 0;      // waiting requests per endpoint; 0: any number
  };

  class Lease : public event::Deferred {};  // destroying it cancels the wait
  // A connection on which Open() works now. It stays the pool's: use it within the call.
  struct Grant {
    http::ClientConnection* connection;
    bool reused;  // it has served before: its server may be closing it this very moment
  };
  // kResourceExhausted: a limit. kPermissionDenied: the other end's policy said no.
  using Ready = std::function<void(Result<Grant>)>;
  // `ready` is called once, never from inside.
  std::unique_ptr<Lease> Acquire(const Endpoint& endpoint, bool http2, const Limits& limits,
                                 Ready ready);

  // Endpoints that are gone: their idle connections close, busy ones finish.
  void Retain(const std::function<bool(const net::SocketAddress& address, bool hbone,
                                       const std::string& identity)>& wanted);
  void DrainAll();
  size_t connections() const;

  struct Key {
    net::SocketAddress address;
    net::SocketAddress tunnel;
    std::string identity;
    bool hbone = false;
    bool http2 = false;
    auto operator<=>(const Key&) const = default;
  };

 private:
  struct Bucket;
  struct Connection;
  struct Waiter;
  Bucket& BucketOf(const Key& key);
  void Pump(Bucket& bucket);
  void Grow(Bucket& bucket, const Endpoint& endpoint);
  void Schedule(Bucket& bucket);

  event::EventLoop& loop_;
  Dialer& dialer_;
  std::map<Key, std::unique_ptr<Bucket>> buckets_;
  std::vector<Bucket*> due_;  // to be pumped in the next round
  event::Timer pump_timer_;
};

}  // namespace qanat::waypoint
