// SPDX-License-Identifier: Apache-2.0
#include "common/base/line_writer.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>

#include "common/base/log_line.h"

namespace qanat::log {
namespace {

// How often the rings are looked at: this often under load, less and less when nothing comes.
// Nobody has to wake the thread for a line, which would cost a data-plane thread a system call and
// often its processor; only who has half of its ring full does.
constexpr auto kShortNap = std::chrono::milliseconds(20);
constexpr auto kLongNap = std::chrono::milliseconds(160);
// It is said how many lines were lost this often at most.
constexpr auto kTellInterval = std::chrono::seconds(1);
// How long a destructor waits for a reader that stands still.
constexpr int kStopPatienceMs = 200;

// The longest head of `lines` that ends with a line and that a pipe takes in one piece, so that
// lines of other writers do not come to stand in the middle of ours.
size_t Piece(std::string_view lines) {
  if (lines.size() <= PIPE_BUF) return lines.size();
  const size_t end = lines.rfind('\n', PIPE_BUF - 1);
  return end != lines.npos ? end + 1 : lines.find('\n') + 1;  // one line may be longer
}

}  // namespace

LineWriter::LineWriter(int fd, size_t source_bytes)
    : fd_(fd),
      source_bytes_(source_bytes),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { Run(); }) {}

LineWriter::~LineWriter() {
  stopping_ = true;
  WakeUp();
  thread_.join();
}

void LineWriter::Source::Write(std::string_view line) {
  const size_t waiting = ring_.Put(line);
  if (waiting == 0) {
    // Nobody else writes it.
    dropped_.store(dropped_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  } else if (waiting > ring_.size() / 2 && !writer_.wake_asked_.load(std::memory_order_relaxed) &&
             !writer_.wake_asked_.exchange(true)) {
    writer_.WakeUp();
  }
}

LineWriter::Source& LineWriter::AddSource() {
  const std::lock_guard lock(mutex_);
  return *sources_.emplace_back(new Source(*this, source_bytes_));
}

uint64_t LineWriter::dropped() const {
  const std::lock_guard lock(mutex_);
  uint64_t sum = unread_.load(std::memory_order_relaxed);
  for (const auto& source : sources_) sum += source->dropped_.load(std::memory_order_relaxed);
  return sum;
}

void LineWriter::WakeUp() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(wake_.get(), &one, sizeof one);
}

void LineWriter::Nap(std::chrono::milliseconds time) {
  pollfd woken{wake_.get(), POLLIN, 0};
  if (::poll(&woken, 1, static_cast<int>(time.count())) <= 0) return;
  uint64_t count;
  [[maybe_unused]] const ssize_t n = ::read(wake_.get(), &count, sizeof count);
}

void LineWriter::Run() {
  auto nap = kShortNap;
  while (true) {
    const bool last = stopping_;
    Collect();
    if (TellOfLost(last) == Written::kStop) return;
    nap = lines_.empty() ? std::min(nap * 2, kLongNap) : kShortNap;
    std::string_view left = lines_;
    const Written how = WriteOut(left);
    const auto lost = std::count(left.begin(), left.end(), '\n');
    unread_.fetch_add(static_cast<uint64_t>(lost), std::memory_order_relaxed);
    lines_.clear();
    if (lines_.capacity() > source_bytes_ / 4) lines_.shrink_to_fit();
    if (last || how == Written::kStop) return;
    Nap(nap);
  }
}

void LineWriter::Collect() {
  // First: who finds its ring half full from here on asks again. One that is missed costs a nap.
  wake_asked_ = false;
  const std::lock_guard lock(mutex_);
  for (const auto& source : sources_) source->ring_.Take(lines_);
}

LineWriter::Written LineWriter::TellOfLost(bool last) {
  const uint64_t lost = dropped();
  const auto now = std::chrono::steady_clock::now();
  if (lost == told_ || (!last && now - told_at_ < kTellInterval)) return Written::kAll;
  told_at_ = now;
  const std::string line =
      FormatLine("access", Level::kWarn,
                 fmt::format("{} lines were dropped because who reads the log is too slow or was "
                             "gone; {} since the start",
                             lost - told_, lost)) +
      "\n";
  std::string_view left = line;
  const Written how = WriteOut(left);
  if (how == Written::kAll) told_ = lost;
  return how;
}

LineWriter::Written LineWriter::WriteOut(std::string_view& lines) {
  while (!lines.empty()) {
    // Asks first, since the fd may be shared with others and must stay a blocking one.
    pollfd ready{fd_, POLLOUT, 0};
    const int found = ::poll(&ready, 1, kStopPatienceMs);
    if (found == 0 && stopping_) return Written::kStop;
    if (found < 0 && errno != EINTR) return Written::kUnread;
    if (found <= 0) continue;
    const ssize_t n = ::write(fd_, lines.data(), Piece(lines));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;  // somebody else was faster
    if (n <= 0) return Written::kUnread;
    lines.remove_prefix(static_cast<size_t>(n));
  }
  return Written::kAll;
}

}  // namespace qanat::log
