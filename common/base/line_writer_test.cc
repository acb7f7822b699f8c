// SPDX-License-Identifier: Apache-2.0
#include "common/base/line_writer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <sstream>
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
  // Reads until that has come.
  std::string ReadUntil(std::string_view text) {
    std::string out;
    char buffer[4096];
    ssize_t n = 0;
    while (out.find(text) == out.npos && (n = ::read(ends_[0], buffer, sizeof buffer)) > 0) {
      out.append(buffer, static_cast<size_t>(n));
    }
    return out;
  }
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
    LineWriter::Source& source = writer.AddSource();
    for (int i = 0; i < 3000; ++i) {  // several pieces, less than a pipe holds
      const std::string line = "line " + std::to_string(i);
      source.Write(line);
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
    LineWriter::Source& source = writer.AddSource();
    const std::string line(100, 'x');
    for (int i = 0; i < 10'000; ++i) source.Write(line);  // 1 MB: the pipe holds 64 KiB
    EXPECT_GT(writer.dropped(), 5'000u);
    EXPECT_LT(writer.dropped(), 10'000u);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
  // What came through is whole lines.
  std::istringstream said(pipe.ReadAll());
  for (std::string line; std::getline(said, line);) {
    EXPECT_TRUE(line == std::string(100, 'x') || line.ends_with("since the start")) << line;
  }
}

// A log collector that died: what it does not get is known.
TEST(LineWriter, LinesThatNobodyReadsAreCounted) {
  const auto before = std::signal(SIGPIPE, SIG_IGN);
  Pipe pipe;
  {
    LineWriter writer(pipe.writer());
    LineWriter::Source& source = writer.AddSource();
    pipe.StopReading();
    for (int i = 0; i < 10; ++i) source.Write("line");
    for (int i = 0; i < 500 && writer.dropped() < 10; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(writer.dropped(), 10u);
  }
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
        LineWriter::Source& source = writer.AddSource();
        for (int i = 0; i < kLines; ++i) source.Write(std::string(40, static_cast<char>('a' + t)));
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

TEST(LineWriter, WhatWasDroppedIsSaidWhenItIsReadAgain) {
  Pipe pipe;
  std::string said;
  {
    LineWriter writer(pipe.writer(), 4096);
    LineWriter::Source& source = writer.AddSource();
    const std::string line(100, 'x');
    while (writer.dropped() < 10) source.Write(line);
    std::thread reader([&] { said = pipe.ReadUntil("lines were dropped"); });
    reader.join();
  }
  EXPECT_NE(said.find("\twarn\taccess\t"), std::string::npos) << said;
}

TEST(LineRing, GoesAroundAndRefusesWhatDoesNotFit) {
  LineRing ring(512);
  std::string wanted, got;
  for (size_t i = 0; i < 2000; ++i) {
    const std::string line(i * 7 % 90, static_cast<char>('a' + i % 26));
    ASSERT_GT(ring.Put(line), 0u) << i;
    wanted += line + "\n";
    if (i % 2 == 1) ring.Take(got);  // two of them always fit
  }
  ring.Take(got);
  EXPECT_EQ(got, wanted);
  EXPECT_EQ(ring.Put(std::string(512, 'x')), 0u);
  size_t fit = 0;
  while (ring.Put("0123456789") > 0) ++fit;
  EXPECT_EQ(fit, 512u / 16);
  got.clear();
  ring.Take(got);
  EXPECT_EQ(got.size(), fit * 11);
  EXPECT_GT(ring.Put("again"), 0u);
}

TEST(LineRing, OneWritesWhileAnotherReads) {
  LineRing ring(1024);
  constexpr int kLines = 50'000;
  std::string got;
  std::thread reader([&] {
    while (got.size() < 6u * kLines) ring.Take(got);
  });
  for (int i = 0; i < kLines; ++i) {
    const std::string line = std::to_string(10'000 + i % 90'000);
    while (ring.Put(line) == 0) std::this_thread::yield();
  }
  reader.join();
  for (int i = 0; i < kLines; ++i) {
    ASSERT_EQ(got.substr(static_cast<size_t>(i) * 6, 6),
              std::to_string(10'000 + i % 90'000) + "\n");
  }
}

}  // namespace
}  // namespace qanat::log
