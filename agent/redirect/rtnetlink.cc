// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/rtnetlink.h"

#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/net_namespace.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>

namespace qanat::agent::rtnl {
namespace {

constexpr size_t kBuffer = 32768;

struct CloseSocket {
  void operator()(mnl_socket* s) const { mnl_socket_close(s); }
};
using Socket = std::unique_ptr<mnl_socket, CloseSocket>;

struct Message {
  alignas(nlmsghdr) char buffer[1024] = {};
  nlmsghdr* header = nullptr;
  Message(uint16_t type, uint16_t flags) {
    header = mnl_nlmsg_put_header(buffer);
    header->nlmsg_type = type;
    header->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    header->nlmsg_seq = 1;
  }
  template <typename T>
  T* Extra() {
    return static_cast<T*>(mnl_nlmsg_put_extra_header(header, sizeof(T)));
  }
};

using OnMessage = std::function<void(const nlmsghdr*)>;

int Forward(const nlmsghdr* message, void* data) {
  (*static_cast<OnMessage*>(data))(message);
  return MNL_CB_OK;
}

// Sends and reads until the ack or the end of the dump. Returns 0 or the errno of the kernel.
Result<int> Talk(const Message& message, OnMessage on_message) {
  Socket socket(mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC));
  if (!socket) return FailErrno("rtnetlink socket");
  if (mnl_socket_bind(socket.get(), 0, MNL_SOCKET_AUTOPID) < 0) return FailErrno("rtnetlink bind");
  if (mnl_socket_sendto(socket.get(), message.header, message.header->nlmsg_len) < 0)
    return FailErrno("rtnetlink send");
  auto buffer = std::make_unique<char[]>(kBuffer);
  const unsigned port = mnl_socket_get_portid(socket.get());
  for (;;) {
    const ssize_t n = mnl_socket_recvfrom(socket.get(), buffer.get(), kBuffer);
    if (n < 0) return FailErrno("rtnetlink receive");
    const int run = mnl_cb_run(buffer.get(), static_cast<size_t>(n), 1, port, Forward, &on_message);
    if (run < 0) return errno;
    if (run == MNL_CB_STOP) return 0;
  }
}

Result<int> Talk(const Message& message) {
  return Talk(message, [](const nlmsghdr*) {});
}

Status Expect(Result<int> result, int also_fine, const char* what) {
  if (!result) return tl::unexpected(std::move(result).error());
  if (*result == 0 || *result == also_fine) return {};
  return FailErrno(what, *result);
}

// libmnl's own macro is C: it assigns from void*.
template <typename F>
void ForEachAttribute(const nlmsghdr* message, size_t header, F&& f) {
  const auto* a = static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(message, header));
  const char* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(message));
  for (; mnl_attr_ok(a, static_cast<int>(end - reinterpret_cast<const char*>(a)));
       a = mnl_attr_next(a))
    f(a);
}

template <typename F>
void ForEachNested(const nlattr* nest, F&& f) {
  const auto* a = static_cast<const nlattr*>(mnl_attr_get_payload(nest));
  const char* end = reinterpret_cast<const char*>(a) + mnl_attr_get_payload_len(nest);
  for (; mnl_attr_ok(a, static_cast<int>(end - reinterpret_cast<const char*>(a)));
       a = mnl_attr_next(a))
    f(a);
}

net::IpAddress AddressOf(const nlattr* attribute) {
  return net::IpAddress::FromBytes({static_cast<const uint8_t*>(mnl_attr_get_payload(attribute)),
                                    mnl_attr_get_payload_len(attribute)});
}

void PutAddress(nlmsghdr* header, uint16_t type, const net::IpAddress& ip) {
  mnl_attr_put(header, type, ip.bytes().size(), ip.bytes().data());
}

