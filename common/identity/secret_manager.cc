// SPDX-License-Identifier: Apache-2.0
#include "common/identity/secret_manager.h"

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <utility>

#include "common/base/log.h"
#include "common/identity/trust_bundle.h"
#include "common/tls/tls_context.h"

namespace qanat::identity {
namespace {

using Milliseconds = std::chrono::milliseconds;

class LoopClock final : public Clock {
 public:
  explicit LoopClock(event::EventLoop& loop) : timer_(loop, [this] { Fire(); }) {}
  SystemTime Now() override { return std::chrono::system_clock::now(); }
  void SetAlarm(SystemTime when, std::function<void()> fire) override {
    fire_ = std::move(fire);
    const auto delay = std::max(when - Now(), SystemTime::duration{});
    // The wall clock may be set meanwhile: look again at least every minute.
    timer_.Start(std::min<event::Duration>(delay, std::chrono::minutes(1)));
  }
  void ClearAlarm() override { timer_.Stop(); }

 private:
  void Fire() {
    std::function<void()> fire = std::move(fire_);
    if (fire) fire();
  }
  event::Timer timer_;
  std::function<void()> fire_;
};

constexpr SystemTime kNever = SystemTime::max();

}  // namespace

std::unique_ptr<Clock> MakeClock(event::EventLoop& loop) {
  return std::make_unique<LoopClock>(loop);
}

struct SecretManager::Impl {
  // One wanted identity. Exactly one of: fetching (a request runs), queued (waits for a free
  // place), or neither with `next` as the time of the next attempt.
  struct Secret {
    CertificatePtr certificate;
    std::unique_ptr<CaClient::Fetch> fetch;
    bool fetching = false;
    bool queued = false;
    uint64_t fetch_id = 0;
    Priority priority = Priority::kBackground;
    uint64_t order = 0;  // first come, first served within a priority
    Milliseconds backoff{0};
    SystemTime next = kNever;
    SystemTime fetched;  // when the certificate came
    SystemTime renewed;  // out of turn
    std::optional<Error> error;
    std::vector<Ready> waiting;
  };

  Impl(Clock& c, CaClient& client, OnUpdate update, Options o)
      : clock(c),
        ca(client),
        on_update(std::move(update)),
        options(o),
        trust(o.root_grace),
        random(o.seed != 0 ? o.seed : std::random_device{}()) {}
  ~Impl() { clock.ClearAlarm(); }

  bool Valid(const Secret& s) const {
    return s.certificate != nullptr && clock.Now() < s.certificate->not_after();
  }

  void Enqueue(Secret& s) {
    if (s.fetching || s.queued) return;
    s.queued = true;
    s.order = ++orders;
    s.next = kNever;
  }

  // Starts what may start. The queue is looked through: it is short, and starts are rare.
  void StartFetches() {
    while (in_flight < options.concurrency) {
      std::pair<const model::Identity, Secret>* best = nullptr;
      for (auto& entry : secrets) {
        const Secret& s = entry.second;
        if (!s.queued) continue;
        if (best == nullptr || s.priority > best->second.priority ||
            (s.priority == best->second.priority && s.order < best->second.order)) {
          best = &entry;
        }
      }
      if (best == nullptr) return;
      Secret& s = best->second;
      s.queued = false;
      s.fetching = true;
      s.fetch_id = ++fetch_ids;
      ++in_flight;
      ++stats.fetches;
      const uint64_t id = s.fetch_id;
      s.fetch = ca.FetchCertificate(
          best->first, [this, identity = best->first, id](Result<CertificatePtr> result) {
            Fetched(identity, id, std::move(result));
          });
    }
  }

