// SPDX-License-Identifier: Apache-2.0
// Log lines that must not make who writes them wait: a connection's access log line on a data-plane
// thread, when stderr is a pipe whose reader is slow. Each thread puts its lines into a ring of its
// own, without a lock and without waking anybody; a thread looks at the rings several times a
// second and writes out what is there. When it cannot keep up, or nobody reads any more, lines are
// dropped, counted, and their number is said in the log as soon as it is read again.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "common/base/fd.h"
#include "common/base/line_ring.h"

namespace qanat::log {

class LineWriter {
 public:
  // One thread's way here; for as long as the writer lives. Lines of one source stay in order,
  // those of several come in pieces: each line has its time.
  class Source {
   public:
    // `line` comes without newline. Never waits.
    void Write(std::string_view line);

   private:
    friend class LineWriter;
    Source(LineWriter& writer, size_t bytes) : writer_(writer), ring_(bytes) {}
    LineWriter& writer_;
    LineRing ring_;
    alignas(64) std::atomic<uint64_t> dropped_{0};
  };

  // `fd` is not taken and outlives this. At most `source_bytes` of each source wait.
  explicit LineWriter(int fd, size_t source_bytes = 512 << 10);
  ~LineWriter();  // tries once more to write what waits; a reader that stands still loses it
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  // Any thread, with a lock: once for a thread. It lives as long as this does.
  Source& AddSource();
  // Any thread. Lines that were not written.
  uint64_t dropped() const;

 private:
  void Run();
  void Collect();
  enum class Written : uint8_t { kAll, kUnread, kStop };  // nobody reads; told to stop, it stands
  Written TellOfLost(bool last);
  void Nap(std::chrono::milliseconds time);
  void WakeUp();
  // `lines` becomes what was not written.
  Written WriteOut(std::string_view& lines);

  const int fd_;
  const size_t source_bytes_;
  Fd wake_;                              // an eventfd
  std::atomic<bool> wake_asked_{false};  // since rings were last looked at
  std::atomic<bool> stopping_{false};
  std::atomic<uint64_t> unread_{0};  // were dropped by the thread: nobody reads
  mutable std::mutex mutex_;         // guards the vector, not what is in it
  std::vector<std::unique_ptr<Source>> sources_;
  // The thread's.
  std::string lines_;
  uint64_t told_ = 0;
  std::chrono::steady_clock::time_point told_at_{};
  std::thread thread_;
};

}  // namespace qanat::log
