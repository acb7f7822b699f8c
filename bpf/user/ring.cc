// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/ring.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "common/base/fd.h"

namespace qanat::bpf {

void Ring::Free::operator()(ring_buffer* ring) const { ring_buffer__free(ring); }

Result<Ring> Ring::OpenPinned(const std::string& path, Handler handler) {
  Fd fd(bpf_obj_get(path.c_str()));
  if (!fd) return FailErrno("open the BPF ring buffer " + path);
  Ring ring;
  ring.handler_ = std::make_unique<Handler>(std::move(handler));
  const auto take = [](void* context, void* record, size_t size) {
    (*static_cast<Handler*>(context))(record, size);
    return 0;
  };
  ring.ring_.reset(ring_buffer__new(fd.get(), take, ring.handler_.get(), nullptr));
  if (!ring.ring_) return FailErrno("map the BPF ring buffer " + path);
  return ring;
}

int Ring::fd() const { return ring_buffer__epoll_fd(ring_.get()); }

void Ring::Consume() { ring_buffer__consume(ring_.get()); }

}  // namespace qanat::bpf
