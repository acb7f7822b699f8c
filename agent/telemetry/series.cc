// SPDX-License-Identifier: Apache-2.0
#include "agent/telemetry/series.h"

namespace qanat::agent::telemetry {
namespace {

constexpr const char* kOther = "other";

}  // namespace

void Series::Add(const qanat_record& record, const Figures& f) {
  ++connections;
  ++endings[static_cast<size_t>(f.ending)];
  bytes_sent += record.bytes_sent;
  bytes_received += record.bytes_received;
  segments_out += record.segments_out;
  segments_in += record.segments_in;
  retransmitted += record.retransmits;
  reordered += record.reordered;
  out_of_order += record.out_of_order;
  duration_us += f.duration_us;
  busy_us += f.busy_us;
  window_us += f.window_us;
  buffer_us += f.buffer_us;
  if (!f.established) return;
  ++established;
  if (!f.server) {
    connect.Add(f.connect_us);
    connect_us += f.connect_us;
  }
  if (f.srtt_us != 0) srtt.Add(f.srtt_us);
  if (f.min_rtt_us != 0) min_rtt.Add(f.min_rtt_us);
  if (f.rate != 0) rate.Add(f.rate);
  retransmits.Add(f.retransmits_permille);
  if (!f.details) return;
  window.Add(f.window_permille);
  if (f.server) {
    response.Add(f.response_us);
    response_us += f.response_us;
  }
}

SeriesTable::Entry& SeriesTable::For(const SeriesKey& key, TimePoint now) {
  auto found = series_.find(key);
  if (found == series_.end()) {
    SeriesKey wanted = key;
    // Paths and ends are few: the room for "other" is beside that of all others.
    if (series_.size() >= most_) {
      wanted.source = wanted.destination = kOther;
      wanted.service.clear();
      ++overflow_;
    }
    found = series_.try_emplace(std::move(wanted)).first;
  }
  found->second.used = now;
  return *found;
}

bool SeriesTable::Sweep(TimePoint now, const std::function<void(const SeriesKey&)>& gone) {
  return std::erase_if(series_, [&](const auto& entry) {
           if (now - entry.second.used < kIdle) return false;
           gone(entry.first);
           return true;
         }) > 0;
}

}  // namespace qanat::agent::telemetry
