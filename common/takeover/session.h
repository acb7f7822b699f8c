// SPDX-License-Identifier: Apache-2.0
// Both ends of a take-over at work: the machines (handover.h) over a channel, with timeouts. What
// the items are is the program's: the old process has a Source, the new one a Sink. Everything is
// on one loop; work on other threads answers by the callbacks that it was given.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/takeover/channel.h"
#include "common/takeover/handover.h"

namespace qanat::takeover {

// One sort of items, which the new process asks for at the moment that suits it. Numbers on the
// wire: never changed, never used again.
enum class Sort : uint16_t { kListeners = 1, kConnections = 2 };

// What an item is: of which sort, whether both may use it, and what the Sink needs to tell whether
// it can take it.
struct Offer {
  uint64_t key = 0;  // the Source's own
  bool shared = false;
  std::string about;  // fields
};

// What goes over: the state as fields, and descriptors.
struct Parcel {
  WipedString state;
  std::vector<Fd> fds;
};

// The old process's items. Calls for one item come in the order of handover.h.
class Source {
 public:
  virtual void List(Sort sort, std::function<void(std::vector<Offer>)> done) = 0;
  // Stop using it (a shared one goes on) and export it; nullopt: it is over, or cannot be given
  // now, and is in use as before. `done` at any time; too late is no harm.
  virtual void Freeze(Sort sort, uint64_t key, std::function<void(std::optional<Parcel>)> done) = 0;
  // Use it again, also while it is being frozen.
  virtual void Thaw(Sort sort, uint64_t key) = 0;
  // Zero its keys, close its descriptors, forget it; of a shared one: stop using it. `done` with
  // false where it did not stand still (any more): then nobody else may use it.
  virtual void Commit(Sort sort, uint64_t key, std::function<void(bool good)> done) = 0;

 protected:
  ~Source() = default;
};

// The new process's items. `item` is the session's number for it.
class Sink {
 public:
  // Make it without using it (a shared one is used at once). `done` at any time, once.
  virtual void Import(Sort sort, ItemId item, const std::string& about, Parcel parcel,
                      std::function<void(Status)> done) = 0;
  virtual void Run(ItemId item) = 0;
  // Forget it, without its peer noticing: the old process goes on with it.
  virtual void Drop(ItemId item) = 0;

 protected:
  ~Sink() = default;
};

struct SessionOptions {
  // How long the new process may take with a frozen item, and either to say hello.
  std::chrono::milliseconds item_timeout{1000};
  std::chrono::milliseconds hello_timeout{2000};
  // How long the old process may be silent while something of it is waited for. Longer than
  // item_timeout: the old one is to know first that an item stays with it.
  std::chrono::milliseconds silence_timeout{5000};
  size_t window = 16;  // frozen at a time
};

struct SessionCounts {
  uint64_t offered = 0, moved = 0, refused = 0, withdrawn = 0;
};

// The old process's end.
class GivingSession {
 public:
  struct Events {
    std::function<void()> on_finished;                    // the other one has what it wanted
    std::function<void(const std::string& why)> on_lost;  // all is thawed; may destroy the session
  };
  GivingSession(event::EventLoop& loop, Fd fd, Source& source, SessionOptions options,
                Events events);

  // An item of the source is over.
  void Ended(Sort sort, uint64_t key);
  // Thaws everything that is not given. The session then does nothing any more.
  void Close();
  const SessionCounts& counts() const { return counts_; }
  bool finished() const { return finished_; }

 private:
  struct Item {
    Sort sort;
    Offer offer;
    std::optional<Parcel> parcel;  // frozen, not sent yet
  };
  void OnMessage(Message message);
  void OnHello(const Message& message);
  void OnAsk(const Message& message);
  bool Busy(Sort sort) const;  // items of it are on their way
  void Remove(ItemId item);
  void Do(const Giver::Steps& steps);
  void Send(Kind kind, ItemId item, WipedString body = {}, std::vector<Fd> fds = {});
  void ArmTimer();
  void OnTimer();
  void Lost(const std::string& why);

  event::EventLoop& loop_;
  Source& source_;
  const SessionOptions options_;
  Events events_;
  Giver giver_;
  std::map<ItemId, Item> items_;
  std::map<std::pair<Sort, uint64_t>, ItemId> by_key_;
  std::set<Sort> listing_;
  ItemId next_item_ = 1;
  std::deque<std::pair<event::TimePoint, ItemId>> deadlines_;
  bool greeted_ = false, finished_ = false, over_ = false;
  SessionCounts counts_;
  event::Timer timer_;
  std::shared_ptr<bool> life_ = std::make_shared<bool>(true);  // of callbacks
  std::unique_ptr<Channel> channel_;
};

// The new process's end.
class TakingSession {
 public:
  struct Events {
    std::function<void(const std::string& version)> on_hello;  // ask now
    std::function<void(const std::string& why)> on_lost;       // may destroy the session
  };
  TakingSession(event::EventLoop& loop, Fd fd, Sink& sink, SessionOptions options, Events events);
  // Drops what is not ours yet; calls no event.
  ~TakingSession();

  // `arrived`: every item of the sort has come or will not come; `settled`: and its fate is known.
  // Neither is called after on_lost.
  void Ask(Sort sort, std::function<void()> arrived, std::function<void()> settled);
  // Nothing more is wanted; the connection stays, as a sign that we are alive.
  void Finish();
  const SessionCounts& counts() const { return counts_; }

 private:
  struct Item {
    Sort sort;
    std::string about;
    std::optional<Message> state;  // while it is looked at
  };
  struct Asked {
    std::function<void()> arrived, settled;
    bool complete = false;  // all of them were offered
  };
  void OnMessage(Message message);
  void OnOffer(const Message& message);
  void Do(const Taker::Steps& steps);
  void Import(ItemId item);
  void Send(Kind kind, ItemId item, WipedString body = {});
  void TellProgress();
  void ArmTimer();
  void Lost(const std::string& why);

  event::EventLoop& loop_;
  Sink& sink_;
  const SessionOptions options_;
  Events events_;
  Taker taker_;
  std::map<ItemId, Item> items_;
  std::optional<Asked> asked_;  // one sort at a time
  bool greeted_ = false, over_ = false;
  SessionCounts counts_;
  event::Timer timer_;
  std::shared_ptr<bool> life_ = std::make_shared<bool>(true);
  std::unique_ptr<Channel> channel_;
};

}  // namespace qanat::takeover
