// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/pool.h"

#include <algorithm>
#include <list>
#include <map>

#include "common/base/log.h"

namespace qanat::hbone {
namespace {

struct Tunnel {
  std::unique_ptr<ClientSession> session;
  std::unique_ptr<event::Timer> idle;
  bool leaving = false;  // drains: never offered again
  bool over = false;
};

// One stream that somebody wants: waits for a tunnel, then for the peer's answer.
struct Want : std::enable_shared_from_this<Want> {
  PoolKey key;
  ConnectRequest request;
  ClientSession::OnResponse done;
  std::unique_ptr<PendingConnect> pending;  // once it is on a tunnel
  bool retried = false;
};

class Handle final : public PendingConnect {
 public:
  explicit Handle(std::shared_ptr<Want> want) : want_(std::move(want)) {}
  ~Handle() override {
    want_->done = nullptr;
    want_->pending.reset();
  }

 private:
  std::shared_ptr<Want> want_;
};

struct Entry {
  bool queued = false;  // Sweep() will look at it
  std::list<Tunnel> tunnels;
  std::unique_ptr<event::Deferred> dial;
  std::unique_ptr<event::Timer> dial_deadline;
  std::list<std::shared_ptr<Want>> waiting;
};

std::string Wanted(const PoolKey& key) {
  std::string text = key.destination.ToString();
  if (!key.destination_identities.empty()) text += " (" + key.destination_identities[0] + ")";
  return text;
}

}  // namespace

struct Pool::Impl {
  Impl(event::EventLoop& l, PoolOptions o, Dial d)
      : loop(l), options(std::move(o)), dial(std::move(d)), sweep(l, [this] { Sweep(); }) {}

  using Entries = std::map<PoolKey, Entry>;

  // Waiting streams go to a tunnel with room; for the others one is dialed.
  void Serve(const PoolKey& key, Entry& entry) {
    while (!entry.waiting.empty()) {
      if (!entry.waiting.front()->done) {  // cancelled
        entry.waiting.pop_front();
        continue;
      }
      Tunnel* tunnel = Roomiest(entry);
      if (tunnel == nullptr) break;
      auto want = std::move(entry.waiting.front());
      entry.waiting.pop_front();
      Open(*tunnel, std::move(want));
    }
    if (!entry.waiting.empty() && !entry.dial) StartDial(key, entry);
  }

  Tunnel* Roomiest(Entry& entry) {
    Tunnel* best = nullptr;
    for (Tunnel& tunnel : entry.tunnels) {
      if (tunnel.leaving || !tunnel.session->CanOpen()) continue;
      size_t limit = std::min<size_t>(options.max_streams, tunnel.session->peer_max_streams());
      if (tunnel.session->streams() >= limit) continue;
      if (best == nullptr || tunnel.session->streams() < best->session->streams()) best = &tunnel;
    }
    return best;
  }

  void Open(Tunnel& tunnel, std::shared_ptr<Want> want) {
    tunnel.idle->Stop();
    Want* raw = want.get();
    raw->pending =
        tunnel.session->Connect(raw->request, [this, want](ClientSession::ConnectResult result) {
          // Our own handle may be what keeps the callback alive; it goes at the end.
          auto keep = std::move(want->pending);
          if (!want->done) return;
          if (!result && result.error().retry_safe && !want->retried && !stopping) {
            want->retried = true;
            Wait(want);
            return;
          }
          auto done = std::exchange(want->done, nullptr);
          done(std::move(result));
        });
  }

  void Wait(const std::shared_ptr<Want>& want) {
    auto it = entries.try_emplace(want->key).first;
    it->second.waiting.push_back(want);
    Due(it);
  }

  // Have Sweep() look at it, from the loop and not from inside of a caller or a session.
  void Due(Entries::iterator it) {
    if (!it->second.queued) {
      it->second.queued = true;
      due.push_back(it);
    }
    if (!sweep.armed()) sweep.Start({});
  }
  void Due(const PoolKey& key) {
    if (auto it = entries.find(key); it != entries.end()) Due(it);
  }

