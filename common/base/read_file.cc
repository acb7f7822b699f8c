// SPDX-License-Identifier: Apache-2.0
#include "common/base/read_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/base/fd.h"

namespace qanat {

Result<std::string> ReadFile(const std::string& path, size_t max_bytes, FileKind kind) {
  const bool regular = kind == FileKind::kRegular;
  const Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | (regular ? O_NONBLOCK : 0)));
  struct stat about{};
  if (!fd || fstat(fd.get(), &about) != 0) return FailErrno(path);
  if (regular && !S_ISREG(about.st_mode)) {
    return Fail(Code::kInvalidArgument, path + " is no file");
  }
  std::string out;
  for (;;) {
    const size_t have = out.size();
    // One byte more than there should be, to find the end without another round.
    const size_t room = std::max<size_t>(16384, static_cast<size_t>(about.st_size) + 1);
    if (have > max_bytes) {
      return Fail(Code::kInvalidArgument, path + ": over " + std::to_string(max_bytes) + " bytes");
    }
    out.resize(std::min(have + room, max_bytes + 1));
    const ssize_t n = read(fd.get(), out.data() + have, out.size() - have);
    const int error = errno;
    out.resize(have + static_cast<size_t>(std::max<ssize_t>(n, 0)));
    if (n < 0 && error == EINTR) continue;
    if (n < 0) return FailErrno(path, error);
    if (n == 0) return out;
  }
}

}  // namespace qanat
