// SPDX-License-Identifier: Apache-2.0
#include "agent/files/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "common/base/fd.h"

namespace qanat::agent {

Status WriteFileAtomically(const std::string& path, std::string_view content,
                           const WriteOptions& options) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash);
  const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  // A name that begins with a dot and ends in .new: nobody who reads the folder takes it for his.
  const std::string temporary = folder + "/." + name + ".new";
  ::unlink(temporary.c_str());
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return FailErrno("create " + temporary);
  auto fail = [&](const std::string& what) {
    auto failed = FailErrno(what);
    ::unlink(temporary.c_str());
    return failed;
  };
  while (!content.empty()) {
    const ssize_t n = ::write(fd.get(), content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail("write " + temporary);
    content.remove_prefix(static_cast<size_t>(n));
  }
  if (::fchmod(fd.get(), options.mode) != 0) return fail("chmod " + temporary);
  if (options.durable && ::fsync(fd.get()) != 0) return fail("fsync " + temporary);
  fd.Reset();
  if (::rename(temporary.c_str(), path.c_str()) != 0) return fail("rename to " + path);
  if (options.durable) {
    Fd dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (dir) (void)::fsync(dir.get());
  }
  return {};
}

Result<std::string> ReadFile(const std::string& path, size_t max) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    const int error = errno;
    if (error == ENOENT) return Fail(Code::kNotFound, path + " does not exist");
    return FailErrno("open " + path, error);
  }
  std::string content;
  char buffer[64 * 1024];
  while (true) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FailErrno("read " + path);
    if (n == 0) return content;
    if (content.size() + static_cast<size_t>(n) > max)
      return Fail(Code::kResourceExhausted,
                  path + " is longer than " + std::to_string(max) + " bytes");
    content.append(buffer, static_cast<size_t>(n));
  }
}

Status RemoveFile(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return FailErrno("remove " + path);
  return {};
}

}  // namespace qanat::agent