  void StartDial(const PoolKey& key, Entry& entry) {
    ++stats.dialed;
    entry.dial_deadline = std::make_unique<event::Timer>(loop, [this, key] {
      Dialed(key, Fail(Code::kDeadlineExceeded,
                       "no HBONE tunnel to " + Wanted(key) + " within " +
                           std::to_string(options.connect_timeout.count()) +
                           " ms (maybe a NetworkPolicy is blocking HBONE port " +
                           std::to_string(key.destination.port()) + ")"));
    });
    entry.dial_deadline->Start(options.connect_timeout);
    entry.dial = dial(
        key, [this, key](Result<net::TransportPtr> result) { Dialed(key, std::move(result)); });
  }

  void Dialed(const PoolKey& key, Result<net::TransportPtr> result) {
    auto found = entries.find(key);
    if (found == entries.end()) return;
    Entry& entry = found->second;
    // We may be inside of the dialer or its timer: both live until the end of the round.
    Discard(std::move(entry.dial));
    entry.dial_deadline.reset();
    if (result) {
      entry.tunnels.emplace_back();
      AddSession(found, entry.tunnels.back(), std::move(*result));
      Serve(key, entry);
      return;
    }
    ++stats.failed;
    Error error = result.error();
    if (error.code == Code::kDeadlineExceeded &&
        error.message.find("NetworkPolicy") == std::string::npos) {
      error.message += " (maybe a NetworkPolicy is blocking HBONE port " +
                       std::to_string(key.destination.port()) + ")";
    }
    LOG_DEBUG("pool", "tunnel to {} failed: {}", Wanted(key), error.message);
    auto waiting = std::exchange(entry.waiting, {});
    Due(found);
    for (auto& want : waiting) {
      auto done = std::exchange(want->done, nullptr);
      if (done) done(tl::unexpected(ClientSession::ConnectFailure{error, false}));
    }
  }

  // Entries stay where they are as long as they have a tunnel, list nodes anyway.
  void AddSession(Entries::iterator it, Tunnel& tunnel, net::TransportPtr transport) {
    Tunnel* at = &tunnel;
    tunnel.idle = std::make_unique<event::Timer>(loop, [this, it, at] {
      at->leaving = true;
      at->session->Drain();
      Due(it);
    });
    tunnel.idle->Start(options.idle_release);
    tunnel.session = std::make_unique<ClientSession>(
        std::move(transport), options.session,
        ClientSession::Events{[this, it, at] { Changed(it, *at); },
                              [this, it, at](const CloseReason& reason) {
                                at->leaving = at->over = true;
                                if (!reason.message.empty()) {
                                  LOG_DEBUG("pool", "tunnel to {} ended: {}", Wanted(it->first),
                                            reason.message);
                                }
                                Due(it);
                              }});
  }

  void Changed(Entries::iterator it, Tunnel& tunnel) {
    if (tunnel.session->streams() == 0 && !tunnel.leaving) {
      if (!tunnel.idle->armed()) tunnel.idle->Start(options.idle_release);
    } else {
      tunnel.idle->Stop();
    }
    if (!it->second.waiting.empty() || tunnel.leaving) Due(it);
  }

  void Sweep() {
    for (Entries::iterator it : std::exchange(due, {})) {
      Entry& entry = it->second;
      entry.queued = false;
      entry.tunnels.remove_if([](Tunnel& t) { return t.over; });
      Serve(it->first, entry);
      // A dial that nobody waits for any more is finished all the same: the next is likely to want
      // it.
      bool unused = entry.tunnels.empty() && entry.waiting.empty() && !entry.dial;
      if (unused && !entry.queued) entries.erase(it);
    }
  }

  void Discard(std::unique_ptr<event::Deferred> object) {
    if (object) loop.DeferDelete(std::move(object));
  }

  void FailWaiting(Entry& entry, std::string_view why) {
    auto waiting = std::exchange(entry.waiting, {});
    for (auto& want : waiting) {
      auto done = std::exchange(want->done, nullptr);
      if (done) {
        done(tl::unexpected(
            ClientSession::ConnectFailure{{Code::kCancelled, std::string(why), 0}, false}));
      }
    }
  }

