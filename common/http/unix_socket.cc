// SPDX-License-Identifier: Apache-2.0
// Unix stream sockets for admin endpoints.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>

#include "common/http/client.h"

namespace qanat::http {
namespace {

Result<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Fail(Code::kInvalidArgument,
                "unix socket path \"" + path + "\" is empty or longer than 107 bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

Result<Fd> ConnectUnix(const std::string& path) {
  QANAT_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return FailErrno("socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    auto failed = FailErrno("connect to " + path);
    if (failed.value().code == Code::kIo) failed.value().code = Code::kUnavailable;
    return failed;
  }
  return fd;
}

Result<Fd> ListenUnix(const std::string& path, unsigned mode) {
  QANAT_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  if (ConnectUnix(path)) {
    return Fail(Code::kAlreadyExists, path + ": another process serves this socket");
  }
  struct stat info{};
  if (::lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) {
      return Fail(Code::kAlreadyExists, path + " exists and is not a socket");
    }
    ::unlink(path.c_str());
  }
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return FailErrno("socket");
  // The mode is set before anybody can connect: between bind() and chmod() nothing listens.
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return FailErrno("bind " + path);
  }
  if (::chmod(path.c_str(), mode) != 0) return FailErrno("chmod " + path);
  if (::listen(fd.get(), 128) != 0) return FailErrno("listen on " + path);
  return fd;
}

}  // namespace qanat::http
