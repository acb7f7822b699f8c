// SPDX-License-Identifier: Apache-2.0
// Both sessions over a real socket. An item here is a number that is counted up by whoever uses it.
#include "common/takeover/session.h"

#include <gmock/gmock.h>
#include <sys/socket.h>

#include <algorithm>
#include <set>

namespace qanat::takeover {
namespace {

// What both processes could do to an item, and whether it went wrong.
struct Item {
  bool old_uses = true, old_has = true;
  bool new_uses = false, new_has = false;
};

struct World {
  std::map<uint64_t, Item> items;
  // How many stand still, and at most did; how many have moved, and while one stood still at most.
  size_t still = 0, most_still = 0, moved = 0, most_waited_for = 0;
  std::map<uint64_t, size_t> moved_before;
  void Stands(uint64_t key) {
    moved_before[key] = moved;
    most_still = std::max(most_still, ++still);
  }
  void Moves(uint64_t key) {
    --still;
    most_waited_for = std::max(most_waited_for, moved++ - moved_before.at(key));
  }
  void Check() const {
    for (const auto& [key, item] : items) {
      ASSERT_FALSE(item.old_uses && item.new_uses) << "item " << key;
      ASSERT_FALSE(item.old_has && item.new_uses) << "item " << key;
    }
  }
};

struct FakeSource final : Source {
  explicit FakeSource(World& of) : world(of) {}
  void List(Sort sort, std::function<void(std::vector<Offer>)> done) override {
    std::vector<Offer> offers;
    for (const auto& [key, item] : world.items) {
      if (sort != Sort::kConnections) continue;
      if (item.old_uses) offers.push_back({key, shared, std::to_string(key)});
    }
    done(std::move(offers));
  }
  void Freeze(Sort, uint64_t key, std::function<void(std::optional<Parcel>)> done) override {
    if (over.contains(key)) {
      world.items.erase(key);
      return done(std::nullopt);
    }
    if (!shared) {
      world.items[key].old_uses = false;
      world.Stands(key);
    }
    done(Parcel{std::string(200, 's') + std::to_string(key), {}});
  }
  void Thaw(Sort, uint64_t key) override {
    ++thawed;
    world.items[key].old_uses = true;
  }
  void Commit(Sort, uint64_t key, std::function<void(bool)> done) override {
    if (awake.contains(key)) {  // somebody has thawed it
      world.items[key].old_uses = true;
      return done(false);
    }
    world.items[key].old_uses = world.items[key].old_has = false;
    done(true);
  }
  World& world;
  bool shared = false;
  std::set<uint64_t> over;   // ended when they are to be frozen
  std::set<uint64_t> awake;  // do not stand still any more when they are to be forgotten
  int thawed = 0;
};

struct FakeSink final : Sink {
  explicit FakeSink(World& of) : world(of) {}
  void Import(Sort, ItemId item, const std::string& about, Parcel parcel,
              std::function<void(Status)> done) override {
    const uint64_t key = std::stoull(about);
    EXPECT_EQ(parcel.state, std::string(200, 's') + about);
    keys[item] = key;
    if (silent) return waiting.push_back(std::move(done));
    if (slow == key) {
      world.items[key].new_has = true;
      return waiting.push_back(std::move(done));
    }
    if (refused.contains(key)) return done(Fail(Code::kUnimplemented, "not this one"));
    world.items[key].new_has = true;
    done({});
  }
  void Run(ItemId item) override {
    world.items[keys.at(item)].new_uses = true;
    if (!world.items[keys.at(item)].old_has) world.Moves(keys.at(item));
  }
  void Drop(ItemId item) override {
    ++dropped;
    world.items[keys.at(item)].new_has = false;
  }
  World& world;
  std::map<ItemId, uint64_t> keys;
  std::set<uint64_t> refused;
  bool silent = false;
  uint64_t slow = 0;  // its import is not done before it is said to be
  int dropped = 0;
  std::vector<std::function<void(Status)>> waiting;
};

class SessionTest : public ::testing::Test {
 protected:
  void Start(size_t items, SessionOptions options = {}) {
    for (uint64_t key = 1; key <= items; ++key) world.items[key];
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    giving = std::make_unique<GivingSession>(
        loop, Fd(fds[0]), source, options,
        GivingSession::Events{[this] { finished = true; },
                              [this](const std::string&) { giver_lost = true; }});
    taking = std::make_unique<TakingSession>(
        loop, Fd(fds[1]), sink, options,
        TakingSession::Events{[this](const std::string&) {
                                taking->Ask(
                                    Sort::kConnections, [this] { arrived = true; },
                                    [this] {
                                      settled = true;
                                      taking->Finish();
                                    });
                              },
                              [this](const std::string&) { taker_lost = true; }});
  }
  bool RunUntil(const std::function<bool()>& over, int rounds = 3000) {
    for (int i = 0; i < rounds && !over(); ++i) {
      loop.RunOnce(std::chrono::milliseconds(2));
      world.Check();
    }
    return over();
  }
  size_t NewUses() const {
    return static_cast<size_t>(std::count_if(world.items.begin(), world.items.end(),
                                             [](const auto& i) { return i.second.new_uses; }));
  }
  event::EventLoop loop;
  World world;
  FakeSource source{world};
  FakeSink sink{world};
  std::unique_ptr<GivingSession> giving;
  std::unique_ptr<TakingSession> taking;
  bool finished = false, giver_lost = false, taker_lost = false, arrived = false, settled = false;
};

TEST_F(SessionTest, EverythingMoves) {
  Start(300);
  ASSERT_TRUE(RunUntil([&] { return finished; }));
  EXPECT_TRUE(arrived && settled);
  EXPECT_EQ(NewUses(), 300u);
  EXPECT_EQ(giving->counts().moved, 300u);
  EXPECT_EQ(taking->counts().moved, 300u);
}

// Counted, not timed: how long one stands still is how many others are moved meanwhile, and one
// that takes its time holds up none of them.
TEST_F(SessionTest, AnItemStandsStillForAsManyOthersAsTheWindowHas) {
  const SessionOptions options{.item_timeout = std::chrono::minutes(1)};
  const size_t window = options.window;
  Start(300, options);
  ASSERT_TRUE(RunUntil([&] { return finished; }));
  EXPECT_EQ(world.moved, 300u);
  EXPECT_EQ(world.still, 0u);
  EXPECT_EQ(world.most_still, window);
  EXPECT_LE(world.most_waited_for, window);
}

TEST_F(SessionTest, OneThatTakesItsTimeHoldsUpNoOther) {
  sink.slow = 20;
  const SessionOptions options{.item_timeout = std::chrono::minutes(1),
                               .silence_timeout = std::chrono::minutes(2)};
  Start(300, options);
  ASSERT_TRUE(RunUntil([&] { return world.moved == 299; }));
  EXPECT_LE(world.most_still, options.window);
  EXPECT_LE(world.most_waited_for, options.window);
  ASSERT_EQ(sink.waiting.size(), 1u);
  EXPECT_FALSE(finished);
  sink.waiting.front()({});
  ASSERT_TRUE(RunUntil([&] { return finished; }));
  EXPECT_EQ(NewUses(), 300u);
}

TEST_F(SessionTest, NothingToMove) {
  Start(0);
  EXPECT_TRUE(RunUntil([&] { return finished; }));
}

TEST_F(SessionTest, WhatIsRefusedOrOverStays) {
  sink.refused = {3, 7};
  source.over = {5};
  Start(10);
  ASSERT_TRUE(RunUntil([&] { return finished; }));
  EXPECT_EQ(NewUses(), 7u);
  EXPECT_TRUE(world.items[3].old_uses && world.items[7].old_uses);
  EXPECT_EQ(giving->counts().refused, 2u);
  EXPECT_EQ(giving->counts().withdrawn, 1u);
}

TEST_F(SessionTest, WhoDoesNotAnswerInTimeGetsNothing) {
  sink.silent = true;
  SessionOptions options;
  options.item_timeout = std::chrono::milliseconds(50);
  options.window = 2;
  Start(3, options);
  ASSERT_TRUE(RunUntil([&] { return finished; }));  // all withdrawn: nothing is left to wait for
  EXPECT_EQ(source.thawed, 3);
  EXPECT_EQ(sink.dropped, 3);
  for (auto& done : sink.waiting) done({});  // too late, no harm
  RunUntil([] { return false; }, 5);
  EXPECT_EQ(NewUses(), 0u);
  for (const auto& [key, item] : world.items) EXPECT_TRUE(item.old_uses);
}

TEST_F(SessionTest, WhatDoesNotStandStillIsNotGivenAway) {
  source.awake = {2};
  Start(3);
  ASSERT_TRUE(RunUntil([&] { return finished; }));
  EXPECT_EQ(NewUses(), 2u);
  EXPECT_TRUE(world.items[2].old_uses);
  EXPECT_FALSE(world.items[2].new_has);
  EXPECT_EQ(giving->counts().moved, 2u);
  EXPECT_EQ(giving->counts().withdrawn, 1u);
}

// Else one thing would be two items, and the end of one the thaw of the other.
TEST_F(SessionTest, WhatIsOnItsWayIsNotOfferedAgain) {
  sink.silent = true;
  Start(2);
  ASSERT_TRUE(RunUntil([&] { return sink.waiting.size() == 2; }));
  taking->Ask(Sort::kListeners, nullptr, nullptr);  // of another sort it may ask
  RunUntil([] { return false; }, 5);
  EXPECT_FALSE(giver_lost);
  taking->Ask(Sort::kConnections, nullptr, nullptr);
  EXPECT_TRUE(RunUntil([&] { return giver_lost; }));
  EXPECT_EQ(source.thawed, 2);
}

// Nobody is told, as its owner goes away with it; but what it holds must not outlive it.
TEST_F(SessionTest, WhoLeavesInTheMiddleDropsWhatIsNotItsOwn) {
  sink.silent = true;
  SessionOptions options;
  options.window = 2;
  Start(3, options);
  ASSERT_TRUE(RunUntil([&] { return sink.waiting.size() == 2; }));
  taking.reset();
  EXPECT_EQ(sink.dropped, 2);
  EXPECT_FALSE(taker_lost);
  ASSERT_TRUE(RunUntil([&] { return giver_lost; }));
  for (const auto& [key, item] : world.items) EXPECT_TRUE(item.old_uses);
}

// Either side is gone after any number of rounds: whatever is not lost in between (nobody may know
// who has it) is in use by exactly one.
TEST_F(SessionTest, TheEndOfEitherAtEveryMoment) {
  for (const bool old_dies : {true, false}) {
    for (int rounds = 0; rounds < 40; ++rounds) {
      world = World();
      finished = giver_lost = taker_lost = arrived = settled = false;
      SessionOptions options;
      options.window = 1;
      Start(4, options);
      RunUntil([] { return false; }, rounds);
      if (old_dies) {
        giving.reset();
        for (auto& [key, item] : world.items) item.old_uses = item.old_has = false;
        ASSERT_TRUE(RunUntil([&] { return taker_lost; }));
        for (const auto& [key, item] : world.items) EXPECT_EQ(item.new_uses, item.new_has);
      } else {
        taking.reset();
        for (auto& [key, item] : world.items) item.new_uses = item.new_has = false;
        ASSERT_TRUE(RunUntil([&] { return giver_lost; }));
        for (const auto& [key, item] : world.items) EXPECT_EQ(item.old_uses, item.old_has);
      }
      giving.reset();
      taking.reset();
    }
  }
}

TEST_F(SessionTest, SharedItemsComeBackWhenTheNewProcessIsGone) {
  source.shared = true;
  for (uint64_t key = 1; key <= 3; ++key) world.items[key];
  Start(3);
  // Shared ones are in use by both for a moment, which the other tests do not allow.
  for (int i = 0; i < 500 && !finished; ++i) loop.RunOnce(std::chrono::milliseconds(2));
  ASSERT_TRUE(finished);
  for (const auto& [key, item] : world.items) EXPECT_FALSE(item.old_uses);
  taking.reset();
  for (int i = 0; i < 500 && !giver_lost; ++i) loop.RunOnce(std::chrono::milliseconds(2));
  ASSERT_TRUE(giver_lost);
  for (const auto& [key, item] : world.items) EXPECT_TRUE(item.old_uses);
}

TEST_F(SessionTest, WhoSaysNothingIsNoProcessOfOurs) {
  int fds[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
  Fd other(fds[1]);
  SessionOptions options;
  options.hello_timeout = std::chrono::milliseconds(30);
  giving = std::make_unique<GivingSession>(
      loop, Fd(fds[0]), source, options,
      GivingSession::Events{[] {}, [this](const std::string&) { giver_lost = true; }});
  EXPECT_TRUE(RunUntil([&] { return giver_lost; }));
}

}  // namespace
}  // namespace qanat::takeover
