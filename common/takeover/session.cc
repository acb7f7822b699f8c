// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/session.h"

#include <algorithm>

#include "common/base/log.h"
#include "common/base/program.h"
#include "common/takeover/fields.h"

namespace qanat::takeover {
namespace {

// Fields of the session's own messages.
constexpr uint16_t kProgramVersion = 1;  // kHello: for the log
constexpr uint16_t kSort = 2;            // kAsk, kOffer, kAsked
constexpr uint16_t kShared = 3;          // kOffer
constexpr uint16_t kAbout = 4;           // kOffer
constexpr uint16_t kReason = 5;          // kRefused: for the log
constexpr uint16_t kKnown[] = {kProgramVersion, kSort, kShared, kAbout, kReason};

WipedString HelloBody() {
  FieldWriter writer;
  writer.Bytes(kProgramVersion, Version());
  return writer.Take();
}

WipedString SortBody(Sort sort) {
  FieldWriter writer;
  writer.Number(kSort | kCritical, static_cast<uint64_t>(sort));
  return writer.Take();
}

}  // namespace

// ---- the old process

GivingSession::GivingSession(event::EventLoop& loop, Fd fd, Source& source, SessionOptions options,
                             Events events)
    : loop_(loop),
      source_(source),
      options_(options),
      events_(std::move(events)),
      timer_(loop, [this] { OnTimer(); }) {
  // The end of the other process counts more than what it said before: nothing must be given to
  // who is gone.
  channel_ = std::make_unique<Channel>(
      loop_, std::move(fd), Channel::AtEnd::kEndFirst,
      Channel::Events{[this](Message message) { OnMessage(std::move(message)); },
                      [this](const std::string& why) { Lost(why); }});
  timer_.Start(options_.hello_timeout);
}

void GivingSession::OnMessage(Message message) {
  const std::weak_ptr<bool> alive = life_;
  switch (message.kind) {
    case Kind::kHello: OnHello(message); break;
    case Kind::kAsk: OnAsk(message); break;
    case Kind::kWant: Do(giver_.OnWant(message.item)); break;
    case Kind::kAccepted: Do(giver_.OnAccepted(message.item)); break;
    case Kind::kRefused: {
      ++counts_.refused;
      const auto fields = Fields::Parse(message.body, kKnown);
      LOG_INFO("takeover", "the new process refuses item {}: {}", message.item,
               fields ? fields->Bytes(kReason) : "");
      Do(giver_.OnRefused(message.item));
      if (!giver_.Knows(message.item)) Remove(message.item);
      break;
    }
    case Kind::kFinished:
      finished_ = true;
      if (events_.on_finished) events_.on_finished();
      break;
    case Kind::kOffer:
    case Kind::kAsked:
    case Kind::kState:
    case Kind::kCommitted:
    case Kind::kWithdrawn: break;  // ours to say
  }
  if (!alive.expired() && !over_) ArmTimer();
}

void GivingSession::OnHello(const Message& message) {
  if (greeted_) return;
  const auto fields = Fields::Parse(message.body, kKnown);
  if (!fields) return Lost("the new process's greeting: " + fields.error().message);
  greeted_ = true;
  timer_.Stop();
  LOG_INFO("takeover", "a new process (version {}) takes over", fields->Bytes(kProgramVersion));
  Send(Kind::kHello, 0, HelloBody());
}

void GivingSession::OnAsk(const Message& message) {
  const auto fields = Fields::Parse(message.body, kKnown);
  if (!greeted_ || !fields)
    return Lost("the new process asks for something that is not known here");
  const auto sort = static_cast<Sort>(fields->Number(kSort));
  // One thing must not be on its way as two items: what becomes of one would be the other's.
  if (Busy(sort)) return Lost("the new process asks again for what is on its way");
  listing_.insert(sort);
  source_.List(sort, [this, sort, life = std::weak_ptr<bool>(life_)](std::vector<Offer> offers) {
    if (life.expired() || over_) return;
    listing_.erase(sort);
    for (Offer& offer : offers) {
      const ItemId item = next_item_++;
      const bool shared = offer.shared;
      by_key_[{sort, offer.key}] = item;
      items_[item] = {sort, std::move(offer), std::nullopt};
      ++counts_.offered;
      Do(giver_.Offer(item, shared));
    }
    Send(Kind::kAsked, 0, SortBody(sort));
  });
}

void GivingSession::Do(const Giver::Steps& steps) {
  for (const auto& [what, id] : steps) {
    const auto it = items_.find(id);
    if (it == items_.end()) continue;
    Item& item = it->second;
    const uint64_t key = item.offer.key;
    const std::weak_ptr<bool> life = life_;
    switch (what) {
      case Giver::Do::kOffer: {
        FieldWriter writer;
        writer.Number(kSort | kCritical, static_cast<uint64_t>(item.sort));
        writer.Number(kShared | kCritical, item.offer.shared ? 1 : 0);
        writer.Bytes(kAbout, item.offer.about);
        Send(Kind::kOffer, id, writer.Take());
        break;
      }
      case Giver::Do::kFreeze:
        deadlines_.emplace_back(event::Clock::now() + options_.item_timeout, id);
        source_.Freeze(item.sort, key, [this, id, life](std::optional<Parcel> parcel) {
          if (life.expired() || over_) return;
          const auto frozen = items_.find(id);
          if (frozen == items_.end()) return;
          const bool exported = parcel.has_value();
          frozen->second.parcel = std::move(parcel);
          Do(giver_.OnFroze(id, exported));
        });
        break;
      case Giver::Do::kSendState: {
        Parcel parcel = std::move(*item.parcel);
        item.parcel.reset();
        Send(Kind::kState, id, std::move(parcel.state), std::move(parcel.fds));
        break;
      }
      case Giver::Do::kThaw: source_.Thaw(item.sort, key); break;
      case Giver::Do::kCommit:
        source_.Commit(item.sort, key, [this, id, life](bool good) {
          if (life.expired() || over_) return;
          Do(giver_.OnForgotten(id, good));
        });
        break;
      case Giver::Do::kSendCommitted:
        ++counts_.moved;
        Send(Kind::kCommitted, id);
        if (!item.offer.shared) Remove(id);
        break;
      case Giver::Do::kSendWithdrawn:
        ++counts_.withdrawn;
        Send(Kind::kWithdrawn, id);
        Remove(id);
        break;
    }
  }
}

bool GivingSession::Busy(Sort sort) const {
  return listing_.contains(sort) ||
         std::any_of(items_.begin(), items_.end(), [&](const auto& item) {
           return item.second.sort == sort && giver_.Unsettled(item.first);
         });
}

void GivingSession::Remove(ItemId id) {
  const auto it = items_.find(id);
  if (it == items_.end()) return;
  const auto named = by_key_.find({it->second.sort, it->second.offer.key});
  if (named != by_key_.end() && named->second == id) by_key_.erase(named);
  items_.erase(it);
}

void GivingSession::Ended(Sort sort, uint64_t key) {
  const auto it = by_key_.find({sort, key});
  if (over_ || it == by_key_.end()) return;
  const ItemId item = it->second;
  Do(giver_.OnEnded(item));
  Remove(item);
}

void GivingSession::Send(Kind kind, ItemId item, WipedString body, std::vector<Fd> fds) {
  if (channel_) channel_->Send({kind, item, std::move(body), std::move(fds), false});
}

void GivingSession::ArmTimer() {
  while (!deadlines_.empty() && !giver_.Waits(deadlines_.front().second)) deadlines_.pop_front();
  if (!greeted_ || deadlines_.empty()) return;
  timer_.Start(std::max<event::Duration>(deadlines_.front().first - event::Clock::now(), {}));
}

void GivingSession::OnTimer() {
  if (!greeted_) return Lost("the new process said nothing");
  const event::TimePoint now = event::Clock::now();
  while (!deadlines_.empty() && deadlines_.front().first <= now) {
    const ItemId item = deadlines_.front().second;
    deadlines_.pop_front();
    if (!giver_.Waits(item)) continue;
    LOG_WARN("takeover", "item {}: the new process does not answer; it stays here", item);
    Do(giver_.OnTimeout(item));
  }
  ArmTimer();
}

void GivingSession::Close() {
  if (std::exchange(over_, true)) return;
  timer_.Stop();
  channel_.reset();
  Do(giver_.OnLost());
  items_.clear();
  by_key_.clear();
}

void GivingSession::Lost(const std::string& why) {
  if (over_) return;
  Close();
  const auto on_lost = events_.on_lost;
  if (on_lost) on_lost(why);
}

// ---- the new process

TakingSession::TakingSession(event::EventLoop& loop, Fd fd, Sink& sink, SessionOptions options,
                             Events events)
    : loop_(loop),
      sink_(sink),
      options_(options),
      events_(std::move(events)),
      taker_(options.window),
      timer_(loop, [this] { Lost("the old process does not answer"); }) {
  channel_ = std::make_unique<Channel>(
      loop_, std::move(fd), Channel::AtEnd::kReadAll,
      Channel::Events{[this](Message message) { OnMessage(std::move(message)); },
                      [this](const std::string& why) { Lost(why); }});
  timer_.Start(options.hello_timeout);
  Send(Kind::kHello, 0, HelloBody());
}

TakingSession::~TakingSession() {
  if (std::exchange(over_, true)) return;
  channel_.reset();  // first: the old process goes on with it
  Do(taker_.OnLost());
}

void TakingSession::Ask(Sort sort, std::function<void()> arrived, std::function<void()> settled) {
  if (over_) return;
  asked_ = Asked{std::move(arrived), std::move(settled), false};
  Send(Kind::kAsk, 0, SortBody(sort));
  ArmTimer();
}

void TakingSession::ArmTimer() {
  if (taker_.Waits() || (asked_ && !asked_->complete)) {
    timer_.Start(options_.silence_timeout);
  } else {
    timer_.Stop();
  }
}

void TakingSession::Finish() { Send(Kind::kFinished, 0); }

void TakingSession::OnMessage(Message message) {
  const std::weak_ptr<bool> alive = life_;
  const ItemId id = message.item;
  switch (message.kind) {
    case Kind::kHello: {
      const auto fields = Fields::Parse(message.body, kKnown);
      if (!fields) return Lost("the old process's greeting: " + fields.error().message);
      if (std::exchange(greeted_, true)) return;
      timer_.Stop();
      if (events_.on_hello) events_.on_hello(std::string(fields->Bytes(kProgramVersion)));
      break;
    }
    case Kind::kOffer: OnOffer(message); break;
    case Kind::kAsked:
      if (asked_) asked_->complete = true;
      break;
    case Kind::kState:
      if (const auto it = items_.find(id); it != items_.end()) {
        it->second.state = std::move(message);
        Do(taker_.OnState(id));
      }
      break;
    case Kind::kCommitted: Do(taker_.OnCommitted(id)); break;
    case Kind::kWithdrawn:
      ++counts_.withdrawn;
      Do(taker_.OnWithdrawn(id));
      break;
    case Kind::kAsk:
    case Kind::kWant:
    case Kind::kAccepted:
    case Kind::kRefused:
    case Kind::kFinished: break;  // ours to say
  }
  if (alive.expired() || over_) return;
  ArmTimer();
  TellProgress();
}

void TakingSession::OnOffer(const Message& message) {
  ++counts_.offered;
  const auto fields = Fields::Parse(message.body, kKnown);
  if (!fields || !fields->Has(kSort) || !fields->Has(kShared)) {
    ++counts_.refused;
    return Send(Kind::kRefused, message.item);
  }
  items_[message.item] = {static_cast<Sort>(fields->Number(kSort)),
                          std::string(fields->Bytes(kAbout)), std::nullopt};
  Do(taker_.OnOffer(message.item, fields->Number(kShared) == 1));
}

void TakingSession::Do(const Taker::Steps& steps) {
  for (const auto& [what, id] : steps) {
    switch (what) {
      case Taker::Do::kSendWant: Send(Kind::kWant, id); break;
      case Taker::Do::kImport: Import(id); break;
      case Taker::Do::kSendAccepted: Send(Kind::kAccepted, id); break;
      case Taker::Do::kSendRefused: break;  // with the reason, where it is known
      case Taker::Do::kRun:
        ++counts_.moved;
        sink_.Run(id);
        break;
      case Taker::Do::kDrop: sink_.Drop(id); break;
    }
  }
}

void TakingSession::Import(ItemId id) {
  const auto it = items_.find(id);
  Message state = std::move(*it->second.state);
  it->second.state.reset();
  const auto done = [this, id, life = std::weak_ptr<bool>(life_)](const Status& status) {
    if (life.expired() || over_) return;
    const Taker::Steps steps = taker_.OnImported(id, status.has_value());
    if (!steps.empty() && steps.front().what == Taker::Do::kSendRefused) {
      ++counts_.refused;
      FieldWriter writer;
      writer.Bytes(kReason, status.error().message);
      Send(Kind::kRefused, id, writer.Take());
    }
    Do(steps);
    ArmTimer();
    TellProgress();
  };
  if (state.damaged) return done(Fail(Code::kResourceExhausted, "descriptors got lost on the way"));
  sink_.Import(it->second.sort, id, it->second.about, {std::move(state.body), std::move(state.fds)},
               done);
}

void TakingSession::Send(Kind kind, ItemId item, WipedString body) {
  if (channel_) channel_->Send({kind, item, std::move(body), {}, false});
}

void TakingSession::TellProgress() {
  if (over_ || !asked_ || !asked_->complete) return;
  if (asked_->arrived && taker_.expected() == 0) std::exchange(asked_->arrived, nullptr)();
  if (over_ || !asked_ || asked_->arrived || taker_.unsettled() > 0) return;
  const auto settled = std::move(asked_->settled);
  asked_.reset();
  items_.clear();
  if (settled) settled();
}

void TakingSession::Lost(const std::string& why) {
  if (std::exchange(over_, true)) return;
  timer_.Stop();
  asked_.reset();
  channel_.reset();
  Do(taker_.OnLost());
  const auto on_lost = events_.on_lost;
  if (on_lost) on_lost(why);
}

}  // namespace qanat::takeover
