// SPDX-License-Identifier: Apache-2.0
// How much memory there is and how much of it is used: limits of our cgroup and of those around it
// (v2: memory.max; v1: memory.limit_in_bytes), the machine where there is none. Reads /proc and
// /sys/fs/cgroup; main thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qanat::ztunnel {

class MemoryLimits {
 public:
  // `root` stands before every path: another tree in tests.
  explicit MemoryLimits(std::string root = "");

  // The budget when nobody says one: nine tenths of the smallest cgroup's limit, since the kernel
  // ends who reaches it; half of a machine that nobody has divided up.
  uint64_t Default() const;
  std::string Source() const;  // "cgroup /kubepods/x", "machine"

  // What counts against it: the process's resident memory and, where a cgroup is limited, the
  // kernel's memory that is charged there (socket buffers above all). Not what other processes of
  // that cgroup have: that is not ours to answer for.
  uint64_t Used() const;
  bool by_cgroup() const { return limit_.has_value(); }

 private:
  struct Limit {
    uint64_t bytes = 0;
    std::string cgroup, folder;  // its name; where its files are
    bool v1 = false;
  };
  void Look(const std::string& name, const std::string& folder, bool v1);

  std::string root_;
  std::optional<Limit> limit_;
};

}  // namespace qanat::ztunnel
