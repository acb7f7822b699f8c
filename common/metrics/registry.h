// SPDX-License-Identifier: Apache-2.0
// Metrics: counters, gauges and histograms with label sets, rendered as Prometheus text or
// OpenMetrics. A program makes one Registry and passes it to whoever measures. Families are added
// at start; With() looks a series up (a lock) and gives a handle to keep; bumping a handle is one
// relaxed atomic operation from any thread. Who counts on the data path has a Shard (shard.h), with
// neither locks nor cache lines of others. Rendering may run on any thread at any time.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qanat::metrics {

using LabelNames = std::vector<std::string>;
using LabelValues = std::vector<std::string>;
using Labels = std::vector<std::pair<std::string, std::string>>;

enum class TextFormat { kPrometheus, kOpenMetrics };
enum class Kind { kCounter, kGauge, kHistogram };

class Counter {
 public:
  using Sum = uint64_t;
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }
  void AddTo(Sum& sum) const { sum += value(); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  using Sum = int64_t;
  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  void Add(int64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  void Sub(int64_t n = 1) { value_.fetch_sub(n, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }
  void AddTo(Sum& sum) const { sum += value(); }

 private:
  std::atomic<int64_t> value_{0};
};

// Upper bounds are fixed when the family is added; +Inf is implied.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);
  void Observe(double value);
  struct Snapshot {
    std::vector<uint64_t> buckets;  // cumulative, one per bound, then +Inf
    double sum = 0;
    uint64_t count = 0;
  };
  using Sum = Snapshot;
  Snapshot Read() const;
  void AddTo(Sum& sum) const;  // of the same bounds

 private:
  // Whole cache lines, so that what lies beside it on the heap is not slowed down.
  struct alignas(64) Line {
    std::array<std::atomic<uint64_t>, 8> counts{};
  };
  std::vector<double> bounds_;
  std::vector<Line> buckets_;  // not cumulative; the last one is +Inf
  std::atomic<double> sum_{0};
};

template <typename T>
class Cells;

// All series of one metric name. Handles stay usable after Remove(); they are just not shown.
template <typename T>
class Family {
 public:
  ~Family();
  // `values` in the order of the label names given to the registry; missing ones are "".
  // Keep the handle: this takes a lock.
  std::shared_ptr<T> With(const LabelValues& values);
  // The series without labels.
  T& Get() { return *With({}); }
  bool Remove(const LabelValues& values);
  // Removes every series for which the predicate holds; returns how many.
  size_t RemoveIf(const std::function<bool(const LabelValues&)>& predicate);
  size_t size() const;  // looks at all of them
  // Never less than size(): what was there when last all were looked at (a scrape), and what has
  // been made since. No lock.
  size_t size_at_most() const { return made_.load(std::memory_order_relaxed) - surplus_.load(); }
  bool Contains(const LabelValues& values) const;
  typename T::Sum Value(const LabelValues& values) const;  // nothing counted: 0
  // Each series with what all count in it. `visit` must not come back here.
  void ForEach(const std::function<void(const LabelValues&, const typename T::Sum&)>& visit) const;
  const std::vector<double>& bounds() const { return bounds_; }

 private:
  friend class Registry;
  template <typename>
  friend class Shard;
  Family(size_t labels, std::vector<double> bounds);
  Cells<T>& AddCells();

  const size_t labels_;
  const std::vector<double> bounds_;  // histograms only
  std::atomic<size_t> made_{0};       // series and cells ever
  mutable std::atomic<size_t> surplus_{0};
  mutable std::mutex mutex_;  // guards what follows; of cells_ who looks and who removes
  std::map<LabelValues, std::shared_ptr<T>> series_;
  std::vector<std::unique_ptr<Cells<T>>> cells_;  // of each shard; stay when it is gone
};

struct Sample {
  Labels labels;
  double value = 0;
};

class Registry {
 public:
  Registry();
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // A name is added once; adding it again with the same kind and labels gives the same family,
  // so that two parts may share one; a mismatch is a bug and aborts. Counter names are given
  // without "_total" (it is added in the text). References live as long as the registry.
  Family<Counter>& AddCounter(std::string name, std::string help, LabelNames labels = {});
  Family<Gauge>& AddGauge(std::string name, std::string help, LabelNames labels = {});
  Family<Histogram>& AddHistogram(std::string name, std::string help, std::vector<double> bounds,
                                  LabelNames labels = {});
  // Sampled while rendering, on the rendering thread. kHistogram is not possible here.
  void AddCallback(Kind kind, std::string name, std::string help,
                   std::function<std::vector<Sample>()> sample);

  // process_open_fds, process_max_fds, process_resident_memory_bytes, process_cpu_seconds,
  // process_start_time_seconds.
  void AddProcessMetrics();

  std::string Render(TextFormat format = TextFormat::kPrometheus) const;

  // What a scraper's Accept header asks for, and the content type to answer with.
  static TextFormat Negotiate(std::string_view accept_header);
  static std::string_view ContentType(TextFormat format);

 private:
  struct Entry;
  Entry& Add(Kind kind, std::string name, std::string help, LabelNames labels);
  mutable std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Entry>> entries_;  // by name: stable output
};

// 1, 5, 10 ... milliseconds as Envoy's Istio filter has them for istio_request_duration and sizes.
std::vector<double> IstioMillisecondBounds();

extern template class Family<Counter>;
extern template class Family<Gauge>;
extern template class Family<Histogram>;

}  // namespace qanat::metrics
