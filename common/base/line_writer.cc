// SPDX-License-Identifier: Apache-2.0
#include "common/base/line_writer.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <utility>

namespace qanat::log {
namespace {

// Lines that come within this time go out together: under load the thread wakes 50 times a second
// and not once a line. Each time costs the data-plane thread that wakes it a system call and often
// its processor.
constexpr auto kGather = std::chrono::milliseconds(20);
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

LineWriter::LineWriter(int fd, size_t max_bytes)
    : fd_(fd), max_bytes_(max_bytes), thread_([this] { Run(); }) {}

LineWriter::~LineWriter() {
  stopping_ = true;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void LineWriter::Write(std::string_view line) {
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    if (waiting_.size() + line.size() >= max_bytes_) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    waiting_.append(line).push_back('\n');
    wake = std::exchange(idle_, false);
  }
  if (wake) wake_.notify_one();
}

void LineWriter::Run() {
  std::string lines;
  std::unique_lock lock(mutex_);
  while (true) {
    idle_ = waiting_.empty();
    wake_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    idle_ = false;
    wake_.wait_for(lock, kGather, [this] { return stop_; });
    lines.swap(waiting_);
    const bool last = stop_;
    lock.unlock();
    const bool done = WriteOut(lines);
    lines.clear();
    if (lines.capacity() > max_bytes_ / 4) lines.shrink_to_fit();
    lock.lock();
    if (last || !done) return;
  }
}

bool LineWriter::WriteOut(std::string_view lines) {
  while (!lines.empty()) {
    // Asks first, since the fd may be shared with others and must stay a blocking one.
    pollfd ready{fd_, POLLOUT, 0};
    const int found = ::poll(&ready, 1, kStopPatienceMs);
    if (found == 0 && stopping_) {
      Lose(lines);
      return false;
    }
    if (found < 0 && errno != EINTR) break;
    if (found <= 0) continue;
    const ssize_t n = ::write(fd_, lines.data(), Piece(lines));
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;  // somebody else was faster
    if (n <= 0) break;  // nobody reads any more: what there is goes nowhere
    lines.remove_prefix(static_cast<size_t>(n));
  }
  Lose(lines);
  return true;
}

void LineWriter::Lose(std::string_view lines) {
  const auto count = std::count(lines.begin(), lines.end(), '\n');
  dropped_.fetch_add(static_cast<uint64_t>(count), std::memory_order_relaxed);
}

}  // namespace qanat::log
