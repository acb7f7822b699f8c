// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/pod_cgroup.h"

#include <algorithm>

namespace qanat::agent {
namespace {

bool IsHex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

// 8-4-4-4-12 with '-' or, in a systemd slice, '_'; or 32 digits in a row. "" when it is neither.
std::string Uid(std::string_view text) {
  std::string uid(text);
  std::replace(uid.begin(), uid.end(), '_', '-');
  if (uid.size() == 32) return std::all_of(uid.begin(), uid.end(), IsHex) ? uid : "";
  if (uid.size() != 36) return "";
  for (size_t i = 0; i < uid.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? uid[i] != '-' : !IsHex(uid[i])) return "";
  }
  return uid;
}

std::string UidOfComponent(std::string_view name) {
  constexpr std::string_view kSlice = ".slice";
  if (name.size() > kSlice.size() && name.substr(name.size() - kSlice.size()) == kSlice) {
    name.remove_suffix(kSlice.size());
    const size_t pod = name.rfind("-pod");
    return pod == std::string_view::npos ? "" : Uid(name.substr(pod + 4));
  }
  return name.substr(0, 3) == "pod" ? Uid(name.substr(3)) : "";
}

bool IsKubepods(std::string_view name) {
  constexpr std::string_view kNested = "-kubepods.slice";
  return name == "kubepods" || name == "kubepods.slice" ||
         (name.size() > kNested.size() && name.substr(name.size() - kNested.size()) == kNested);
}

}  // namespace

std::string PodUidOfCgroupPath(std::string_view path) {
  // Only below the kubelet's own group: a container could name groups of its own as it likes, but
  // the outermost pod is the kubelet's.
  bool below = false;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string_view name = path.substr(0, slash);
    path.remove_prefix(slash == std::string_view::npos ? path.size() : slash + 1);
    if (below) {
      if (std::string uid = UidOfComponent(name); !uid.empty()) return uid;
    }
    below = below || IsKubepods(name);
  }
  return "";
}

std::string PodUidOfProcCgroup(std::string_view text) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    // ID:CONTROLLERS:PATH
    const size_t first = line.find(':');
    const size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    if (std::string uid = PodUidOfCgroupPath(line.substr(second + 1)); !uid.empty()) return uid;
  }
  return "";
}

std::string KubepodsOfCgroupPath(std::string_view path) {
  for (size_t at = 0; at < path.size();) {
    const size_t slash = path.find('/', at);
    const size_t end = slash == std::string_view::npos ? path.size() : slash;
    if (IsKubepods(path.substr(at, end - at))) return std::string(path.substr(0, end));
    at = end + 1;
  }
  return "";
}

}  // namespace qanat::agent
