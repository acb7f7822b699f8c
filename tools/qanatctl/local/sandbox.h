// SPDX-License-Identifier: Apache-2.0
// What a container sees: the machine's own file system under a throw-away writable layer (so mount
// points can be made and nothing stays behind), an empty /run, its volumes, its host name, and the
// default capabilities of a container instead of root's. Called in the child between fork and exec.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/result.h"

namespace qanat::local {

struct SandboxMount {
  std::string source;  // on the host
  std::string target;  // in the container
  bool read_only = false;
};

struct SandboxFile {
  std::string path;
  std::string content;
};

struct Sandbox {
  std::string scratch;  // an existing empty folder of the host; becomes a mount point in the child
  std::string hostname;
  std::string working_dir;
  std::vector<SandboxMount> mounts;
  std::vector<SandboxFile> files;
  std::optional<uint32_t> uid;
  std::optional<uint32_t> gid;
  std::vector<std::string> capabilities;  // added to the default set: "NET_ADMIN"
};

Status EnterSandbox(const Sandbox& sandbox);

// The capability numbers that a container keeps; unknown names are reported, not ignored.
Result<uint64_t> CapabilityMask(const std::vector<std::string>& added);

}  // namespace qanat::local
