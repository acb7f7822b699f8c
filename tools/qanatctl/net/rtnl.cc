// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/net/rtnl.h"

#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <vector>

namespace qanat::rtnl {
namespace {

constexpr size_t kBufferSize = 8192;

struct Request {
  alignas(8) char buffer[kBufferSize] = {};
  nlmsghdr* header = nullptr;

  Request(uint16_t type, uint16_t flags) {
    header = mnl_nlmsg_put_header(buffer);
    header->nlmsg_type = type;
    header->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags);
  }
  template <typename T>
  T* Extra() {
    return static_cast<T*>(mnl_nlmsg_put_extra_header(header, sizeof(T)));
  }
  void Put(uint16_t type, const std::string& text) {
    mnl_attr_put_strz(header, type, text.c_str());
  }
  void Put(uint16_t type, uint32_t value) { mnl_attr_put_u32(header, type, value); }
  void Put(uint16_t type, const net::IpAddress& ip) {
    mnl_attr_put(header, type, ip.bytes().size(), ip.bytes().data());
  }
};

}  // namespace

Result<Socket> Socket::Open(const netns::NetNs& netns) {
  Fd fd;
  QANAT_RETURN_IF_ERROR(netns.Run([&]() -> Status {
    fd.Reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!fd) return FailErrno("rtnetlink socket");
    return {};
  }));
  return Socket(std::move(fd));
}

Status Socket::Talk(void* message) {
  auto* header = static_cast<nlmsghdr*>(message);
  header->nlmsg_seq = sequence_++;
  if (send(fd_.get(), header, header->nlmsg_len, 0) < 0) return FailErrno("rtnetlink send");
  alignas(8) char reply[kBufferSize];
  while (true) {
    const ssize_t n = recv(fd_.get(), reply, sizeof reply, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FailErrno("rtnetlink receive");
    int left = static_cast<int>(n);
    for (auto* h = reinterpret_cast<nlmsghdr*>(reply); mnl_nlmsg_ok(h, left);
         h = mnl_nlmsg_next(h, &left)) {
      if (h->nlmsg_seq != header->nlmsg_seq || h->nlmsg_type != NLMSG_ERROR) continue;
      const auto* error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(h));
      if (error->error == 0) return {};
      return FailErrno("rtnetlink", -error->error);
    }
  }
}

Result<int> Socket::IndexOf(const std::string& device) {
  Request request(RTM_GETLINK, 0);
  request.header->nlmsg_flags = NLM_F_REQUEST;
  request.Extra<ifinfomsg>()->ifi_family = AF_UNSPEC;
  request.Put(IFLA_IFNAME, device);
  request.header->nlmsg_seq = sequence_++;
  if (send(fd_.get(), request.header, request.header->nlmsg_len, 0) < 0) {
    return FailErrno("rtnetlink send");
  }
  std::vector<char> reply(32768);
  while (true) {
    const ssize_t n = recv(fd_.get(), reply.data(), reply.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FailErrno("rtnetlink receive");
    int left = static_cast<int>(n);
    for (auto* h = reinterpret_cast<nlmsghdr*>(reply.data()); mnl_nlmsg_ok(h, left);
         h = mnl_nlmsg_next(h, &left)) {
      if (h->nlmsg_seq != request.header->nlmsg_seq) continue;
      if (h->nlmsg_type == NLMSG_ERROR) {
        const auto* error = static_cast<const nlmsgerr*>(mnl_nlmsg_get_payload(h));
        return Fail(Code::kNotFound,
                    "no network device " + device + ": " + std::strerror(-error->error));
      }
      if (h->nlmsg_type == RTM_NEWLINK) {
        return static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(h))->ifi_index;
      }
    }
  }
}

Status Socket::AddVeth(const VethEnd& a, const VethEnd& b, uint32_t mtu) {
  Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  request.Extra<ifinfomsg>()->ifi_family = AF_UNSPEC;
  request.Put(IFLA_IFNAME, a.name);
  request.Put(IFLA_MTU, mtu);
  request.Put(IFLA_NET_NS_FD, static_cast<uint32_t>(a.netns));
  nlattr* info = mnl_attr_nest_start(request.header, IFLA_LINKINFO);
  request.Put(IFLA_INFO_KIND, std::string("veth"));
  nlattr* data = mnl_attr_nest_start(request.header, IFLA_INFO_DATA);
  nlattr* peer = mnl_attr_nest_start(request.header, VETH_INFO_PEER);
  request.Extra<ifinfomsg>()->ifi_family = AF_UNSPEC;
  request.Put(IFLA_IFNAME, b.name);
  request.Put(IFLA_MTU, mtu);
  request.Put(IFLA_NET_NS_FD, static_cast<uint32_t>(b.netns));
  mnl_attr_nest_end(request.header, peer);
  mnl_attr_nest_end(request.header, data);
  mnl_attr_nest_end(request.header, info);
  Status status = Talk(request.header);
  if (!status) return Fail(status.error().Annotate("make veth " + a.name + " - " + b.name));
  return {};
}

