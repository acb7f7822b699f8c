// SPDX-License-Identifier: Apache-2.0
#include "agent/zds/proxy_user.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "bpf/user/mounts.h"
#include "common/base/fd.h"

namespace qanat::agent::zds {
namespace {

namespace fs = std::filesystem;

bool OnlySockets(const std::string& folder) {
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (!at->is_socket(error) && at->path().filename() != "dns") return false;
  }
  return !error;
}

}  // namespace

Status ProxyUser::Admit(const ucred& who) const {
  if (who.uid == 0) return {};
  const auto refuse = [&](const std::string& why) {
    return Fail(Code::kPermissionDenied, "user " + std::to_string(who.uid) + ":" +
                                             std::to_string(who.gid) + " may not be the proxy (" +
                                             why + ")");
  };
  if (!group && !user) return refuse("--zds-group, --zds-uid");
  if (group && who.gid != *group) return refuse("--zds-group");
  if (user && who.uid != *user) return refuse("--zds-uid");
  if (cgroup.empty()) return {};
  const auto its = bpf::CgroupOfProcess(who.pid);
  if (!its) return refuse(its.error().message);
  if (*its == cgroup || its->rfind(cgroup + "/", 0) == 0) return {};
  return refuse("its cgroup is " + *its + ", --zds-cgroup " + cgroup);
}

Status CloseSocketFolder(const std::string& path, std::optional<gid_t> group) {
  std::error_code error;
  fs::create_directories(path, error);
  const Fd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat is{};
  if (!folder || ::fstat(folder.get(), &is) != 0) return FailErrno("open " + path);
  if ((is.st_mode & 0777) == 0750 && is.st_gid == group.value_or(is.st_gid)) return {};
  if (!OnlySockets(path) || is.st_uid != ::geteuid())
    return Fail(Code::kFailedPrecondition,
                path +
                    " is not a folder of the agent's sockets alone and stays as it is: give "
                    "them one, which will be 0750 (--zds-socket, --hold-socket)");
  if ((group && ::fchown(folder.get(), static_cast<uid_t>(-1), *group) != 0) ||
      ::fchmod(folder.get(), 0750) != 0)
    return FailErrno("close " + path + " to all but root and its group");
  return {};
}

}  // namespace qanat::agent::zds
