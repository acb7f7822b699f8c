// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/handover.h"

#include <algorithm>

namespace qanat::takeover {

// ---- the old process

Giver::Item* Giver::Find(ItemId item, State state) {
  const auto it = items_.find(item);
  return it == items_.end() || it->second.state != state ? nullptr : &it->second;
}

Giver::Steps Giver::Offer(ItemId item, bool shared) {
  items_[item] = {State::kOffered, shared};
  return {{Do::kOffer, item}};
}

Giver::Steps Giver::OnWant(ItemId item) {
  Item* found = Find(item, State::kOffered);
  if (found == nullptr) return {};
  found->state = State::kFreezing;
  return {{Do::kFreeze, item}};
}

Giver::Steps Giver::OnFroze(ItemId item, bool exported) {
  Item* found = Find(item, State::kFreezing);
  if (found == nullptr) return {};
  if (!exported) {
    items_.erase(item);
    return {{Do::kSendWithdrawn, item}};
  }
  found->state = State::kFrozen;
  return {{Do::kSendState, item}};
}

Giver::Steps Giver::OnAccepted(ItemId item) {
  Item* found = Find(item, State::kFrozen);
  if (found == nullptr) return {};
  found->state = State::kCommitting;
  return {{Do::kCommit, item}};
}

Giver::Steps Giver::OnForgotten(ItemId item, bool good) {
  Item* found = Find(item, State::kCommitting);
  if (found == nullptr) return {};
  if (!good) {
    items_.erase(item);
    return {{Do::kSendWithdrawn, item}};
  }
  found->state = State::kGiven;
  if (!found->shared) items_.erase(item);
  return {{Do::kSendCommitted, item}};
}

Giver::Steps Giver::OnRefused(ItemId item) {
  const auto it = items_.find(item);
  if (it == items_.end()) return {};
  const State state = it->second.state;
  if (state == State::kCommitting || state == State::kGiven) return {};  // after its own acceptance
  items_.erase(it);
  if (state == State::kOffered) return {};
  return {{Do::kThaw, item}};
}

Giver::Steps Giver::OnEnded(ItemId item) {
  const auto it = items_.find(item);
  if (it == items_.end()) return {};
  const bool not_given = it->second.state != State::kGiven;
  items_.erase(it);
  if (not_given) return {{Do::kSendWithdrawn, item}};
  return {};
}

bool Giver::Waits(ItemId item) const {
  const auto it = items_.find(item);
  return it != items_.end() && !it->second.shared &&
         (it->second.state == State::kFreezing || it->second.state == State::kFrozen);
}

Giver::Steps Giver::OnTimeout(ItemId item) {
  if (!Waits(item)) return {};
  items_.erase(item);
  return {{Do::kThaw, item}, {Do::kSendWithdrawn, item}};
}

Giver::Steps Giver::OnLost() {
  Steps steps;
  for (const auto& [id, item] : items_) {
    const bool forgotten = item.state == State::kCommitting || item.state == State::kGiven;
    if (item.state == State::kOffered || (forgotten && !item.shared)) continue;
    steps.push_back({Do::kThaw, id});
  }
  items_.clear();
  return steps;
}

bool Giver::Unsettled(ItemId item) const {
  const auto it = items_.find(item);
  return it != items_.end() && it->second.state != State::kGiven;
}

size_t Giver::unsettled() const {
  return static_cast<size_t>(std::count_if(items_.begin(), items_.end(), [](const auto& item) {
    return item.second.state != State::kGiven;
  }));
}

// ---- the new process

Taker::Steps Taker::OnOffer(ItemId item, bool shared) {
  if (items_.contains(item)) return {};
  if (!shared && out_ >= window_) {
    items_[item] = {State::kQueued, false};
    queue_.push_back(item);
    return {};
  }
  items_[item] = {State::kWanted, shared};
  if (!shared) ++out_;
  return {{Do::kSendWant, item}};
}

Taker::Steps Taker::OnState(ItemId item) {
  const auto it = items_.find(item);
  if (it == items_.end() || it->second.state != State::kWanted) return {};
  it->second.state = State::kImporting;
  return {{Do::kImport, item}};
}

Taker::Steps Taker::OnImported(ItemId item, bool good) {
  const auto it = items_.find(item);
  if (it == items_.end() || it->second.state != State::kImporting) return {};
  Steps steps;
  if (!good) {
    steps.push_back({Do::kSendRefused, item});
    Settle(item, steps);
    return steps;
  }
  steps.push_back({Do::kSendAccepted, item});
  if (it->second.shared) {
    Settle(item, steps);  // in use already
  } else {
    it->second.state = State::kAccepted;
  }
  return steps;
}

Taker::Steps Taker::OnCommitted(ItemId item) {
  const auto it = items_.find(item);
  if (it == items_.end() || it->second.state != State::kAccepted) return {};
  Steps steps = {{Do::kRun, item}};
  Settle(item, steps);
  return steps;
}

Taker::Steps Taker::OnWithdrawn(ItemId item) {
  const auto it = items_.find(item);
  if (it == items_.end()) return {};
  Steps steps;
  const State state = it->second.state;
  if (state == State::kImporting || state == State::kAccepted) {
    steps.push_back({Do::kDrop, item});
  } else if (state == State::kQueued) {
    std::erase(queue_, item);
  }
  Settle(item, steps);
  return steps;
}

Taker::Steps Taker::OnLost() {
  Steps steps;
  for (const auto& [id, item] : items_) {
    const bool here = item.state == State::kImporting || item.state == State::kAccepted;
    // What came of a shared item is good whatever becomes of the other process.
    if (here && !item.shared) steps.push_back({Do::kDrop, id});
  }
  items_.clear();
  queue_.clear();
  out_ = 0;
  return steps;
}

void Taker::Settle(ItemId item, Steps& steps) {
  const auto it = items_.find(item);
  if (it->second.state != State::kQueued && !it->second.shared) --out_;
  items_.erase(it);
  while (!queue_.empty() && out_ < window_) {
    const ItemId next = queue_.front();
    queue_.pop_front();
    items_[next].state = State::kWanted;
    ++out_;
    steps.push_back({Do::kSendWant, next});
  }
}

bool Taker::Waits() const {
  return std::any_of(items_.begin(), items_.end(),
                     [](const auto& item) { return item.second.state != State::kImporting; });
}

size_t Taker::expected() const {
  return static_cast<size_t>(std::count_if(items_.begin(), items_.end(), [](const auto& item) {
    return item.second.state == State::kQueued || item.second.state == State::kWanted;
  }));
}

}  // namespace qanat::takeover