Status Socket::AddBridge(const std::string& name, uint32_t mtu) {
  Request request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
  request.Extra<ifinfomsg>()->ifi_family = AF_UNSPEC;
  request.Put(IFLA_IFNAME, name);
  request.Put(IFLA_MTU, mtu);
  nlattr* info = mnl_attr_nest_start(request.header, IFLA_LINKINFO);
  request.Put(IFLA_INFO_KIND, std::string("bridge"));
  mnl_attr_nest_end(request.header, info);
  Status status = Talk(request.header);
  if (!status) return Fail(status.error().Annotate("make bridge " + name));
  return {};
}

Status Socket::SetMaster(const std::string& device, const std::string& bridge) {
  QANAT_ASSIGN_OR_RETURN(const int index, IndexOf(device));
  QANAT_ASSIGN_OR_RETURN(const int master, IndexOf(bridge));
  Request request(RTM_NEWLINK, 0);
  auto* link = request.Extra<ifinfomsg>();
  link->ifi_family = AF_UNSPEC;
  link->ifi_index = index;
  request.Put(IFLA_MASTER, static_cast<uint32_t>(master));
  return Talk(request.header);
}

Status Socket::SetUp(const std::string& device) {
  QANAT_ASSIGN_OR_RETURN(const int index, IndexOf(device));
  Request request(RTM_NEWLINK, 0);
  auto* link = request.Extra<ifinfomsg>();
  link->ifi_family = AF_UNSPEC;
  link->ifi_index = index;
  link->ifi_flags = IFF_UP;
  link->ifi_change = IFF_UP;
  Status status = Talk(request.header);
  if (!status) return Fail(status.error().Annotate("set " + device + " up"));
  return {};
}

Status Socket::AddAddress(const std::string& device, const net::IpAddress& ip, unsigned length) {
  QANAT_ASSIGN_OR_RETURN(const int index, IndexOf(device));
  Request request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
  auto* address = request.Extra<ifaddrmsg>();
  address->ifa_family = static_cast<uint8_t>(ip.family());
  address->ifa_prefixlen = static_cast<uint8_t>(length);
  address->ifa_index = static_cast<uint32_t>(index);
  address->ifa_scope = RT_SCOPE_UNIVERSE;
  if (ip.is_v6()) address->ifa_flags = IFA_F_NODAD;
  request.Put(IFA_LOCAL, ip);
  request.Put(IFA_ADDRESS, ip);
  Status status = Talk(request.header);
  if (!status) return Fail(status.error().Annotate("address " + ip.ToString() + " on " + device));
  return {};
}

Status Socket::AddRoute(const Route& route) {
  Request request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE);
  auto* message = request.Extra<rtmsg>();
  message->rtm_family = static_cast<uint8_t>(route.to.ip().family());
  message->rtm_dst_len = static_cast<uint8_t>(route.to.length());
  message->rtm_table = RT_TABLE_MAIN;
  message->rtm_protocol = RTPROT_STATIC;
  message->rtm_scope =
      route.via.is_set() || route.to.ip().is_v6() ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
  message->rtm_type = RTN_UNICAST;
  if (route.on_link) message->rtm_flags |= RTNH_F_ONLINK;
  if (route.to.length() > 0) request.Put(RTA_DST, route.to.ip());
  if (route.via.is_set()) request.Put(RTA_GATEWAY, route.via);
  if (route.source.is_set()) request.Put(RTA_PREFSRC, route.source);
  if (!route.device.empty()) {
    QANAT_ASSIGN_OR_RETURN(const int index, IndexOf(route.device));
    request.Put(RTA_OIF, static_cast<uint32_t>(index));
  }
  Status status = Talk(request.header);
  if (!status) return Fail(status.error().Annotate("route to " + route.to.ToString()));
  return {};
}

Status Socket::DeleteLink(const std::string& device) {
  Request request(RTM_DELLINK, 0);
  request.Extra<ifinfomsg>()->ifi_family = AF_UNSPEC;
  request.Put(IFLA_IFNAME, device);
  Status status = Talk(request.header);
  if (!status && status.error().sys_errno != ENODEV) {
    return Fail(status.error().Annotate("delete link " + device));
  }
  return {};
}

}  // namespace qanat::rtnl
