// SPDX-License-Identifier: Apache-2.0
#include "common/model/shared_text.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <vector>

#include "common/base/hash_index.h"

namespace qanat::model {
namespace {

struct Entry {
  std::string text;
  std::atomic<uint32_t> owners{0};
};

// Entries stay where they are, so that who has a number reads its text without the lock.
constexpr size_t kInBlock = 1024;
constexpr size_t kBlocks = 1 << 16;
using Block = std::array<Entry, kInBlock>;
constinit std::array<std::atomic<Block*>, kBlocks> blocks{};

// Whoever has a number got it after its block was made.
Entry& At(uint32_t number) {
  return (*blocks[number / kInBlock].load(std::memory_order_relaxed))[number % kInBlock];
}

uint32_t HashOf(std::string_view text) {
  return static_cast<uint32_t>(std::hash<std::string_view>()(text) >> 32);
}

}  // namespace

struct SharedText::Table {
  std::mutex mutex;
  HashIndex<uint32_t> numbers;  // of texts that have an owner or more
  std::vector<uint32_t> unused;
  uint32_t next = 1;  // none before was ever used, but 0

  uint32_t NewNumber() {
    if (!unused.empty()) {
      const uint32_t number = unused.back();
      unused.pop_back();
      return number;
    }
    if (next == kInBlock * kBlocks) std::abort();  // 67 million: 3 GB without a character of text
    if (blocks[next / kInBlock].load(std::memory_order_relaxed) == nullptr) {
      blocks[next / kInBlock].store(new Block, std::memory_order_relaxed);
    }
    return next++;
  }
  static Table& All() {
    static Table& table = *new Table;  // for ever: texts may be let go of after main()
    return table;
  }
};

uint32_t SharedText::Find(std::string_view text) {
  if (text.empty()) return 0;
  const uint32_t hash = HashOf(text);
  Table& all = Table::All();
  const std::lock_guard lock(all.mutex);
  if (const uint32_t* known =
          all.numbers.Find(hash, [text](uint32_t number) { return At(number).text == text; })) {
    Keep(*known);
    return *known;
  }
  const uint32_t number = all.NewNumber();
  At(number).text = text;
  At(number).owners.store(1, std::memory_order_relaxed);
  all.numbers.Insert(hash, number);
  return number;
}

void SharedText::Keep(uint32_t number) {
  At(number).owners.fetch_add(1, std::memory_order_relaxed);
}

// From one to none only with the lock: under it somebody may find the text meanwhile.
void SharedText::Release(uint32_t number) {
  Entry& entry = At(number);
  uint32_t owners = entry.owners.load(std::memory_order_relaxed);
  while (owners > 1) {
    if (entry.owners.compare_exchange_weak(owners, owners - 1, std::memory_order_acq_rel)) return;
  }
  Table& all = Table::All();
  const std::lock_guard lock(all.mutex);
  if (entry.owners.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
  all.numbers.Erase(HashOf(entry.text), [number](uint32_t other) { return other == number; });
  entry.text = std::string();
  all.unused.push_back(number);
}

const std::string& SharedText::str() const {
  static const std::string& empty = *new std::string;
  return number_ == 0 ? empty : At(number_).text;
}

}  // namespace qanat::model
