// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/memory/keeper.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/allocator_interface.h>
#define QANAT_WITH_ASAN 1
#endif

namespace qanat::ztunnel {
namespace {

constexpr auto kLook = std::chrono::seconds(1);
constexpr auto kLookWhileScarce = std::chrono::milliseconds(20);
constexpr auto kReturnEvery = std::chrono::milliseconds(500);
constexpr auto kTellEvery = std::chrono::seconds(60);
constexpr uint64_t kLeastAlarm = 256 << 10;  // less growth is not worth waking anybody
constexpr size_t kMostNamed = 1024;          // holders that one worker names at a time

// A cgroup's limit holds whatever is configured.
uint64_t Budget(const Config& config, const MemoryLimits& limits) {
  if (config.memory_budget == 0) return limits.Default();
  return limits.by_cgroup() ? std::min(config.memory_budget, limits.Default())
                            : config.memory_budget;
}

double Megabytes(uint64_t bytes) { return static_cast<double>(bytes) / 1e6; }

}  // namespace

MemoryKeeper::MemoryKeeper(event::EventLoop& loop, const Environment& environment,
                           std::vector<std::unique_ptr<Worker>>& workers,
                           std::function<std::vector<PodPtr>()> pods, metrics::Registry& registry)
    : loop_(loop),
      environment_(environment),
      workers_(workers),
      pods_(std::move(pods)),
      budget_(Budget(environment.config, limits_)),
      // One pod alone cannot bring all others to the point where they are refused.
      pod_budget_(environment.config.max_pod_memory != 0 ? environment.config.max_pod_memory
                  : environment.config.mode == Config::Mode::kShared ? budget_ / 2
                                                                     : budget_),
      shed_connections_(registry.AddCounter(
          "qanat_memory_shed_connections",
          "Connections and tunnels that were ended because they held most when memory ran out",
          {"scope"})),
      shed_bytes_(registry.AddCounter("qanat_memory_shed_bytes",
                                      "What the connections held that were ended for memory",
                                      {"scope"})),
      timer_(loop, [this] { Look(); }) {
  const auto gauge = [&registry](const char* name, const char* help, std::function<double()> get) {
    registry.AddCallback(metrics::Kind::kGauge, name, help, [get = std::move(get)] {
      return std::vector<metrics::Sample>{{{}, get()}};
    });
  };
  gauge("qanat_memory_budget_bytes", "What the process may use (QANAT_MEMORY_BUDGET)",
        [this] { return static_cast<double>(budget_); });
  gauge("qanat_memory_used_bytes", "What it uses of that, as the kernel counts",
        [this] { return static_cast<double>(limits_.Used()); });
  gauge("qanat_memory_buffers_bytes", "Buffers of connections, tunnels and DNS questions",
        [this] { return static_cast<double>(Held()); });
  gauge("qanat_memory_level", "0 plenty, 1 scarce (small windows), 2 full (nothing new is taken)",
        [this] { return static_cast<double>(state_.level); });
}

void MemoryKeeper::Start() {
  LOG_INFO("memory", "budget {:.0f} MB ({}), {:.0f} MB for the connections of one pod",
           Megabytes(budget_),
           environment_.config.memory_budget == budget_ ? "QANAT_MEMORY_BUDGET" : limits_.Source(),
           Megabytes(pod_budget_));
  for (auto& worker : workers_) {
    worker->loop().memory().OnAlarm([this] { environment_.post_main([this] { Look(); }); });
  }
  Look();
}

uint64_t MemoryKeeper::Held() const {
  uint64_t held = loop_.memory().held();
  for (const auto& worker : workers_) held += worker->loop().memory().held();
  return held;
}

MemoryVerdict MemoryKeeper::Judge(State& state, uint64_t used, uint64_t budget, Time now) {
  using std::chrono::milliseconds;
  const auto full_for = state.level == MemoryLevel::kFull
                            ? std::chrono::duration_cast<milliseconds>(now - state.full_since)
                            : milliseconds(0);
  const MemoryVerdict verdict = JudgeMemory(used, budget, state.level, full_for);
  if (verdict.level == MemoryLevel::kFull && state.level != MemoryLevel::kFull) {
    state.full_since = now;
  }
  state.level = verdict.level;
  return verdict;
}

void MemoryKeeper::Look() {
  const Time now = event::Clock::now();
  const MemoryLevel before = state_.level;
  uint64_t used = limits_.Used();
  // What was freed is not always given back; only what then remains counts, also on the way down.
  if (used >= ScarceFrom(budget_) || before != MemoryLevel::kPlenty) {
    ReturnFreeMemory(now);
    used = limits_.Used();
  }
  const MemoryVerdict verdict = Judge(state_, used, budget_, now);
  if (verdict.level != before) {
    for (auto& worker : workers_) worker->loop().memory().SetLevel(verdict.level);
    Tell(before, Held());
  }
  LookAtPods(now);
  if (verdict.excess > 0) Shed(nullptr, verdict.excess);
  const bool plenty = verdict.level == MemoryLevel::kPlenty && pod_states_.empty();
  if (plenty) SetAlarms(used);
  timer_.Start(plenty ? event::Duration(kLook) : event::Duration(kLookWhileScarce));
}

void MemoryKeeper::Tell(MemoryLevel before, uint64_t held) {
  const auto say = [&](log::Level level, const char* what) {
    if (!log::Enabled("memory", level)) return;
    log::Write("memory", level,
               fmt::format("{}: {:.1f} of {:.1f} MB are used, {:.1f} MB of them by what readers "
                           "leave unread",
                           what, Megabytes(limits_.Used()), Megabytes(budget_), Megabytes(held)));
  };
  switch (state_.level) {
    case MemoryLevel::kPlenty: return say(log::Level::kInfo, "memory suffices again");
    case MemoryLevel::kScarce:
      return before == MemoryLevel::kFull
                 ? say(log::Level::kInfo, "new connections are taken again")
                 : say(log::Level::kInfo, "memory is scarce, windows stay small");
    case MemoryLevel::kFull: return say(log::Level::kWarn, "memory is full, nothing new is taken");
  }
}

void MemoryKeeper::LookAtPods(Time now) {
  std::map<std::string, State> states;
  for (const PodPtr& pod : pods_()) {
    MemoryMeter& meter = pod->load->memory;
    const auto known = pod_states_.find(pod->uid);
    State state = known == pod_states_.end() ? State() : known->second;
    const MemoryLevel before = state.level;
    const MemoryVerdict verdict = Judge(state, meter.held(), pod_budget_, now);
    if (verdict.level != before) {
      meter.SetLevel(verdict.level);
      if (verdict.level == MemoryLevel::kFull) {
        LOG_WARN("memory",
                 "pod {}/{}: its connections hold {:.1f} of {:.1f} MB, new ones are "
                 "refused",
                 pod->ns, pod->name, Megabytes(meter.held()), Megabytes(pod_budget_));
      }
    }
    if (verdict.excess > 0) Shed(pod, verdict.excess);
    if (state.level != MemoryLevel::kPlenty) states.emplace(pod->uid, state);
  }
  pod_states_ = std::move(states);
}

// A burst is noticed before the next look: each worker may take its part of half of what is left.
void MemoryKeeper::SetAlarms(uint64_t used) {
  const uint64_t scarce = ScarceFrom(budget_);
  // Of a pod that comes before the next look nothing is known but how much it may have.
  uint64_t room = std::min(scarce > used ? scarce - used : 0, ScarceFrom(pod_budget_));
  for (const PodPtr& pod : pods_()) {
    const uint64_t held = pod->load->memory.held();
    const uint64_t most = ScarceFrom(pod_budget_);
    room = std::min(room, most > held ? most - held : 0);
  }
  const uint64_t step = std::max(room / 2 / workers_.size(), kLeastAlarm);
  for (auto& worker : workers_) {
    MemoryMeter& meter = worker->loop().memory();
    meter.SetAlarm(meter.held() + step);
  }
}

void MemoryKeeper::ReturnFreeMemory(Time now) {
  if (returned_ != Time{} && now - returned_ < kReturnEvery) return;
  returned_ = now;
#ifdef QANAT_WITH_ASAN
  __sanitizer_purge_allocator();
#else
  malloc_trim(0);
#endif
}

// ---- ending who holds most

void MemoryKeeper::Shed(PodPtr pod, uint64_t excess) {
  if (std::exchange(shedding_, true)) return;
  auto shedding = std::make_shared<Shedding>();
  shedding->pod = std::move(pod);
  shedding->excess = excess;
  shedding->left = workers_.size();
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->loop().Post([this, i, worker = workers_[i].get(), shedding] {
      auto part = std::make_shared<std::vector<MemoryHolder>>(
          worker->Holders(i, shedding->pod.get(), kMostNamed));
      environment_.post_main([this, shedding, part] {
        shedding->holders.insert(shedding->holders.end(), part->begin(), part->end());
        if (--shedding->left == 0) End(shedding);
      });
    });
  }
}

