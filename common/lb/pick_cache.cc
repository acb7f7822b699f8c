// SPDX-License-Identifier: Apache-2.0
#include "common/lb/pick_cache.h"

#include <algorithm>
#include <utility>

#include "common/lb/judge.h"
#include "common/lb/outliers.h"

namespace qanat::lb {
namespace {

// What Judge() asks of the caller: its network always, where it is only if ranks depend on it.
std::string PlaceOf(const model::Workload& source, model::LbMode mode) {
  std::string out = source.network;
  if (mode == model::LbMode::kUnspecified || mode == model::LbMode::kPassthrough) return out;
  for (const model::SharedText* part :
       {&source.locality.region, &source.locality.zone, &source.locality.subzone, &source.node,
        &source.cluster_id}) {
    out += '\0';
    out += part->str();
  }
  return out;
}

}  // namespace

Prepared::Prepared(const model::Service& service, const model::EndpointList& endpoints,
                   const model::Workload& source, uint16_t service_port) {
  int best = -1;
  uint64_t sum = 0;
  for (size_t i = 0; i < endpoints.size(); ++i) {
    const model::Workload& workload = *endpoints[i].workload;
    const Candidate candidate = Judge(service, endpoints[i], source, service_port, {});
    if (candidate.fit != Fit::kUsable || candidate.rank < best || workload.capacity == 0) continue;
    if (candidate.rank > best) {
      best = candidate.rank;
      sum = 0;
      choices_.clear();
    }
    sum += workload.capacity;
    choices_.push_back({sum, static_cast<uint32_t>(i), candidate.port});
  }
  choices_.shrink_to_fit();
  hashes_.reserve(choices_.size());
  for (const Choice& choice : choices_) {
    hashes_.push_back(std::hash<std::string>()(
        Outliers::EndpointKey(endpoints[choice.endpoint].workload->uid, choice.port)));
  }
  std::sort(hashes_.begin(), hashes_.end());
}

const Prepared::Choice* Prepared::Pick(uint64_t random) const {
  if (choices_.empty()) return nullptr;
  const uint64_t at = random % choices_.back().until;
  return &*std::upper_bound(choices_.begin(), choices_.end(), at,
                            [](uint64_t value, const Choice& one) { return value < one.until; });
}

bool Prepared::MayHaveAny(const std::vector<std::string>& keys) const {
  return std::any_of(keys.begin(), keys.end(), [this](const std::string& key) {
    return std::binary_search(hashes_.begin(), hashes_.end(), std::hash<std::string>()(key));
  });
}

size_t PickCache::Hash::operator()(const Key& key) const {
  const auto mix = [](size_t seed, size_t value) {
    return (seed ^ value) * 0x9e3779b97f4a7c15ULL + (seed >> 29);
  };
  return mix(mix(std::hash<std::string>()(key.place), key.port),
             std::hash<const void*>()(key.service));
}

Pick PickCache::PickEndpoint(const model::ServicePtr& service, const EndpointListPtr& endpoints,
                             const model::Workload& source, uint16_t service_port,
                             const net::IpAddress& asked, const Random& random,
                             const Avoid& avoid) {
  const auto slowly = [&] {
    static const model::EndpointList none;
    return lb::PickEndpoint(*service, endpoints ? *endpoints : none, source, service_port, asked,
                            random, avoid);
  };
  if (endpoints == nullptr || endpoints->size() < least_ || !avoid.tried.empty()) return slowly();
  if (avoid.ejected && !avoid.all_ejected) return slowly();
  Key key{service.get(), service_port, PlaceOf(source, service->load_balancing.mode)};
  auto it = entries_.find(key);
  if (it == entries_.end() || it->second.endpoints != endpoints) {
    if (it != entries_.end()) {
      choices_ -= it->second.prepared.size();
      entries_.erase(it);
    }
    Prepared prepared(*service, *endpoints, source, service_port);
    if (choices_ + prepared.size() > kMostChoices) {
      entries_.clear();
      choices_ = 0;
    }
    choices_ += prepared.size();
    it = entries_.emplace(std::move(key), Entry{service, endpoints, std::move(prepared)}).first;
  }
  const Prepared& prepared = it->second.prepared;
  // Those that fail are left out by rules that look at all; if none of them could be picked, they
  // make no difference.
  if (avoid.ejected && prepared.MayHaveAny(*avoid.all_ejected)) return slowly();
  const Prepared::Choice* choice = prepared.Pick(random());
  if (choice == nullptr) return slowly();  // it knows why
  lb::Pick pick;
  pick.target.workload = (*endpoints)[choice->endpoint].workload;
  pick.target.target_port = choice->port;
  pick.target.ip = ChooseAddress(*pick.target.workload, asked, service->ip_families);
  return pick;
}

void PickCache::Sweep(const std::function<EndpointListPtr(const model::ServicePtr&)>& present) {
  std::erase_if(entries_, [&](const auto& item) {
    if (present(item.second.service) == item.second.endpoints) return false;
    choices_ -= item.second.prepared.size();
    return true;
  });
}

}  // namespace qanat::lb
