// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/pipes.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

namespace qanat::ztunnel {
namespace {
constexpr size_t kMaxIdle = 16;
constexpr int kWantedCapacity = 1 << 20;
}  // namespace

std::unique_ptr<Pipe> PipePool::Take() {
  if (!idle_.empty()) {
    auto pipe = std::move(idle_.back());
    idle_.pop_back();
    return pipe;
  }
  int fds[2];
  if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0) return nullptr;
  auto pipe = std::make_unique<Pipe>();
  pipe->read.Reset(fds[0]);
  pipe->write.Reset(fds[1]);
  if (std::max(fds[0], fds[1]) >= kept_from_) return nullptr;
  // Refused beyond the user's pipe budget: then the default of 64 KiB has to do.
  int capacity = fcntl(pipe->write.get(), F_SETPIPE_SZ, kWantedCapacity);
  if (capacity < 0) capacity = fcntl(pipe->write.get(), F_GETPIPE_SZ);
  pipe->capacity = capacity > 0 ? static_cast<size_t>(capacity) : 65536;
  return pipe;
}

void PipePool::Give(std::unique_ptr<Pipe> pipe) {
  if (pipe->bytes == 0 && idle_.size() < kMaxIdle) idle_.push_back(std::move(pipe));
}

}  // namespace qanat::ztunnel
