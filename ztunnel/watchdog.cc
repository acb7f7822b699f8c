// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/watchdog.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>

#include "common/base/log.h"
#include "ztunnel/profile/stack.h"

namespace qanat::ztunnel {
namespace {

// What the handler of a signal and the thread that sent it share: there is no other way between
// the two than a global. One question at a time.
struct Question {
  std::array<void*, 64> frames;
  size_t count = 0;
  std::atomic<int> thread{0};  // whose stack is asked for; 0 = none
  std::atomic<bool> answered{false};
};
Question question;
std::mutex one_question;

void Answer(int, siginfo_t*, void* context) {
  const int saved = errno;
  int self = static_cast<int>(syscall(SYS_gettid));
  if (question.thread.compare_exchange_strong(self, 0)) {
    question.count = profile::WalkStack(context, question.frames);
    question.answered.store(true, std::memory_order_release);
  }
  errno = saved;
}

}  // namespace

std::string StackOf(int thread_id) {
  const std::lock_guard lock(one_question);
  const int signal = SIGRTMIN + 5;
  struct sigaction action{};
  action.sa_sigaction = Answer;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(signal, &action, nullptr);
  question.answered = false;
  question.thread = thread_id;
  if (syscall(SYS_tgkill, getpid(), thread_id, signal) != 0) return "  (the thread has gone)\n";
  for (int i = 0; i < 100 && !question.answered.load(std::memory_order_acquire); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  // Not answered: nobody may answer later into what the next question reads.
  int expected = thread_id;
  if (!question.answered && question.thread.compare_exchange_strong(expected, 0)) {
    return "  (no answer: the thread is inside the kernel, uninterruptibly)\n";
  }
  while (!question.answered.load(std::memory_order_acquire)) std::this_thread::yield();
  std::string out;
  for (size_t i = 0; i < question.count; ++i) {
    out += fmt::format("  #{} {}\n", i, profile::Describe(question.frames[i]));
  }
  return out;
}

struct Watchdog::Probe {
  std::atomic<bool> answered{false};
  std::atomic<int> thread{0};
};

Watchdog::Watchdog(std::vector<Watched> watched) : Watchdog(std::move(watched), Options()) {}

Watchdog::Watchdog(std::vector<Watched> watched, Options options) : options_(options) {
  for (Watched& one : watched) {
    Entry entry;
    entry.watched = std::move(one);
    entry.probe = std::make_shared<Probe>();
    entry.asked = event::Clock::now();
    entry.watched.loop->Post([probe = entry.probe] {
      profile::RegisterThisThread();
      probe->thread = static_cast<int>(syscall(SYS_gettid));
      probe->answered = true;
    });
    entries_.push_back(std::move(entry));
  }
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), "watchdog");
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void Watchdog::Run() {
  std::unique_lock lock(mutex_);
  event::TimePoint last = event::Clock::now();
  while (!wake_.wait_for(lock, options_.interval, [this] { return stop_; })) {
    const event::TimePoint now = event::Clock::now();
    // If this thread came late by itself, all of the process stood still (a stopped container, a
    // suspended machine), and nobody is to blame.
    const bool slept = now - last > options_.interval + options_.limit / 2;
    last = now;
    std::vector<Report> reports;
    for (Entry& entry : entries_) Look(entry, now, slept, reports);
    if (reports.empty()) continue;
    // Taking a stack may take a second, which who asks for Stuck() is not to wait.
    lock.unlock();
    for (const Report& report : reports) {
      LOG_ERROR("watchdog", "{} has not turned for {} ms; its stack:\n{}", report.name,
                report.late.count(),
                report.thread == 0 ? "  (it never ran)\n" : StackOf(report.thread));
    }
    lock.lock();
  }
}

void Watchdog::Look(Entry& entry, event::TimePoint now, bool slept, std::vector<Report>& reports) {
  const std::shared_ptr<Probe> probe = entry.probe;
  if (probe->answered) {
    if (entry.reported) LOG_WARN("watchdog", "{} turns again", entry.watched.name);
    entry.reported = false;
    entry.late = std::chrono::seconds(0);
    entry.asked = now;
    probe->answered = false;
    entry.watched.loop->Post([probe] { probe->answered = true; });
    return;
  }
  if (slept) entry.asked = now;
  if (now - entry.asked < options_.limit) return;
  entry.late = std::max(std::chrono::seconds(1),
                        std::chrono::duration_cast<std::chrono::seconds>(now - entry.asked));
  if (entry.reported) return;
  entry.reported = true;
  reports.push_back({entry.watched.name, probe->thread,
                     std::chrono::duration_cast<std::chrono::milliseconds>(now - entry.asked)});
}

std::string Watchdog::Stuck() const {
  const std::lock_guard lock(mutex_);
  std::string out;
  for (const Entry& entry : entries_) {
    if (entry.late.count() == 0) continue;
    out +=
        fmt::format("{}{} ({} s)", out.empty() ? "" : ", ", entry.watched.name, entry.late.count());
  }
  return out;
}

size_t Watchdog::stuck_count() const {
  const std::lock_guard lock(mutex_);
  size_t count = 0;
  for (const Entry& entry : entries_) count += entry.late.count() > 0 ? 1 : 0;
  return count;
}

}  // namespace qanat::ztunnel
