// SPDX-License-Identifier: Apache-2.0
// One writer's part of a family: a data-plane thread counts in cells that nobody else writes, in
// cache lines of their own, and makes new ones without a lock. A series is the sum of its cells in
// all shards and of what Family::With() gave away; when it is removed from the family, its cells
// are not shown any more. One thread uses a shard (whoever makes it may be another one).
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <type_traits>
#include <utility>

#include "common/metrics/registry.h"

namespace qanat::metrics {

using SharedLabels = std::shared_ptr<const LabelValues>;

template <typename T>
class alignas(64) Cell : public T {
 public:
  template <typename... Args>
  explicit Cell(SharedLabels labels, Args&&... args)
      : T(std::forward<Args>(args)...), labels_(std::move(labels)) {}
  // The series was removed: what is counted here nobody sees.
  bool removed() const { return removed_.load(std::memory_order_relaxed); }

 private:
  friend class Cells<T>;
  const SharedLabels labels_;
  std::atomic<bool> removed_{false};
  Cell* next_ = nullptr;
  std::shared_ptr<Cell> kept_;  // itself, as long as it is in the list
};

// The cells of one shard: a list that its writer prepends to, while somebody else, one at a time
// (with the family's lock), looks at it and takes cells out.
template <typename T>
class Cells {
 public:
  Cells() = default;
  ~Cells() {
    RemoveIf([](const LabelValues&) { return true; });
  }
  Cells(const Cells&) = delete;
  Cells& operator=(const Cells&) = delete;

  void Add(const std::shared_ptr<Cell<T>>& cell) {
    cell->kept_ = cell;
    Cell<T>* head = head_.load(std::memory_order_relaxed);
    do {
      cell->next_ = head;
    } while (!head_.compare_exchange_weak(head, cell.get(), std::memory_order_release,
                                          std::memory_order_relaxed));
  }

  template <typename Visit>
  void ForEach(Visit visit) const {
    for (Cell<T>* cell = head_.load(std::memory_order_acquire); cell; cell = cell->next_) {
      visit(*cell->labels_, static_cast<const T&>(*cell));
    }
  }

  template <typename Predicate>
  void RemoveIf(Predicate predicate) {
    Cell<T>* before = nullptr;
    for (Cell<T>* cell = head_.load(std::memory_order_acquire); cell;) {
      Cell<T>* const next = cell->next_;
      if (!predicate(*cell->labels_)) {
        before = cell;
      } else {
        Unlink(before, cell, next);
        cell->removed_.store(true, std::memory_order_relaxed);
        cell->kept_.reset();  // who holds a handle may go on counting
      }
      cell = next;
    }
  }

 private:
  // No cell comes back to the head that has left it, so the exchange mistakes none for another.
  void Unlink(Cell<T>* before, Cell<T>* cell, Cell<T>* next) {
    Cell<T>* head = cell;
    if (before == nullptr && head_.compare_exchange_strong(head, next, std::memory_order_acquire)) {
      return;
    }
    // It is not the first one (any more).
    if (before == nullptr) {
      for (before = head; before->next_ != cell;) before = before->next_;
    }
    before->next_ = next;
  }

  alignas(64) std::atomic<Cell<T>*> head_{nullptr};
};

template <typename T>
class Shard {
 public:
  using Handle = std::shared_ptr<Cell<T>>;
  explicit Shard(Family<T>& family) : family_(family), cells_(family.AddCells()) {}
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  // The cell of these labels; looked up here only. A removed one is made anew.
  const Handle& With(LabelValues values) {
    values.resize(family_.labels_);
    Handle& known = known_[values];
    if (known == nullptr || known->removed()) {
      known = Make(std::make_shared<const LabelValues>(std::move(values)));
    }
    return known;
  }
  T& Get() { return *With({}); }
  // A new cell for who remembers it. All labels of the family are in `labels`.
  Handle Make(SharedLabels labels) {
    Handle cell;
    if constexpr (std::is_same_v<T, Histogram>) {
      cell = std::make_shared<Cell<T>>(std::move(labels), family_.bounds_);
    } else {
      cell = std::make_shared<Cell<T>>(std::move(labels));
    }
    cells_.Add(cell);
    family_.made_.fetch_add(1, std::memory_order_relaxed);
    return cell;
  }
  // Lets go of those that were removed.
  void ForgetRemoved() {
    std::erase_if(known_, [](const auto& one) { return one.second->removed(); });
  }

 private:
  Family<T>& family_;
  Cells<T>& cells_;
  std::map<LabelValues, Handle> known_;
};

}  // namespace qanat::metrics
