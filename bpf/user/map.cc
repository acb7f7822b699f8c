// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/map.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <cerrno>

namespace qanat::bpf {

Result<Fd> OpenPinnedMap(const std::string& path, size_t key_size, size_t value_size) {
  Fd fd(bpf_obj_get(path.c_str()));
  if (!fd) return FailErrno("open pinned map " + path);
  bpf_map_info info{};
  uint32_t length = sizeof info;
  if (bpf_obj_get_info_by_fd(fd.get(), &info, &length) != 0) return FailErrno("map info " + path);
  if (info.key_size != key_size || info.value_size != value_size)
    return Fail(
        Code::kFailedPrecondition,
        fmt::format("{}: key/value sizes are {}/{}, this program wants {}/{}: it was pinned "
                    "by another version; drain the node and run qanat-agent --cleanup",
                    path, info.key_size, info.value_size, key_size, value_size));
  return fd;
}

Result<bool> LookupRaw(int fd, const void* key, void* value) {
  if (bpf_map_lookup_elem(fd, key, value) == 0) return true;
  if (errno == ENOENT) return false;
  return FailErrno("map lookup");
}

Status UpdateRaw(int fd, const void* key, const void* value, uint64_t flags) {
  if (bpf_map_update_elem(fd, key, value, flags) == 0) return {};
  if (errno != E2BIG) return FailErrno("map update");
  bpf_map_info info{};
  uint32_t length = sizeof info;
  (void)bpf_obj_get_info_by_fd(fd, &info, &length);
  return Fail(Code::kResourceExhausted, fmt::format("map {} is full: all its {} entries are taken",
                                                    info.name, info.max_entries));
}

Result<bool> EraseRaw(int fd, const void* key) {
  if (bpf_map_delete_elem(fd, key) == 0) return true;
  if (errno == ENOENT || errno == EINVAL) return false;  // EINVAL: an empty SOCKMAP slot
  return FailErrno("map delete");
}

bool NextKeyRaw(int fd, const void* key, void* next) {
  return bpf_map_get_next_key(fd, key, next) == 0;
}

int PossibleCpus() { return libbpf_num_possible_cpus(); }

}  // namespace qanat::bpf
