// SPDX-License-Identifier: Apache-2.0
#include "common/metrics/registry.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "common/metrics/text.h"

namespace qanat::metrics {

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), buckets_(bounds_.size() + 1) {}

void Histogram::Observe(double value) {
  if (std::isnan(value)) return;  // would make the sum useless for ever
  const size_t i = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  buckets_[i].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Histogram::Snapshot Histogram::Read() const {
  // Sum and buckets are not read as one: a scrape in the middle of Observe() may be off by that one
  // observation. The count is taken from the buckets so that they agree with each other.
  Snapshot s;
  s.sum = sum_.load(std::memory_order_relaxed);
  s.buckets.reserve(buckets_.size());
  for (const auto& bucket : buckets_) {
    s.count += bucket.load(std::memory_order_relaxed);
    s.buckets.push_back(s.count);
  }
  return s;
}

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
  }
  return it->second;
}

template <typename T>
bool Family<T>::Remove(const LabelValues& values) {
  LabelValues key = values;
  key.resize(labels_);
  std::lock_guard lock(mutex_);
  return series_.erase(key) > 0;
}

template <typename T>
size_t Family<T>::RemoveIf(const std::function<bool(const LabelValues&)>& predicate) {
  std::lock_guard lock(mutex_);
  return std::erase_if(series_, [&](const auto& entry) { return predicate(entry.first); });
}

template <typename T>
bool Family<T>::Contains(const LabelValues& values) const {
  std::lock_guard lock(mutex_);
  return series_.contains(values);
}

template <typename T>
void Family<T>::ForEach(const std::function<void(const LabelValues&, const T&)>& visit) const {
  for (const auto& [labels, series] : Series()) visit(labels, *series);
}

template <typename T>
size_t Family<T>::size() const {
  std::lock_guard lock(mutex_);
  return series_.size();
}

template <typename T>
std::map<LabelValues, std::shared_ptr<T>> Family<T>::Series() const {
  std::lock_guard lock(mutex_);
  return series_;
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
    if (e->counter) {
      for (const auto& [values, series] : e->counter->Series()) {
        out.Value(e->labels, values, static_cast<double>(series->value()));
      }
    }
    if (e->gauge) {
      for (const auto& [values, series] : e->gauge->Series()) {
        out.Value(e->labels, values, static_cast<double>(series->value()));
      }
    }
    if (e->histogram) {
      for (const auto& [values, series] : e->histogram->Series()) {
        out.HistogramValue(e->labels, values, series->bounds(), series->Read());
      }
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
