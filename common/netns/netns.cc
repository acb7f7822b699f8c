// SPDX-License-Identifier: Apache-2.0
#include "common/netns/netns.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace qanat::netns {
namespace {

constexpr int kSoNetnsCookie = 71;  // SO_NETNS_COOKIE, Linux 5.14

}  // namespace

Result<NetNs> NetNs::FromFd(Fd fd) {
  int type = ioctl(fd.get(), NS_GET_NSTYPE);
  if (type < 0) return FailErrno("not a namespace file");
  if (type != CLONE_NEWNET) {
    return Fail(Code::kInvalidArgument, "the file is a namespace, but not a network namespace");
  }
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return FailErrno("fstat of a network namespace");
  return NetNs(std::move(fd), Id{info.st_dev, info.st_ino});
}

Result<NetNs> NetNs::Open(const std::string& path) {
  Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return FailErrno("open network namespace " + path);
  auto result = FromFd(std::move(fd));
  if (!result) return Fail(result.error().Annotate(path));
  return result;
}

Result<NetNs> NetNs::Current() { return Open("/proc/thread-self/ns/net"); }

Result<NetNs> NetNs::Duplicate() const {
  Fd copy(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return FailErrno("duplicate a network namespace fd");
  return NetNs(std::move(copy), id_);
}

Result<uint64_t> OwnCookie() {
  uint64_t cookie = 0;
  Fd probe(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!probe) return FailErrno("socket for the namespace cookie");
  socklen_t size = sizeof cookie;
  if (getsockopt(probe.get(), SOL_SOCKET, kSoNetnsCookie, &cookie, &size) != 0) {
    return FailErrno("SO_NETNS_COOKIE (needs Linux 5.14)");
  }
  return cookie;
}

Result<uint64_t> NetNs::Cookie() const {
  Result<uint64_t> cookie = uint64_t{0};
  QANAT_RETURN_IF_ERROR(Run([&]() -> Status {
    cookie = OwnCookie();
    return {};
  }));
  return cookie;
}

Status NetNs::Run(const std::function<Status()>& action) const {
  // Opened once a thread: it costs more than the two setns(), and a new connection pays it. Nobody
  // else moves threads between namespaces.
  thread_local Fd home;
  thread_local int present = -1;  // of an outer Run of this thread
  if (!home) {
    home = Fd(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!home) return FailErrno("open this thread's network namespace");
  }
  if (setns(fd_.get(), CLONE_NEWNET) != 0) {
    return FailErrno("enter a network namespace (needs CAP_SYS_ADMIN)");
  }
  const int back = present >= 0 ? present : home.get();
  const int outer = std::exchange(present, fd_.get());
  Status status = action();
  present = outer;
  if (setns(back, CLONE_NEWNET) != 0) {
    std::perror("cannot leave a pod's network namespace");
    std::abort();
  }
  return status;
}

}  // namespace qanat::netns