void MemoryKeeper::End(const std::shared_ptr<Shedding>& shedding) {
  const auto largest = LargestHolders(std::move(shedding->holders), shedding->excess);
  std::vector<std::vector<MemoryHolder>> parts(workers_.size());
  for (const MemoryHolder& one : largest) parts[one.worker].push_back(one);
  shedding->left = workers_.size();
  for (size_t i = 0; i < workers_.size(); ++i) {
    workers_[i]->loop().Post([this, worker = workers_[i].get(), part = std::move(parts[i]),
                              of_pod = shedding->pod != nullptr, shedding] {
      const std::pair<size_t, uint64_t> ended = worker->EndHolders(part, of_pod);
      environment_.post_main([this, shedding, ended] {
        shedding->ended += ended.first;
        shedding->bytes += ended.second;
        if (--shedding->left == 0) OnEnded(*shedding);
      });
    });
  }
}

void MemoryKeeper::OnEnded(const Shedding& shedding) {
  shedding_ = false;
  returned_ = {};  // what they had is given back at the next look
  if (shedding.ended > 0) {
    const char* scope = shedding.pod ? "pod" : "proxy";
    shed_connections_.With({scope})->Add(shedding.ended);
    shed_bytes_.With({scope})->Add(shedding.bytes);
    LOG_WARN("memory", "{} connections that held most, {:.1f} MB, were ended (see the access log)",
             shedding.ended, Megabytes(shedding.bytes));
    return;
  }
  const Time now = event::Clock::now();
  if (told_base_ != Time{} && now - told_base_ < kTellEvery) return;
  told_base_ = now;
  LOG_ERROR("memory",
            "{:.1f} of {:.1f} MB are used and connections hold little of that: ending them would "
            "not help; the mesh needs more, raise QANAT_MEMORY_BUDGET (the container's limit)",
            Megabytes(limits_.Used()), Megabytes(budget_));
}

std::string MemoryKeeper::Full(const Pod& pod) const {
  return workers_.empty() ? "" : MemoryFull(workers_.front()->loop().memory(), pod.load->memory);
}

}  // namespace qanat::ztunnel
