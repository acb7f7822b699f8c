// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/memory/limit.h"

#include <unistd.h>

#include <charconv>
#include <fstream>
#include <sstream>

namespace qanat::ztunnel {
namespace {

// cgroup v1 says "no limit" by the largest number of whole pages.
constexpr uint64_t kUnlimited = uint64_t{1} << 60;

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<uint64_t> Number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;  // "max", no such file
  return value;
}

// The number behind `key` in lines of "key number".
uint64_t Field(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.size() <= key.size() || line.compare(0, key.size(), key) != 0) continue;
    const size_t digits = line.find_first_of("0123456789", key.size());
    if (digits == std::string::npos || line.find_first_not_of(": \t", key.size()) != digits) {
      continue;
    }
    return Number(std::string_view(line).substr(digits)).value_or(0);
  }
  return 0;
}

}  // namespace

MemoryLimits::MemoryLimits(std::string root) : root_(std::move(root)) {
  std::istringstream lines(Contents(root_ + "/proc/self/cgroup"));
  for (std::string line; std::getline(lines, line);) {  // id:controllers:path
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool v1 = controllers.find(",memory,") != std::string::npos;
    if (!v1 && controllers != ",,") continue;
    const std::string mount = root_ + (v1 ? "/sys/fs/cgroup/memory" : "/sys/fs/cgroup");
    // Our own and every one around it; in a container the first may not be visible, and the top of
    // the mount is ours.
    std::string path = line.substr(second + 1);
    while (true) {
      if (path == "/") path.clear();
      Look(path.empty() ? "/" : path, mount + path, v1);
      if (path.empty()) break;
      path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
    }
  }
}

void MemoryLimits::Look(const std::string& name, const std::string& folder, bool v1) {
  const auto bytes = Number(Contents(folder + (v1 ? "/memory.limit_in_bytes" : "/memory.max")));
  if (!bytes || *bytes >= kUnlimited || (limit_ && limit_->bytes <= *bytes)) return;
  limit_ = Limit{*bytes, name, folder, v1};
}

uint64_t MemoryLimits::Default() const {
  if (limit_) return limit_->bytes / 10 * 9;
  return Field(Contents(root_ + "/proc/meminfo"), "MemTotal") * 1024 / 2;
}

std::string MemoryLimits::Source() const { return limit_ ? "cgroup " + limit_->cgroup : "machine"; }

uint64_t MemoryLimits::Used() const {
  uint64_t used = 0;
  const std::string statm = Contents(root_ + "/proc/self/statm");
  if (const size_t space = statm.find(' '); space != std::string::npos) {
    used = Number(std::string_view(statm).substr(space + 1)).value_or(0) *
           static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  }
  if (!limit_) return used;
  if (limit_->v1) {
    for (const char* file : {"/memory.kmem.usage_in_bytes", "/memory.kmem.tcp.usage_in_bytes"}) {
      used += Number(Contents(limit_->folder + file)).value_or(0);
    }
    return used;
  }
  const std::string stat = Contents(limit_->folder + "/memory.stat");
  for (const char* field : {"sock", "slab_unreclaimable", "kernel_stack", "pagetables"}) {
    used += Field(stat, field);
  }
  return used;
}

}  // namespace qanat::ztunnel
