// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/fence.h"

#include <bpf/bpf.h>

namespace qanat::bpf {

Result<Fence> Fence::Make() {
  Fence fence;
  fence.inner_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY, "qanat_fence_in", 4, 4, 1, nullptr));
  if (!fence.inner_) return FailErrno("create a BPF map");
  LIBBPF_OPTS(bpf_map_create_opts, options, .inner_map_fd = static_cast<__u32>(fence.inner_.get()));
  fence.outer_ = Fd(bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "qanat_fence", 4, 4, 1, &options));
  if (!fence.outer_) return FailErrno("create a BPF map of maps");
  return fence;
}

// The kernel promises it for every change of a map of maps (maybe_wait_bpf_programs), so that user
// space may reuse the map that it took out.
Status Fence::Wait() {
  const uint32_t slot = 0, inner = static_cast<uint32_t>(inner_.get());
  if (bpf_map_update_elem(outer_.get(), &slot, &inner, BPF_ANY) != 0)
    return FailErrno("update the BPF map of maps");
  return {};
}

}  // namespace qanat::bpf
