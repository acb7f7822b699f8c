// SPDX-License-Identifier: Apache-2.0
// RAII over any skeleton that bpftool generates: open, set .rodata, load. Maps are shared through
// their pins: each map of the object that is not internal is pinned in `pin_dir` under its name, or
// reused from there.
#pragma once

#include <bpf/libbpf.h>

#include <cerrno>
#include <memory>
#include <string>

#include "common/base/result.h"

namespace qanat::bpf {

template <typename S>
class Skeleton {
 public:
  static Result<Skeleton> Open(const std::string& pin_dir) {
    Skeleton skeleton(S::open(nullptr));
    if (!skeleton.get()) return FailErrno("open BPF object");
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, skeleton->obj) {
      if (bpf_map__is_internal(map)) continue;
      const std::string path = pin_dir + "/" + bpf_map__name(map);
      if (bpf_map__set_pin_path(map, path.c_str()) != 0) return FailErrno("pin path " + path);
    }
    return skeleton;
  }

  // EINVAL and EPERM are explained by libbpf's own messages, which go to the log.
  Status Load() {
    const int result = S::load(skeleton_.get());
    if (result == -EROFS)
      return FailErrno("load BPF programs (the bpffs has become read-only: mount -o remount,rw)",
                       EROFS);
    if (result != 0) return FailErrno("load BPF programs", -result);
    return {};
  }

  S* operator->() const { return skeleton_.get(); }
  S* get() const { return skeleton_.get(); }

 private:
  struct Destroy {
    void operator()(S* s) const { S::destroy(s); }
  };
  explicit Skeleton(S* s) : skeleton_(s) {}
  std::unique_ptr<S, Destroy> skeleton_;
};

}  // namespace qanat::bpf