void FillRule(Message& message, const Rule& rule) {
  auto* hdr = message.Extra<fib_rule_hdr>();
  hdr->family = static_cast<uint8_t>(rule.family);
  mnl_attr_put_u32(message.header, FRA_PRIORITY, rule.priority);
  switch (rule.action) {
    case RuleAction::kTable:
      hdr->action = FR_ACT_TO_TBL;
      hdr->table = static_cast<uint8_t>(rule.table);
      mnl_attr_put_u32(message.header, FRA_TABLE, rule.table);
      mnl_attr_put_u32(message.header, FRA_FWMARK, rule.mark);
      mnl_attr_put_u32(message.header, FRA_FWMASK, rule.mask);
      break;
    case RuleAction::kBlackholeTcp:
      hdr->action = FR_ACT_BLACKHOLE;
      mnl_attr_put_u8(message.header, FRA_IP_PROTO, IPPROTO_TCP);
      break;
  }
}

void FillLocalDefault(Message& message, int family, const net::IpAddress& source, uint32_t table) {
  auto* rt = message.Extra<rtmsg>();
  rt->rtm_family = static_cast<uint8_t>(family);
  rt->rtm_table = static_cast<uint8_t>(table);
  rt->rtm_type = RTN_LOCAL;
  rt->rtm_protocol = RTPROT_STATIC;
  rt->rtm_scope = family == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
  mnl_attr_put_u32(message.header, RTA_TABLE, table);
  mnl_attr_put_u32(message.header, RTA_OIF, kLoopbackIndex);
  if (source.is_set()) PutAddress(message.header, RTA_PREFSRC, source);
}

constexpr uint8_t kOwnProtocol = 81;

void FillLocalPrefix(Message& message, const net::IpAddress& prefix, uint8_t length) {
  auto* rt = message.Extra<rtmsg>();
  rt->rtm_family = AF_INET6;
  rt->rtm_dst_len = length;
  rt->rtm_table = RT_TABLE_LOCAL;
  rt->rtm_type = RTN_LOCAL;
  rt->rtm_protocol = kOwnProtocol;
  mnl_attr_put_u32(message.header, RTA_OIF, kLoopbackIndex);
  PutAddress(message.header, RTA_DST, prefix);
}

Interface InterfaceOf(const nlmsghdr* h) {
  const auto* info = static_cast<const ifinfomsg*>(mnl_nlmsg_get_payload(h));
  Interface i;
  i.ifindex = static_cast<uint32_t>(info->ifi_index);
  i.loopback = (info->ifi_flags & IFF_LOOPBACK) != 0;
  i.up = (info->ifi_flags & IFF_UP) != 0;
  ForEachAttribute(h, sizeof(ifinfomsg), [&](const nlattr* a) {
    switch (mnl_attr_get_type(a)) {
      case IFLA_IFNAME: i.name = mnl_attr_get_str(a); break;
      case IFLA_LINK: i.link = mnl_attr_get_u32(a); break;
      case IFLA_LINK_NETNSID: i.link_netns = static_cast<int>(mnl_attr_get_u32(a)); break;
      case IFLA_LINKINFO:
        ForEachNested(a, [&](const nlattr* inner) {
          if (mnl_attr_get_type(inner) == IFLA_INFO_KIND) i.kind = mnl_attr_get_str(inner);
        });
        break;
      default: break;
    }
  });
  return i;
}

}  // namespace

Result<std::vector<InterfaceAddress>> Addresses() {
  Message message(RTM_GETADDR, NLM_F_DUMP);
  message.Extra<ifaddrmsg>();
  std::vector<InterfaceAddress> out;
  auto result = Talk(message, [&](const nlmsghdr* h) {
    const auto* ifa = static_cast<const ifaddrmsg*>(mnl_nlmsg_get_payload(h));
    net::IpAddress address, local;
    ForEachAttribute(h, sizeof(ifaddrmsg), [&](const nlattr* a) {
      if (mnl_attr_get_type(a) == IFA_ADDRESS) address = AddressOf(a);
      if (mnl_attr_get_type(a) == IFA_LOCAL) local = AddressOf(a);
    });
    out.push_back({ifa->ifa_index, local.is_set() ? local : address});
  });
  QANAT_RETURN_IF_ERROR(Expect(std::move(result), 0, "list addresses"));
  return out;
}

Result<std::vector<Interface>> Interfaces() {
  Message message(RTM_GETLINK, NLM_F_DUMP);
  message.Extra<ifinfomsg>();
  std::vector<Interface> out;
  auto result = Talk(message, [&](const nlmsghdr* h) { out.push_back(InterfaceOf(h)); });
  QANAT_RETURN_IF_ERROR(Expect(std::move(result), 0, "list interfaces"));
  return out;
}

