// SPDX-License-Identifier: Apache-2.0
// The user and the capabilities. SYS_ADMIN is for setns() into the pods' namespaces (the filter
// lets nothing else of it through), NET_RAW for SO_MARK and transparent sockets. NET_ADMIN would do
// for these too; it is kept where somebody gives it, which our manifest does not.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <vector>

#include "common/base/fd.h"
#include "ztunnel/sandbox/sandbox.h"

namespace qanat::ztunnel::sandbox {
namespace {

constexpr int kKept[] = {CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN};

struct Capabilities {
  uint64_t effective = 0, permitted = 0, inheritable = 0;
};

Result<Capabilities> Read() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) != 0) return FailErrno("read the capabilities");
  return Capabilities{data[0].effective | static_cast<uint64_t>(data[1].effective) << 32,
                      data[0].permitted | static_cast<uint64_t>(data[1].permitted) << 32,
                      data[0].inheritable | static_cast<uint64_t>(data[1].inheritable) << 32};
}

Status Write(const Capabilities& capabilities) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  for (int i = 0; i < 2; ++i) {
    data[i].effective = static_cast<uint32_t>(capabilities.effective >> (32 * i));
    data[i].permitted = static_cast<uint32_t>(capabilities.permitted >> (32 * i));
    data[i].inheritable = static_cast<uint32_t>(capabilities.inheritable >> (32 * i));
  }
  if (syscall(SYS_capset, &header, data) != 0) return FailErrno("drop capabilities");
  return {};
}

uint64_t KeptMask() {
  uint64_t mask = 0;
  for (const int capability : kKept) mask |= uint64_t{1} << capability;
  return mask;
}
bool Has(uint64_t set, int capability) { return (set >> capability & 1) != 0; }

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
  QANAT_ASSIGN_OR_RETURN(Capabilities capabilities, Read());
  // The bounding set matters to execve() only, which the filter forbids: as far as it can be.
  if (Has(capabilities.effective, CAP_SETPCAP)) {
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
      if (!Has(KeptMask(), capability)) prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    }
  }
  if (run_as) QANAT_RETURN_IF_ERROR(Become(*run_as, capabilities.permitted));
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  capabilities.permitted &= KeptMask();
  capabilities.effective = capabilities.permitted;
  capabilities.inheritable = 0;
  return Write(capabilities);
}

Status SealProcess() {
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  // Not before the user has changed: that sets it anew.
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return FailErrno("forbid dumps of the process");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return FailErrno("forbid new privileges");
  return {};
}

std::string Describe() {
  std::string out =
      "user " + std::to_string(geteuid()) + ":" + std::to_string(getegid()) + ", capabilities";
  const auto capabilities = Read();
  const uint64_t has = capabilities ? capabilities->permitted : 0;
  const char* names[] = {"NET_ADMIN", "NET_RAW", "SYS_ADMIN"};
  for (size_t i = 0; i < std::size(kKept); ++i) {
    if (Has(has, kKept[i])) out.append(" ").append(names[i]);
  }
  if (has == 0) out += " none";
  return out;
}

}  // namespace qanat::ztunnel::sandbox
