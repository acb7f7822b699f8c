// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/pod_network.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "agent/redirect/dns_switch.h"
#include "agent/redirect/own_stack.h"
#include "agent/redirect/rtnetlink.h"
#include "agent/redirect/tc_filter.h"
#include "bpf/include/abi.h"
#include "common/base/fd.h"

namespace qanat::agent {
namespace {

constexpr uint32_t kRulePriorityLoLeg = 99;
constexpr uint32_t kRulePriorityCapture = 100;
constexpr uint32_t kRulePriorityDrawn = 101;
constexpr uint32_t kRulePriorityCutOff = 1;  // after the local table, before everything else

constexpr const char* kAcceptMark = "ipv4/tcp_fwmark_accept";
constexpr const char* kReflect4 = "ipv4/fwmark_reflect";
constexpr const char* kReflect6 = "ipv6/fwmark_reflect";

// Addresses for documentation: no route of a pod is made for them.
constexpr const char* kOutside4 = "192.0.2.1";
constexpr const char* kOutside6 = "2001:db8::1";

// /proc/sys/net shows the namespace of the thread that opens the file.
std::string Path(const std::string& name) { return "/proc/sys/net/" + name; }

Result<std::string> ReadSysctl(const std::string& name) {
  Fd fd(::open(Path(name).c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return FailErrno("read " + Path(name));
  char buffer[128];
  const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
  if (n < 0) return FailErrno("read " + Path(name));
  std::string value(buffer, static_cast<size_t>(n));
  while (!value.empty() && (value.back() == '\n' || value.back() == ' ')) value.pop_back();
  return value;
}

Status WriteSysctl(const std::string& name, const std::string& value) {
  Fd fd(::open(Path(name).c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd) return FailErrno("write " + Path(name) + " (is /proc/sys read-only in this container?)");
  if (::write(fd.get(), value.data(), value.size()) < 0) return FailErrno("write " + Path(name));
  return {};
}

bool IsIn(const net::IpAddress& ip, const std::vector<net::IpAddress>& ips) {
  return std::find(ips.begin(), ips.end(), ip) != ips.end();
}

bool Has6(const std::vector<net::IpAddress>& ips) {
  return std::any_of(ips.begin(), ips.end(), [](const auto& ip) { return ip.is_v6(); });
}

std::vector<const char*> Sysctls(const std::vector<net::IpAddress>& ips) {
  std::vector<const char*> names = {kAcceptMark, kReflect4};
  if (Has6(ips)) names.push_back(kReflect6);
  return names;
}

std::vector<rtnl::Rule> Rules(int family) {
  return {{family, kRulePriorityLoLeg, QANAT_MARK_LO_LEG, QANAT_ROUTE_TABLE},
          {family, kRulePriorityCapture, QANAT_MARK_CAPTURE, QANAT_ROUTE_TABLE},
          {family, kRulePriorityDrawn, QANAT_MARK_DRAWN, QANAT_ROUTE_TABLE,
           rtnl::RuleAction::kTable, QANAT_MARK_MASK}};
}

rtnl::Rule CutOffRule(int family) {
  return {family, kRulePriorityCutOff, 0, 0, rtnl::RuleAction::kBlackholeTcp};
}

}  // namespace

PodFacts SpoofRange(unsigned low, unsigned high) {
  // Below 15000: clear of the proxy's own ports. A range below the ephemeral one if it is big
  // enough, else one above it.
  constexpr unsigned kFirst = 1024, kLast = 14999, kEnough = 2048;
  PodFacts facts;
  const unsigned below_end = std::min(kLast, low > 0 ? low - 1 : 0);
  if (below_end >= kFirst + kEnough) {
    facts.spoof_low = kFirst;
    facts.spoof_high = static_cast<uint16_t>(below_end);
  } else if (high < 65535 - kEnough) {
    facts.spoof_low = static_cast<uint16_t>(std::max(high + 1, 15100u));
    facts.spoof_high = 65535;
  }
  return facts;
}

Result<PodFacts> InspectPod(const netns::NetNs& ns, const std::vector<net::IpAddress>& ips) {
  PodFacts facts;
  QANAT_RETURN_IF_ERROR(ns.Run([&]() -> Status {
    QANAT_ASSIGN_OR_RETURN(auto range, ReadSysctl("ipv4/ip_local_port_range"));
    unsigned low = 32768, high = 60999;
    (void)std::sscanf(range.c_str(), "%u %u", &low, &high);
    facts = SpoofRange(low, high);
    QANAT_ASSIGN_OR_RETURN(auto interfaces, rtnl::Interfaces());
    bool lo_up = false;
    for (const auto& i : interfaces) {
      if (i.loopback)
        lo_up = i.up;
      else
        facts.devices.push_back(i.ifindex);
    }
    facts.interfaces = interfaces;
    if (!lo_up)
      return Fail(Code::kFailedPrecondition,
                  "lo is down in the pod: captured connections run over it");
    QANAT_ASSIGN_OR_RETURN(auto addresses, rtnl::Addresses());
    std::vector<net::IpAddress> present;
    for (const auto& a : addresses)
      if (!a.ip.is_loopback() && !a.ip.is_link_local() && !IsIn(a.ip, present))
        present.push_back(a.ip);
    for (const auto& ip : present)
      if (!IsIn(ip, ips)) facts.others.push_back(ip);
    for (const auto& ip : ips) {
      if (IsIn(ip, present)) continue;
      QANAT_ASSIGN_OR_RETURN(const std::string sign, SignOfOwnStack(interfaces));
      if (present.empty() && !sign.empty())
        return Fail(Code::kUnimplemented,
                    "cannot be captured: its network namespace has no address and " + sign +
                        ": it makes its connections without the kernel (gVisor, Kata?). Label it "
                        "istio.io/dataplane-mode=none, or run it with the default runtime");
      return Fail(Code::kFailedPrecondition,
                  "the pod's network namespace does not have the pod's address " + ip.ToString() +
                      " (another pod's namespace, or the interface is not set up yet)");
    }
    return {};
  }));
  return facts;
}

Result<std::vector<uint32_t>> DevicesIn(const netns::NetNs& ns) {
  std::vector<uint32_t> devices;
  QANAT_RETURN_IF_ERROR(ns.Run([&]() -> Status {
    QANAT_ASSIGN_OR_RETURN(const auto interfaces, rtnl::Interfaces());
    for (const auto& i : interfaces)
      if (!i.loopback) devices.push_back(i.ifindex);
    return {};
  }));
  return devices;
}

std::vector<net::IpAddress> AddressesIn(const std::string& netns_path) {
  std::vector<net::IpAddress> out;
  auto ns = netns::NetNs::Open(netns_path);
  if (!ns) return out;
  Status read = ns->Run([&]() -> Status {
    QANAT_ASSIGN_OR_RETURN(auto addresses, rtnl::Addresses());
    for (const auto& a : addresses)
      if (a.ifindex != rtnl::kLoopbackIndex && !a.ip.is_loopback() && !a.ip.is_link_local())
        out.push_back(a.ip);
    return {};
  });
  if (!read) out.clear();
  return out;
}

Result<std::string> LookForOwnStack(const netns::NetNs& ns) {
  std::string sign;
  QANAT_RETURN_IF_ERROR(ns.Run([&]() -> Status {
    QANAT_ASSIGN_OR_RETURN(auto interfaces, rtnl::Interfaces());
    QANAT_ASSIGN_OR_RETURN(sign, SignOfOwnStack(interfaces));
    return {};
  }));
  return sign;
}

Status ApplyPodNetwork(const netns::NetNs& ns, const std::vector<net::IpAddress>& ips,
                       SavedSysctls* saved) {
  return ns.Run([&]() -> Status {
    for (const char* name : Sysctls(ips)) {
      QANAT_ASSIGN_OR_RETURN(std::string before, ReadSysctl(name));
      if (before == "1") continue;
      saved->emplace(name, before);
      QANAT_RETURN_IF_ERROR(WriteSysctl(name, "1"));
    }
    for (const auto& ip : ips) {
      QANAT_RETURN_IF_ERROR(rtnl::SetLocalDefault(ip, QANAT_ROUTE_TABLE));
      for (const auto& rule : Rules(ip.family())) QANAT_RETURN_IF_ERROR(rtnl::AddRule(rule));
    }
    return {};
  });
}

Status CheckPodNetwork(const netns::NetNs& ns, const std::vector<net::IpAddress>& ips) {
  return ns.Run([&]() -> Status {
    for (const char* name : Sysctls(ips)) {
      QANAT_ASSIGN_OR_RETURN(std::string value, ReadSysctl(name));
      if (value != "1")
        return Fail(Code::kFailedPrecondition, std::string("sysctl net.") + name + " is " + value);
    }
    for (const auto& ip : ips) {
      QANAT_ASSIGN_OR_RETURN(auto outside,
                             net::IpAddress::Parse(ip.is_v4() ? kOutside4 : kOutside6));
      for (uint32_t mark :
           {QANAT_MARK_LO_LEG, QANAT_MARK_CAPTURE, QANAT_MARK_DRAWN | 1u << QANAT_DRAW_SHIFT}) {
        QANAT_ASSIGN_OR_RETURN(auto source, rtnl::LocalSourceOf(outside, mark));
        if (source == ip) continue;
        return Fail(Code::kFailedPrecondition,
                    "an ip rule of the capture or the route of table 101 for " + ip.ToString() +
                        " is missing, or another rule comes before them");
      }
    }
    return {};
  });
}

Status RestorePodNetwork(const netns::NetNs& ns, const SavedSysctls& saved) {
  return ns.Run([&]() -> Status {
    // Both families whatever the pod has now: an address may have gone since.
    Status first;
    auto keep = [&](Status status) {
      if (!status && first) first = std::move(status);
    };
    for (int family : {AF_INET, AF_INET6}) {
      if (family == AF_INET6 && ::access("/proc/sys/net/ipv6", F_OK) != 0) continue;
      for (const auto& rule : Rules(family)) keep(rtnl::DeleteRule(rule));
      keep(rtnl::DeleteRule(CutOffRule(family)));
      keep(rtnl::DeleteLocalDefault(family, QANAT_ROUTE_TABLE));
    }
    keep(RemoveDnsRoutes());
    for (const auto& [name, value] : saved) keep(WriteSysctl(name, value));
    // Programs that are links went with their pins.
    if (auto interfaces = rtnl::Interfaces())
      for (const auto& i : *interfaces) keep(tc::Detach(i.ifindex));
    return first;
  });
}

Status CutOffTcp(const netns::NetNs& ns) {
  return ns.Run([]() -> Status {
    QANAT_RETURN_IF_ERROR(rtnl::AddRule(CutOffRule(AF_INET)));
    if (::access("/proc/sys/net/ipv6", F_OK) != 0) return {};
    return rtnl::AddRule(CutOffRule(AF_INET6));
  });
}

Status EndCutOff(const netns::NetNs& ns) {
  return ns.Run([]() -> Status {
    QANAT_RETURN_IF_ERROR(rtnl::DeleteRule(CutOffRule(AF_INET)));
    if (::access("/proc/sys/net/ipv6", F_OK) != 0) return {};
    return rtnl::DeleteRule(CutOffRule(AF_INET6));
  });
}

}  // namespace qanat::agent
