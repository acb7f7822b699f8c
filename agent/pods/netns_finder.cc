// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/netns_finder.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>

#include "agent/files/files.h"
#include "agent/pods/pod_cgroup.h"

namespace qanat::agent {
namespace {

namespace fs = std::filesystem;

bool IsNumber(const std::string& name) {
  return !name.empty() && name.find_first_not_of("0123456789") == std::string::npos;
}

// Field 22 of /proc/PID/stat; the program's name before it may contain anything but ends with the
// last ')'.
uint64_t StartTime(const std::string& stat) {
  size_t at = stat.rfind(')');
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = stat.find(' ', at + 1);
  return at == std::string::npos ? UINT64_MAX : std::strtoull(stat.c_str() + at, nullptr, 10);
}

struct Oldest {
  uint64_t start = UINT64_MAX;
  FoundNetns found;
};

}  // namespace

Result<netns::Id> NetnsIdOf(const std::string& path) {
  struct stat s{};
  if (::stat(path.c_str(), &s) != 0) return FailErrno("network namespace " + path);
  return netns::Id{s.st_dev, s.st_ino};
}

Result<std::map<std::string, FoundNetns>> FindNetns(const std::set<std::string>& uids,
                                                    const NetnsFinderOptions& options) {
  std::map<std::string, FoundNetns> out;
  if (uids.empty()) return out;
  QANAT_ASSIGN_OR_RETURN(const netns::Id own, NetnsIdOf(options.proc + "/self/ns/net"));
  std::map<std::string, Oldest> oldest;
  std::error_code error;
  bool hidden = false;
  for (fs::directory_iterator it(options.proc, error), end; !error && it != end;
       it.increment(error)) {
    const std::string pid = it->path().filename().string();
    if (!IsNumber(pid)) continue;
    auto cgroup = ReadFile(it->path().string() + "/cgroup", 1 << 16);
    if (!cgroup) continue;
    const std::string uid = PodUidOfProcCgroup(*cgroup);
    if (uid.empty() || !uids.count(uid)) continue;
    const std::string path = it->path().string() + "/ns/net";
    auto id = NetnsIdOf(path);
    if (!id) {
      hidden |= id.error().sys_errno == EACCES || id.error().sys_errno == EPERM;
      continue;
    }
    if (*id == own) continue;
    auto stat = ReadFile(it->path().string() + "/stat", 1 << 16);
    const uint64_t start = stat ? StartTime(*stat) : UINT64_MAX;
    Oldest& best = oldest[uid];
    if (best.found.path.empty() || start < best.start) best = {start, {path, *id}};
  }
  if (error) return Fail(Code::kIo, "read " + options.proc + ": " + error.message());
  if (oldest.empty() && hidden)
    return Fail(Code::kPermissionDenied, "pods' network namespaces cannot be seen below " +
                                             options.proc + ": the agent needs CAP_SYS_PTRACE");
  if (oldest.empty()) return out;
  std::map<netns::Id, std::string> named;
  for (const std::string& dir : options.netns_dirs) {
    std::error_code ignored;
    for (fs::directory_iterator it(dir, ignored), end; !ignored && it != end; it.increment(ignored))
      if (auto id = NetnsIdOf(it->path().string())) named.emplace(*id, it->path().string());
  }
  for (auto& [uid, best] : oldest) {
    auto name = named.find(best.found.id);
    if (name != named.end()) best.found.path = name->second;
    out.emplace(uid, std::move(best.found));
  }
  return out;
}

}  // namespace qanat::agent
