// SPDX-License-Identifier: Apache-2.0
#include "bpf/user/mounts.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace qanat::bpf {
namespace {

constexpr long kBpfFsMagic = 0xcafe4a11;

std::string Unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    auto digit = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '7'; };
    if (text[i] == '\\' && digit(i + 1) && digit(i + 2) && digit(i + 3)) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                               (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

bool OnBpfFs(const std::string& dir) {
  struct statfs s{};
  return ::statfs(dir.c_str(), &s) == 0 && static_cast<long>(s.f_type) == kBpfFsMagic;
}

tl::unexpected<Error> ReadOnly(const std::string& dir) {
  return Fail(Code::kFailedPrecondition,
              "the bpffs of " + dir +
                  " is mounted read-only, pins cannot be made: mount -o remount,rw it (in a "
                  "container: the hostPath volume without readOnly)");
}

}  // namespace

std::vector<Mount> ParseMountInfo(std::string_view text) {
  std::vector<Mount> mounts;
  std::istringstream lines{std::string(text)};
  std::string line;
  while (std::getline(lines, line)) {
    // 36 35 98:0 ROOT POINT options [tags...] - TYPE source super-options
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream head(line.substr(0, dash)), tail(line.substr(dash + 3));
    std::string id, parent, device;
    Mount mount;
    if (!(head >> id >> parent >> device >> mount.root >> mount.point)) continue;
    if (!(tail >> mount.type)) continue;
    mount.root = Unescape(mount.root);
    mount.point = Unescape(mount.point);
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

Result<std::string> FindCgroup2() {
  std::string partial;
  for (const Mount& mount : ParseMountInfo(ReadFile("/proc/self/mountinfo"))) {
    if (mount.type != "cgroup2") continue;
    if (mount.root == "/") return mount.point;
    partial = mount.point;
  }
  if (!partial.empty()) return partial;
  return Fail(Code::kFailedPrecondition,
              "no cgroup2 in /proc/self/mountinfo: mount the host's (in a container: a hostPath "
              "volume of /sys/fs/cgroup), or give --cgroup-root");
}

Status EnsureBpfDir(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (!error && OnBpfFs(dir)) {
    struct statvfs s{};
    if (::statvfs(dir.c_str(), &s) == 0 && (s.f_flag & ST_RDONLY)) return ReadOnly(dir);
    return {};
  }
  const std::string root = "/sys/fs/bpf";
  if (dir.rfind(root, 0) == 0 && !OnBpfFs(root)) {
    if (::mount("bpf", root.c_str(), "bpf", 0, nullptr) != 0)
      return FailErrno("mount a bpffs at " + root + " (needs CAP_SYS_ADMIN)");
    error.clear();
    std::filesystem::create_directories(dir, error);
  }
  if (error == std::errc::read_only_file_system) return ReadOnly(dir);
  if (error)
    return Fail(Code::kIo, "create " + dir + ": " + error.message() +
                               " (names on a bpffs may not contain dots)");
  if (!OnBpfFs(dir))
    return Fail(Code::kFailedPrecondition, dir + " is not on a bpffs: pins would not survive");
  return {};
}

Result<uint64_t> CgroupId(const std::string& dir) {
  struct stat s{};
  if (::stat(dir.c_str(), &s) != 0) return FailErrno("cgroup " + dir);
  return static_cast<uint64_t>(s.st_ino);
}

Result<std::string> CgroupOfProcess(int pid) {
  std::istringstream lines(ReadFile("/proc/" + std::to_string(pid) + "/cgroup"));
  std::string line;
  while (std::getline(lines, line))
    if (line.rfind("0::", 0) == 0) return line.substr(3);
  return Fail(Code::kNotFound,
              "process " + std::to_string(pid) + " is in no cgroup2 (is it gone?)");
}

}  // namespace qanat::bpf
