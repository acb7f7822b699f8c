// SPDX-License-Identifier: Apache-2.0
// Walks through everything that can happen to both machines together: every order of messages and
// of work that takes its time, refusals, timeouts, connections that end, and the loss of the
// connection or the death of either process at every point. In each state that can be reached it
// is checked who may use an item; using one means to seal a record with the next sequence number.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "common/takeover/handover.h"

namespace qanat::takeover {
namespace {

constexpr int kSeals = 2;  // after that nothing new can be learned

struct Wire {
  Kind kind;
  ItemId item;
  int sequence = 0;  // kState: the sequence number that was exported
  auto operator<=>(const Wire&) const = default;
};

// The thing itself, as each process has it.
struct Old {
  enum Phase : uint8_t { kUsing, kStopped, kForgotten, kOver } phase = kUsing;
  bool freezing = false, forgetting = false;  // work that takes its time
  int sequence = 0;
  auto operator<=>(const Old&) const = default;
};
struct New {
  enum Phase : uint8_t { kNone, kImporting, kHeld, kUsing } phase = kNone;
  int sequence = 0;
  auto operator<=>(const New&) const = default;
};
struct Thing {
  Old old;
  New fresh;
  int sealed = 0;  // records on the wire
  auto operator<=>(const Thing&) const = default;
};

struct World {
  Giver giver;
  Taker taker{1};
  std::deque<Wire> to_taker, to_giver;
  bool giver_alive = true, taker_alive = true;
  bool giver_open = true, taker_open = true;  // its end of the connection
  std::vector<Thing> things;
  bool disturbed = false;  // something but the plain course happened
  auto operator<=>(const World&) const = default;

  Thing& At(ItemId item) { return things[static_cast<size_t>(item)]; }

