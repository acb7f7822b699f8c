// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <future>

namespace qanat::ztunnel {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

// A thread of ours may get no CPU for a while and is not stuck.
constexpr Watchdog::Options kFast{std::chrono::milliseconds(10), std::chrono::milliseconds(2000)};

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 6000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(Watchdog, NamesTheLoopThatStandsAndForgetsItWhenItTurns) {
  event::LoopThread good("good"), bad("bad");
  Watchdog watchdog({{"good", &good.loop()}, {"bad", &bad.loop()}}, kFast);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(watchdog.Stuck(), "");
  EXPECT_EQ(watchdog.stuck_count(), 0u);
  std::promise<void> end;
  bad.loop().Post([&] { end.get_future().wait(); });
  EXPECT_TRUE(Eventually([&] { return !watchdog.Stuck().empty(); }));
  EXPECT_THAT(watchdog.Stuck(), AllOf(HasSubstr("bad ("), Not(HasSubstr("good"))));
  EXPECT_EQ(watchdog.stuck_count(), 1u);
  end.set_value();
  EXPECT_TRUE(Eventually([&] { return watchdog.Stuck().empty(); }));
}

TEST(Watchdog, ALoopThatNeverRanIsStuckToo) {
  event::EventLoop never;
  Watchdog watchdog({{"never", &never}}, kFast);
  EXPECT_TRUE(Eventually([&] { return !watchdog.Stuck().empty(); }));
}

std::atomic<bool> spin_on;
std::atomic<int> spin_thread;
__attribute__((noinline)) void SpinsHere() {
  spin_thread = gettid();
  // Nearly all the time in this very function, and not in a sanitizer's.
  while (spin_on) {
    for (int i = 0; i < 10'000'000; ++i) asm volatile("");
  }
}

// As deep as the callers are, in user code and in a system call.
TEST(Watchdog, TheStackOfAThreadThatIsStuck) {
  spin_on = true;
  event::LoopThread thread("spins");
  Watchdog watchdog({{"spins", &thread.loop()}}, kFast);  // also registers the thread's stack
  thread.loop().Post([] { SpinsHere(); });
  ASSERT_TRUE(Eventually([] { return spin_thread != 0; }));
  const std::string stack = StackOf(spin_thread);
  spin_on = false;
  EXPECT_GE(std::count(stack.begin(), stack.end(), '\n'), 4) << stack;
  EXPECT_THAT(stack, HasSubstr("#0 "));
}

TEST(Watchdog, ThreadsThatHaveGoneHaveNoStack) {
  int id = 0;
  std::thread([&] { id = gettid(); }).join();
  // Joined is not gone: the kernel still has it for a moment.
  const std::string task = "/proc/self/task/" + std::to_string(id);
  for (int i = 0; i < 5000 && access(task.c_str(), F_OK) == 0; ++i) usleep(1000);
  EXPECT_THAT(StackOf(id), HasSubstr("gone"));
}

}  // namespace
}  // namespace qanat::ztunnel
