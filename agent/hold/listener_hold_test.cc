// SPDX-License-Identifier: Apache-2.0
// The agent as the keeper of its proxy's listeners: whose it keeps, and how long.
#include "agent/hold/listener_hold.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>

#include "common/netns/netns.h"

namespace qanat::agent {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::IsEmpty;

Fd NewSocket() { return Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

class HoldTest : public ::testing::Test {
 protected:
  HoldTest() {
    base = testing::TempDir() + "agent-hold-" + std::to_string(getpid());
    cookies["a-1"] = cookies["b-2"] = *netns::OwnCookie();
  }
  ~HoldTest() override {
    unlink((base + ".sock").c_str());
    unlink((base + ".above").c_str());
  }
  void Begin() {
    hold = std::make_unique<ListenerHold>(loop,
                                          HoldWorld{[this](const std::string& uid) {
                                                      const auto it = cookies.find(uid);
                                                      return it == cookies.end() ? 0 : it->second;
                                                    },
                                                    [this] { return proxies; }},
                                          options);
    ASSERT_TRUE(hold->Listen(base + ".sock"));
  }
  void Turn(int milliseconds_in_all = 0) {
    const auto end = event::Clock::now() + milliseconds(milliseconds_in_all);
    do {
      for (int i = 0; i < 5; ++i) loop.RunOnce(milliseconds(1));
    } while (event::Clock::now() < end);
  }
  void Keep(const std::string& name, int fd) {
    takeover::Supervisor program(base + ".sock");
    const int fds[] = {fd};
    ASSERT_TRUE(program.Keep(name, fds));
    Turn();
  }
  static std::vector<std::string> NamesOf(const takeover::Holder& holder) {
    std::vector<std::string> out;
    for (const auto& one : holder.Kept()) out.push_back(one.name);
    return out;
  }

  event::EventLoop loop;
  std::map<std::string, uint64_t> cookies;
  std::set<pid_t> proxies = {getpid()};  // this process gives
  HoldOptions options;
  std::unique_ptr<ListenerHold> hold;
  std::string base;
};

TEST_F(HoldTest, NamesOfPods) {
  EXPECT_EQ(UidOfHeld("qanat-0f6a-11-outbound"), "0f6a-11");
  for (const char* none : {"", "qanat-", "qanat-x", "qanat--x", "other-x-outbound"}) {
    EXPECT_EQ(UidOfHeld(none), "") << none;
  }
}

TEST_F(HoldTest, SocketsOfItsPodsOnly) {
  Begin();
  const Fd listener = NewSocket();
  Keep("qanat-a-1-outbound", listener.get());
  EXPECT_EQ(hold->size(), 1u);
  Keep("qanat-unknown-outbound", listener.get());
  Keep("qanat-self-hbone", listener.get());
  Keep("something", listener.get());
  const Fd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  Keep("qanat-b-2-outbound", file.get());
  cookies["b-2"] += 1;  // another namespace now
  Keep("qanat-b-2-outbound", listener.get());
  EXPECT_EQ(hold->size(), 1u);
  EXPECT_EQ(hold->counts().refused, 5u);
}

TEST_F(HoldTest, ForgottenWithThePod) {
  options.look_every = milliseconds(5);
  Begin();
  const Fd one = NewSocket(), two = NewSocket();
  Keep("qanat-a-1-outbound", one.get());
  Keep("qanat-a-1-hbone", two.get());
  Keep("qanat-b-2-outbound", two.get());
  hold->Forget("a-1");
  EXPECT_EQ(hold->size(), 1u);
  cookies.erase("b-2");  // nobody said so
  Turn(30);
  EXPECT_EQ(hold->size(), 0u);
}

TEST_F(HoldTest, GivenUpWhenNoProxyComes) {
  options.look_every = milliseconds(5);
  options.without_proxy = milliseconds(2000);  // the process may stand still for a while
  Begin();
  const Fd one = NewSocket();
  Keep("qanat-a-1-outbound", one.get());
  Turn(2400);
  EXPECT_EQ(hold->size(), 1u) << "there is a proxy";
  proxies.clear();
  Turn(60);
  EXPECT_EQ(hold->size(), 1u) << "it has its time";
  Turn(2400);
  EXPECT_EQ(hold->size(), 0u);
}

// A proxy that keeps nothing here came in place of the one that did: half of the connections would
// go to queues that nobody serves.
TEST_F(HoldTest, GivenUpWhenThePresentProxyDoesNotTakeThemUp) {
  options.look_every = milliseconds(5);
  options.unclaimed = milliseconds(2000);  // the process may stand still for a while
  Begin();
  const Fd one = NewSocket(), two = NewSocket();
  Keep("qanat-a-1-outbound", one.get());
  proxies = {1};
  Turn(60);
  EXPECT_EQ(hold->size(), 1u) << "it has its time";
  proxies.clear();
  Turn(2400);
  EXPECT_EQ(hold->size(), 1u) << "nobody is there: they wait for the next";
  proxies = {1};
  Turn(60);
  EXPECT_EQ(hold->size(), 1u) << "which has its time";
  proxies = {1, getpid()};
  Turn(2400);
  EXPECT_EQ(hold->size(), 1u) << "whose they are is there";
  std::vector<Fd> other;
  other.emplace_back(dup(two.get()));
  hold->holder().Keep("qanat-a-1-outbound", std::move(other), 1);
  proxies = {1};
  Turn(2400);
  EXPECT_EQ(hold->size(), 1u) << "what it has taken up stays";
  EXPECT_THAT(hold->holder().Givers(), ElementsAre(1));
}

// The agent itself is restarted: its own supervisor has what it kept.
TEST_F(HoldTest, KeptAcrossItsOwnDeath) {
  takeover::Holder above(loop, {});
  ASSERT_TRUE(above.Listen(base + ".above"));
  options.notify_socket = base + ".above";
  Begin();
  const Fd one = NewSocket(), two = NewSocket();
  Keep("qanat-a-1-outbound", one.get());
  Keep("qanat-b-2-outbound", two.get());
  EXPECT_THAT(NamesOf(above), ElementsAre("qanat-a-1-outbound", "qanat-b-2-outbound"));
  hold.reset();
  cookies.erase("b-2");

  std::vector<takeover::PassedFd> passed;
  for (const auto& [name, fd] : above.Kept()) passed.push_back({name, dup(fd)});
  Begin();
  hold->Adopt(passed);
  EXPECT_EQ(hold->size(), 1u);
  Turn();
  EXPECT_THAT(NamesOf(above), ElementsAre("qanat-a-1-outbound"));
  hold->Forget("a-1");
  Turn();
  EXPECT_THAT(NamesOf(above), IsEmpty());
}

}  // namespace
}  // namespace qanat::agent
