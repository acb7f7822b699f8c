// SPDX-License-Identifier: Apache-2.0
// The reading end of a pinned BPF ring buffer. Of one thread; readable is what epoll says of fd().
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/result.h"

struct ring_buffer;

namespace qanat::bpf {

class Ring {
 public:
  using Handler = std::function<void(const void* record, size_t size)>;
  static Result<Ring> OpenPinned(const std::string& path, Handler handler);

  int fd() const;
  // Hands over all that is there; does not block.
  void Consume();

 private:
  struct Free {
    void operator()(ring_buffer* ring) const;
  };
  std::unique_ptr<Handler> handler_;  // the kernel's library keeps its address
  std::unique_ptr<ring_buffer, Free> ring_;
};

}  // namespace qanat::bpf
