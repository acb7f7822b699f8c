// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/sandbox.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "common/base/fd.h"
#include "tools/qanatctl/local/files.h"

namespace qanat::local {
namespace {

// The default capabilities of containerd and docker.
constexpr int kDefaultCaps[] = {CAP_CHOWN,   CAP_DAC_OVERRIDE, CAP_FSETID,           CAP_FOWNER,
                                CAP_MKNOD,   CAP_NET_RAW,      CAP_SETGID,           CAP_SETUID,
                                CAP_SETFCAP, CAP_SETPCAP,      CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT,
                                CAP_KILL,    CAP_AUDIT_WRITE};

const std::map<std::string, int>& NamedCaps() {
  static const std::map<std::string, int> names = {{"NET_ADMIN", CAP_NET_ADMIN},
                                                   {"SYS_ADMIN", CAP_SYS_ADMIN},
                                                   {"SYS_PTRACE", CAP_SYS_PTRACE},
                                                   {"SYS_TIME", CAP_SYS_TIME},
                                                   {"SYS_NICE", CAP_SYS_NICE},
                                                   {"SYS_RESOURCE", CAP_SYS_RESOURCE},
                                                   {"IPC_LOCK", CAP_IPC_LOCK},
                                                   {"NET_RAW", CAP_NET_RAW},
                                                   {"NET_BIND_SERVICE", CAP_NET_BIND_SERVICE},
                                                   {"BPF", CAP_BPF},
                                                   {"PERFMON", CAP_PERFMON}};
  return names;
}

struct ClonedMount {
  Fd tree;
  std::string target;
  bool directory = true;
  bool read_only = false;
};

Result<ClonedMount> Clone(const std::string& source, const std::string& target, bool recursive,
                          bool read_only) {
  struct stat info{};
  if (stat(source.c_str(), &info) != 0) return FailErrno("volume source " + source);
  const unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0U);
  Fd tree(open_tree(AT_FDCWD, source.c_str(), flags));
  if (!tree) return FailErrno("clone the mount of " + source);
  return ClonedMount{std::move(tree), target, S_ISDIR(info.st_mode), read_only};
}

// The mounts directly below "/": each takes its own submounts along. /run is replaced, not cloned.
std::vector<std::string> TopMounts() {
  std::vector<std::string> points;
  std::istringstream lines(ReadFile("/proc/self/mountinfo").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    if (point.size() > 1 && point != "/run" && !point.starts_with("/run/") &&
        point.find('\\') == std::string::npos) {
      points.push_back(point);
    }
  }
  std::sort(points.begin(), points.end());
  std::vector<std::string> out;
  for (const std::string& point : points) {
    if (!out.empty() && (point == out.back() || point.starts_with(out.back() + "/"))) continue;
    out.push_back(point);
  }
  return out;
}

Status MountPoint(const ClonedMount& mount) {
  if (mount.directory) return MakeDirs(mount.target);
  const size_t slash = mount.target.rfind('/');
  if (slash != std::string::npos && slash > 0) {
    QANAT_RETURN_IF_ERROR(MakeDirs(mount.target.substr(0, slash)));
  }
  if (Exists(mount.target)) return {};
  return WriteFile(mount.target, "");
}

Status Attach(const ClonedMount& mount) {
  QANAT_RETURN_IF_ERROR(MountPoint(mount));
  if (move_mount(mount.tree.get(), "", AT_FDCWD, mount.target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) !=
      0) {
    return FailErrno("mount at " + mount.target);
  }
  if (mount.read_only && ::mount(nullptr, mount.target.c_str(), nullptr,
                                 MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) != 0) {
    return FailErrno("make read-only " + mount.target);
  }
  return {};
}

Status MakeRoot(const Sandbox& sandbox) {
  if (unshare(CLONE_NEWNS | CLONE_NEWUTS) != 0) return FailErrno("unshare mount namespace");
  // Slave, not private: a network namespace removed on the host must not stay pinned by our copy.
  if (mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) {
    return FailErrno("make mounts slaves");
  }
  std::vector<ClonedMount> mounts;
  for (const std::string& point : TopMounts()) {
    Result<ClonedMount> cloned = Clone(point, point, true, false);
    if (cloned) mounts.push_back(std::move(*cloned));  // a dead mount of the host is not our matter
  }
  std::vector<ClonedMount> volumes;
  for (const SandboxMount& wanted : sandbox.mounts) {
    QANAT_ASSIGN_OR_RETURN(auto cloned,
                           Clone(wanted.source, wanted.target, true, wanted.read_only));
    volumes.push_back(std::move(cloned));
  }
  if (mount("tmpfs", sandbox.scratch.c_str(), "tmpfs", 0, "mode=0755") != 0) {
    return FailErrno("tmpfs for the writable layer");
  }
  for (const char* folder : {"/upper", "/work", "/root"}) {
    QANAT_RETURN_IF_ERROR(MakeDirs(sandbox.scratch + folder));
  }
  const std::string root = sandbox.scratch + "/root";
  const std::string options =
      fmt::format("lowerdir=/,upperdir={0}/upper,workdir={0}/work", sandbox.scratch);
  if (mount("overlay", root.c_str(), "overlay", 0, options.c_str()) != 0) {
    return FailErrno("overlay file system over / (the kernel needs overlayfs)");
  }
  if (chroot(root.c_str()) != 0 || chdir("/") != 0) return FailErrno("enter the container's root");
  for (const ClonedMount& mount : mounts) QANAT_RETURN_IF_ERROR(Attach(mount));
  QANAT_RETURN_IF_ERROR(MakeDirs("/run"));
  if (mount("tmpfs", "/run", "tmpfs", 0, "mode=0755") != 0) return FailErrno("tmpfs on /run");
  for (const ClonedMount& volume : volumes) QANAT_RETURN_IF_ERROR(Attach(volume));
  for (const SandboxFile& file : sandbox.files) {
    // The old one may be a link to somewhere; WriteFile replaces the name itself.
    QANAT_RETURN_IF_ERROR(WriteFile(file.path, file.content));
  }
  return {};
}

Status DropCapabilities(uint64_t keep, bool root) {
  for (int cap = 0; cap < 64; ++cap) {
    if ((keep >> cap & 1) != 0) continue;
    if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno == EINVAL) break;  // past the last one
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (!root) return {};  // setuid() has taken the permitted set already
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  data[0].effective = data[0].permitted = static_cast<uint32_t>(keep);
  data[1].effective = data[1].permitted = static_cast<uint32_t>(keep >> 32);
  if (syscall(SYS_capset, &header, data) != 0) return FailErrno("drop capabilities");
  return {};
}

}  // namespace

