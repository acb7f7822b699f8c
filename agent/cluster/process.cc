// SPDX-License-Identifier: Apache-2.0
#include "agent/cluster/process.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>

#include "common/base/fd.h"

#ifndef CLONE_NEWCGROUP
#define CLONE_NEWCGROUP 0x02000000
#endif

namespace qanat::agent {

Status EnterNodesCgroupNamespace() {
  struct stat own{}, first{};
  if (::stat("/proc/self/ns/cgroup", &own) != 0) return FailErrno("/proc/self/ns/cgroup");
  if (::stat("/proc/1/ns/cgroup", &first) != 0)
    return FailErrno(
        "/proc/1/ns/cgroup (the agent needs hostPID: true and the capability SYS_PTRACE)");
  if (own.st_ino == first.st_ino) return {};
  Fd ns(::open("/proc/1/ns/cgroup", O_RDONLY | O_CLOEXEC));
  if (!ns) return FailErrno("open /proc/1/ns/cgroup (the agent needs the capability SYS_PTRACE)");
  if (::setns(ns.get(), CLONE_NEWCGROUP) != 0)
    return FailErrno("enter the node's control group namespace (needs the capability SYS_ADMIN)");
  return {};
}

Status MakeProcSysWritable() {
  const char* file = "/proc/sys/net/ipv4/tcp_fwmark_accept";
  auto writable = [&] { return Fd(::open(file, O_WRONLY | O_CLOEXEC)).valid(); };
  if (writable()) return {};
  if (errno != EROFS) return FailErrno(std::string("open ") + file);
  if (::mount(nullptr, "/proc/sys", nullptr, MS_REMOUNT | MS_BIND, nullptr) != 0 || !writable())
    return FailErrno(
        "make /proc/sys writable (needs the capability SYS_ADMIN, and an AppArmor profile that "
        "allows mount: unconfined)");
  return {};
}

Status CheckNetworkRights() {
  // What only this capability may do, and what nothing comes of: a socket that is closed again.
  const Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd) return FailErrno("make a socket");
  const int bytes = 4096;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0)
    return FailErrno(
        "rules and routes of pods cannot be changed (the agent needs the capability NET_ADMIN)");
  return {};
}

Status CheckBpfFs(const std::string& root) {
  constexpr long kBpfFsMagic = 0xcafe4a11;
  struct statfs s{};
  if (::statfs(root.c_str(), &s) != 0) return FailErrno(root);
  if (static_cast<long>(s.f_type) != kBpfFsMagic)
    return Fail(Code::kFailedPrecondition,
                root + " is not the node's bpffs: mount it here (hostPath " + root +
                    "), and on the node if it has none (mount -t bpf bpf " + root + ")");
  return {};
}

void RemoveNodeFolder(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == path.size()) return;
  Fd root(::open("/proc/1/root", O_PATH | O_DIRECTORY | O_CLOEXEC));
  // On the way there may be absolute symbolic links (/var/run): the node's root is meant, not ours.
  open_how how{};
  how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT;
  const std::string parent = path.substr(1, slash - 1);
  Fd folder(static_cast<int>(::syscall(SYS_openat2, root.get(), parent.c_str(), &how, sizeof how)));
  if (folder) (void)::unlinkat(folder.get(), path.c_str() + slash + 1, AT_REMOVEDIR);
}

}  // namespace qanat::agent