Result<Interface> InterfaceAt(uint32_t ifindex) {
  Message message(RTM_GETLINK, NLM_F_ACK);
  message.Extra<ifinfomsg>()->ifi_index = static_cast<int>(ifindex);
  Interface out;
  auto result = Talk(message, [&](const nlmsghdr* h) { out = InterfaceOf(h); });
  if (!result) return tl::unexpected(std::move(result).error());
  if (*result == ENODEV) return Fail(Code::kNotFound, "no interface " + std::to_string(ifindex));
  QANAT_RETURN_IF_ERROR(Expect(std::move(result), 0, "ask for an interface"));
  return out;
}

Result<int> IdOfNamespace(int netns_fd) {
  Message message(RTM_GETNSID, NLM_F_ACK);
  message.Extra<rtgenmsg>();
  mnl_attr_put_u32(message.header, NETNSA_FD, static_cast<uint32_t>(netns_fd));
  int id = -1;
  auto result = Talk(message, [&](const nlmsghdr* h) {
    ForEachAttribute(h, sizeof(rtgenmsg), [&](const nlattr* a) {
      if (mnl_attr_get_type(a) == NETNSA_NSID) id = static_cast<int>(mnl_attr_get_u32(a));
    });
  });
  QANAT_RETURN_IF_ERROR(Expect(std::move(result), 0, "ask for a namespace's id"));
  return id;
}

Status AddRule(const Rule& rule) {
  Message message(RTM_NEWRULE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
  FillRule(message, rule);
  return Expect(Talk(message), EEXIST, "add ip rule (CONFIG_IP_MULTIPLE_TABLES?)");
}

Status DeleteRule(const Rule& rule) {
  Message message(RTM_DELRULE, NLM_F_ACK);
  FillRule(message, rule);
  return Expect(Talk(message), ENOENT, "delete ip rule");
}

Result<bool> HasRule(const Rule& rule) {
  Message message(RTM_GETRULE, NLM_F_DUMP);
  message.Extra<fib_rule_hdr>()->family = static_cast<uint8_t>(rule.family);
  bool found = false;
  auto result = Talk(message, [&](const nlmsghdr* h) {
    const auto* hdr = static_cast<const fib_rule_hdr*>(mnl_nlmsg_get_payload(h));
    uint32_t priority = 0, mark = 0, mask = 0, table = hdr->table;
    uint8_t protocol = 0;
    ForEachAttribute(h, sizeof(fib_rule_hdr), [&](const nlattr* a) {
      switch (mnl_attr_get_type(a)) {
        case FRA_PRIORITY: priority = mnl_attr_get_u32(a); break;
        case FRA_FWMARK: mark = mnl_attr_get_u32(a); break;
        case FRA_FWMASK: mask = mnl_attr_get_u32(a); break;
        case FRA_TABLE: table = mnl_attr_get_u32(a); break;
        case FRA_IP_PROTO: protocol = mnl_attr_get_u8(a); break;
        default: break;
      }
    });
    if (hdr->family != rule.family) return;
    if (rule.priority != 0 && priority != rule.priority) return;
    if (rule.action == RuleAction::kTable)
      found |= hdr->action == FR_ACT_TO_TBL && mark == rule.mark && mask == rule.mask &&
               table == rule.table;
    else
      found |= hdr->action == FR_ACT_BLACKHOLE && protocol == IPPROTO_TCP;
  });
  QANAT_RETURN_IF_ERROR(Expect(std::move(result), 0, "list ip rules"));
  return found;
}

Status SetLocalDefault(const net::IpAddress& source, uint32_t table) {
  Message message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
  FillLocalDefault(message, source.family(), source, table);
  return Expect(Talk(message), 0, "add `local default dev lo` (is lo up?)");
}

Status DeleteLocalDefault(int family, uint32_t table) {
  Message message(RTM_DELROUTE, NLM_F_ACK);
  FillLocalDefault(message, family, {}, table);
  return Expect(Talk(message), ESRCH, "delete `local default dev lo`");
}

Result<net::IpAddress> LocalSourceOf(const net::IpAddress& destination, uint32_t mark) {
  Message message(RTM_GETROUTE, NLM_F_ACK);
  auto* request = message.Extra<rtmsg>();
  request->rtm_family = static_cast<uint8_t>(destination.family());
  request->rtm_dst_len = static_cast<uint8_t>(destination.bytes().size() * 8);
  PutAddress(message.header, RTA_DST, destination);
  mnl_attr_put_u32(message.header, RTA_MARK, mark);
  net::IpAddress source;
  auto result = Talk(message, [&](const nlmsghdr* h) {
    const auto* rt = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(h));
    if (rt->rtm_type != RTN_LOCAL) return;
    uint32_t oif = 0;
    net::IpAddress prefsrc;
    ForEachAttribute(h, sizeof(rtmsg), [&](const nlattr* a) {
      if (mnl_attr_get_type(a) == RTA_OIF) oif = mnl_attr_get_u32(a);
      if (mnl_attr_get_type(a) == RTA_PREFSRC) prefsrc = AddressOf(a);
    });
    if (oif == kLoopbackIndex) source = prefsrc;
  });
  if (!result) return tl::unexpected(std::move(result).error());
  return source;  // an error of the kernel's says that there is no way at all
}