  event::EventLoop& loop;
  PoolOptions options;
  Dial dial;
  Entries entries;
  std::vector<Entries::iterator> due;
  PoolStats stats;
  bool stopping = false;
  event::Timer sweep;
};

Pool::Pool(event::EventLoop& loop, PoolOptions options, Dial dial)
    : impl_(std::make_unique<Impl>(loop, std::move(options), std::move(dial))) {}

Pool::~Pool() {
  // Calls from here on find an empty pool.
  impl_->stopping = true;
  impl_->due.clear();
  impl_->sweep.Stop();
  auto entries = std::exchange(impl_->entries, {});
  for (auto& [key, entry] : entries) {
    entry.dial.reset();
    impl_->FailWaiting(entry, "the proxy is shutting down");
  }
}

std::unique_ptr<PendingConnect> Pool::Connect(const PoolKey& key, ConnectRequest request,
                                              ClientSession::OnResponse done) {
  auto want = std::make_shared<Want>();
  want->key = key;
  std::sort(want->key.destination_identities.begin(), want->key.destination_identities.end());
  want->request = std::move(request);
  want->done = std::move(done);
  // The usual case, a tunnel with room, takes no detour.
  auto found = impl_->entries.find(want->key);
  if (found != impl_->entries.end() && found->second.waiting.empty()) {
    if (Tunnel* tunnel = impl_->Roomiest(found->second); tunnel != nullptr) {
      impl_->Open(*tunnel, want);
      return std::make_unique<Handle>(std::move(want));
    }
  }
  impl_->Wait(want);
  return std::make_unique<Handle>(std::move(want));
}

void Pool::Drain(const std::function<bool(const PoolKey&)>& which) {
  for (auto it = impl_->entries.begin(); it != impl_->entries.end(); ++it) {
    if (!which(it->first)) continue;
    for (Tunnel& tunnel : it->second.tunnels) {
      tunnel.leaving = true;
      tunnel.idle->Stop();
      tunnel.session->Drain();
    }
    impl_->Due(it);
  }
}

void Pool::Close(const std::function<bool(const PoolKey&)>& which, std::string_view why) {
  std::vector<PoolKey> keys;
  for (auto& [key, entry] : impl_->entries) {
    if (which(key)) keys.push_back(key);
  }
  for (const PoolKey& key : keys) {
    auto found = impl_->entries.find(key);
    if (found == impl_->entries.end()) continue;
    Entry& entry = found->second;
    impl_->Discard(std::move(entry.dial));
    entry.dial_deadline.reset();
    for (Tunnel& tunnel : entry.tunnels) {
      tunnel.leaving = true;
      tunnel.idle->Stop();
      tunnel.session->Close(why);
    }
    impl_->Due(found);
    impl_->FailWaiting(entry, why);
  }
}

PoolStats Pool::stats() const {
  PoolStats out = impl_->stats;
  for (const auto& [key, entry] : impl_->entries) {
    out.tunnels += entry.tunnels.size();
    out.dialing += entry.dial ? 1 : 0;
    out.waiting += entry.waiting.size();
  }
  return out;
}

Dial MakeTlsDial(event::EventLoop& loop, std::function<Result<DialPlan>(const PoolKey&)> prepare,
                 std::chrono::milliseconds timeout) {
  // Says no, but not from inside of the call.
  struct Refusal : event::Deferred {
    Refusal(event::EventLoop& l, std::function<void()> call) : timer(l, std::move(call)) {
      timer.Start({});
    }
    event::Timer timer;
  };
  return
      [&loop, prepare = std::move(prepare), timeout](
          const PoolKey& key,
          std::function<void(Result<net::TransportPtr>)> done) -> std::unique_ptr<event::Deferred> {
        Result<DialPlan> plan = prepare(key);
        if (!plan) {
          return std::make_unique<Refusal>(
              loop, [done = std::move(done), error = plan.error()] { done(Fail(error)); });
        }
        plan->connect.to = key.destination;
        plan->connect.timeout = timeout;
        tls::HandshakeOptions options;
        options.role = tls::Role::kClient;
        options.peer.uris = key.destination_identities;
        options.timeout = timeout;
        return std::make_unique<tls::TlsConnector>(
            loop, plan->connect, plan->context, std::move(options),
            [done = std::move(done)](Result<tls::TlsConnection> result) {
              if (!result) {
                done(Fail(result.error()));
              } else {
                done(std::move(result->transport));
              }
            });
      };
}

}  // namespace qanat::hbone