  void Fetched(model::Identity identity, uint64_t id, Result<CertificatePtr> result) {
    const auto it = secrets.find(identity);
    if (it == secrets.end() || it->second.fetch_id != id) return;
    Secret& s = it->second;
    s.fetch.reset();
    s.fetching = false;
    --in_flight;
    s.priority = Priority::kBackground;
    std::vector<Ready> waiting = std::exchange(s.waiting, {});
    if (result) {
      result = TakeOver(identity, *result);
      s.certificate = *result;
      s.fetched = clock.Now();
      s.error.reset();
      s.backoff = {};
      // Never at once, whatever lifetime the CA gives: a broken clock must not make a loop.
      s.next = std::max(s.certificate->renew_at(), clock.Now() + options.backoff_first);
      LOG_INFO("ca", "certificate for {} (serial {})", identity.ToString(),
               s.certificate->chain.front().serial);
      on_update(identity, s.certificate);
    } else {
      ++stats.failures;
      s.error = result.error();
      s.next = clock.Now() + NextDelay(s);
      // At the latest when it expires, so that nobody hears of an expired one for long.
      if (Valid(s)) s.next = std::min(s.next, s.certificate->not_after());
      LOG_WARN("ca", "{}; {}", s.error->message,
               Valid(s) ? "the present certificate is still good" : "there is no certificate");
    }
    // A renewal that failed is no failure for those who can use what is there.
    Result<CertificatePtr> answer = result;
    if (!result && Valid(s)) answer = s.certificate;
    for (Ready& ready : waiting) ready(answer);
    StartFetches();
    SetAlarm();
  }

  // A new certificate believes what all believe, and all believe what came with it.
  CertificatePtr TakeOver(const model::Identity& of, CertificatePtr certificate) {
    if (certificate->client == nullptr) return certificate;
    const bool changed = trust.Saw(certificate->client->options().roots, clock.Now());
    if (auto whole = WithRoots(*certificate, trust.roots())) certificate = std::move(*whole);
    if (changed) SpreadRoots(&of);
    return certificate;
  }

  void SpreadRoots(const model::Identity* except) {
    const std::vector<tls::Certificate> roots = trust.roots();
    for (auto& [identity, s] : secrets) {
      if (except != nullptr && identity == *except) continue;
      if (s.certificate == nullptr || s.certificate->client == nullptr) continue;
      auto whole = WithRoots(*s.certificate, roots);
      if (!whole) {
        LOG_ERROR("ca", "{} goes on with the roots it has: {}", identity.ToString(),
                  whole.error().message);
        continue;
      }
      s.certificate = std::move(*whole);
      on_update(identity, s.certificate);
    }
  }

  Milliseconds NextDelay(Secret& s) {
    s.backoff = s.backoff.count() == 0 ? options.backoff_first
                                       : std::min(options.backoff_max, s.backoff * 2);
    std::uniform_real_distribution<double> spread(1 - options.backoff_jitter,
                                                  1 + options.backoff_jitter);
    return Milliseconds(
        static_cast<int64_t>(static_cast<double>(s.backoff.count()) * spread(random)));
  }

  void Tick() {
    const SystemTime now = clock.Now();
    std::vector<model::Identity> expired;
    for (auto& [identity, s] : secrets) {
      if (s.next <= now) Enqueue(s);
      if (s.certificate != nullptr && s.certificate->not_after() <= now) {
        expired.push_back(identity);
      }
    }
    for (const model::Identity& identity : expired) {
      secrets[identity].certificate.reset();
      LOG_ERROR("ca", "the certificate of {} has expired without a successor; is the CA reachable?",
                identity.ToString());
      on_update(identity, nullptr);
    }
    if (trust.Expire(now)) SpreadRoots(nullptr);
    StartFetches();
    SetAlarm();
  }

  void SetAlarm() {
    SystemTime at = trust.next().value_or(kNever);
    for (const auto& [identity, s] : secrets) {
      at = std::min(at, s.next);
      if (s.certificate != nullptr) at = std::min(at, s.certificate->not_after());
    }
    if (at == kNever) {
      clock.ClearAlarm();
    } else {
      clock.SetAlarm(at, [this] { Tick(); });
    }
  }

