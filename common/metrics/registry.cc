// SPDX-License-Identifier: Apache-2.0
#include "common/metrics/registry.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "common/metrics/shard.h"
#include "common/metrics/text.h"

namespace qanat::metrics {

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), buckets_(bounds_.size() / 8 + 1) {}

void Histogram::Observe(double value) {
  if (std::isnan(value)) return;  // would make the sum useless for ever
  const size_t i = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  buckets_[i / 8].counts[i % 8].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Histogram::Snapshot Histogram::Read() const {
  Snapshot s;
  AddTo(s);
  return s;
}

void Histogram::AddTo(Snapshot& s) const {
  // Sum and buckets are not read as one: a scrape in the middle of Observe() may be off by that one
  // observation. The count is taken from the buckets so that they agree with each other.
  s.sum += sum_.load(std::memory_order_relaxed);
  s.buckets.resize(bounds_.size() + 1);
  uint64_t below = 0;
  for (size_t i = 0; i <= bounds_.size(); ++i) {
    below += buckets_[i / 8].counts[i % 8].load(std::memory_order_relaxed);
    s.buckets[i] += below;
  }
  s.count += below;
}

template <typename T>
Family<T>::Family(size_t labels, std::vector<double> bounds)
    : labels_(labels), bounds_(std::move(bounds)) {}

template <typename T>
Family<T>::~Family() = default;

template <typename T>
std::shared_ptr<T> Family<T>::With(const LabelValues& values) {
  const LabelValues* key = &values;
  LabelValues padded;
  if (values.size() != labels_) {
    padded = values;
    padded.resize(labels_);
    key = &padded;
  }
  std::lock_guard lock(mutex_);
  auto it = series_.find(*key);
  if (it == series_.end()) {
    std::shared_ptr<T> made;
    if constexpr (std::is_same_v<T, Histogram>) {
      made = std::make_shared<T>(bounds_);
    } else {
      made = std::make_shared<T>();
    }
    it = series_.emplace(*key, std::move(made)).first;
    made_.fetch_add(1, std::memory_order_relaxed);
  }
  return it->second;
}

template <typename T>
Cells<T>& Family<T>::AddCells() {
  std::lock_guard lock(mutex_);
  return *cells_.emplace_back(std::make_unique<Cells<T>>());
}

template <typename T>
bool Family<T>::Remove(const LabelValues& values) {
  LabelValues key = values;
  key.resize(labels_);
  return RemoveIf([&](const LabelValues& labels) { return labels == key; }) > 0;
}

template <typename T>
size_t Family<T>::RemoveIf(const std::function<bool(const LabelValues&)>& predicate) {
  std::lock_guard lock(mutex_);
  std::set<LabelValues> removed;  // one series may be in several shards
  const auto goes = [&](const LabelValues& labels) {
    if (!predicate(labels)) return false;
    removed.insert(labels);
    return true;
  };
  std::erase_if(series_, [&](const auto& entry) { return goes(entry.first); });
  for (const auto& cells : cells_) cells->RemoveIf(goes);
  return removed.size();
}

template <typename T>
bool Family<T>::Contains(const LabelValues& values) const {
  bool found = false;
  ForEach([&](const LabelValues& labels, const auto&) { found |= labels == values; });
  return found;
}

template <typename T>
typename T::Sum Family<T>::Value(const LabelValues& values) const {
  LabelValues key = values;
  key.resize(labels_);
  typename T::Sum sum{};
  ForEach([&](const LabelValues& labels, const auto& found) {
    if (labels == key) sum = found;
  });
  return sum;
}

template <typename T>
void Family<T>::ForEach(
    const std::function<void(const LabelValues&, const typename T::Sum&)>& visit) const {
  const auto less = [](const LabelValues* a, const LabelValues* b) { return *a < *b; };
  std::map<const LabelValues*, typename T::Sum, decltype(less)> sums(less);
  std::lock_guard lock(mutex_);
  const size_t made = made_.load(std::memory_order_relaxed);
  for (const auto& [labels, series] : series_) series->AddTo(sums[&labels]);
  for (const auto& cells : cells_) {
    cells->ForEach([&](const LabelValues& labels, const T& cell) { cell.AddTo(sums[&labels]); });
  }
  surplus_ = made - std::min(made, sums.size());
  for (const auto& [labels, sum] : sums) visit(*labels, sum);
}

template <typename T>
size_t Family<T>::size() const {
  size_t count = 0;
  ForEach([&](const LabelValues&, const auto&) { ++count; });
  return count;
}

template class Family<Counter>;
template class Family<Gauge>;
template class Family<Histogram>;

struct Registry::Entry {
  Kind kind;
  std::string help;
  LabelNames labels;
  std::unique_ptr<Family<Counter>> counter;
  std::unique_ptr<Family<Gauge>> gauge;
  std::unique_ptr<Family<Histogram>> histogram;
  std::vector<std::function<std::vector<Sample>()>> callbacks;
};

Registry::Registry() = default;
Registry::~Registry() = default;

namespace {
[[noreturn]] void Misuse(const std::string& name, const char* why) {
  std::fprintf(stderr, "metric %s: %s\n", name.c_str(), why);
  std::abort();
}
}  // namespace

Registry::Entry& Registry::Add(Kind kind, std::string name, std::string help, LabelNames labels) {
  if (kind == Kind::kCounter && name.ends_with("_total")) name.resize(name.size() - 6);
  if (!text::IsMetricName(name)) Misuse(name, "not a metric name");
  for (const auto& label : labels) {
    if (!text::IsLabelName(label)) Misuse(name, "a label name is not one");
  }
  auto& slot = entries_[name];
  if (!slot) {
    slot = std::make_unique<Entry>();
    slot->kind = kind;
    slot->help = std::move(help);
    slot->labels = std::move(labels);
  } else if (slot->kind != kind || slot->labels != labels) {
    Misuse(name, "added twice with different kind or labels");
  }
  return *slot;
}

Family<Counter>& Registry::AddCounter(std::string name, std::string help, LabelNames labels) {
  std::lock_guard lock(mutex_);
  Entry& e = Add(Kind::kCounter, std::move(name), std::move(help), std::move(labels));
  if (!e.counter) e.counter.reset(new Family<Counter>(e.labels.size(), {}));
  return *e.counter;
}

Family<Gauge>& Registry::AddGauge(std::string name, std::string help, LabelNames labels) {
  std::lock_guard lock(mutex_);
  Entry& e = Add(Kind::kGauge, std::move(name), std::move(help), std::move(labels));
  if (!e.gauge) e.gauge.reset(new Family<Gauge>(e.labels.size(), {}));
  return *e.gauge;
}

Family<Histogram>& Registry::AddHistogram(std::string name, std::string help,
                                          std::vector<double> bounds, LabelNames labels) {
  if (!std::is_sorted(bounds.begin(), bounds.end())) Misuse(name, "bounds are not sorted");
  std::lock_guard lock(mutex_);
  Entry& e = Add(Kind::kHistogram, std::move(name), std::move(help), std::move(labels));
  if (!e.histogram) e.histogram.reset(new Family<Histogram>(e.labels.size(), std::move(bounds)));
  return *e.histogram;
}

void Registry::AddCallback(Kind kind, std::string name, std::string help,
                           std::function<std::vector<Sample>()> sample) {
  if (kind == Kind::kHistogram) Misuse(name, "histograms cannot be sampled by callback");
  std::lock_guard lock(mutex_);
  Add(kind, std::move(name), std::move(help), {}).callbacks.push_back(std::move(sample));
}

std::string Registry::Render(TextFormat format) const {
  text::Writer out(format);
  std::lock_guard lock(mutex_);
  for (const auto& [name, e] : entries_) {
    out.Begin(e->kind, name, e->help);
    const auto number = [&, &labels = e->labels](const LabelValues& values, auto sum) {
      out.Value(labels, values, static_cast<double>(sum));
    };
    if (e->counter) e->counter->ForEach(number);
    if (e->gauge) e->gauge->ForEach(number);
    if (e->histogram) {
      e->histogram->ForEach([&, &labels = e->labels, &bounds = e->histogram->bounds()](
                                const LabelValues& values, const Histogram::Snapshot& sum) {
        out.HistogramValue(labels, values, bounds, sum);
      });
    }
    for (const auto& callback : e->callbacks) {
      for (const Sample& sample : callback()) out.Value(sample.labels, sample.value);
    }
  }
  return out.Finish();
}

TextFormat Registry::Negotiate(std::string_view accept_header) {
  return accept_header.find("application/openmetrics-text") != std::string_view::npos
             ? TextFormat::kOpenMetrics
             : TextFormat::kPrometheus;
}

std::string_view Registry::ContentType(TextFormat format) {
  switch (format) {
    case TextFormat::kPrometheus: return "text/plain; version=0.0.4; charset=utf-8";
    case TextFormat::kOpenMetrics:
      return "application/openmetrics-text; version=1.0.0; charset=utf-8";
  }
  return "text/plain";
}

std::vector<double> IstioMillisecondBounds() {
  return {0.5,  1,    5,   10,  25,  50,  100, 250,   500,  1000,
          2500, 5000, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6};
}

}  // namespace qanat::metrics
