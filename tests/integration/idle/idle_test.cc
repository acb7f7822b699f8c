// SPDX-License-Identifier: Apache-2.0
// What a connection holds of both proxies' memory when something went over it, and then nothing.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>

#include "tests/integration/idle/counted_memory.h"
#include "tests/support/two_nodes.h"

namespace qanat::ztunnel::test {
namespace {

using qanat::test::LiveMemory;

// A connection's memory in both proxies together, with its share of their tunnels. What is measured
// is in DECISIONS.md; a field here and there fits below this.
constexpr int64_t kMost = 2300;
// Which the tunnels of the second half have their share in, and every table its growth.
constexpr size_t kFirst = 300, kThen = 600;

// Its addresses are nobody else's there.
bool EnterOwnNetwork() {
  if (unshare(CLONE_NEWNET) != 0) return false;
  const Fd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq lo{};
  lo.ifr_name[0] = 'l';
  lo.ifr_name[1] = 'o';
  lo.ifr_flags = IFF_UP;
  return ioctl(fd.get(), SIOCSIFFLAGS, &lo) == 0;
}

// Once nothing has changed for a while: what was said last has been dealt with.
LiveMemory Quiet() {
  LiveMemory last = LiveMemory::Now();
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (int same = 0; same < 5 && std::chrono::steady_clock::now() < until;) {
    usleep(100'000);
    const LiveMemory now = LiveMemory::Now();
    same = now.bytes == last.bytes ? same + 1 : 0;
    last = now;
  }
  return last;
}

class IdleTest : public ::testing::TestWithParam<size_t> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(EnterOwnNetwork()) << "needs root";
    rlimit files{16384, 16384};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
  }
};

TEST_P(IdleTest, AConnectionHoldsLittle) {
  const Fd nowhere(open("/dev/null", O_WRONLY | O_CLOEXEC));
  TwoNodes nodes({.log_fd = nowhere.get()});
  HeldConnections held(kFirst + kThen);
  held.Open(kFirst, GetParam());
  const LiveMemory before = Quiet();
  held.Open(kThen, GetParam());
  const LiveMemory more = Quiet() - before;
  const int64_t each = more.bytes / static_cast<int64_t>(kThen);
  RecordProperty("bytes_each", std::to_string(each));
  EXPECT_LE(each, kMost) << more.Table(kThen);
  // And all of it comes back: what stays is tunnels and tables. One tunnel more may come to be, by
  // chance; what connections leave behind would become more each time.
  held.Close();
  LiveMemory empty = Quiet(), left;
  for (int time = 0; time < 4; ++time) {
    held.Open(kFirst + kThen, GetParam());
    held.Close();
    const LiveMemory now = Quiet();
    left = now - empty;
    if (left.bytes <= 64 << 10) break;
    empty = now;
  }
  EXPECT_LE(left.bytes, 64 << 10) << left.Table(1);
}

// A few bytes; and more than a record, than a read, and than a stream keeps when nobody reads.
INSTANTIATE_TEST_SUITE_P(AfterBytes, IdleTest, ::testing::Values(10, 40'000));

}  // namespace
}  // namespace qanat::ztunnel::test