  Clock& clock;
  CaClient& ca;
  const OnUpdate on_update;
  const Options options;
  TrustBundle trust;  // one for all: they come from one CA
  std::minstd_rand random;
  std::map<model::Identity, Secret> secrets;
  size_t in_flight = 0;
  uint64_t orders = 0;
  uint64_t fetch_ids = 0;
  Counters stats;
};

SecretManager::SecretManager(Clock& clock, CaClient& ca, OnUpdate on_update, Options options)
    : impl_(std::make_unique<Impl>(clock, ca, std::move(on_update), options)) {}
SecretManager::SecretManager(Clock& clock, CaClient& ca, OnUpdate on_update)
    : SecretManager(clock, ca, std::move(on_update), Options{}) {}
SecretManager::~SecretManager() = default;

void SecretManager::Request(const model::Identity& identity, Priority priority, Ready ready) {
  Impl& m = *impl_;
  Impl::Secret& s = m.secrets[identity];
  if (m.Valid(s)) {
    if (ready) ready(s.certificate);
    return;
  }
  if (!s.fetching && !s.queued && s.error) {
    if (ready) ready(Fail(*s.error));
    return;
  }
  if (ready) s.waiting.push_back(std::move(ready));
  s.priority = std::max(s.priority, priority);
  m.Enqueue(s);
  m.StartFetches();
  m.SetAlarm();
}

CertificatePtr SecretManager::Find(const model::Identity& identity) const {
  const auto it = impl_->secrets.find(identity);
  return it != impl_->secrets.end() && impl_->Valid(it->second) ? it->second.certificate : nullptr;
}

void SecretManager::Renew(const model::Identity& identity) {
  Impl& m = *impl_;
  const auto it = m.secrets.find(identity);
  // Whoever is being fetched or backs off gets a new one anyway.
  if (it == m.secrets.end() || it->second.fetching || it->second.queued || it->second.error) return;
  Impl::Secret& s = it->second;
  const SystemTime earliest = std::max(
      {m.clock.Now(), s.fetched + m.options.renew_fresh, s.renewed + m.options.renew_again});
  if (s.next <= earliest) return;
  s.next = s.renewed = earliest;
  s.priority = Priority::kRealTime;
  m.SetAlarm();
}

void SecretManager::Forget(const model::Identity& identity) {
  Impl& m = *impl_;
  const auto it = m.secrets.find(identity);
  if (it == m.secrets.end()) return;
  Impl::Secret gone = std::move(it->second);
  m.secrets.erase(it);
  if (gone.fetching) --m.in_flight;
  gone.fetch.reset();
  if (gone.certificate != nullptr) m.on_update(identity, nullptr);
  for (Ready& ready : gone.waiting) {
    ready(Fail(Code::kCancelled, identity.ToString() + " is no longer wanted"));
  }
  m.StartFetches();
  m.SetAlarm();
}

void SecretManager::RetryNow() {
  Impl& m = *impl_;
  for (auto& [identity, s] : m.secrets) {
    if (!s.error || s.fetching) continue;
    s.backoff = {};
    m.Enqueue(s);
  }
  m.StartFetches();
  m.SetAlarm();
}

std::vector<SecretManager::Entry> SecretManager::Dump() const {
  std::vector<Entry> out;
  for (const auto& [identity, s] : impl_->secrets) {
    Entry e;
    e.identity = identity;
    e.certificate = s.certificate;
    e.error = s.error ? s.error->message : "";
    e.next_attempt = s.next == kNever ? SystemTime{} : s.next;
    if (impl_->Valid(s)) {
      e.state = State::kAvailable;
    } else {
      e.state = s.error ? State::kUnavailable : State::kFetching;
    }
    out.push_back(std::move(e));
  }
  return out;
}

SecretManager::Counters SecretManager::counters() const {
  Counters c = impl_->stats;
  c.wanted = impl_->secrets.size();
  c.in_flight = impl_->in_flight;
  c.queued = static_cast<size_t>(std::count_if(impl_->secrets.begin(), impl_->secrets.end(),
                                               [](const auto& e) { return e.second.queued; }));
  return c;
}

}  // namespace qanat::identity
