// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/series_cache.h"

#include <functional>
#include <utility>

namespace qanat::ztunnel {
namespace {

// Sets of labels of istio_tcp_connections_closed: some 100 MB of a scraper's memory at most.
constexpr size_t kMostSeries = 50'000;
constexpr size_t kMostPointers = 16'384;

std::string Join(const metrics::LabelValues& labels) {
  std::string out;
  for (const std::string& value : labels) out.append(value).push_back('\0');
  return out;
}

// What tells one flow from another is given up; who reports, how it ended and whether it was
// encrypted stays.
metrics::LabelValues OverflowLabels(metrics::LabelValues labels) {
  const metrics::LabelNames& names = FlowLabelNames();
  for (size_t i = 0; i < labels.size(); ++i) {
    const bool stays = names[i] == "reporter" || names[i] == "request_protocol" ||
                       names[i] == "response_flags" || names[i] == "connection_security_policy";
    if (!stays) labels[i] = "overflow";
  }
  return labels;
}

}  // namespace

SeriesCache::SeriesCache(Metrics& metrics)
    : all_closed_(metrics.closed),
      opened_(metrics.opened),
      closed_(metrics.closed),
      failed_(metrics.failed),
      sent_(metrics.sent),
      received_(metrics.received),
      overflow_(metrics.series_overflow) {}

size_t SeriesCache::KeyHash::operator()(const Key& key) const {
  const auto mix = [](size_t seed, size_t value) {
    return (seed ^ value) * 0x9e3779b97f4a7c15ULL + (seed >> 29);
  };
  size_t out = mix(key.rest, std::hash<const void*>()(key.source));
  out = mix(out, std::hash<const void*>()(key.destination));
  return mix(out, std::hash<const void*>()(key.service));
}

// nullopt: an identity is proven that is not the workload's own (or there is no workload), so the
// labels do not follow from the pointers.
std::optional<SeriesCache::Key> SeriesCache::KeyOf(const Flow& flow, model::Reason reason) {
  uint32_t proven = 0;
  for (const auto& [identity, workload] :
       {std::pair{&flow.source_identity, &flow.source_workload},
        {&flow.destination_identity, &flow.destination_workload}}) {
    proven <<= 1;
    if (!identity->has_value()) continue;
    const model::Workload* owner = workload->get();
    if (owner == nullptr || (*identity)->sa != owner->service_account ||
        (*identity)->ns != owner->ns || (*identity)->trust_domain != owner->trust_domain) {
      return std::nullopt;
    }
    proven |= 1;
  }
  Key key{flow.source_workload.get(), flow.destination_workload.get(), flow.service.get(), 0};
  key.rest = proven | (flow.mutual_tls ? 4u : 0u) |
             (flow.reporter == Reporter::kDestination ? 8u : 0u) |
             static_cast<uint32_t>(reason) << 4;
  return key;
}

const Series& SeriesCache::For(const Flow& flow, model::Reason reason) {
  const std::optional<Key> key = KeyOf(flow, reason);
  if (!key) return ByLabels(flow, reason);
  const auto it = by_pointer_.find(*key);
  if (it != by_pointer_.end()) return it->second.series;
  if (by_pointer_.size() >= kMostPointers) by_pointer_.clear();
  return by_pointer_
      .emplace(*key, Held{ByLabels(flow, reason), flow.source_workload, flow.destination_workload,
                          flow.service})
      .first->second.series;
}

const Series& SeriesCache::ByLabels(const Flow& flow, model::Reason reason) {
  metrics::LabelValues labels = FlowLabels(flow, reason);
  std::string key = Join(labels);
  if (const auto it = by_labels_.find(key); it != by_labels_.end()) return it->second;
  // Another worker may count these already: where there are so many, that cannot be looked up.
  if (all_closed_.size_at_most() >= kMostSeries) {
    overflow_.Get().Add();
    labels = OverflowLabels(std::move(labels));
    key = Join(labels);
  }
  auto [it, inserted] = by_labels_.try_emplace(std::move(key));
  if (inserted) {
    const auto shared = std::make_shared<const metrics::LabelValues>(std::move(labels));
    it->second.closed = closed_.Make(shared);
    if (ResponseFlag(reason) == ResponseFlag(model::Reason::kNone)) {
      it->second.opened = opened_.Make(shared);
      it->second.sent = sent_.Make(shared);
      it->second.received = received_.Make(shared);
    } else {
      it->second.failed = failed_.Make(shared);
    }
  }
  return it->second;
}

// All of a label set or none: what is made anew beside a cell that stayed is added to it.
void SeriesCache::ForgetRemoved() {
  const auto removed = [](const Series& series) {
    for (const Series::Handle& one :
         {series.opened, series.closed, series.failed, series.sent, series.received}) {
      if (one != nullptr && one->removed()) return true;
    }
    return false;
  };
  std::erase_if(by_pointer_, [&](const auto& one) { return removed(one.second.series); });
  std::erase_if(by_labels_, [&](const auto& one) { return removed(one.second); });
}

}  // namespace qanat::ztunnel