  void Apply(const Giver::Steps& steps) {
    for (const auto& step : steps) {
      Thing& thing = At(step.item);
      switch (step.what) {
        case Giver::Do::kOffer: Send(Kind::kOffer, step.item); break;
        case Giver::Do::kFreeze:
          thing.old.freezing = true;
          thing.old.phase = Old::kStopped;
          break;
        case Giver::Do::kSendState: Send(Kind::kState, step.item, thing.old.sequence); break;
        case Giver::Do::kThaw:
          thing.old.freezing = false;
          ASSERT_EQ(thing.old.phase, Old::kStopped) << "thawed, but was not frozen";
          ASSERT_FALSE(thing.old.forgetting) << "thawed while it is being forgotten";
          thing.old.phase = Old::kUsing;
          break;
        case Giver::Do::kCommit: thing.old.forgetting = true; break;
        case Giver::Do::kSendCommitted: Send(Kind::kCommitted, step.item); break;
        case Giver::Do::kSendWithdrawn: Send(Kind::kWithdrawn, step.item); break;
      }
    }
  }
  void Apply(const Taker::Steps& steps) {
    for (const auto& step : steps) {
      Thing& thing = At(step.item);
      switch (step.what) {
        case Taker::Do::kSendWant: Answer(Kind::kWant, step.item); break;
        case Taker::Do::kImport: thing.fresh.phase = New::kImporting; break;
        case Taker::Do::kSendAccepted: Answer(Kind::kAccepted, step.item); break;
        case Taker::Do::kSendRefused: Answer(Kind::kRefused, step.item); break;
        case Taker::Do::kRun:
          ASSERT_EQ(thing.fresh.phase, New::kHeld) << "runs what it has not";
          thing.fresh.phase = New::kUsing;
          break;
        case Taker::Do::kDrop:
          ASSERT_NE(thing.fresh.phase, New::kUsing) << "drops what it uses";
          thing.fresh.phase = New::kNone;
          break;
      }
    }
  }
  void Send(Kind kind, ItemId item, int sequence = 0) {
    if (giver_open && taker_open) to_taker.push_back({kind, item, sequence});
  }
  void Answer(Kind kind, ItemId item) {
    if (giver_open && taker_open) to_giver.push_back({kind, item});
  }
};

using Event = std::function<void(World&)>;

void DeliverToGiver(World& w) {
  const Wire wire = w.to_giver.front();
  w.to_giver.pop_front();
  if (wire.kind == Kind::kWant) w.Apply(w.giver.OnWant(wire.item));
  if (wire.kind == Kind::kAccepted) w.Apply(w.giver.OnAccepted(wire.item));
  if (wire.kind == Kind::kRefused) w.Apply(w.giver.OnRefused(wire.item));
}

void DeliverToTaker(World& w) {
  const Wire wire = w.to_taker.front();
  w.to_taker.pop_front();
  if (wire.kind == Kind::kOffer) w.Apply(w.taker.OnOffer(wire.item, false));
  if (wire.kind == Kind::kState) {
    w.At(wire.item).fresh.sequence = wire.sequence;
    w.Apply(w.taker.OnState(wire.item));
  }
  if (wire.kind == Kind::kCommitted) w.Apply(w.taker.OnCommitted(wire.item));
  if (wire.kind == Kind::kWithdrawn) w.Apply(w.taker.OnWithdrawn(wire.item));
}

void GiverLoses(World& w) {
  w.giver_open = false;
  w.to_giver.clear();  // the end of the other counts more than what it said before (channel.h)
  w.disturbed = true;
  w.Apply(w.giver.OnLost());
}

void TakerLoses(World& w) {
  w.taker_open = false;
  w.to_taker.clear();
  w.disturbed = true;
  w.Apply(w.taker.OnLost());
}

void AddItemEvents(const World& w, ItemId id, std::vector<Event>& out) {
  const Thing& thing = w.things[static_cast<size_t>(id)];
  if (w.giver_alive) {
    if (thing.old.freezing) {
      for (const bool good : {true, false}) {
        out.push_back([id, good](World& n) {
          n.At(id).old.freezing = false;
          if (!good) {
            n.At(id).old.phase = Old::kOver;
            n.disturbed = true;
          }
          n.Apply(n.giver.OnFroze(id, good));
        });
      }
    }
    if (thing.old.forgetting) {
      for (const bool good : {true, false}) {
        out.push_back([id, good](World& n) {
          n.At(id).old.forgetting = false;
          n.At(id).old.phase = good ? Old::kForgotten : Old::kUsing;
          n.disturbed = n.disturbed || !good;
          n.Apply(n.giver.OnForgotten(id, good));
        });
      }
    }
    if (w.giver.Waits(id)) {
      out.push_back([id](World& n) {
        n.disturbed = true;
        n.Apply(n.giver.OnTimeout(id));
      });
    }
    if (thing.old.phase == Old::kUsing) {
      out.push_back([id](World& n) {
        n.At(id).old.phase = Old::kOver;
        n.disturbed = true;
        n.Apply(n.giver.OnEnded(id));
      });
      if (thing.sealed < kSeals) {
        out.push_back([id](World& n) {
          Thing& t = n.At(id);
          ASSERT_EQ(t.old.sequence++, t.sealed++) << "sealed twice, by the old process";
        });
      }
    }
  }
  if (w.taker_alive) {
    if (thing.fresh.phase == New::kImporting) {
      for (const bool good : {true, false}) {
        out.push_back([id, good](World& n) {
          n.At(id).fresh.phase = good ? New::kHeld : New::kNone;
          n.disturbed = n.disturbed || !good;
          n.Apply(n.taker.OnImported(id, good));
        });
      }
    }
    if (thing.fresh.phase == New::kUsing && thing.sealed < kSeals) {
      out.push_back([id](World& n) {
        Thing& t = n.At(id);
        ASSERT_EQ(t.fresh.sequence++, t.sealed++) << "sealed twice, by the new process";
      });
    }
  }
}

std::vector<Event> EventsOf(const World& w) {
  std::vector<Event> out;
  const bool giver_hears = w.giver_alive && w.giver_open;
  const bool taker_hears = w.taker_alive && w.taker_open;
  if (giver_hears && !w.to_giver.empty()) out.push_back(DeliverToGiver);
  if (taker_hears && !w.to_taker.empty()) out.push_back(DeliverToTaker);
  // Lost: noticed by the old process at any time, by the new one after all that was sent; or ended
  // by either for a reason of its own.
  if (giver_hears) out.push_back(GiverLoses);
  if (taker_hears && (w.to_taker.empty() || w.giver_open)) out.push_back(TakerLoses);
  if (w.giver_alive) {
    out.push_back([](World& n) {
      n.giver_alive = n.giver_open = false;
      n.disturbed = true;
      n.to_giver.clear();
      for (Thing& thing : n.things) thing.old = Old{Old::kForgotten, false, false, 0};
    });
  }
  if (w.taker_alive) {
    out.push_back([](World& n) {
      n.taker_alive = n.taker_open = false;
      n.disturbed = true;
      n.to_taker.clear();
      for (Thing& thing : n.things) thing.fresh = New();
    });
  }
  for (ItemId id = 0; id < w.things.size(); ++id) AddItemEvents(w, id, out);
  return out;
}

// What holds in every state; and what must have become of an item where nothing goes on any more.
void Check(const World& w) {
  const bool quiet = w.to_taker.empty() && w.to_giver.empty();
  for (ItemId id = 0; id < w.things.size(); ++id) {
    const Thing& thing = w.things[static_cast<size_t>(id)];
    const bool old_uses = thing.old.phase == Old::kUsing;
    const bool new_uses = thing.fresh.phase == New::kUsing;
    ASSERT_FALSE(old_uses && new_uses) << "both use it";
    ASSERT_FALSE(new_uses && thing.old.phase == Old::kStopped) << "the old one could still thaw it";
    const bool working =
        thing.old.freezing || thing.old.forgetting || thing.fresh.phase == New::kImporting;
    if (w.giver_alive && thing.old.phase == Old::kStopped && !thing.old.forgetting) {
      ASSERT_TRUE(w.giver.Waits(id)) << "frozen for ever";
    }
    if (w.taker_alive && !w.taker_open) {
      ASSERT_NE(thing.fresh.phase, New::kHeld) << "held, and nobody will ever tell";
    }
    if (!quiet || working) continue;
    if (w.giver_alive && w.taker_alive && w.giver_open && w.taker_open && !w.giver.Waits(id)) {
      ASSERT_NE(thing.fresh.phase, New::kHeld) << "held, and the old one has nothing to say of it";
    }
    if (w.disturbed) continue;
    // The plain course ends with the new process using it.
    if (w.giver.unsettled() == 0 && w.taker.unsettled() == 0) {
      ASSERT_TRUE(new_uses) << "it got lost";
    }
  }
  if (quiet && !w.disturbed) return;
  // Without any loss an item is somewhere, unless it ended.
  if (!quiet || !w.giver_alive || !w.taker_alive || !w.giver_open || !w.taker_open) return;
  for (const Thing& thing : w.things) {
    const bool nowhere = thing.old.phase == Old::kForgotten && thing.fresh.phase != New::kUsing;
    ASSERT_FALSE(nowhere) << "it got lost";
  }
}

size_t Explore(World start) {
  std::set<World> seen = {start};
  std::vector<World> open = {std::move(start)};
  while (!open.empty() && !testing::Test::HasFatalFailure()) {
    const World world = std::move(open.back());
    open.pop_back();
    Check(world);
    for (const Event& event : EventsOf(world)) {
      World next = world;
      event(next);
      if (testing::Test::HasFatalFailure()) return seen.size();
      if (seen.insert(next).second) open.push_back(std::move(next));
    }
  }
  return seen.size();
}

World With(size_t items) {
  World world;
  world.things.resize(items);
  for (ItemId id = 0; id < items; ++id) world.Apply(world.giver.Offer(id, false));
  return world;
}

TEST(HandoverModel, OneItem) { EXPECT_GT(Explore(With(1)), 500u); }

TEST(HandoverModel, TwoItemsOneAtATime) { EXPECT_GT(Explore(With(2)), 10000u); }

// ---- the plain course and its turns, step by step

using GiverStep = Giver::Step;
using TakerStep = Taker::Step;

TEST(Handover, ThePlainCourse) {
  Giver giver;
  Taker taker;
  EXPECT_EQ(giver.Offer(1, false), (Giver::Steps{{Giver::Do::kOffer, 1}}));
  EXPECT_EQ(taker.OnOffer(1, false), (Taker::Steps{{Taker::Do::kSendWant, 1}}));
  EXPECT_EQ(giver.OnWant(1), (Giver::Steps{{Giver::Do::kFreeze, 1}}));
  EXPECT_TRUE(giver.Waits(1));
  EXPECT_EQ(giver.OnFroze(1, true), (Giver::Steps{{Giver::Do::kSendState, 1}}));
  EXPECT_EQ(taker.OnState(1), (Taker::Steps{{Taker::Do::kImport, 1}}));
  EXPECT_EQ(taker.OnImported(1, true), (Taker::Steps{{Taker::Do::kSendAccepted, 1}}));
  EXPECT_EQ(giver.OnAccepted(1), (Giver::Steps{{Giver::Do::kCommit, 1}}));
  EXPECT_EQ(giver.OnTimeout(1), Giver::Steps{});  // too late to go back
  EXPECT_TRUE(giver.Unsettled(1));
  EXPECT_EQ(giver.OnForgotten(1, true), (Giver::Steps{{Giver::Do::kSendCommitted, 1}}));
  EXPECT_FALSE(giver.Unsettled(1));
  EXPECT_EQ(taker.OnCommitted(1), (Taker::Steps{{Taker::Do::kRun, 1}}));
  EXPECT_EQ(giver.unsettled() + taker.unsettled(), 0u);
  EXPECT_EQ(giver.OnLost(), Giver::Steps{});
  EXPECT_EQ(taker.OnLost(), Taker::Steps{});
}

TEST(Handover, SharedItemsComeBack) {
  Giver giver;
  Taker taker;
  giver.Offer(1, true);
  taker.OnOffer(1, true);
  giver.OnWant(1);
  EXPECT_FALSE(giver.Waits(1));  // nothing is frozen
  giver.OnFroze(1, true);
  taker.OnState(1);
  EXPECT_EQ(taker.OnImported(1, true), (Taker::Steps{{Taker::Do::kSendAccepted, 1}}));
  EXPECT_EQ(taker.unsettled(), 0u);
  EXPECT_EQ(giver.OnAccepted(1), (Giver::Steps{{Giver::Do::kCommit, 1}}));
  giver.OnForgotten(1, true);
  EXPECT_EQ(giver.unsettled(), 0u);
  EXPECT_EQ(giver.OnLost(), (Giver::Steps{{Giver::Do::kThaw, 1}}));
}

TEST(Handover, OnlySoManyAreFrozenAtATime) {
  Taker taker(2);
  EXPECT_EQ(taker.OnOffer(1, false).size(), 1u);
  EXPECT_EQ(taker.OnOffer(2, false).size(), 1u);
  EXPECT_EQ(taker.OnOffer(3, false).size(), 0u);
  EXPECT_EQ(taker.OnOffer(4, true).size(), 1u);  // not frozen, not counted
  EXPECT_EQ(taker.OnOffer(5, false).size(), 0u);
  EXPECT_EQ(taker.expected(), 5u);
  EXPECT_EQ(taker.OnWithdrawn(3), Taker::Steps{});
  taker.OnState(1);
  EXPECT_EQ(taker.OnImported(1, false),
            (Taker::Steps{{Taker::Do::kSendRefused, 1}, {Taker::Do::kSendWant, 5}}));
}

// Messages that do not fit change nothing: above all, none makes an item run.
TEST(Handover, WhatDoesNotFitIsPassedOver) {
  Taker taker;
  EXPECT_EQ(taker.OnCommitted(1), Taker::Steps{});
  taker.OnOffer(1, false);
  EXPECT_EQ(taker.OnCommitted(1), Taker::Steps{});
  taker.OnState(1);
  EXPECT_EQ(taker.OnCommitted(1), Taker::Steps{});
  taker.OnImported(1, true);
  EXPECT_EQ(taker.OnState(1), Taker::Steps{});
  EXPECT_EQ(taker.OnCommitted(1).size(), 1u);
  EXPECT_EQ(taker.OnCommitted(1), Taker::Steps{});
  Giver giver;
  EXPECT_EQ(giver.OnAccepted(1), Giver::Steps{});
  giver.Offer(1, false);
  EXPECT_EQ(giver.OnAccepted(1), Giver::Steps{});
  giver.OnWant(1);
  EXPECT_EQ(giver.OnAccepted(1), Giver::Steps{});  // its state was not even sent
  EXPECT_EQ(giver.OnWant(1), Giver::Steps{});
  giver.OnFroze(1, true);
  giver.OnAccepted(1);
  EXPECT_EQ(giver.OnRefused(1), Giver::Steps{});  // after its own acceptance
}

}  // namespace
}  // namespace qanat::takeover
