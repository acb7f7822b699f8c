// SPDX-License-Identifier: Apache-2.0
#include "tests/integration/locks/interposed.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdlib>

namespace qanat::test {
namespace {

constexpr size_t kMostStacks = 8;
struct Stack {
  std::array<void*, 24> frames;
  std::atomic<int> depth{0};
};

// There is no other way between libc's callers and the test than globals.
thread_local bool counted = false;
std::atomic<bool> counting{false};
std::atomic<int> locks{0}, wakeups{0};
std::atomic<size_t> stacks{0};
std::array<Stack, kMostStacks> first;
std::array<std::atomic<bool>, 4096> is_eventfd{};

void Note(std::atomic<int>& what) {
  if (!counted || !counting.load(std::memory_order_relaxed)) return;
  what.fetch_add(1);
  counted = false;  // what walking the stack takes is not the worker's
  if (const size_t at = stacks.fetch_add(1); at < kMostStacks) {
    first[at].depth = backtrace(first[at].frames.data(), 24);
  }
  counted = true;
}

bool IsEventFd(int fd) {
  return fd >= 0 && static_cast<size_t>(fd) < is_eventfd.size() &&
         is_eventfd[static_cast<size_t>(fd)];
}

// What the program would have called.
template <typename Function>
struct Real {
  const char* name;
  std::atomic<Function*> known{nullptr};
  template <typename... Args>
  auto operator()(Args... args) {
    Function* real = known.load(std::memory_order_relaxed);
    if (real == nullptr) {
      real = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
      if (real == nullptr) std::abort();
      known = real;
    }
    return real(args...);
  }
};
using OfMutex = Real<int(pthread_mutex_t*)>;
using OfTimedMutex = Real<int(pthread_mutex_t*, const timespec*)>;
using OfRwLock = Real<int(pthread_rwlock_t*)>;
using OfCondition = Real<int(pthread_cond_t*)>;
constinit OfMutex mutex_lock{"pthread_mutex_lock"}, mutex_trylock{"pthread_mutex_trylock"};
constinit OfTimedMutex mutex_timedlock{"pthread_mutex_timedlock"};
constinit OfRwLock rwlock_rdlock{"pthread_rwlock_rdlock"}, rwlock_wrlock{"pthread_rwlock_wrlock"},
    rwlock_tryrdlock{"pthread_rwlock_tryrdlock"}, rwlock_trywrlock{"pthread_rwlock_trywrlock"};
constinit OfCondition cond_signal{"pthread_cond_signal"}, cond_broadcast{"pthread_cond_broadcast"};
constinit Real<int(unsigned, int)> make_eventfd{"eventfd"};
constinit Real<ssize_t(int, const void*, size_t)> do_write{"write"};
constinit Real<long(long, long, long, long, long, long, long)> do_syscall{"syscall"};

}  // namespace

void CountThisThread() { counted = true; }

void Count(bool on) {
  if (on) {
    void* frame;
    backtrace(&frame, 1);  // what it loads the first time it loads here
    locks = wakeups = 0;
    stacks = 0;
    for (Stack& stack : first) stack.depth = 0;
  }
  counting = on;
}

Counted WhatWasCounted() {
  Counted out{locks, wakeups, ""};
  for (const Stack& stack : first) {
    if (stack.depth == 0) continue;
    char** names = backtrace_symbols(stack.frames.data(), stack.depth);
    for (int i = 0; i < stack.depth; ++i) out.where.append("  ").append(names[i]).append("\n");
    out.where.append("\n");
    free(names);
  }
  return out;
}

}  // namespace qanat::test

using namespace qanat::test;  // NOLINT: what follows is C's

extern "C" {

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  Note(locks);
  return mutex_lock(mutex);
}
int pthread_mutex_trylock(pthread_mutex_t* mutex) {
  Note(locks);
  return mutex_trylock(mutex);
}
int pthread_mutex_timedlock(pthread_mutex_t* mutex, const timespec* until) {
  Note(locks);
  return mutex_timedlock(mutex, until);
}
int pthread_rwlock_rdlock(pthread_rwlock_t* lock) {
  Note(locks);
  return rwlock_rdlock(lock);
}
int pthread_rwlock_wrlock(pthread_rwlock_t* lock) {
  Note(locks);
  return rwlock_wrlock(lock);
}
int pthread_rwlock_tryrdlock(pthread_rwlock_t* lock) {
  Note(locks);
  return rwlock_tryrdlock(lock);
}
int pthread_rwlock_trywrlock(pthread_rwlock_t* lock) {
  Note(locks);
  return rwlock_trywrlock(lock);
}
int pthread_cond_signal(pthread_cond_t* condition) {
  Note(wakeups);
  return cond_signal(condition);
}
int pthread_cond_broadcast(pthread_cond_t* condition) {
  Note(wakeups);
  return cond_broadcast(condition);
}
int eventfd(unsigned count, int flags) {
  const int fd = make_eventfd(count, flags);
  if (fd >= 0 && static_cast<size_t>(fd) < is_eventfd.size()) {
    is_eventfd[static_cast<size_t>(fd)] = true;  // never closed while it is counted
  }
  return fd;
}
ssize_t write(int fd, const void* bytes, size_t size) {
  if (size == sizeof(eventfd_t) && IsEventFd(fd)) Note(wakeups);
  return do_write(fd, bytes, size);
}
// std::atomic's notify comes this way. Whoever calls it gives as many as the kernel wants; those
// that are not there are whatever the registers and the stack have.
__attribute__((no_sanitize("address"))) long syscall(long number, ...) {
  va_list list;
  va_start(list, number);
  long args[6];
  for (long& arg : args) arg = va_arg(list, long);
  va_end(list);
  constexpr long kCommand = ~static_cast<long>(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
  if (number == SYS_futex && (args[1] & kCommand) == FUTEX_WAKE) Note(wakeups);
  return do_syscall(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

}  // extern "C"
