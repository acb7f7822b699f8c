// SPDX-License-Identifier: Apache-2.0
#include "agent/detect/other_meshes.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "agent/files/files.h"
#include "agent/redirect/rtnetlink.h"
#include "bpf/user/mounts.h"
#include "common/base/fd.h"

namespace qanat::agent {
namespace {

struct KnownProgram {
  std::string_view prefix;  // the kernel keeps 15 characters of a name
  std::string_view whose;
  std::string_view remedy;
};
// Cilium bpf/bpf_sock.c, Calico felix/bpf-gpl/connect_balancer*.c.
constexpr KnownProgram kBalancers[] = {
    {"cil_sock", "Cilium's socket load balancer",
     "set socketLB.hostNamespaceOnly=true in Cilium's values and restart its agents"},
    {"sock4_connect", "Cilium's socket load balancer",
     "set bpf-lb-sock-hostns-only=true in Cilium's ConfigMap and restart its agents"},
    {"sock6_connect", "Cilium's socket load balancer",
     "set bpf-lb-sock-hostns-only=true in Cilium's ConfigMap and restart its agents"},
    {"calico_connect", "Calico's connect-time load balancer",
     "set bpfConnectTimeLoadBalancing: Disabled in Calico's FelixConfiguration"},
    {"cali_ctlb", "Calico's connect-time load balancer",
     "set bpfConnectTimeLoadBalancing: Disabled in Calico's FelixConfiguration"},
};

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// "0100007F:01BB": words of four bytes, each printed as a number of the machine's byte order.
std::optional<net::SocketAddress> ParseHexAddress(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon != 8 && colon != 32) return std::nullopt;
  if (text.size() != colon + 5) return std::nullopt;
  uint8_t bytes[16] = {};
  unsigned port = 0;
  for (size_t word = 0; word < colon / 8; ++word) {
    uint32_t value = 0;
    for (size_t i = 0; i < 8; ++i) {
      const int digit = HexDigit(text[word * 8 + i]);
      if (digit < 0) return std::nullopt;
      value = value << 4 | static_cast<uint32_t>(digit);
    }
    std::memcpy(bytes + word * 4, &value, 4);
  }
  for (size_t i = colon + 1; i < text.size(); ++i) {
    const int digit = HexDigit(text[i]);
    if (digit < 0) return std::nullopt;
    port = port << 4 | static_cast<unsigned>(digit);
  }
  const auto ip = net::IpAddress::FromBytes({bytes, colon == 8 ? size_t{4} : size_t{16}});
  return net::SocketAddress(ip, static_cast<uint16_t>(port));
}

std::string Describe(const std::vector<ForeignProgram>& programs) {
  for (const auto& program : programs)
    if (!program.whose.empty())
      return program.whose + " (program " + program.name + "): " + program.remedy;
  std::string names;
  for (const auto& program : programs)
    names +=
        (names.empty() ? "" : ", ") + program.name + " (id " + std::to_string(program.id) + ")";
  return "one of the programs " + names +
         " at the control group (bpftool cgroup tree): take connect-time load balancing away from "
         "pods in the settings of the network plugin that attached it";
}

}  // namespace

std::vector<ForeignProgram> JudgePrograms(const std::vector<bpf::AttachedProgram>& programs) {
  std::vector<ForeignProgram> out;
  for (const auto& program : programs) {
    // Another agent of ours: each leaves pods alone that are not in its own map.
    if (program.name.rfind("qanat_", 0) == 0) continue;
    ForeignProgram foreign{program.id, program.name, "", ""};
    for (const auto& known : kBalancers)
      if (program.name.rfind(known.prefix, 0) == 0) {
        foreign.whose = known.whose;
        foreign.remedy = known.remedy;
      }
    out.push_back(std::move(foreign));
  }
  return out;
}

Result<std::vector<ForeignProgram>> FindForeignPrograms(const std::string& cgroup_root,
                                                        const std::vector<std::string>& pod_roots) {
  std::set<uint32_t> ids, crossed;
  auto collect = [&](const std::string& group, bool inherited) -> Status {
    for (auto type : {bpf::AttachType::kConnect4, bpf::AttachType::kConnect6}) {
      QANAT_ASSIGN_OR_RETURN(const auto found, bpf::ProgramIds(group, type, inherited));
      ids.insert(found.begin(), found.end());
    }
    return {};
  };
  QANAT_RETURN_IF_ERROR(collect(cgroup_root, true));
  if (auto own = bpf::CgroupOfProcess(static_cast<int>(::getpid())))
    (void)collect(cgroup_root + *own, true);
  crossed = ids;
  for (const std::string& root : pod_roots) {
    // A group of pods that does not exist yet, or has gone meanwhile, has no programs.
    (void)collect(root, true);
    // What is at a pod's own group runs before what is at the root.
    std::error_code error;
    for (std::filesystem::recursive_directory_iterator it(root, error), end; !error && it != end;
         it.increment(error)) {
      std::error_code gone;
      if (it->is_directory(gone)) (void)collect(it->path().string(), false);
    }
  }
  std::vector<bpf::AttachedProgram> all;
  for (uint32_t id : ids) all.push_back(bpf::DescribeProgram(id));
  auto foreign = JudgePrograms(all);
  for (auto& program : foreign) program.of_pods = !crossed.count(program.id);
  return foreign;
}

