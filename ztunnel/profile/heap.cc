// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/profile/heap.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <new>
#include <sstream>
#include <unordered_map>
#include <vector>

#include "ztunnel/profile/stack.h"
#if __has_feature(address_sanitizer)
#include <sanitizer/allocator_interface.h>
#include <sanitizer/asan_interface.h>
#define QANAT_ALLOCATOR_HOOKS 1
#endif

namespace qanat::ztunnel::profile {
namespace {

constexpr size_t kDepth = 32;        // frames kept
constexpr size_t kMostSites = 4096;  // stacks told apart; more are counted as one
constexpr size_t kFilter = 16384;

using Frames = std::vector<uint64_t>;
// Scaled: what the picked ones stand for.
struct Amount {
  double objects = 0, bytes = 0;
};
struct Site {
  Amount allocated, live;
};
struct Picked {
  Site* site = nullptr;
  Amount stands_for;
};
struct Heap {
  uint64_t every = kHeapSampleEvery;
  std::chrono::nanoseconds started{0};
  std::mutex mutex;  // guards what follows; held for picked ones only
  std::map<Frames, Site> sites;
  std::unordered_map<void*, Picked> live;
};

// Allocations come before main() and after it: what they look at needs no constructor and is never
// destroyed.
constinit std::atomic<Heap*> heap_now{nullptr};
constinit std::atomic<bool> sampling{true};
// How many live picked ones have an address of this slot: nearly always none.
constinit std::array<std::atomic<uint16_t>, kFilter> filter{};
struct PerThread {
  int64_t left = 0;  // bytes until the next one is picked; 0 at first: the thread has yet to draw
  uint64_t random = 0;
  bool inside = false;                  // what is allocated here is ours
  [[maybe_unused]] bool known = false;  // its stack's bounds are
};
constinit thread_local PerThread thread;

std::atomic<uint16_t>& SlotOf(const void* memory) {
  const auto bits = reinterpret_cast<uintptr_t>(memory) >> 4;
  return filter[(bits * 0x9e3779b97f4a7c15ULL) >> 50];
}
static_assert(kFilter == 1u << (64 - 50));

// Exponential distances, so that no pattern of allocations escapes.
int64_t Draw(uint64_t every) {
  if (thread.random == 0) thread.random = reinterpret_cast<uintptr_t>(&thread) | 1;
  thread.random ^= thread.random << 13;  // xorshift64
  thread.random ^= thread.random >> 7;
  thread.random ^= thread.random << 17;
  const double uniform = (static_cast<double>(thread.random >> 11) + 1) / 9007199254740993.0;
  return static_cast<int64_t>(-std::log(uniform) * static_cast<double>(every)) + 1;
}

#if __has_feature(address_sanitizer)
// Between the hook and who allocates is code without frame pointers, which knows the stack itself.
Frames StackOf(void* memory, void*) {
  std::array<void*, kDepth> frames;
  int by = 0;
  const size_t count = __asan_get_alloc_stack(memory, frames.data(), frames.size(), &by);
  Frames out;
  for (size_t i = 0; i < count; ++i) out.push_back(reinterpret_cast<uintptr_t>(frames[i]));
  return out;
}
#else
// From `caller` outwards.
Frames StackOf(void*, void* caller) {
  if (!thread.known) {
    RegisterThisThread();
    thread.known = true;
  }
  std::array<void*, kDepth + 8> frames;
  const size_t count = WalkOwnStack(frames);
  size_t first = 0;
  while (first < count && caller != nullptr && frames[first] != caller) ++first;
  if (first == count) first = 0;  // no frame pointers on the way: better all than nothing
  Frames out;
  for (size_t i = first; i < std::min(count, first + kDepth); ++i) {
    out.push_back(reinterpret_cast<uintptr_t>(frames[i]));
  }
  if (out.empty() && caller != nullptr) out.push_back(reinterpret_cast<uintptr_t>(caller));
  return out;
}
#endif

__attribute__((noinline)) void Pick(Heap& heap, void* memory, size_t size, void* caller) {
  thread.inside = true;
  thread.left = Draw(heap.every);
  // How likely it was that one of this size is picked.
  const double chance = 1 - std::exp(-static_cast<double>(std::max<size_t>(size, 1)) /
                                     static_cast<double>(heap.every));
  const Amount amount{1 / chance, static_cast<double>(size) / chance};
  Frames frames = StackOf(memory, caller);
  {
    const std::lock_guard lock(heap.mutex);
    if (heap.sites.size() >= kMostSites && !heap.sites.contains(frames)) frames.clear();
    Site& site = heap.sites[std::move(frames)];
    site.allocated.objects += amount.objects;
    site.allocated.bytes += amount.bytes;
    site.live.objects += amount.objects;
    site.live.bytes += amount.bytes;
    heap.live[memory] = {&site, amount};
    SlotOf(memory).fetch_add(1, std::memory_order_relaxed);
  }
  thread.inside = false;
}

__attribute__((noinline)) void Forget(Heap& heap, void* memory) {
  thread.inside = true;
  {
    const std::lock_guard lock(heap.mutex);
    const auto it = heap.live.find(memory);
    if (it != heap.live.end()) {
      it->second.site->live.objects -= it->second.stands_for.objects;
      it->second.site->live.bytes -= it->second.stands_for.bytes;
      heap.live.erase(it);
      SlotOf(memory).fetch_sub(1, std::memory_order_relaxed);
    }
  }
  thread.inside = false;
}

#ifdef QANAT_ALLOCATOR_HOOKS
void OnMalloc(const volatile void* memory, size_t size) {
  NoteAllocation(const_cast<void*>(memory), size, nullptr);
}
void OnFree(const volatile void* memory) { NoteFree(const_cast<void*>(memory)); }
#endif

// Is an allocation seen when it is made?
bool Seen(Heap& heap) {
  Draw(heap.every);  // so that it counts as begun on this thread
  thread.left = 1;
  void* volatile unseen = ::operator new(64);  // volatile: it may not be left out
  void* const memory = unseen;
  bool seen = false;
  {
    const std::lock_guard lock(heap.mutex);
    seen = heap.live.contains(memory);
  }
  ::operator delete(memory);
  return seen;
}

}  // namespace

void NoteAllocation(void* memory, size_t size, void* caller) {
  Heap* heap = heap_now.load(std::memory_order_acquire);
  if (heap == nullptr || thread.inside || memory == nullptr) return;
  if (!sampling.load(std::memory_order_relaxed)) return;
  if (thread.random == 0) thread.left = Draw(heap->every);  // the thread's first one
  thread.left -= static_cast<int64_t>(std::min<size_t>(size, INT64_MAX));
  if (thread.left <= 0) Pick(*heap, memory, size, caller);
}

void NoteFree(void* memory) {
  if (memory == nullptr || SlotOf(memory).load(std::memory_order_relaxed) == 0) return;
  Heap* heap = heap_now.load(std::memory_order_acquire);
  if (heap != nullptr && !thread.inside) Forget(*heap, memory);
}

Status StartHeapProfile(uint64_t every) {
  static std::mutex once;
  const std::lock_guard lock(once);
  if (every == 0 || heap_now.load() != nullptr) return {};
#if __has_feature(thread_sanitizer)
  return Fail(Code::kUnimplemented, "a build with the thread sanitizer keeps none");
#endif
  static auto* const heap = new Heap;  // for ever
  heap->every = every;
  heap->started = std::chrono::system_clock::now().time_since_epoch();
#ifdef QANAT_ALLOCATOR_HOOKS
  __sanitizer_install_malloc_and_free_hooks(OnMalloc, OnFree);
#endif
  heap_now.store(heap, std::memory_order_release);
  if (Seen(*heap)) return {};
  heap_now.store(nullptr, std::memory_order_release);
  return Fail(Code::kUnimplemented,
              "allocations are not seen: this program is linked without profile/operator_new.cc");
}

void SetHeapSampling(bool on) { sampling.store(on, std::memory_order_relaxed); }
bool HeapSampling() {
  return heap_now.load(std::memory_order_acquire) != nullptr &&
         sampling.load(std::memory_order_relaxed);
}

Result<Profile> HeapProfile() {
  Heap* heap = heap_now.load(std::memory_order_acquire);
  if (heap == nullptr) {
    return Fail(Code::kFailedPrecondition,
                "no heap profile is kept: QANAT_HEAP_PROFILE_RATE is 0, or the program sees no "
                "allocations (its log says why)");
  }
  Profile profile;
  profile.types = {{"alloc_objects", "count"},
                   {"alloc_space", "bytes"},
                   {"inuse_objects", "count"},
                   {"inuse_space", "bytes"}};
  profile.shown = "inuse_space";
  profile.period_type = {"space", "bytes"};
  profile.period = static_cast<int64_t>(heap->every);
  profile.started = heap->started;
  profile.duration = std::chrono::system_clock::now().time_since_epoch() - heap->started;
  {
    // No allocation of ours may be picked while the sites are locked.
    thread.inside = true;
    const std::lock_guard lock(heap->mutex);
    for (const auto& [frames, site] : heap->sites) {
      const auto round = [](double value) { return std::llround(std::max(value, 0.0)); };
      profile.stacks[frames] = {round(site.allocated.objects), round(site.allocated.bytes),
                                round(site.live.objects), round(site.live.bytes)};
    }
    thread.inside = false;
  }
  profile.mappings = OwnMappings();
  return profile;
}

}  // namespace qanat::ztunnel::profile
