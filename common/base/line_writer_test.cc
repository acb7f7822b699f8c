// SPDX-License-Identifier: Apache-2.0
#include "common/base/line_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace qanat::log {
namespace {

class Pipe {
 public:
  Pipe() { EXPECT_EQ(::pipe(ends_), 0); }
  ~Pipe() {
    if (ends_[0] >= 0) ::close(ends_[0]);
    if (ends_[1] >= 0) ::close(ends_[1]);
  }
  int writer() const { return ends_[1]; }
  void StopReading() { ::close(std::exchange(ends_[0], -1)); }
  std::string ReadAll() {
    ::close(ends_[1]);
    ends_[1] = -1;
    std::string out;
    char buffer[4096];
    for (ssize_t n = 0; (n = ::read(ends_[0], buffer, sizeof buffer)) > 0;) {
      out.append(buffer, static_cast<size_t>(n));
    }
    return out;
  }

 private:
  int ends_[2] = {-1, -1};
};

TEST(LineWriter, LinesOfOneThreadComeInOrderAndWhole) {
  Pipe pipe;
  std::string wanted;
  {
    LineWriter writer(pipe.writer());
    for (int i = 0; i < 3000; ++i) {  // several pieces, less than a pipe holds
      const std::string line = "line " + std::to_string(i);
      writer.Write(line);
      wanted += line + "\n";
    }
    EXPECT_EQ(writer.dropped(), 0u);
  }
  EXPECT_EQ(pipe.ReadAll(), wanted);
}

TEST(LineWriter, AReaderThatStandsStillMakesNobodyWait) {
  Pipe pipe;
  const auto start = std::chrono::steady_clock::now();
  {
    LineWriter writer(pipe.writer(), 100'000);
    const std::string line(100, 'x');
    for (int i = 0; i < 10'000; ++i) writer.Write(line);  // 1 MB: the pipe holds 64 KiB
    EXPECT_GT(writer.dropped(), 5'000u);
    EXPECT_LT(writer.dropped(), 10'000u);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  // What came through is whole lines.
  const std::string said = pipe.ReadAll();
  EXPECT_EQ(said.size() % 101, 0u);
}

// A log collector that died: what it does not get is known.
TEST(LineWriter, LinesThatNobodyReadsAreCounted) {
  const auto before = std::signal(SIGPIPE, SIG_IGN);
  Pipe pipe;
  LineWriter writer(pipe.writer());
  pipe.StopReading();
  for (int i = 0; i < 10; ++i) writer.Write("line");
  for (int i = 0; i < 500 && writer.dropped() < 10; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(writer.dropped(), 10u);
  std::signal(SIGPIPE, before);
}

TEST(LineWriter, ThreadsDoNotMixTheirLines) {
  Pipe pipe;
  constexpr int kThreads = 4, kLines = 100;
  {
    LineWriter writer(pipe.writer());
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&writer, t] {
        for (int i = 0; i < kLines; ++i) writer.Write(std::string(40, static_cast<char>('a' + t)));
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  const std::string said = pipe.ReadAll();
  ASSERT_EQ(said.size(), static_cast<size_t>(kThreads * kLines * 41));
  for (size_t at = 0; at < said.size(); at += 41) {
    EXPECT_EQ(said.substr(at, 41), std::string(40, said[at]) + "\n");
  }
}

}  // namespace
}  // namespace qanat::log