Result<uint64_t> CapabilityMask(const std::vector<std::string>& added) {
  uint64_t mask = 0;
  for (int cap : kDefaultCaps) mask |= 1ULL << cap;
  for (std::string name : added) {
    if (name.starts_with("CAP_")) name = name.substr(4);
    if (name == "ALL") return ~0ULL;
    auto it = NamedCaps().find(name);
    if (it == NamedCaps().end()) {
      return Fail(Code::kInvalidArgument,
                  fmt::format("securityContext.capabilities.add: '{}' is not known here", name));
    }
    mask |= 1ULL << it->second;
  }
  return mask;
}

Status EnterSandbox(const Sandbox& sandbox) {
  QANAT_ASSIGN_OR_RETURN(const uint64_t keep, CapabilityMask(sandbox.capabilities));
  umask(022);
  QANAT_RETURN_IF_ERROR(MakeRoot(sandbox));
  if (sethostname(sandbox.hostname.data(), std::min<size_t>(sandbox.hostname.size(), 63)) != 0) {
    return FailErrno("sethostname");
  }
  if (!sandbox.working_dir.empty()) {
    QANAT_RETURN_IF_ERROR(MakeDirs(sandbox.working_dir));
    if (chdir(sandbox.working_dir.c_str()) != 0) return FailErrno("chdir " + sandbox.working_dir);
  }
  const bool root = !sandbox.uid || *sandbox.uid == 0;
  if (sandbox.gid && (setgroups(0, nullptr) != 0 || setgid(*sandbox.gid) != 0)) {
    return FailErrno("runAsGroup");
  }
  // The bounding set can only be lowered while we may; the permitted set goes with the uid.
  if (!root) {
    QANAT_RETURN_IF_ERROR(DropCapabilities(keep, false));
    if (setuid(*sandbox.uid) != 0) return FailErrno("runAsUser");
    return {};
  }
  return DropCapabilities(keep, true);
}

}  // namespace qanat::local
