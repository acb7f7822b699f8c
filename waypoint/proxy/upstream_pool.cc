// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/upstream_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/log.h"

namespace qanat::waypoint {

struct UpstreamPool::Waiter : UpstreamPool::Lease {
  explicit Waiter(Ready r) : ready(std::move(r)) {}
  ~Waiter() override;
  Bucket* bucket = nullptr;  // null: no longer in its list
  std::list<Waiter*>::iterator position;
  Ready ready;
  Endpoint endpoint;
};

struct UpstreamPool::Connection final : http::ClientEvents {
  explicit Connection(Bucket& b) : bucket(b) {}
  void OnCapacity(http::ClientConnection&) override;
  void OnConnectionClosed(http::ClientConnection& c, bool clean, std::string_view detail) override;
  Bucket& bucket;
  http::ClientConnectionPtr http;
  uint32_t served = 0;
};

struct UpstreamPool::Bucket {
  Bucket(UpstreamPool& p, Key k) : pool(p), key(std::move(k)) {}
  UpstreamPool& pool;
  Key key;
  Limits limits;
  std::list<std::unique_ptr<Connection>> connections;
  struct Dial {
    std::unique_ptr<Dialer::Attempt> attempt;
  };
  std::list<Dial> dials;
  std::list<Waiter*> waiters;
  bool scheduled = false;
};

UpstreamPool::Waiter::~Waiter() {
  if (bucket) bucket->waiters.erase(position);
}

void UpstreamPool::Connection::OnCapacity(http::ClientConnection&) { bucket.pool.Schedule(bucket); }

void UpstreamPool::Connection::OnConnectionClosed(http::ClientConnection&, bool clean,
                                                  std::string_view detail) {
  if (!clean) {
    LOG_DEBUG("upstream", "connection to {} ended: {}", bucket.key.address.ToString(), detail);
  }
  Bucket& b = bucket;
  for (auto it = b.connections.begin(); it != b.connections.end(); ++it) {
    if (it->get() != this) continue;
    b.pool.loop_.DeferDelete(std::move((*it)->http));
    // Frees this object: nothing of it may be used after.
    b.connections.erase(it);
    break;
  }
  b.pool.Schedule(b);
}

UpstreamPool::UpstreamPool(event::EventLoop& loop, Dialer& dialer)
    : loop_(loop), dialer_(dialer), pump_timer_(loop, [this] {
        std::vector<Bucket*> due = std::exchange(due_, {});
        for (Bucket* bucket : due) {
          bucket->scheduled = false;
          Pump(*bucket);
        }
      }) {}

UpstreamPool::~UpstreamPool() {
  for (auto& [key, bucket] : buckets_) {
    for (Waiter* w : bucket->waiters) w->bucket = nullptr;
  }
}

UpstreamPool::Bucket& UpstreamPool::BucketOf(const Key& key) {
  auto& slot = buckets_[key];
  if (!slot) slot = std::make_unique<Bucket>(*this, key);
  return *slot;
}

std::unique_ptr<UpstreamPool::Lease> UpstreamPool::Acquire(const Endpoint& endpoint, bool http2,
                                                           const Limits& limits, Ready ready) {
  Bucket& bucket =
      BucketOf({endpoint.address, endpoint.tunnel, endpoint.identity, endpoint.hbone, http2});
  bucket.limits = limits;
  auto waiter = std::make_unique<Waiter>(std::move(ready));
  waiter->bucket = &bucket;
  waiter->endpoint = endpoint;
  waiter->position = bucket.waiters.insert(bucket.waiters.end(), waiter.get());
  Schedule(bucket);
  return waiter;
}

// Work is done in the next round of the loop: nothing calls back from inside a caller.
void UpstreamPool::Schedule(Bucket& bucket) {
  if (bucket.scheduled) return;
  bucket.scheduled = true;
  due_.push_back(&bucket);
  if (!pump_timer_.armed()) pump_timer_.Start({});
}

void UpstreamPool::Pump(Bucket& b) {
  // Serves waiters from connections that have room, most recently used first.
  while (!b.waiters.empty()) {
    Connection* free = nullptr;
    for (auto& c : b.connections) {
      if (c->http && c->http->CanOpen()) {
        free = c.get();
        break;
      }
    }
    if (free == nullptr) break;
    Waiter* w = b.waiters.front();
    b.waiters.pop_front();
    w->bucket = nullptr;
    ++free->served;
    Ready ready = std::move(w->ready);
    http::ClientConnection* http = free->http.get();
    const bool last = b.limits.max_requests > 0 && free->served >= b.limits.max_requests;
    ready(Grant{http, free->served > 1});
    // Drained after the stream was opened: it finishes, nothing follows it.
    if (last) http->Drain();
  }
  if (b.waiters.empty()) return;

  // One dial carries one HTTP/1 request, or up to 100 of HTTP/2 (what peers announce at least).
  const size_t per_dial = b.key.http2 ? 100 : 1;
  size_t wanted = (b.waiters.size() + per_dial - 1) / per_dial;
  const Endpoint endpoint = b.waiters.front()->endpoint;
  while (b.dials.size() < wanted) {
    if (b.limits.max_connections > 0 &&
        b.connections.size() + b.dials.size() >= b.limits.max_connections) {
      break;
    }
    Grow(b, endpoint);
  }
  while (b.limits.max_pending > 0 && b.waiters.size() > b.limits.max_pending + b.dials.size()) {
    Waiter* w = b.waiters.back();
    b.waiters.pop_back();
    w->bucket = nullptr;
    Ready ready = std::move(w->ready);
    ready(Fail(Code::kResourceExhausted, "the cluster's limit of waiting requests is reached"));
  }
}

void UpstreamPool::Grow(Bucket& b, const Endpoint& endpoint) {
  auto it = b.dials.emplace(b.dials.end());
  it->attempt = dialer_.Dial(
      endpoint, b.limits.connect_timeout, {}, [this, &b, it](Result<net::TransportPtr> transport) {
        // The attempt calls from inside itself: it must outlive this call.
        loop_.DeferDelete(std::move(it->attempt));
        b.dials.erase(it);
        if (!transport) {
          // As many waiters fail as this dial would have served: the rest have dials of their own.
          size_t n = b.key.http2 ? b.waiters.size() : 1;
          for (; n > 0 && !b.waiters.empty(); --n) {
            Waiter* w = b.waiters.front();
            b.waiters.pop_front();
            w->bucket = nullptr;
            Ready ready = std::move(w->ready);
            ready(Fail(transport.error()));
          }
          Schedule(b);
          return;
        }
        auto connection = std::make_unique<Connection>(b);
        http::Options options;
        options.idle_timeout = b.limits.idle_timeout;
        options.header_timeout = std::chrono::milliseconds(0);
        connection->http =
            b.key.http2 ? http::MakeHttp2Client(std::move(*transport), connection.get(), options)
                        : http::MakeHttp1Client(std::move(*transport), connection.get(), options);
        b.connections.push_front(std::move(connection));
        Pump(b);
      });
}

void UpstreamPool::Retain(const std::function<bool(const net::SocketAddress& address, bool hbone,
                                                   const std::string& identity)>& wanted) {
  for (auto it = buckets_.begin(); it != buckets_.end();) {
    Bucket& b = *it->second;
    if (wanted(b.key.address, b.key.hbone, b.key.identity)) {
      ++it;
      continue;
    }
    for (auto& c : b.connections) {
      if (c->http) c->http->Drain();
    }
    const bool empty =
        b.connections.empty() && b.dials.empty() && b.waiters.empty() && !b.scheduled;
    it = empty ? buckets_.erase(it) : std::next(it);
  }
}

void UpstreamPool::DrainAll() {
  for (auto& [key, bucket] : buckets_) {
    for (auto& c : bucket->connections) {
      if (c->http) c->http->Drain();
    }
  }
}

size_t UpstreamPool::connections() const {
  size_t n = 0;
  for (const auto& [key, bucket] : buckets_) n += bucket->connections.size();
  return n;
}

}  // namespace qanat::waypoint