std::vector<uint32_t> ForeignProgramIds(const NodeFacts& node) {
  std::vector<uint32_t> ids;
  if (auto programs = FindForeignPrograms(node.cgroup_root, node.pod_roots))
    for (const auto& program : *programs) ids.push_back(program.id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::optional<net::SocketAddress> RemoteOfInode(std::string_view table, uint64_t inode) {
  std::istringstream lines{std::string(table)};
  std::string line;
  while (std::getline(lines, line)) {
    // sl local rem st tx:rx tr:tm retrnsmt uid timeout inode
    std::istringstream words(line);
    std::string word, remote;
    uint64_t number = 0;
    for (int i = 0; i < 9 && words >> word; ++i)
      if (i == 2) remote = word;
    if (words >> number && number == inode) return ParseHexAddress(remote);
  }
  return std::nullopt;
}

Result<net::SocketAddress> WhereConnectGoes(const netns::NetNs& ns,
                                            const net::SocketAddress& service) {
  net::SocketAddress remote;
  QANAT_RETURN_IF_ERROR(ns.Run([&]() -> Status {
    const int family = service.ip().family();
    Fd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd) return FailErrno("probe socket");
    sockaddr_storage address;
    const socklen_t size = service.ToSockaddr(address);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 &&
        errno != EINPROGRESS)
      return FailErrno("connect to " + service.ToString());
    struct stat s{};
    if (::fstat(fd.get(), &s) != 0) return FailErrno("fstat");
    QANAT_ASSIGN_OR_RETURN(
        const std::string table,
        ReadFile(family == AF_INET ? "/proc/thread-self/net/tcp" : "/proc/thread-self/net/tcp6",
                 64 << 20));
    auto found = RemoteOfInode(table, s.st_ino);
    if (!found) return Fail(Code::kNotFound, "the probe of connect() has gone already");
    remote = *found;
    return {};
  }));
  return remote;
}

Status CheckPod(const netns::NetNs& ns, const NodeFacts& node) {
  constexpr uint32_t kMark = 0x111, kMask = 0xfff, kTable = 100;
  QANAT_RETURN_IF_ERROR(ns.Run([&]() -> Status {
    for (int family : {AF_INET, AF_INET6}) {
      if (family == AF_INET6 && ::access("/proc/sys/net/ipv6", F_OK) != 0) continue;
      rtnl::Rule rule{.family = family, .mark = kMark, .table = kTable};
      rule.mask = kMask;
      QANAT_ASSIGN_OR_RETURN(const bool theirs, rtnl::HasRule(rule));
      if (theirs)
        return Fail(Code::kFailedPrecondition,
                    "the pod carries Istio's redirection (ip rule fwmark 0x111/0xfff): restart it "
                    "after Istio's ambient mode was removed from the node");
    }
    return {};
  }));
  QANAT_ASSIGN_OR_RETURN(const auto programs,
                         FindForeignPrograms(node.cgroup_root, node.pod_roots));
  if (programs.empty()) return {};
  if (node.service.ip().is_set()) {
    auto goes = WhereConnectGoes(ns, node.service);
    const bool untouched = goes && *goes == node.service;
    if (untouched && std::none_of(programs.begin(), programs.end(), [](const auto& program) {
          return program.of_pods && !program.whose.empty();
        }))
      return {};
    if (goes && !untouched)
      return Fail(Code::kFailedPrecondition,
                  "connect() to the service " + node.service.ToString() + " goes to " +
                      goes->ToString() +
                      " instead, which would pass by policies and waypoints of "
                      "services. It is rewritten by " +
                      Describe(programs));
  }
  // It could not be tried: a known load balancer is believed to balance.
  for (const auto& program : programs)
    if (!program.whose.empty())
      return Fail(Code::kFailedPrecondition,
                  "connect() of pods may be rewritten, which would pass by policies and waypoints "
                  "of services, by " +
                      Describe(programs));
  return {};
}

std::string JudgeCniChain(const std::vector<ConfigFile>& files) {
  auto is_istio = [](const nlohmann::json& plugin) {
    return plugin.is_object() && plugin.contains("type") && plugin["type"] == "istio-cni";
  };
  for (const ConfigFile& file : files) {
    const auto json = nlohmann::json::parse(file.content, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded() || !json.is_object()) continue;
    bool found = is_istio(json);
    if (auto plugins = json.find("plugins"); plugins != json.end() && plugins->is_array())
      for (const auto& plugin : *plugins) found |= is_istio(plugin);
    if (found)
      return "istio-cni is in " + file.name +
             ": two meshes would capture the same pods. Remove Istio's ambient mode first (helm "
             "uninstall istio-cni ztunnel), or keep it and uninstall Qanat";
  }
  return "";
}

}  // namespace qanat::agent
