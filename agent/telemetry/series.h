// SPDX-License-Identifier: Apache-2.0
// What is known of connections between two identities, by path and by whose end told it. Bounded:
// who finds no room is counted under "other", and what nobody used for long goes. The main
// thread's.
#pragma once

#include <array>
#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "agent/telemetry/figures.h"
#include "common/metrics/log_histogram.h"

namespace qanat::agent::telemetry {

using metrics::LogHistogram;

struct SeriesKey {
  std::string source, destination;  // principals; "" is not known
  std::string service;              // hostname, where the client asked for one
  Path path = Path::kProxied;
  bool server = false;  // told by the server's end
  auto operator<=>(const SeriesKey&) const = default;
};

struct Series {
  // Orders of magnitude: microseconds, parts of a thousand, bytes a second.
  LogHistogram connect, srtt, min_rtt, response, retransmits, window, rate;
  std::array<uint64_t, kEndings> endings{};
  uint64_t connections = 0;
  uint64_t established = 0;
  uint64_t bytes_sent = 0, bytes_received = 0;
  uint64_t segments_out = 0, segments_in = 0;
  uint64_t retransmitted = 0, reordered = 0, out_of_order = 0;
  uint64_t duration_us = 0, connect_us = 0, response_us = 0;
  uint64_t busy_us = 0, window_us = 0, buffer_us = 0;
  std::chrono::steady_clock::time_point used{};

  void Add(const qanat_record& record, const Figures& figures);
};

class SeriesTable {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  static constexpr size_t kMost = 2048;
  static constexpr std::chrono::minutes kIdle{30};

  explicit SeriesTable(size_t most = kMost) : most_(most) {}

  using Entry = std::pair<const SeriesKey, Series>;
  // Good until the next Sweep().
  Entry& For(const SeriesKey& key, TimePoint now);
  // Takes out what was not used for kIdle, and says so; true: something went.
  bool Sweep(TimePoint now, const std::function<void(const SeriesKey&)>& gone);
  size_t size() const { return series_.size(); }
  uint64_t overflow() const { return overflow_; }  // pairs that were sent to "other"
  const std::map<SeriesKey, Series>& all() const { return series_; }

 private:
  size_t most_;
  uint64_t overflow_ = 0;
  std::map<SeriesKey, Series> series_;
};

}  // namespace qanat::agent::telemetry
