// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/writer.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"

namespace qanat::controlplane {
namespace {

constexpr std::chrono::milliseconds kAskAgain{500};  // while nothing may be written
// A wish that comes back within this has been undone by somebody: do not fight at full speed.
constexpr std::chrono::seconds kRemember{60};

}  // namespace

Writer::Writer(event::EventLoop& loop, kube::Client& client, std::function<bool()> may_write,
               metrics::Registry& registry, WriterOptions options)
    : client_(client),
      may_write_(std::move(may_write)),
      options_(options),
      timer_(loop, [this] { Pump(); }),
      tokens_(options.burst),
      refilled_at_(event::Clock::now()),
      writes_(registry.AddCounter("qanat_kube_writes", "Writes to the API server.",
                                  {"what", "result"})) {}

void Writer::Want(const std::string& owner, Writes writes) {
  const event::TimePoint now = event::Clock::now();
  for (auto it = entries_.lower_bound({owner, ""});
       it != entries_.end() && it->first.first == owner; ++it) {
    it->second.wanted = false;
  }
  for (auto& [object, write] : writes) {
    Entry& entry = entries_[{owner, object}];
    entry.wanted = true;
    if (entry.write.meaning != write.meaning || entry.sent_at == event::TimePoint{}) {
      entry.delay = std::chrono::milliseconds(0);
      entry.not_before = now;
    } else if (!entry.to_send && entry.call == nullptr) {
      // Fulfilled, and wished for again: the watch has not caught up, or somebody undid it.
      entry.delay = std::clamp(entry.delay * 2, options_.backoff_first, options_.backoff_max);
      entry.not_before = now + entry.delay;
    } else if (!entry.to_send) {
      // On its way already. Once more only if the watch does not show it in a while.
      entry.not_before = now + std::max(entry.delay, options_.backoff_first);
    }
    entry.to_send = true;
    entry.write = std::move(write);
  }
  for (auto it = entries_.lower_bound({owner, ""});
       it != entries_.end() && it->first.first == owner;) {
    Entry& entry = it->second;
    if (entry.wanted) {
      ++it;
    } else if (entry.call != nullptr || now - entry.sent_at < kRemember) {
      entry.to_send = false;
      ++it;
    } else {
      it = entries_.erase(it);
    }
  }
  timer_.Start(std::chrono::milliseconds(0));
}

size_t Writer::waiting() const {
  return static_cast<size_t>(std::count_if(entries_.begin(), entries_.end(), [](const auto& pair) {
    return pair.second.to_send || pair.second.call != nullptr;
  }));
}

bool Writer::TakeToken() {
  const event::TimePoint now = event::Clock::now();
  const std::chrono::duration<double> passed = now - refilled_at_;
  refilled_at_ = now;
  tokens_ = std::min(options_.burst, tokens_ + passed.count() * options_.per_second);
  if (tokens_ < 1) return false;
  tokens_ -= 1;
  return true;
}

void Writer::Pump() {
  size_t running = 0;
  for (const auto& [key, entry] : entries_) running += entry.call != nullptr ? 1 : 0;
  const event::TimePoint now = event::Clock::now();
  event::Duration wait = event::Duration::max();
  for (auto& [key, entry] : entries_) {
    if (!entry.to_send || entry.call != nullptr) continue;
    if (entry.not_before > now) {
      wait = std::min(wait, entry.not_before - now);
      continue;
    }
    if (running >= options_.running) return;  // an answer pumps again
    if (!may_write_()) {
      wait = kAskAgain;
      break;
    }
    if (!TakeToken()) {
      wait = std::chrono::duration_cast<event::Duration>(
          std::chrono::duration<double>(1 / options_.per_second));
      break;
    }
    Send(key, entry);
    ++running;
  }
  if (wait != event::Duration::max()) timer_.Start(wait);
}

void Writer::Send(const Key& key, Entry& entry) {
  entry.to_send = false;
  entry.sent_at = event::Clock::now();
  entry.sent_done = entry.write.done;
  entry.sent_meaning = entry.write.meaning;
  entry.call = client_.Call(
      entry.write.request,
      [this, key](const Result<kube::CallResponse>& response) { Answered(Key(key), response); });
}

void Writer::Answered(const Key& key, const Result<kube::CallResponse>& response) {
  const auto it = entries_.find(key);
  if (it == entries_.end()) return;
  Entry& entry = it->second;
  entry.call.reset();
  const std::function<void()> sent_done = std::move(entry.sent_done);
  const auto& [owner, object] = it->first;
  if (response) {
    writes_.With({owner, "ok"})->Add();
    last_error_.erase(owner);
    LOG_DEBUG("writer", "{} {} written", owner, object);
    if (sent_done) sent_done();
  } else {
    // Of an object that has gone, or that somebody else has changed, the watch will tell.
    const Code code = response.error().code;
    const bool overtaken = code == Code::kFailedPrecondition || code == Code::kNotFound ||
                           code == Code::kAlreadyExists;
    writes_.With({owner, overtaken ? "overtaken" : "failed"})->Add();
    if (!overtaken && last_error_[owner] != CodeName(code)) {
      LOG_WARN("writer", "{} {} cannot be written (others may fail alike): {}", owner, object,
               response.error().message);
      last_error_[owner] = CodeName(code);
    }
    // A wish of another meaning that came meanwhile does not wait.
    if (entry.wanted && (!entry.to_send || entry.write.meaning == entry.sent_meaning)) {
      entry.delay = std::clamp(entry.delay * 2, options_.backoff_first, options_.backoff_max);
      entry.not_before = event::Clock::now() + entry.delay;
      entry.to_send = true;
    }
  }
  timer_.Start(std::chrono::milliseconds(0));
}

}  // namespace qanat::controlplane
