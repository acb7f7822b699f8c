// SPDX-License-Identifier: Apache-2.0
// Log lines that must not make who writes them wait: a connection's access log line on a data-plane
// thread, when stderr is a pipe whose reader is slow. A thread of its own writes them out, several
// at a time; when it cannot keep up, or nobody reads any more, lines are dropped and counted, and
// memory stays bounded.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace qanat::log {

class LineWriter {
 public:
  // `fd` is not taken and outlives this. At most `max_bytes` wait.
  explicit LineWriter(int fd, size_t max_bytes = 4u << 20);
  ~LineWriter();  // tries once more to write what waits; a reader that stands still loses it
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  // Any thread; never waits for `fd`. `line` comes without newline.
  void Write(std::string_view line);
  uint64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  void Run();
  bool WriteOut(std::string_view lines);  // false: asked to stop while the reader stands still
  void Lose(std::string_view lines);

  const int fd_;
  const size_t max_bytes_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::string waiting_;
  bool idle_ = false;  // the thread waits for the first line
  bool stop_ = false;
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> dropped_{0};
  std::thread thread_;
};

}  // namespace qanat::log
