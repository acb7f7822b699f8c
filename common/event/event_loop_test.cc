// SPDX-License-Identifier: Apache-2.0
#include "common/event/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "common/event/scratch.h"

namespace qanat::event {
namespace {

using std::chrono::milliseconds;

struct SocketPair {
  Fd a, b;
  SocketPair() {
    int fds[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    a.Reset(fds[0]);
    b.Reset(fds[1]);
  }
};

TEST(EventLoopTest, ReportsReadinessWhileItHolds) {
  EventLoop loop;
  SocketPair pair;
  int calls = 0;
  IoWatch watch(loop, pair.a.get(), EPOLLIN, [&](uint32_t events) {
    EXPECT_TRUE(events & EPOLLIN);
    ++calls;
  });
  loop.RunOnce(milliseconds(1));
  EXPECT_EQ(calls, 0);
  ASSERT_EQ(write(pair.b.get(), "x", 1), 1);
  loop.RunOnce(milliseconds(100));
  loop.RunOnce(milliseconds(100));
  EXPECT_EQ(calls, 2) << "level-triggered";
  watch.SetEvents(0);
  loop.RunOnce(milliseconds(1));
  EXPECT_EQ(calls, 2);
}

// Counted, not timed: however many are ready, what a handler puts off waits for 32 of them at most,
// and each of them is called once before one is called twice.
TEST(EventLoopTest, TimersDoNotWaitForEverybodyWhoIsReady) {
  EventLoop loop;
  constexpr size_t kReady = 100;
  std::vector<SocketPair> pairs(kReady);
  std::vector<int> calls(kReady);
  std::vector<std::unique_ptr<IoWatch>> watches;
  int since = 0, most = 0;
  Timer later(loop, [&] { since = 0; });
  for (size_t i = 0; i < kReady; ++i) {
    ASSERT_EQ(write(pairs[i].b.get(), "x", 1), 1);
    watches.push_back(std::make_unique<IoWatch>(loop, pairs[i].a.get(), EPOLLIN, [&, i](uint32_t) {
      ++calls[i];
      most = std::max(most, ++since);
      later.Start({});
    }));
  }
  for (int round = 0; round < 4; ++round) loop.RunOnce(milliseconds(0));
  EXPECT_EQ(most, 32);
  EXPECT_GE(*std::min_element(calls.begin(), calls.end()), 1);
  EXPECT_LE(*std::max_element(calls.begin(), calls.end()), 2);
}

TEST(EventLoopTest, HandlerMayDestroyItselfAndOthers) {
  EventLoop loop;
  SocketPair one, two;
  std::unique_ptr<IoWatch> a, b;
  int calls = 0;
  auto both = [&](uint32_t) {
    ++calls;
    a.reset();
    b.reset();
  };
  a = std::make_unique<IoWatch>(loop, one.a.get(), EPOLLIN, both);
  b = std::make_unique<IoWatch>(loop, two.a.get(), EPOLLIN, both);
  ASSERT_EQ(write(one.b.get(), "x", 1), 1);
  ASSERT_EQ(write(two.b.get(), "x", 1), 1);
  loop.RunOnce(milliseconds(100));
  EXPECT_EQ(calls, 1) << "the second event of the round belongs to a watch that is gone";
}

TEST(EventLoopTest, TimersFireInOrderAndCancel) {
  EventLoop loop;
  std::string order;
  Timer a(loop, [&] { order += 'a'; });
  Timer b(loop, [&] { order += 'b'; });
  Timer c(loop, [&] { order += 'c'; });
  // Where the process stood still in between, the deadlines are not in this order: again.
  TimePoint begun;
  do {
    begun = Clock::now();
    a.Start(milliseconds(6));
    b.Start(milliseconds(2));
    c.Start(milliseconds(3));
    c.Stop();
  } while (Clock::now() - begun > milliseconds(3));
  while (order.size() < 2) loop.RunOnce(milliseconds(50));
  EXPECT_EQ(order, "ba");
  EXPECT_FALSE(a.armed());
}

TEST(EventLoopTest, TimerMayDestroyItself) {
  EventLoop loop;
  std::unique_ptr<Timer> timer;
  bool fired = false;
  timer = std::make_unique<Timer>(loop, [&] {
    timer.reset();
    fired = true;
  });
  timer->Start(milliseconds(0));
  loop.RunOnce(milliseconds(50));
  EXPECT_TRUE(fired);
}

TEST(EventLoopTest, PostsFromOtherThreadsArriveInOrder) {
  LoopThread thread("test");
  std::string seen;
  std::atomic<bool> done{false};
  for (char c = 'a'; c <= 'z'; ++c) {
    thread.loop().Post([&seen, c] { seen += c; });
  }
  thread.loop().Post([&] { done = true; });
  while (!done) std::this_thread::yield();
  thread.Stop();
  EXPECT_EQ(seen, "abcdefghijklmnopqrstuvwxyz");
}

TEST(EventLoopTest, NoPostIsForgottenHoweverManyCome) {
  LoopThread thread("test");
  constexpr int kThreads = 3, kPosts = 5000;
  std::atomic<int> run{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kPosts; ++i) {
        thread.loop().Post([&run] { ++run; });
        if (i % 50 == 0) std::this_thread::yield();
      }
    });
  }
  for (std::thread& one : threads) one.join();
  const auto end = Clock::now() + std::chrono::seconds(20);
  while (run < kThreads * kPosts && Clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(run, kThreads * kPosts);
}

// However many are ready before the loop learns that it was woken.
TEST(EventLoopTest, APostRunsInTheNextRound) {
  EventLoop loop;
  std::vector<SocketPair> pairs(100);
  std::vector<std::unique_ptr<IoWatch>> watches;
  for (SocketPair& pair : pairs) {
    watches.push_back(std::make_unique<IoWatch>(loop, pair.a.get(), EPOLLIN, [](uint32_t) {}));
    ASSERT_EQ(write(pair.b.get(), "x", 1), 1);
  }
  for (int round = 0; round < 5; ++round) {
    bool run = false;
    loop.Post([&run] { run = true; });
    loop.RunOnce(milliseconds(100));
    EXPECT_TRUE(run) << round;
  }
}

// Bounds from both sides that no machine is too slow for.
TEST(EventLoopTest, TimeIsBusyUnlessTheLoopWaits) {
  const TimePoint begun = Clock::now();
  EventLoop loop;
  loop.Post([] { std::this_thread::sleep_for(milliseconds(30)); });
  loop.RunOnce(milliseconds(1000));  // finds the post
  EXPECT_EQ(loop.load().waits, 1u);
  loop.RunOnce(milliseconds(0));
  EXPECT_EQ(loop.load().waits, 1u) << "a look is no wait";
  EXPECT_GE(loop.load().busy, milliseconds(30));
  loop.RunOnce(milliseconds(100));
  loop.RunOnce(milliseconds(100));
  loop.RunOnce(milliseconds(0));
  EXPECT_EQ(loop.load().waits, 3u);
  EXPECT_LE(loop.load().busy, Clock::now() - begun - milliseconds(200)) << "it waited in vain";
  EXPECT_FALSE(loop.load().waiting);
}

TEST(EventLoopTest, TellsOtherThreadsWhetherItWaitsAndWhatForItIsPosted) {
  LoopThread thread("test");
  EventLoop& loop = thread.loop();
  const auto until = [](const auto& condition) {
    const auto end = Clock::now() + std::chrono::seconds(20);
    while (!condition() && Clock::now() < end) std::this_thread::yield();
    return condition();
  };
  EXPECT_TRUE(until([&] { return loop.load().waiting; }));
  const uint64_t waits = loop.load().waits;
  std::atomic<bool> begun{false}, go_on{false};
  loop.Post([&] {
    begun = true;
    while (!go_on) std::this_thread::yield();
  });
  EXPECT_TRUE(until([&] { return begun.load(); }));
  EXPECT_FALSE(loop.load().waiting);
  EXPECT_EQ(loop.load().posts_waiting, 0u) << "what has begun waits no more";
  for (int i = 0; i < 3; ++i) loop.Post([] {});
  EXPECT_EQ(loop.load().posts_waiting, 3u);
  go_on = true;
  EXPECT_TRUE(until([&] {
    const LoopLoad load = loop.load();
    return load.waiting && load.waits > waits && load.posts_waiting == 0;
  }));
}

struct Probe : Deferred {
  explicit Probe(int& n) : alive(n) { ++alive; }
  ~Probe() override { --alive; }
  int& alive;
};

TEST(EventLoopTest, DeferDeleteWaitsForTheEndOfTheRound) {
  EventLoop loop;
  int alive = 0;
  loop.Post([&] {
    loop.DeferDelete(std::make_unique<Probe>(alive));
    EXPECT_EQ(alive, 1);
  });
  loop.RunOnce(milliseconds(50));
  EXPECT_EQ(alive, 0);
}

TEST(EventLoopTest, ScratchIsReusedAndNestedOnesDiffer) {
  EventLoop loop;
  uint8_t* first = nullptr;
  {
    Scratch outer(loop);
    first = outer.data();
    Scratch inner(loop);
    EXPECT_NE(inner.data(), outer.data());
    EXPECT_EQ(inner.span().size(), Scratch::kSize);
  }
  Scratch again(loop);
  EXPECT_EQ(again.data(), first) << "the same memory, not a new one";
}

TEST(EventLoopTest, SignalsBecomeCalls) {
  EventLoop loop;
  int got = 0;
  SignalWatch watch(loop, {SIGUSR1}, [&](int signal) { got = signal; });
  raise(SIGUSR1);
  loop.RunOnce(milliseconds(50));
  EXPECT_EQ(got, SIGUSR1);
}

}  // namespace
}  // namespace qanat::event
