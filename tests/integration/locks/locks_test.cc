// SPDX-License-Identifier: Apache-2.0
// A connection through warm tunnels takes no lock and wakes no other thread, from accept() to its
// line in the access log: neither on the client's node nor on the server's.
#include <fcntl.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <mutex>
#include <thread>

#include "tests/integration/locks/echo.h"
#include "tests/integration/locks/interposed.h"

namespace qanat::ztunnel::test {
namespace {

using qanat::test::Count;
using qanat::test::Counted;
using qanat::test::CountThisThread;
using qanat::test::WhatWasCounted;

constexpr int kWarm = 20;

void CountThreadOf(Worker& worker) {
  std::promise<void> done;
  worker.loop().Post([&done] {
    CountThisThread();
    done.set_value();
  });
  done.get_future().wait();
}

struct Load {
  int connections = 200;
  std::chrono::milliseconds apart{0};
};

// Expects none at all: what comes from outside (posts of the main thread, scrapes) does not here.
void ExpectNone(bool same_node, const Load& load) {
  const Fd null(open("/dev/null", O_WRONLY | O_CLOEXEC));
  TwoNodes nodes({.log_fd = null.get(), .same_node = same_node});
  const Echo server;
  for (int i = 0; i < kWarm; ++i) Echo::Call();
  CountThreadOf(nodes.near());
  CountThreadOf(nodes.far());
  Echo::Call();  // the rounds of the posts above are over
  Count(true);
  for (int i = 0; i < load.connections; ++i) {
    Echo::Call();
    std::this_thread::sleep_for(load.apart);
  }
  Count(false);
  const Counted counted = WhatWasCounted();
  EXPECT_TRUE(counted.locks == 0 && counted.wakeups == 0)
      << counted.locks << " locks and " << counted.wakeups << " wake-ups of " << load.connections
      << " connections; the first of them:\n"
      << counted.where;
  EXPECT_EQ(nodes.dropped_lines(), 0u);
}

TEST(Locks, NoneForAConnectionThroughATunnel) { ExpectNone(false, {}); }

TEST(Locks, NoneForAConnectionInOnePass) { ExpectNone(true, {}); }

// Whoever writes the log sleeps between them, and is not woken for any.
TEST(Locks, NoneForConnectionsNowAndThen) {
  ExpectNone(false, {.connections = 10, .apart = std::chrono::milliseconds(100)});
}

TEST(Locks, NoneWhereScopesHaveLevelsOfTheirOwn) {
  ASSERT_TRUE(log::SetLevels("info,zds=debug,access=info"));
  ExpectNone(false, {});
  ASSERT_TRUE(log::SetLevels("info"));
}

// The one wake-up that there is: half of a ring is full, and whoever writes it out may sleep on.
TEST(Locks, WhoWritesTheLogIsWokenBeforeARingIsFull) {
  const Fd null(open("/dev/null", O_WRONLY | O_CLOEXEC));
  log::LineWriter access_log(null.get(), 64 << 10);
  int wakeups = 0;
  std::thread([&] {
    CountThisThread();
    log::LineWriter::Source& source = access_log.AddSource();
    const std::string line(400, 'x');
    // It may happen to look in between, and then there is no need.
    for (int tries = 0; tries < 20 && wakeups == 0; ++tries) {
      Count(true);
      for (int i = 0; i < 100; ++i) source.Write(line);
      Count(false);
      wakeups = WhatWasCounted().wakeups;
      EXPECT_EQ(WhatWasCounted().locks, 0);
    }
  }).join();
  EXPECT_GE(wakeups, 1);
}

// That nothing is counted says something only if what there is is counted.
TEST(Locks, AreSeen) {
  std::mutex mutex;
  event::EventLoop loop;
  std::thread([&] {
    CountThisThread();
    Count(true);
    {
      const std::lock_guard lock(mutex);
    }
    loop.Post([] {});  // a lock, and a wake-up
    Count(false);
  }).join();
  const Counted counted = WhatWasCounted();
  EXPECT_EQ(counted.locks, 2) << counted.where;
  EXPECT_EQ(counted.wakeups, 1) << counted.where;
}

}  // namespace
}  // namespace qanat::ztunnel::test
