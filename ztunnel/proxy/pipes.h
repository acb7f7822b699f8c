// SPDX-License-Identifier: Apache-2.0
// Kernel pipes for splice(), kept for reuse. One pool per worker; a relay holds a pipe only while
// bytes are in it.
#pragma once

#include <cstddef>
#include <limits>
#include <memory>
#include <vector>

#include "common/base/fd.h"

namespace qanat::ztunnel {

struct Pipe {
  Fd read, write;
  size_t capacity = 0;
  size_t bytes = 0;  // in it now
};

class PipePool {
 public:
  std::unique_ptr<Pipe> Take();           // nullptr when the process has no fds left: copy instead
  void Give(std::unique_ptr<Pipe> pipe);  // one that still holds bytes is closed
  void KeepFrom(int first) { kept_from_ = first; }  // descriptors that are somebody else's
  size_t idle() const { return idle_.size(); }

 private:
  std::vector<std::unique_ptr<Pipe>> idle_;
  int kept_from_ = std::numeric_limits<int>::max();
};

}  // namespace qanat::ztunnel
