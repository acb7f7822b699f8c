// SPDX-License-Identifier: Apache-2.0
// Connections of every kind that capture knows, begun all the time by processes of their own, while
// a test does something that none of them may notice.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "tests/bpf/bed.h"

namespace qanat::test {

struct Way {
  std::string name;
  Where where;
  Dial dial;
  std::string answer;  // how the line begins: who has to answer
  bool held = false;   // one connection that is asked again and again, instead of new ones
};

class SteadyLoad {
 public:
  // `every_ms`: between two connections of one way.
  SteadyLoad(const Bed& bed, std::vector<Way> ways, int every_ms);
  ~SteadyLoad();

  // Each way has gone so many times more, or has failed. False: one stands still.
  bool More(int count) const;
  int good() const;
  std::string Stop();  // "" or what went wrong, and when

 private:
  struct Shared {
    std::atomic<int> good{0}, failed{0};
    std::atomic<bool> over{false};
    char bad[512] = {};
  };
  static void Run(const Way& way, int every_ms, Shared& shared);

  const Bed& bed_;
  std::vector<Way> ways_;
  Shared* shared_;  // one for each way, in memory that the processes share
  std::vector<Process> processes_;
};

}  // namespace qanat::test
