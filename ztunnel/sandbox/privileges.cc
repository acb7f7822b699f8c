// SPDX-License-Identifier: Apache-2.0
// The user and the capabilities. SYS_ADMIN is for setns() into the pods' namespaces (the filter
// lets nothing else of it through), NET_RAW for SO_MARK and transparent sockets. NET_ADMIN would do
// for these too; it is kept where somebody gives it, which our manifest does not.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <vector>

#include "common/base/fd.h"
#include "common/sandbox/privileges.h"
#include "ztunnel/sandbox/sandbox.h"

namespace qanat::ztunnel::sandbox {
namespace {

using qanat::sandbox::Has;

constexpr qanat::sandbox::Capability kKept[] = {
    {CAP_NET_ADMIN, "NET_ADMIN"}, {CAP_NET_RAW, "NET_RAW"}, {CAP_SYS_ADMIN, "SYS_ADMIN"}};

// Files are reached through the groups (a token that the kubelet made readable for one), so they
// stay; root's own would lend its files.
Status LeaveRootsGroup() {
  const int count = getgroups(0, nullptr);
  if (count < 0) return FailErrno("read the groups");
  std::vector<gid_t> groups(static_cast<size_t>(count));
  if (getgroups(count, groups.data()) != count) return FailErrno("read the groups");
  if (std::erase(groups, gid_t{0}) == 0) return {};
  if (setgroups(groups.size(), groups.data()) != 0) return FailErrno("leave root's group");
  return {};
}

Status Become(const User& user, uint64_t permitted) {
  if (geteuid() == user.uid && getuid() == user.uid && getegid() == user.gid) return {};
  const std::string to = std::to_string(user.uid) + ":" + std::to_string(user.gid);
  if (Has(permitted, CAP_SETGID)) QANAT_RETURN_IF_ERROR(LeaveRootsGroup());
  if ((getegid() != user.gid || getgid() != user.gid) &&
      setresgid(user.gid, user.gid, user.gid) != 0) {
    return FailErrno("become group " + to + " (QANAT_RUN_AS; needs CAP_SETGID, or runAsGroup)");
  }
  if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return FailErrno("keep capabilities");
  if (setresuid(user.uid, user.uid, user.uid) != 0) {
    return FailErrno("become user " + to + " (QANAT_RUN_AS; needs CAP_SETUID)");
  }
  prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
  return {};
}

template <typename Id>
bool ParseId(std::string_view text, Id& out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size() && out != static_cast<Id>(-1);
}

}  // namespace

Result<User> ParseUser(std::string_view text) {
  User user;
  const size_t colon = text.find(':');
  const std::string_view group = colon == text.npos ? text : text.substr(colon + 1);
  if (!ParseId(text.substr(0, colon), user.uid) || !ParseId(group, user.gid)) {
    return Fail(Code::kInvalidArgument,
                "\"" + std::string(text) + "\" is not UID or UID:GID in numbers");
  }
  return user;
}

namespace {

bool IsEmpty(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_empty(path, error) && !error;
}

}  // namespace

Status LendFolder(const std::string& path, const User& to) {
  const Fd folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat about{};
  if (!folder || fstat(folder.get(), &about) != 0) {
    if (errno == ENOENT) return {};  // made when it is needed, or said then
    return FailErrno("open " + path);
  }
  if (about.st_uid == to.uid) return {};
  // A folder of everybody's (/tmp), or one that others use (/run), is not given away.
  const bool ours =
      (about.st_mode & (S_ISVTX | S_IWOTH)) == 0 && (about.st_gid == to.gid || IsEmpty(path));
  if (ours && about.st_uid == geteuid() &&
      (about.st_gid == to.gid || fchown(folder.get(), static_cast<uid_t>(-1), to.gid) == 0) &&
      fchmod(folder.get(), 0770) == 0) {
    return {};
  }
  return Fail(Code::kPermissionDenied, "user " + std::to_string(to.uid) + " cannot write in " +
                                           path +
                                           ": give it a folder of its own there (or, for root's "
                                           "folders, give the container the group " +
                                           std::to_string(to.gid) + " with runAsGroup)");
}

Status DropPrivileges(const std::optional<User>& run_as) {
  QANAT_ASSIGN_OR_RETURN(const auto capabilities, qanat::sandbox::ReadCapabilities());
  if (Has(capabilities.effective, CAP_SETPCAP)) qanat::sandbox::BoundCapabilities(kKept);
  if (run_as) QANAT_RETURN_IF_ERROR(Become(*run_as, capabilities.permitted));
  return qanat::sandbox::KeepCapabilities(kKept);
}

std::string Describe() { return qanat::sandbox::Describe(kKept); }

}  // namespace qanat::ztunnel::sandbox
