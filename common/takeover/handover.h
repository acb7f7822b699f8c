// SPDX-License-Identifier: Apache-2.0
// Who owns an item at which moment: one machine for the old process (Giver), one for the new one
// (Taker). They are fed with what happened and answer with what is to be done, in that order. Pure
// values without clock or sockets, so that a test can walk through every interleaving of both and
// of the death of either.
//
//   old:  offered --want--> freezing --> frozen --accepted--> committing --> given
//   new:            wanted ------> importing --> accepted ------------committed--> running
//
// The new process uses an item after kCommitted only, and the old one says that only after it has
// forgotten it (keys zeroed, descriptors closed). Until it begins to forget, the old one may always
// go on: at a refusal, a timeout, or when the other is gone. Afterwards it never does: if
// kCommitted then does not arrive, nobody has the item, and it ends. So no two processes ever use
// one item, and nothing is sealed twice with one key and sequence number.
//
// Shared items (listening sockets) can be used by both: nothing is frozen, the new one uses them at
// once, and the old one takes its part up again when the new one is gone.
#pragma once

#include <compare>
#include <cstddef>
#include <deque>
#include <map>
#include <vector>

#include "common/takeover/wire.h"

namespace qanat::takeover {

class Giver {
 public:
  enum class Do : uint8_t {
    kOffer,      // send kOffer
    kFreeze,     // stop using it and export it, then OnFroze()
    kSendState,  // send kState with what was exported
    kThaw,       // use it again
    kCommit,     // forget it for good, then OnForgotten(); a shared one: stop using it
    kSendCommitted,
    kSendWithdrawn,
  };
  struct Step {
    Do what;
    ItemId item;
    auto operator<=>(const Step&) const = default;
  };
  using Steps = std::vector<Step>;
  enum class State : uint8_t { kOffered, kFreezing, kFrozen, kCommitting, kGiven };

  // Ids are not used again.
  Steps Offer(ItemId item, bool shared);
  Steps OnWant(ItemId item);
  Steps OnFroze(ItemId item, bool exported);  // not exported: it is over, or cannot be given now
  Steps OnAccepted(ItemId item);
  // Not good: it did not stand still any more, so the other process must not use it.
  Steps OnForgotten(ItemId item, bool good);
  Steps OnRefused(ItemId item);
  Steps OnEnded(ItemId item);    // by itself, while it was not frozen
  Steps OnTimeout(ItemId item);  // the other one has had its time with a frozen item
  Steps OnLost();                // the connection, or the other process

  // Whether OnTimeout() would do something.
  bool Waits(ItemId item) const;
  // Whether its fate is open, and how many such there are.
  bool Unsettled(ItemId item) const;
  size_t unsettled() const;
  // It may still be asked about, or come back.
  bool Knows(ItemId item) const { return items_.contains(item); }

  auto operator<=>(const Giver&) const = default;

 private:
  struct Item {
    State state = State::kOffered;
    bool shared = false;
    auto operator<=>(const Item&) const = default;
  };
  Item* Find(ItemId item, State state);

  std::map<ItemId, Item> items_;  // given ones stay only if they are shared
};

class Taker {
 public:
  enum class Do : uint8_t {
    kSendWant,
    kImport,  // make it from its state, without using it; then OnImported()
    kSendAccepted,
    kSendRefused,
    kRun,   // use it
    kDrop,  // forget what was or is being imported, without the peer of the item noticing
  };
  struct Step {
    Do what;
    ItemId item;
    auto operator<=>(const Step&) const = default;
  };
  using Steps = std::vector<Step>;
  enum class State : uint8_t { kQueued, kWanted, kImporting, kAccepted };

  // `window`: how many items may be frozen at a time; shared ones are not frozen.
  explicit Taker(size_t window = 16) : window_(window) {}

  Steps OnOffer(ItemId item, bool shared);
  Steps OnState(ItemId item);
  Steps OnImported(ItemId item, bool good);
  Steps OnCommitted(ItemId item);
  Steps OnWithdrawn(ItemId item);
  Steps OnLost();  // also when we end the connection ourselves

  // Items that have not come yet, and all whose fate is open.
  size_t expected() const;
  size_t unsettled() const { return items_.size(); }
  // Something is to come from the old process.
  bool Waits() const;

  auto operator<=>(const Taker&) const = default;

 private:
  struct Item {
    State state = State::kQueued;
    bool shared = false;
    auto operator<=>(const Item&) const = default;
  };
  // Removes it, and asks for the next one.
  void Settle(ItemId item, Steps& steps);

  size_t window_;
  size_t out_ = 0;  // not shared, wanted and not settled
  std::deque<ItemId> queue_;
  std::map<ItemId, Item> items_;
};

}  // namespace qanat::takeover