Result<std::vector<Filter>> Filters(uint32_t ifindex, Direction direction) {
  Message message(RTM_GETTFILTER, NLM_F_DUMP);
  auto* ask = message.Extra<tcmsg>();
  ask->tcm_ifindex = static_cast<int>(ifindex);
  ask->tcm_parent =
      TC_H_MAKE(TC_H_CLSACT, direction == Direction::kEgress ? TC_H_MIN_EGRESS : TC_H_MIN_INGRESS);
  std::vector<Filter> out;
  auto result = Talk(message, [&](const nlmsghdr* h) {
    const auto* tcm = static_cast<const tcmsg*>(mnl_nlmsg_get_payload(h));
    if (tcm->tcm_handle == 0) return;  // the head of a list of filters
    Filter filter{TC_H_MAJ(tcm->tcm_info) >> 16, tcm->tcm_handle, 0};
    ForEachAttribute(h, sizeof(tcmsg), [&](const nlattr* a) {
      if (mnl_attr_get_type(a) != TCA_OPTIONS) return;
      ForEachNested(a, [&](const nlattr* option) {
        if (mnl_attr_get_type(option) == TCA_BPF_ID) filter.program_id = mnl_attr_get_u32(option);
      });
    });
    out.push_back(filter);
  });
  QANAT_RETURN_IF_ERROR(Expect(std::move(result), 0, "list filters"));
  return out;
}

Status AddLocalPrefix(const net::IpAddress& prefix, uint8_t length, const net::IpAddress& source) {
  Message message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE);
  FillLocalPrefix(message, prefix, length);
  PutAddress(message.header, RTA_PREFSRC, source);
  return Expect(Talk(message), 0, "add a local prefix for DNS");
}

Status DeleteLocalPrefix(const net::IpAddress& prefix, uint8_t length) {
  Message message(RTM_DELROUTE, NLM_F_ACK);
  FillLocalPrefix(message, prefix, length);
  return Expect(Talk(message), ESRCH, "delete a local prefix");
}

Result<std::vector<net::IpAddress>> LocalPrefixes(uint8_t length) {
  Message message(RTM_GETROUTE, NLM_F_DUMP);
  message.Extra<rtmsg>()->rtm_family = AF_INET6;
  std::vector<net::IpAddress> out;
  auto result = Talk(message, [&](const nlmsghdr* h) {
    const auto* rt = static_cast<const rtmsg*>(mnl_nlmsg_get_payload(h));
    if (rt->rtm_type != RTN_LOCAL || rt->rtm_dst_len != length || rt->rtm_protocol != kOwnProtocol)
      return;
    ForEachAttribute(h, sizeof(rtmsg), [&](const nlattr* a) {
      if (mnl_attr_get_type(a) == RTA_DST) out.push_back(AddressOf(a));
    });
  });
  QANAT_RETURN_IF_ERROR(Expect(std::move(result), 0, "list routes"));
  return out;
}

}  // namespace qanat::agent::rtnl
