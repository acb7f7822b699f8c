// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/profile/cpu.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>

#include "common/base/log.h"
#include "ztunnel/profile/pprof.h"
#include "ztunnel/profile/stack.h"

namespace qanat::ztunnel::profile {
namespace {

struct Sample {
  uint32_t count = 0;
  std::array<void*, 48> frames;
};
struct Samples {
  explicit Samples(size_t size) : list(size) {}
  std::vector<Sample> list;
  std::atomic<size_t> next{0};
};
// Where the signal handler writes to; set only while timers are armed.
std::atomic<Samples*> samples_now{nullptr};

void OnTick(int, siginfo_t*, void* context) {
  const int saved = errno;
  if (Samples* samples = samples_now.load(std::memory_order_acquire)) {
    const size_t mine = samples->next.fetch_add(1, std::memory_order_relaxed);
    if (mine < samples->list.size()) {
      Sample& sample = samples->list[mine];
      sample.count = static_cast<uint32_t>(WalkStack(context, sample.frames));
    }
  }
  errno = saved;
}

constexpr size_t kMostSamples = 50'000;  // 20 MB while it lasts

}  // namespace

struct CpuProfiler::Run {
  explicit Run(size_t size) : samples(size) {}
  Samples samples;
  std::chrono::nanoseconds period{0}, started{0};
  event::TimePoint begin;
  std::function<void(std::string)> done;
  std::mutex mutex;  // guards what follows
  std::vector<std::pair<event::EventLoop*, timer_t>> timers;
  bool over = false;
};

CpuProfiler::CpuProfiler(event::EventLoop& loop, std::vector<event::EventLoop*> watched)
    : loop_(loop), watched_(std::move(watched)), timer_(loop, [this] { Finish(); }) {}

CpuProfiler::~CpuProfiler() {
  if (!run_) return;
  samples_now = nullptr;
  const std::lock_guard lock(run_->mutex);
  for (auto& [on, timer] : run_->timers) timer_delete(timer);
  run_->over = true;
  // A handler that is running just now still writes: each thread has the samples until it has
  // passed through its loop.
  for (event::EventLoop* on : watched_) on->Post([run = run_] {});
}

Status CpuProfiler::Start(event::Duration time, unsigned frequency,
                          std::function<void(std::string)> done) {
  if (run_) return Fail(Code::kAlreadyExists, "a profile is being taken already; ask again later");
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time).count() + 1;
  const size_t most = static_cast<size_t>(seconds) * frequency * watched_.size();
  run_ = std::make_shared<Run>(std::min(most, kMostSamples));
  run_->period = std::chrono::nanoseconds(1'000'000'000 / frequency);
  run_->started = std::chrono::system_clock::now().time_since_epoch();
  run_->begin = event::Clock::now();
  run_->done = std::move(done);
  struct sigaction action{};
  action.sa_sigaction = OnTick;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGPROF, &action, nullptr);
  samples_now.store(&run_->samples, std::memory_order_release);
  for (event::EventLoop* on : watched_) {
    on->Post([run = run_, on] {
      RegisterThisThread();
      sigevent event{};
      event.sigev_notify = SIGEV_THREAD_ID;
      event.sigev_signo = SIGPROF;
      event._sigev_un._tid = static_cast<pid_t>(syscall(SYS_gettid));
      timer_t timer;
      if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) != 0) return;
      itimerspec interval{};
      interval.it_interval.tv_sec = run->period.count() / 1'000'000'000;
      interval.it_interval.tv_nsec = run->period.count() % 1'000'000'000;
      interval.it_value = interval.it_interval;
      const std::lock_guard lock(run->mutex);
      if (run->over) return void(timer_delete(timer));  // this loop was slow to hear of it
      timer_settime(timer, 0, &interval, nullptr);
      run->timers.emplace_back(on, timer);
    });
  }
  timer_.Start(time);
  return {};
}

void CpuProfiler::Finish() {
  const std::shared_ptr<Run> run = std::exchange(run_, nullptr);
  samples_now = nullptr;
  const auto duration = event::Clock::now() - run->begin;
  {
    const std::lock_guard lock(run->mutex);
    for (auto& [on, timer] : run->timers) timer_delete(timer);
    run->timers.clear();
    run->over = true;
  }
  // A handler that is running just now on another thread holds the samples: each thread passes
  // through its loop once before they are read.
  auto left = std::make_shared<std::atomic<size_t>>(watched_.size());
  for (event::EventLoop* on : watched_) {
    on->Post([run, left, duration, &back = loop_] {
      if (left->fetch_sub(1) != 1) return;
      back.Post([run, duration] {
        Profile profile;
        profile.types = {{"samples", "count"}, {"cpu", "nanoseconds"}};
        profile.period_type = profile.types.back();
        profile.period = run->period.count();
        profile.started = run->started;
        profile.duration = duration;
        const size_t taken = run->samples.next;
        const size_t kept = std::min(taken, run->samples.list.size());
        if (taken > kept) LOG_WARN("profile", "{} of {} samples kept", kept, taken);
        for (size_t i = 0; i < kept; ++i) {
          const Sample& sample = run->samples.list[i];
          std::vector<uint64_t> stack;
          for (uint32_t frame = 0; frame < sample.count; ++frame) {
            stack.push_back(reinterpret_cast<uintptr_t>(sample.frames[frame]));
          }
          if (stack.empty()) continue;
          auto& values = profile.stacks[std::move(stack)];
          values.resize(2);
          ++values[0];
          values[1] += profile.period;
        }
        profile.mappings = OwnMappings();
        run->done(EncodeProfile(profile));
      });
    });
  }
}

}  // namespace qanat::ztunnel::profile
