// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/cgroup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>

#include <charconv>
#include <sstream>

#include "common/base/fd.h"
#include "tools/qanatctl/local/files.h"

namespace qanat::local {
namespace {

bool IsDir(const std::string& path) {
  struct stat info{};
  return lstat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

template <typename F>
void ForEachBelow(const std::string& path, F&& f) {  // children first
  for (const std::string& name : ListDir(path)) {
    if (IsDir(path + "/" + name)) ForEachBelow(path + "/" + name, f);
  }
  f(path);
}

Status WriteControl(const std::string& path, const std::string& text) {
  Fd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return FailErrno("open " + path);
  if (write(fd.get(), text.data(), text.size()) < 0) return FailErrno("write " + path);
  return {};
}

}  // namespace

Result<std::string> FindCgroup2() {
  QANAT_ASSIGN_OR_RETURN(const std::string text, ReadFile("/proc/self/mountinfo"));
  std::istringstream lines(text);
  std::string found;
  for (std::string line; std::getline(lines, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos || line.compare(dash + 3, 8, "cgroup2 ") != 0) continue;
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    // The whole hierarchy, not a subtree that some container mounted.
    if (root == "/" && (found.empty() || point.size() < found.size())) found = point;
  }
  if (found.empty()) {
    return Fail(Code::kFailedPrecondition,
                "no cgroup2 is mounted; mount one: mount -t cgroup2 none /sys/fs/cgroup/unified");
  }
  return found;
}

Status MakeCgroup(const std::string& path) { return MakeDirs(path); }

Status EnterCgroup(const std::string& path, pid_t pid) {
  return WriteControl(path + "/cgroup.procs", std::to_string(pid));
}

std::vector<pid_t> CgroupProcesses(const std::string& path) {
  std::vector<pid_t> out;
  ForEachBelow(path, [&](const std::string& dir) {
    Result<std::string> text = ReadFile(dir + "/cgroup.procs");
    if (!text) return;
    std::istringstream lines(*text);
    for (pid_t pid = 0; lines >> pid;) {
      if (pid > 0) out.push_back(pid);
    }
  });
  return out;
}

void SignalCgroup(const std::string& path, int signal) {
  for (pid_t pid : CgroupProcesses(path)) kill(pid, signal);
}

void KillCgroup(const std::string& path) {
  if (!Exists(path)) return;
  if (WriteControl(path + "/cgroup.kill", "1")) return;
  // Kernels before 5.14: repeat until a pass finds nobody, forks included.
  for (int i = 0; i < 20; ++i) {
    const std::vector<pid_t> pids = CgroupProcesses(path);
    if (pids.empty()) return;
    for (pid_t pid : pids) kill(pid, SIGKILL);
    usleep(5000);
  }
}

Status RemoveCgroup(const std::string& path, int wait_ms) {
  for (int waited = 0;; waited += 10) {
    int error = 0;
    std::string where;
    ForEachBelow(path, [&](const std::string& dir) {
      if (rmdir(dir.c_str()) != 0 && errno != ENOENT && error == 0) {
        error = errno;
        where = dir;
      }
    });
    if (error == 0) return {};
    if (error != EBUSY || waited >= wait_ms) return FailErrno("rmdir " + where, error);
    usleep(10000);
  }
}

}  // namespace qanat::local
