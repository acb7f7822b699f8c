// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/teardown.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>

#include <charconv>
#include <chrono>
#include <thread>

#include "tools/qanatctl/local/cgroup.h"
#include "tools/qanatctl/local/files.h"
#include "tools/qanatctl/local/network.h"

namespace qanat::local {
namespace {

constexpr char kPinRoot[] = "/sys/fs/bpf/qanat";

std::string CgroupPath(const Names& names) {
  auto mount = FindCgroup2();
  return mount ? *mount + "/" + names.CgroupRoot() : std::string();
}

// The supervisor is recognised by its place in the mesh's cgroup, not by a pid that may have been
// given to somebody else since.
std::vector<pid_t> SupervisorPids(const std::string& cgroup) {
  return CgroupProcesses(cgroup + "/supervisor");
}

void WaitUntilGone(const std::string& cgroup, std::chrono::milliseconds most) {
  const auto end = std::chrono::steady_clock::now() + most;
  while (std::chrono::steady_clock::now() < end && !CgroupProcesses(cgroup).empty()) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace

std::string Leftovers::ToString() const {
  return fmt::format("{} namespaces, {} pin folders, {} processes{}{}", namespaces.size(),
                     pins.size(), processes.size(), cgroup ? ", cgroups" : "",
                     run_dir ? ", run directory" : "");
}

Leftovers FindLeftovers(const Names& names) {
  Leftovers out;
  for (const std::string& name : ListDir("/run/netns")) {
    if (name.starts_with(names.NetnsPrefix())) out.namespaces.push_back(name);
  }
  for (const std::string& name : ListDir(kPinRoot)) {
    if (name.starts_with(names.BpfPrefix())) out.pins.push_back(name);
  }
  const std::string cgroup = CgroupPath(names);
  out.cgroup = !cgroup.empty() && Exists(cgroup);
  if (out.cgroup) out.processes = CgroupProcesses(cgroup);
  out.run_dir = Exists(names.RunDir());
  return out;
}

Status TakeDown(const Names& names, bool gentle) {
  const std::string cgroup = CgroupPath(names);
  if (!cgroup.empty() && Exists(cgroup)) {
    // The supervisor first, so that it restarts nothing of what ends next.
    for (pid_t pid : SupervisorPids(cgroup)) kill(pid, gentle ? SIGTERM : SIGKILL);
    WaitUntilGone(cgroup + "/supervisor", std::chrono::seconds(1));
    for (pid_t pid : SupervisorPids(cgroup)) kill(pid, SIGKILL);
    if (gentle) {
      SignalCgroup(cgroup, SIGTERM);
      WaitUntilGone(cgroup, std::chrono::milliseconds(1500));
    }
    KillCgroup(cgroup);
    WaitUntilGone(cgroup, std::chrono::seconds(5));
  }
  Status first;
  const auto keep = [&](Status status) {
    if (!status && first) first = std::move(status);
  };
  for (const std::string& name : ListDir("/run/netns")) {
    if (name.starts_with(names.NetnsPrefix())) keep(RemoveNamedNetns(name));
  }
  for (const std::string& name : ListDir(kPinRoot)) {
    if (name.starts_with(names.BpfPrefix())) keep(RemoveTree(std::string(kPinRoot) + "/" + name));
  }
  if (Exists(kPinRoot) && ListDir(kPinRoot).empty()) rmdir(kPinRoot);
  if (!cgroup.empty() && Exists(cgroup)) keep(RemoveCgroup(cgroup, 5000));
  keep(RemoveTree(names.RunDir()));
  if (Exists("/run/qanat") && ListDir("/run/qanat").empty()) rmdir("/run/qanat");
  return first;
}

std::vector<std::string> KnownMeshes() { return ListDir("/run/qanat"); }

}  // namespace qanat::local
