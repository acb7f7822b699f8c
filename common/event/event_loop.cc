// SPDX-License-Identifier: Apache-2.0
#include "common/event/event_loop.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace qanat::event {
namespace {

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::abort();
}

constexpr uint64_t kWakeToken = ~uint64_t{0};
// How many handlers run before timers do: what sessions gather to send together goes out by one, so
// it waits for so many others at most. Who is left is first in the next round.
constexpr size_t kMostEvents = 32;

// Of a value that this thread alone changes: no locked instruction.
template <typename T>
void Bump(std::atomic<T>& value, T by) {
  value.store(value.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

}  // namespace

IoWatch::IoWatch(EventLoop& loop, int fd, uint32_t events, Handler handler)
    : loop_(loop), fd_(fd), events_(events), handler_(std::move(handler)) {
  if (loop_.free_slots_.empty()) {
    slot_ = static_cast<uint32_t>(loop_.slots_.size());
    loop_.slots_.emplace_back();
  } else {
    slot_ = loop_.free_slots_.back();
    loop_.free_slots_.pop_back();
  }
  EventLoop::Slot& slot = loop_.slots_[slot_];
  slot.watch = this;
  epoll_event event{};
  event.events = events;
  event.data.u64 = (uint64_t{slot.generation} << 32) | slot_;
  if (epoll_ctl(loop_.epoll_.get(), EPOLL_CTL_ADD, fd_, &event) != 0) Die("epoll_ctl add");
}

IoWatch::~IoWatch() {
  // ENOENT: the fd was closed before its watch, against the contract, but harmless here.
  if (leave_) epoll_ctl(loop_.epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
  EventLoop::Slot& slot = loop_.slots_[slot_];
  slot.watch = nullptr;
  ++slot.generation;
  loop_.free_slots_.push_back(slot_);
}

void IoWatch::SetEvents(uint32_t events) {
  if (events == events_) return;
  events_ = events;
  epoll_event event{};
  event.events = events;
  event.data.u64 = (uint64_t{loop_.slots_[slot_].generation} << 32) | slot_;
  if (epoll_ctl(loop_.epoll_.get(), EPOLL_CTL_MOD, fd_, &event) != 0) Die("epoll_ctl mod");
}

Timer::Timer(EventLoop& loop, Handler handler) : loop_(loop), handler_(std::move(handler)) {}

Timer::~Timer() { Stop(); }

void Timer::Start(Duration delay) {
  Stop();
  position_ = loop_.timers_.emplace(Clock::now() + delay, this);
  armed_ = true;
}

void Timer::Stop() {
  if (!armed_) return;
  loop_.timers_.erase(position_);
  armed_ = false;
}

EventLoop::EventLoop() : now_(Clock::now()), busy_since_(now_) {
  epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) Die("epoll_create1");
  wake_.Reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) Die("eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeToken;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) Die("epoll_ctl wake");
  thread_ = std::this_thread::get_id();
}

EventLoop::~EventLoop() = default;

void EventLoop::Run() {
  thread_ = std::this_thread::get_id();
  busy_since_ = Clock::now();
  while (!stop_.load(std::memory_order_acquire)) Round(-1);
  stop_ = false;
}

void EventLoop::RunOnce(Duration wait) {
  thread_ = std::this_thread::get_id();
  auto ms = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  Round(static_cast<int>(std::clamp<int64_t>(ms, 0, 3600 * 1000)));
}

void EventLoop::Stop() {
  stop_ = true;
  Post([] {});
}

void EventLoop::Post(std::function<void()> task) {
  bool was_empty;
  {
    std::lock_guard lock(mutex_);
    was_empty = posted_.empty();
    posted_.push_back(std::move(task));
    // Before the loop can be woken: the round that was woken for it sees it.
    posts_waiting_.store(posted_.size(), std::memory_order_release);
  }
  if (was_empty) {
    uint64_t one = 1;
    // EAGAIN means that the counter is full, so the loop is being woken anyway.
    [[maybe_unused]] ssize_t n = ::write(wake_.get(), &one, sizeof one);
  }
}

void EventLoop::DeferDelete(std::unique_ptr<Deferred> object) {
  dying_.push_back(std::move(object));
}

LoopLoad EventLoop::load() const {
  const uint64_t turns = turns_.load(std::memory_order_relaxed);
  return {.posts_waiting = posts_waiting_.load(std::memory_order_relaxed),
          .busy = Duration(busy_.load(std::memory_order_relaxed)),
          .waits = (turns + 1) / 2,
          .waiting = turns % 2 != 0};
}

int EventLoop::NextTimeoutMs(int limit_ms, TimePoint now) const {
  if (!dying_.empty()) return 0;
  if (timers_.empty()) return limit_ms;
  auto wait = timers_.begin()->first - now;
  auto ms = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  ms = std::clamp<int64_t>(ms, 0, 3600 * 1000);
  if (limit_ms >= 0) ms = std::min<int64_t>(ms, limit_ms);
  return static_cast<int>(ms);
}

void EventLoop::Round(int timeout_ms) {
  std::array<epoll_event, kMostEvents> events;
  const TimePoint before = Clock::now();
  const int timeout = NextTimeoutMs(timeout_ms, before);
  Bump(busy_, (before - busy_since_).count());
  if (timeout != 0) Bump(turns_, uint64_t{1});
  int n = epoll_wait(epoll_.get(), events.data(), events.size(), timeout);
  if (n < 0 && errno != EINTR) Die("epoll_wait");
  now_ = Clock::now();
  // A look that does not wait is work.
  if (timeout != 0) Bump(turns_, uint64_t{1});
  busy_since_ = timeout != 0 ? now_ : before;
  bool woken = false;
  for (int i = 0; i < n; ++i) {
    uint64_t token = events[static_cast<size_t>(i)].data.u64;
    if (token == kWakeToken) {
      woken = true;
      continue;
    }
    // The watch may have been destroyed by an earlier handler of this round.
    Slot& slot = slots_[static_cast<uint32_t>(token)];
    if (slot.watch == nullptr || slot.generation != static_cast<uint32_t>(token >> 32)) continue;
    // The handler may destroy its watch, and with it the std::function that is running: keep the
    // callable alive on the stack for the call and put it back if the watch still stands.
    IoWatch* watch = slot.watch;
    uint32_t generation = slot.generation;
    uint32_t index = static_cast<uint32_t>(token);
    IoWatch::Handler handler = std::move(watch->handler_);
    handler(events[static_cast<size_t>(i)].events);
    Slot& after = slots_[index];
    if (after.watch == watch && after.generation == generation) {
      watch->handler_ = std::move(handler);
    }
  }
  RunTimers();
  if (woken) {
    uint64_t count;
    [[maybe_unused]] ssize_t r = ::read(wake_.get(), &count, sizeof count);
  }
  RunPosted();
  // Destructors may hand over more objects: they go in the same round, but never recursively.
  while (!dying_.empty()) {
    std::vector<std::unique_ptr<Deferred>> now;
    now.swap(dying_);
    now.clear();
  }
}

void EventLoop::RunPosted() {
  if (posts_waiting_.load(std::memory_order_acquire) == 0) return;
  std::vector<std::function<void()>> tasks;
  {
    std::lock_guard lock(mutex_);
    tasks.swap(posted_);
    posts_waiting_.store(0, std::memory_order_relaxed);
  }
  for (auto& task : tasks) task();
}

void EventLoop::RunTimers() {
  if (timers_.empty()) return;
  // A timer that re-arms itself with zero delay waits for the next round.
  TimePoint until = Clock::now();
  while (!timers_.empty() && timers_.begin()->first <= until) {
    Timer* timer = timers_.begin()->second;
    timers_.erase(timers_.begin());
    timer->armed_ = false;
    Timer::Handler handler = timer->handler_;  // a copy: the handler may destroy its timer
    handler();
  }
}

LoopThread::LoopThread(const char* name) {
  thread_ = std::thread([this] { loop_.Run(); });
  pthread_setname_np(thread_.native_handle(), name);
}

LoopThread::~LoopThread() { Stop(); }

void LoopThread::Stop() {
  if (!thread_.joinable()) return;
  loop_.Stop();
  thread_.join();
}

SignalWatch::SignalWatch(EventLoop& loop, std::vector<int> signals,
                         std::function<void(int)> handler) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  fd_.Reset(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd_) Die("signalfd");
  watch_ = std::make_unique<IoWatch>(
      loop, fd_.get(), EPOLLIN, [this, handler = std::move(handler)](uint32_t) {
        signalfd_siginfo info;
        while (::read(fd_.get(), &info, sizeof info) == sizeof info) {
          handler(static_cast<int>(info.ssi_signo));
        }
      });
}

}  // namespace qanat::event
