// SPDX-License-Identifier: Apache-2.0
#include "agent/sandbox/sandbox.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "common/sandbox/filter.h"
#include "common/sandbox/privileges.h"

namespace qanat::agent::sandbox {
namespace {

// What needs each: agent/README.md. SYS_ADMIN says BPF and PERFMON too.
constexpr qanat::sandbox::Capability kKept[] = {
    {CAP_NET_ADMIN, "NET_ADMIN"}, {CAP_SYS_PTRACE, "SYS_PTRACE"}, {CAP_SYS_ADMIN, "SYS_ADMIN"}};

constexpr int kOwn[] = {
    SYS_bpf,
    // The proxy's process and its listeners.
    SYS_pidfd_open,
    SYS_pidfd_getfd,
    // The node's folders by its own root; sockets that are opened to a group.
    SYS_openat2,
    SYS_fchown,
    SYS_fchownat,
    SYS_statfs,     // whether pins are on a bpffs
    SYS_utimensat,  // the installed plugin
#ifdef __x86_64__
    SYS_chown,
    SYS_rmdir,
#endif
};

Status JoinGroup(gid_t group) {
  const int count = getgroups(0, nullptr);
  if (count < 0) return FailErrno("read the groups");
  std::vector<gid_t> groups(static_cast<size_t>(count));
  if (getgroups(count, groups.data()) != count) return FailErrno("read the groups");
  if (getegid() == group || std::ranges::count(groups, group) > 0) return {};
  groups.push_back(group);
  // In a container without the right to, supplementalGroups gives it; the socket says so if not.
  if (setgroups(groups.size(), groups.data()) != 0 && errno != EPERM)
    return FailErrno("join group " + std::to_string(group) + " (--zds-group)");
  return {};
}

}  // namespace

Result<bool> IsOn(const GetEnvironment& get) {
  EnvironmentReader reader(get);
  bool on = true;
  if (const char* value = reader.Value("QANAT_SANDBOX")) {
    const std::string_view text = value;
    on = text == "on" || text == "true";
    if (!on && text != "off" && text != "false") reader.Bad("QANAT_SANDBOX", "on or off");
  }
  QANAT_RETURN_IF_ERROR(reader.status());
  return on;
}

Status Enter(std::optional<gid_t> group, log::Format format) {
  if (group) QANAT_RETURN_IF_ERROR(JoinGroup(*group));
  QANAT_ASSIGN_OR_RETURN(const auto has, qanat::sandbox::ReadCapabilities());
  if (qanat::sandbox::Has(has.effective, CAP_SETPCAP)) qanat::sandbox::BoundCapabilities(kKept);
  QANAT_RETURN_IF_ERROR(qanat::sandbox::KeepCapabilities(kKept));
  QANAT_RETURN_IF_ERROR(qanat::sandbox::SealProcess());
  return qanat::sandbox::InstallFilter({kOwn}, format);
}

std::span<const int> OwnCalls() { return kOwn; }

std::string Describe() { return qanat::sandbox::Describe(kKept); }

}  // namespace qanat::agent::sandbox
