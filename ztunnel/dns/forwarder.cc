// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/forwarder.h"

#include <utility>

#include "common/base/log.h"

namespace qanat::ztunnel::dns {
namespace {

namespace wire = ::qanat::dns;

// Three tries end before a client's own patience (5 s in the C library) does.
constexpr unsigned kAttempts = 3;
constexpr auto kAttemptTime = std::chrono::milliseconds(1400);
// What an open question and who waits for it take, for the budget of memory.
constexpr size_t kPerQuestion = 1024, kPerWaiter = 128;
constexpr auto kStaleAfter = std::chrono::milliseconds(1800);  // RFC 8767 §5

// A server that cannot help: another one might.
bool Unhelpful(const std::vector<uint8_t>& answer) {
  const auto header = wire::ReadHeader(answer);
  return header && header->rcode() != static_cast<unsigned>(wire::Rcode::kNoError) &&
         header->rcode() != static_cast<unsigned>(wire::Rcode::kNxDomain);
}

std::string KeyOf(wire::Bytes query, bool tcp) {
  std::string key(1, tcp ? 't' : 'u');  // answers by UDP may be cut
  key.append(reinterpret_cast<const char*>(query.data()) + 2, query.size() - 2);
  return key;
}

}  // namespace

struct Forwarder::Open {
  struct Waiter {
    uint16_t id;
    Done done;
  };
  std::string key;
  std::vector<uint8_t> query;
  uint16_t type;
  bool tcp;
  unsigned attempt = 0;
  std::vector<Waiter> waiters;
  std::vector<uint8_t> unhelpful;  // the last such answer
  std::unique_ptr<Exchange> exchange;
  std::unique_ptr<event::Timer> stale;
};

Forwarder::Forwarder(event::EventLoop& loop, PodPtr pod, uint32_t mark, PodDnsSettings& settings,
                     Observer observer, const Limits& limits)
    : loop_(loop),
      pod_(std::move(pod)),
      mark_(mark),
      settings_(settings),
      observer_(std::move(observer)),
      limits_(limits),
      cache_(limits.cache),
      charge_(loop.memory()) {
  charge_.ChargeTo(&pod_->load->memory);
}

Forwarder::~Forwarder() = default;

void Forwarder::Charge() { charge_.Set(open_.size() * kPerQuestion + waiting_ * kPerWaiter); }

void Forwarder::Ask(wire::Bytes query, uint16_t type, bool tcp, Done done) {
  const uint16_t id = wire::ReadHeader(query)->id;
  const event::TimePoint now = loop_.now();
  std::string key = KeyOf(query, tcp);
  auto kept = cache_.Fresh(key, now);
  const Origin origin = kept ? Origin::kCache : Origin::kStale;
  if (!kept && cache_.StaleAtOnce(key, now)) kept = cache_.Stale(key, now);
  if (kept) {
    wire::WriteId(*kept, id);
    return done(*kept, origin);
  }
  if (waiting_ >= limits_.waiting) return done({}, Origin::kLimit);
  if (const auto it = open_.find(key); it != open_.end()) {
    ++waiting_;
    it->second->waiters.push_back({id, std::move(done)});
    return Charge();
  }
  if (open_.size() >= limits_.open) return done({}, Origin::kLimit);
  auto owned = std::make_unique<Open>();
  Open& open = *owned;
  open.key = key;
  open.query.assign(query.begin(), query.end());
  open.type = type;
  open.tcp = tcp;
  open.waiters.push_back({id, std::move(done)});
  ++waiting_;
  open_.emplace(std::move(key), std::move(owned));
  Charge();
  if (cache_.Stale(open.key, now)) {
    open.stale = std::make_unique<event::Timer>(loop_, [this, &open] {
      cache_.Failed(open.key, loop_.now());
      GiveStale(open);
    });
    open.stale->Start(kStaleAfter);
  }
  Attempt(open);
}

void Forwarder::Attempt(Open& open) {
  const auto& servers = settings_.Get(loop_.now()).servers;
  if (servers.empty() || open.attempt >= kAttempts) {
    if (!open.unhelpful.empty() && !cache_.Stale(open.key, loop_.now())) {
      return Finish(open, open.unhelpful, Origin::kUpstream);
    }
    cache_.Failed(open.key, loop_.now());
    GiveStale(open);
    return Finish(open, {}, Origin::kFailed);
  }
  const NameServer& server = servers[open.attempt % servers.size()];
  ++open.attempt;
  Exchange::Options options;
  options.server = server.address;
  options.netns = server.in_pod ? pod_->netns.get() : nullptr;
  options.mark = mark_;
  // Who asks by TCP wants what does not fit into a packet; a server without TCP is asked by UDP at
  // last.
  options.tcp = open.tcp && open.attempt < kAttempts;
  options.timeout = kAttemptTime;
  open.exchange =
      Exchange::Start(loop_, options, open.query,
                      [this, &open, tcp = options.tcp, started = event::Clock::now()](auto answer) {
                        OnExchange(open, tcp, started, std::move(answer));
                      });
}

void Forwarder::OnExchange(Open& open, bool tcp, event::TimePoint started,
                           Result<std::vector<uint8_t>> answer) {
  const std::chrono::duration<double> took = event::Clock::now() - started;
  if (observer_) observer_(Outcome{open.type, tcp, !answer, took.count()});
  if (!answer) {
    LOG_DEBUG("dns", "pod {}/{}: {}", pod_->ns, pod_->name, answer.error().message);
    return Attempt(open);
  }
  if (Unhelpful(*answer)) {
    const size_t servers = settings_.Get(loop_.now()).servers.size();
    open.unhelpful = std::move(*answer);
    // The same server would say the same again.
    if (open.attempt >= servers) open.attempt = kAttempts;
    return Attempt(open);
  }
  cache_.Put(open.key, *answer, loop_.now());
  Finish(open, *answer, Origin::kUpstream);
}

void Forwarder::Finish(Open& open, const std::vector<uint8_t>& answer, Origin origin) {
  const auto it = open_.find(open.key);
  const std::unique_ptr<Open> owned = std::move(it->second);
  open_.erase(it);
  Answer(*owned, answer, origin);
}

bool Forwarder::GiveStale(Open& open) {
  const auto stale = cache_.Stale(open.key, loop_.now());
  if (stale) Answer(open, *stale, Origin::kStale);
  return stale.has_value();
}

void Forwarder::Answer(Open& open, const std::vector<uint8_t>& answer, Origin origin) {
  waiting_ -= open.waiters.size();
  Charge();
  const auto waiters = std::exchange(open.waiters, {});
  std::vector<uint8_t> copy = answer;
  for (const auto& waiter : waiters) {
    if (!copy.empty()) wire::WriteId(copy, waiter.id);
    waiter.done(copy, origin);
  }
}

}  // namespace qanat::ztunnel::dns
