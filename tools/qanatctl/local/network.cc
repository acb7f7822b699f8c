// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/network.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tools/qanatctl/local/files.h"
#include "tools/qanatctl/local/ipam.h"
#include "tools/qanatctl/net/rtnl.h"

namespace qanat::local {
namespace {

constexpr char kNetnsDir[] = "/run/netns";
constexpr char kBridge[] = "underlay";

Status MakeNetnsDir() {
  QANAT_RETURN_IF_ERROR(MakeDirs(kNetnsDir));
  // Shared propagation, so that removing a namespace here also removes it from other mount
  // namespaces; a folder that is not a mount yet is bound onto itself first (as ip-netns does).
  if (mount("", kNetnsDir, "none", MS_SHARED | MS_REC, nullptr) == 0) return {};
  if (errno != EINVAL) return FailErrno("make /run/netns shared");
  if (mount(kNetnsDir, kNetnsDir, "none", MS_BIND | MS_REC, nullptr) != 0) {
    return FailErrno("bind /run/netns");
  }
  if (mount("", kNetnsDir, "none", MS_SHARED | MS_REC, nullptr) != 0) {
    return FailErrno("make /run/netns shared");
  }
  return {};
}

void WriteSysctl(const std::string& path, const char* value) {
  const int fd = open(("/proc/sys/net/" + path).c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;  // a kernel without IPv6, say: what needs it fails later with its own message
  [[maybe_unused]] ssize_t n = write(fd, value, 1);
  close(fd);
}

// Before any link exists, so that `default` reaches all of them.
Status SetSysctls(const netns::NetNs& netns, bool router) {
  return netns.Run([&]() -> Status {
    for (const char* scope : {"all", "default"}) {
      WriteSysctl(fmt::format("ipv4/conf/{}/rp_filter", scope), "0");
      WriteSysctl(fmt::format("ipv6/conf/{}/disable_ipv6", scope), "0");
      WriteSysctl(fmt::format("ipv6/conf/{}/accept_dad", scope), "0");
      WriteSysctl(fmt::format("ipv6/conf/{}/dad_transmits", scope), "0");
      WriteSysctl(fmt::format("ipv6/conf/{}/accept_ra", scope), "0");
      WriteSysctl(fmt::format("ipv6/conf/{}/router_solicitations", scope), "0");
      if (router) {
        WriteSysctl(fmt::format("ipv4/conf/{}/send_redirects", scope), "0");
        WriteSysctl(fmt::format("ipv6/conf/{}/forwarding", scope), "1");
      }
    }
    WriteSysctl("ipv6/conf/lo/disable_ipv6", "0");
    if (router) WriteSysctl("ipv4/ip_forward", "1");
    return {};
  });
}

net::Cidr Host(const net::IpAddress& ip) {
  return net::Cidr::Make(ip, ip.is_v4() ? 32 : 128).value_or(net::Cidr());
}
net::Cidr Default(bool v6) {
  return net::Cidr::Parse(v6 ? "::/0" : "0.0.0.0/0").value_or(net::Cidr());
}

}  // namespace

Status MakeNamedNetns(const std::string& name) {
  QANAT_RETURN_IF_ERROR(MakeNetnsDir());
  const std::string path = Names::NetnsPath(name);
  Fd file(open(path.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0));
  if (!file) return FailErrno("create " + path);
  file.Reset();
  // A child makes the namespace and pins it: the caller never leaves its own.
  const pid_t pid = fork();
  if (pid < 0) return FailErrno("fork");
  if (pid == 0) {
    if (unshare(CLONE_NEWNET) != 0) _exit(errno);
    if (mount("/proc/self/ns/net", path.c_str(), "none", MS_BIND, nullptr) != 0) _exit(errno);
    _exit(0);
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  const int error = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
  if (error != 0) {
    unlink(path.c_str());
    return FailErrno("make network namespace " + name, error);
  }
  return {};
}

Status RemoveNamedNetns(const std::string& name) {
  const std::string path = Names::NetnsPath(name);
  if (!Exists(path)) return {};
  while (umount2(path.c_str(), MNT_DETACH) == 0) {
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return FailErrno("remove " + path);
  return {};
}

Result<netns::NetNs> Network::OpenNode(const std::string& node) const {
  return netns::NetNs::Open(Names::NetnsPath(names_.NodeNetns(node)));
}

Result<netns::NetNs> Network::OpenFabric() const {
  return netns::NetNs::Open(Names::NetnsPath(names_.FabricNetns()));
}

Status Network::MakeFabric() {
  QANAT_RETURN_IF_ERROR(MakeNamedNetns(names_.FabricNetns()));
  QANAT_ASSIGN_OR_RETURN(auto fabric, OpenFabric());
  QANAT_RETURN_IF_ERROR(SetSysctls(fabric, true));
  QANAT_ASSIGN_OR_RETURN(auto rtnl, rtnl::Socket::Open(fabric));
  QANAT_RETURN_IF_ERROR(rtnl.SetUp("lo"));
  QANAT_RETURN_IF_ERROR(rtnl.AddBridge(kBridge, mtu_));
  QANAT_RETURN_IF_ERROR(rtnl.AddAddress(kBridge, UnderlayV4(kFabricHost), 24));
  QANAT_RETURN_IF_ERROR(rtnl.AddAddress(kBridge, UnderlayV6(kFabricHost), 64));
  return rtnl.SetUp(kBridge);
}

Status Network::AddNode(const NodePlan& node, const std::vector<NodePlan>& all) {
  QANAT_RETURN_IF_ERROR(MakeNamedNetns(names_.NodeNetns(node.name)));
  QANAT_ASSIGN_OR_RETURN(auto fabric, OpenFabric());
  QANAT_ASSIGN_OR_RETURN(auto netns, OpenNode(node.name));
  QANAT_RETURN_IF_ERROR(SetSysctls(netns, true));
  QANAT_ASSIGN_OR_RETURN(auto outer, rtnl::Socket::Open(fabric));
  QANAT_ASSIGN_OR_RETURN(auto inner, rtnl::Socket::Open(netns));
  const std::string port = fmt::format("n{}", node.index);
  QANAT_RETURN_IF_ERROR(outer.AddVeth({port, fabric.fd()}, {"eth0", netns.fd()}, mtu_));
  QANAT_RETURN_IF_ERROR(outer.SetMaster(port, kBridge));
  QANAT_RETURN_IF_ERROR(outer.SetUp(port));
  QANAT_RETURN_IF_ERROR(inner.SetUp("lo"));
  QANAT_RETURN_IF_ERROR(inner.AddAddress("eth0", UnderlayV4(node.index), 24));
  QANAT_RETURN_IF_ERROR(inner.AddAddress("eth0", UnderlayV6(node.index), 64));
  QANAT_RETURN_IF_ERROR(inner.SetUp("eth0"));
  // Where the node's DNS server listens; any node answers for the one address.
  QANAT_RETURN_IF_ERROR(inner.AddAddress("lo", DnsV4(), 32));
  QANAT_RETURN_IF_ERROR(inner.AddAddress("lo", DnsV6(), 128));
  QANAT_RETURN_IF_ERROR(
      inner.AddRoute({Default(false), UnderlayV4(kFabricHost), "eth0", {}, false}));
  QANAT_RETURN_IF_ERROR(
      inner.AddRoute({Default(true), UnderlayV6(kFabricHost), "eth0", {}, false}));
  for (const NodePlan& other : all) {
    if (other.index == node.index) continue;
    QANAT_RETURN_IF_ERROR(
        inner.AddRoute({PodBlockV4(other.index), UnderlayV4(other.index), "eth0", {}, false}));
    QANAT_RETURN_IF_ERROR(
        inner.AddRoute({PodBlockV6(other.index), UnderlayV6(other.index), "eth0", {}, false}));
  }
  QANAT_RETURN_IF_ERROR(
      outer.AddRoute({PodBlockV4(node.index), UnderlayV4(node.index), kBridge, {}, false}));
  return outer.AddRoute({PodBlockV6(node.index), UnderlayV6(node.index), kBridge, {}, false});
}

Result<PodNetwork> Network::AddPod(const std::string& ns, const std::string& pod,
                                   const std::string& uid, const std::string& node, int node_index,
                                   int host) {
  PodNetwork out{names_.PodNetns(ns, pod), PodVethName(uid), node_index, host};
  QANAT_RETURN_IF_ERROR(MakeNamedNetns(out.netns));
  QANAT_ASSIGN_OR_RETURN(auto pod_netns, netns::NetNs::Open(Names::NetnsPath(out.netns)));
  QANAT_ASSIGN_OR_RETURN(auto node_netns, OpenNode(node));
  QANAT_RETURN_IF_ERROR(SetSysctls(pod_netns, false));
  QANAT_ASSIGN_OR_RETURN(auto outer, rtnl::Socket::Open(node_netns));
  QANAT_ASSIGN_OR_RETURN(auto inner, rtnl::Socket::Open(pod_netns));
  QANAT_RETURN_IF_ERROR(
      outer.AddVeth({out.host_device, node_netns.fd()}, {"eth0", pod_netns.fd()}, mtu_));
  // The gateway's address is on every host side, each with its route to one pod.
  QANAT_RETURN_IF_ERROR(outer.AddAddress(out.host_device, PodGatewayV4(node_index), 32));
  QANAT_RETURN_IF_ERROR(outer.AddAddress(out.host_device, PodGatewayV6(node_index), 128));
  QANAT_RETURN_IF_ERROR(outer.SetUp(out.host_device));
  QANAT_RETURN_IF_ERROR(inner.SetUp("lo"));
  QANAT_RETURN_IF_ERROR(inner.AddAddress("eth0", PodV4(node_index, host), 32));
  QANAT_RETURN_IF_ERROR(inner.AddAddress("eth0", PodV6(node_index, host), 128));
  QANAT_RETURN_IF_ERROR(inner.SetUp("eth0"));
  for (const net::IpAddress& gateway : {PodGatewayV4(node_index), PodGatewayV6(node_index)}) {
    QANAT_RETURN_IF_ERROR(inner.AddRoute({Host(gateway), {}, "eth0", {}, false}));
    QANAT_RETURN_IF_ERROR(inner.AddRoute({Default(gateway.is_v6()), gateway, "eth0", {}, true}));
  }
  QANAT_RETURN_IF_ERROR(outer.AddRoute(
      {Host(PodV4(node_index, host)), {}, out.host_device, UnderlayV4(node_index), false}));
  QANAT_RETURN_IF_ERROR(outer.AddRoute(
      {Host(PodV6(node_index, host)), {}, out.host_device, UnderlayV6(node_index), false}));
  return out;
}

Status Network::RemovePod(const PodNetwork& pod, const std::string& node) {
  if (auto netns = OpenNode(node)) {
    QANAT_ASSIGN_OR_RETURN(auto rtnl, rtnl::Socket::Open(*netns));
    QANAT_RETURN_IF_ERROR(rtnl.DeleteLink(pod.host_device));
  }
  return RemoveNamedNetns(pod.netns);
}

}  // namespace qanat::local
