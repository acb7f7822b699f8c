// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/on_demand.h"

#include <utility>

#include "common/base/log.h"

namespace qanat::ztunnel {

OnDemand::OnDemand(xds::DeltaClient& client, state::MeshState& mesh,
                   std::function<bool(std::string_view)> known, size_t most_absent)
    : client_(client), mesh_(mesh), known_(std::move(known)), most_absent_(most_absent) {}

void OnDemand::Ask(const std::string& name, bool again) {
  ++questions_;
  LOG_DEBUG("xds", "asking for {}", name);
  // One that is subscribed to already is answered again only if it is asked for again.
  again ? client_.Resend(xds::kAddressType, name) : client_.Subscribe(xds::kAddressType, name);
}

void OnDemand::Want(const std::vector<std::string>& names) {
  const event::TimePoint now = event::Clock::now();
  for (const std::string& name : names) {
    const auto [it, first] = asked_.try_emplace(name);
    if (!first && it->second.at != event::TimePoint() && now - it->second.at < kAskAgain) continue;
    it->second.at = now;
    Ask(name, !first);
  }
}

void OnDemand::Prefetch(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto [it, first] = asked_.try_emplace(name);
    if (!first) continue;
    it->second.at = event::Clock::now();
    Ask(name, false);
  }
}

void OnDemand::OnRemoved(std::string_view name) {
  const auto it = asked_.find(std::string(name));
  if (it == asked_.end()) return;
  it->second.at = {};
  mesh_.MarkAbsent(it->first);
  if (std::exchange(it->second.absent, true)) return;
  absent_.push_back(it->first);
  if (absent_.size() <= most_absent_) return;
  const std::string oldest = std::move(absent_.front());
  absent_.pop_front();
  mesh_.ForgetAbsent(oldest);
  if (known_(oldest)) {  // it came to be meanwhile, and goes on being told of
    asked_[oldest].absent = false;
    return;
  }
  asked_.erase(oldest);
  client_.Unsubscribe(xds::kAddressType, oldest);
}

}  // namespace qanat::ztunnel
