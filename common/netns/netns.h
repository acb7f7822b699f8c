// SPDX-License-Identifier: Apache-2.0
// A network namespace held by its fd, and the only place that calls setns(). Who an end of a
// connection is comes from its namespace, so namespaces are compared by inode and by cookie (the
// kernel never reuses a cookie).
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/base/fd.h"
#include "common/base/result.h"

namespace qanat::netns {

struct Id {  // st_dev and st_ino of the namespace file
  uint64_t device = 0;
  uint64_t inode = 0;
  auto operator<=>(const Id&) const = default;
};

class NetNs {
 public:
  static Result<NetNs> FromFd(Fd fd);  // takes it; fails unless it is a network namespace
  static Result<NetNs> Open(const std::string& path);
  static Result<NetNs> Current();

  int fd() const { return fd_.get(); }
  const Id& id() const { return id_; }
  Result<uint64_t> Cookie() const;  // SO_NETNS_COOKIE of a socket made inside
  Result<NetNs> Duplicate() const;

  // Runs `action` with this thread inside the namespace and comes back; may be nested. If coming
  // back fails the process aborts: a thread in a wrong namespace must not go on. A thread's own
  // namespace is the one of its first call: it must not be changed by other means after that.
  Status Run(const std::function<Status()>& action) const;

 private:
  NetNs(Fd fd, Id id) : fd_(std::move(fd)), id_(id) {}
  Fd fd_;
  Id id_;
};

// SO_NETNS_COOKIE of the calling thread's namespace; needs no rights.
Result<uint64_t> OwnCookie();

}  // namespace qanat::netns
