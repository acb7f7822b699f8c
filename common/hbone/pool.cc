// SPDX-License-Identifier: Apache-2.0
#include "common/hbone/pool.h"

#include <algorithm>

#include "common/hbone/pool_impl.h"

namespace qanat::hbone {
namespace {

constexpr int kTries = 3;
constexpr uint32_t kUsualLimit = 100;  // what a peer is taken to allow before it says

void Answer(Want& want, Error error) {
  auto done = std::exchange(want.done, nullptr);
  if (done) done(tl::unexpected(ClientSession::ConnectFailure{std::move(error), false}));
}

// As entries are found by: any order of the names is the same peer.
PoolKey Sorted(PoolKey key) {
  std::sort(key.destination_identities.begin(), key.destination_identities.end());
  std::sort(key.through_identities.begin(), key.through_identities.end());
  return key;
}

}  // namespace

uint32_t Pool::Impl::PeerLimit(const Entry& entry, const Tunnel& tunnel) const {
  if (tunnel.session->settings_seen()) return tunnel.session->peer_max_streams();
  return entry.peer_limit.value_or(kUsualLimit);
}

std::span<const TunnelLoad> Pool::Impl::Loads(Entry& entry) {
  loads.clear();
  for (const Tunnel& tunnel : entry.tunnels) {
    if (tunnel.session->settings_seen()) entry.peer_limit = tunnel.session->peer_max_streams();
    TunnelLoad load;
    load.streams = tunnel.session->streams();
    load.limit = std::min<size_t>(options.max_streams, PeerLimit(entry, tunnel));
    load.usable = !tunnel.leaving && (tunnel.session->CanOpen() || load.streams >= load.limit);
    if (entry.shared && !tunnel.session->peer_takes_source()) load.usable = false;
    load.bulk = tunnel.session->bulk();
    loads.push_back(load);
  }
  return loads;
}

Tunnel* Pool::Impl::Pick(Entry& entry) {
  const size_t at = Place(Loads(entry));
  if (at == kNoTunnel) return nullptr;
  return &*std::next(entry.tunnels.begin(), static_cast<std::ptrdiff_t>(at));
}

void Pool::Impl::Serve(Entries::iterator it) {
  Entry& entry = it->second;
  while (!entry.waiting.empty()) {
    if (!entry.waiting.front()->done) {  // cancelled
      entry.waiting.pop_front();
      continue;
    }
    Tunnel* tunnel = Pick(entry);
    if (tunnel == nullptr) break;
    WantPtr want = std::move(entry.waiting.front());
    entry.waiting.pop_front();
    Open(entry, *tunnel, want);
  }
  const auto loads_now = Loads(entry);
  const auto usable = static_cast<size_t>(std::count_if(
      loads_now.begin(), loads_now.end(), [](const TunnelLoad& one) { return one.usable; }));
  const event::TimePoint now = loop.now();
  if (!entry.waiting.empty() && (usable == 0 || now >= entry.no_dial_before)) {
    const size_t limit = std::min(options.max_streams, entry.peer_limit.value_or(kUsualLimit));
    const size_t wanted = DialsWanted(entry.waiting.size(), limit, usable, options.max_tunnels);
    while (entry.dials.size() < wanted) StartDial(it, false);
  } else if (now >= entry.no_stripe_before &&
             WantsStripe(loads_now, entry.dials.size(), options.stripes)) {
    StartDial(it, true);
  }
  if (!entry.waiting.empty() && usable > 0) {
    WatchLine(it);
  } else {
    entry.line.reset();
  }
  Publish(entry);
}

void Pool::Impl::Open(const Entry& entry, Tunnel& tunnel, const WantPtr& want) {
  tunnel.idle->Stop();
  want->position = tunnel.session->streams() + 1;
  want->limit_known = tunnel.session->settings_seen() || entry.peer_limit.has_value();
  want->pending =
      tunnel.session->Connect(want->request, [this, want](ClientSession::ConnectResult result) {
        // Our own handle may be what keeps the callback alive; it goes at the end.
        auto keep = std::move(want->pending);
        if (!want->done) return;
        if (!result && result.error().retry_safe && !stopping) {
          Count(counters->refused);
          if (!want->key.shared && TryAgain(*want)) {
            Count(counters->retried);
            if (want->request.early_dropped) want->request.early_dropped();
            return Wait(want, true);
          }
        }
        auto done = std::exchange(want->done, nullptr);
        done(std::move(result));
      });
}

bool Pool::Impl::TryAgain(Want& want) {
  // One too many for a limit that nobody knew is nobody's fault: it does not count.
  if (auto found = entries.find(want.key); found != entries.end() && !want.limit_known) {
    Loads(found->second);
    if (found->second.peer_limit && want.position > *found->second.peer_limit) return true;
  }
  return ++want.tries < kTries;
}

WantPtr Pool::Impl::NewWant(const PoolKey& key, ConnectRequest request,
                            ClientSession::OnResponse done, event::TimePoint since) {
  auto want = std::make_shared<Want>();
  want->key = Sorted(key);
  want->request = std::move(request);
  want->done = std::move(done);
  want->since = since;
  return want;
}

bool Pool::Impl::OpenNow(const WantPtr& want) {
  const auto found = entries.find(want->key);
  if (found == entries.end() || !found->second.waiting.empty()) return false;
  Tunnel* tunnel = Pick(found->second);
  if (tunnel == nullptr) return false;
  Open(found->second, *tunnel, want);
  return true;
}

void Pool::Impl::Wait(const WantPtr& want, bool first) {
  auto it = entries.try_emplace(want->key).first;
  auto& line = it->second.waiting;
  line.insert(first ? line.begin() : line.end(), want);
  Publish(it->second);
  Due(it);
}

void Pool::Impl::WatchLine(Entries::iterator it) {
  Entry& entry = it->second;
  if (!entry.line) {
    entry.line = std::make_unique<event::Timer>(loop, [this, it] {
      Expire(it->first, it->second);
      Due(it);
    });
  }
  const event::TimePoint now = loop.now();
  event::TimePoint next = entry.waiting.front()->since + options.connect_timeout;
  if (entry.no_dial_before > now) next = std::min(next, entry.no_dial_before);
  entry.line->Start(std::max(next - now, event::Duration(std::chrono::milliseconds(1))));
}

void Pool::Impl::Expire(const PoolKey& key, Entry& entry) {
  const event::TimePoint before = loop.now() - options.connect_timeout;
  std::list<WantPtr> late;
  auto& line = entry.waiting;
  while (!line.empty() && line.front()->since <= before) {
    late.splice(late.end(), line, line.begin());
  }
  Publish(entry);
  for (const WantPtr& want : late) {
    Count(counters->expired);
    Answer(*want, {Code::kDeadlineExceeded,
                   "all " + std::to_string(entry.tunnels.size()) + " tunnels to " + Wanted(key) +
                       " are full, and no other could be made within " +
                       std::to_string(options.connect_timeout.count()) + " ms",
                   0});
  }
}

void Pool::Impl::Due(Entries::iterator it) {
  if (!it->second.queued) {
    it->second.queued = true;
    due.push_back(it);
  }
  if (!sweep.armed()) sweep.Start({});
}

void Pool::Impl::Sweep() {
  for (Entries::iterator it : std::exchange(due, {})) {
    Entry& entry = it->second;
    entry.queued = false;
    entry.tunnels.remove_if([](Tunnel& t) { return t.over; });
    Serve(it);
    // A dial that nobody waits for any more is finished all the same: the next is likely to want
    // it.
    bool unused = entry.tunnels.empty() && entry.waiting.empty() && entry.dials.empty();
    if (unused && !entry.queued) entries.erase(it);
  }
}

void Pool::Impl::Discard(std::unique_ptr<event::Deferred> object) {
  if (object) loop.DeferDelete(std::move(object));
}

void Pool::Impl::FailWaiting(Entry& entry, const Error& error) {
  auto waiting = std::exchange(entry.waiting, {});
  Publish(entry);
  for (const WantPtr& want : waiting) Answer(*want, error);
}

Pool::Pool(event::EventLoop& loop, PoolOptions options, Dial dial)
    : impl_(std::make_unique<Impl>(loop, std::move(options), std::move(dial))) {}

Pool::~Pool() {
  // Calls from here on find an empty pool.
  impl_->stopping = true;
  impl_->due.clear();
  impl_->sweep.Stop();
  auto entries = std::exchange(impl_->entries, {});
  for (auto& [key, entry] : entries) {
    entry.dials.clear();
    impl_->FailWaiting(entry, {Code::kCancelled, "the proxy is shutting down", 0});
    entry.tunnels.clear();
    impl_->Publish(entry);
  }
}

std::unique_ptr<PendingConnect> Pool::Connect(const PoolKey& key, ConnectRequest request,
                                              ClientSession::OnResponse done) {
  WantPtr want = impl_->NewWant(key, std::move(request), std::move(done), impl_->loop.now());
  // The usual case, a tunnel with room, takes no detour.
  if (!impl_->OpenNow(want)) impl_->Wait(want, false);
  return std::make_unique<WantHandle>(std::move(want));
}

std::unique_ptr<PendingConnect> Pool::TryConnect(const PoolKey& key, ConnectRequest request,
                                                 ClientSession::OnResponse done) {
  WantPtr want = impl_->NewWant(key, std::move(request), std::move(done), impl_->loop.now());
  if (!impl_->OpenNow(want)) return nullptr;
  return std::make_unique<WantHandle>(std::move(want));
}

void Pool::Warm(const PoolKey& key) {
  const auto it = impl_->entries.try_emplace(Sorted(key)).first;
  Entry& entry = it->second;
  entry.shared = key.shared;
  const bool asked = std::any_of(entry.tunnels.begin(), entry.tunnels.end(), [](const Tunnel& t) {
    return !t.leaving && !t.session->settings_seen();
  });
  if (entry.dials.empty() && !asked && entry.tunnels.size() < impl_->options.max_tunnels &&
      impl_->Pick(entry) == nullptr) {
    impl_->StartDial(it, false);
  }
  impl_->Publish(entry);
  impl_->Due(it);
}

void Pool::Drain(const std::function<bool(const PoolKey&)>& which) {
  for (auto it = impl_->entries.begin(); it != impl_->entries.end(); ++it) {
    if (!which(it->first)) continue;
    for (Tunnel& tunnel : it->second.tunnels) tunnel.Drain();
    impl_->Due(it);
  }
}

void Pool::DrainOlder(const PoolKey& key, event::TimePoint made_before) {
  const auto it = impl_->entries.find(Sorted(key));
  if (it == impl_->entries.end()) return;
  for (Tunnel& tunnel : it->second.tunnels) {
    if (tunnel.session->made() < made_before) tunnel.Drain();
  }
  impl_->Due(it);
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
    for (Dialing& dialing : entry.dials) impl_->Discard(std::move(dialing.dial));
    entry.dials.clear();
    for (Tunnel& tunnel : entry.tunnels) {
      tunnel.leaving = true;
      tunnel.idle->Stop();
      tunnel.session->Close(why);
    }
    impl_->Due(found);
    impl_->FailWaiting(entry, {Code::kCancelled, std::string(why), 0});
  }
}

PoolStats Pool::stats() const { return impl_->counters->Read(); }

}  // namespace qanat::hbone
