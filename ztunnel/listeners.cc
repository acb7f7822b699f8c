// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/listeners.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <set>

#include "common/base/log.h"
#include "common/net/socket.h"
#include "ztunnel/dns/listeners.h"

namespace qanat::ztunnel {
namespace {

constexpr int kSoNetnsCookie = 71;  // SO_NETNS_COOKIE, Linux 5.14

constexpr struct {
  Role role;
  std::string_view name;
  uint16_t port;
} kTable[] = {{Role::kOutbound, "outbound", 15001},  {Role::kInboundPlain, "inbound", 15006},
              {Role::kInboundHbone, "hbone", 15008}, {Role::kSocks, "socks", 15080},
              {Role::kDnsUdp, "dnsudp", 0},          {Role::kDnsTcp, "dnstcp", 0}};

bool IsDns(Role role) { return role == Role::kDnsUdp || role == Role::kDnsTcp; }

uint16_t PortOf(Role role, const Config& config) {
  if (IsDns(role)) {
    const auto addresses = dns::ParseBindAddress(config.dns_address, config.ipv6);
    return addresses && !addresses->empty() ? addresses->front().address.port() : 0;
  }
  for (const auto& line : kTable) {
    if (line.role == role) return line.port;
  }
  return 0;
}

// ---- inherited ones

template <typename T>
T Option(int fd, int level, int name) {
  T value{};
  socklen_t size = sizeof value;
  if (getsockopt(fd, level, name, &value, &size) != 0) return T{};
  return value;
}

bool KernelHasIpv6() { return Fd(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)).valid(); }

// Who handed it over said what it is; what it is decides.
Status CheckInherited(int fd, Role role, const Pod& pod, const Config& config) {
  const bool udp = role == Role::kDnsUdp;
  if (Option<uint64_t>(fd, SOL_SOCKET, kSoNetnsCookie) != pod.netns_cookie) {
    return Fail(Code::kInvalidArgument, "it is of another network namespace");
  }
  if (Option<int>(fd, SOL_SOCKET, SO_PROTOCOL) != (udp ? IPPROTO_UDP : IPPROTO_TCP) ||
      (!udp && Option<int>(fd, SOL_SOCKET, SO_ACCEPTCONN) != 1)) {
    return Fail(Code::kInvalidArgument, "it does not listen");
  }
  const auto local = net::SocketAddress::OfLocal(fd);
  if (!local || local->port() != PortOf(role, config)) {
    return Fail(Code::kInvalidArgument, "it has another port");
  }
  // One family less than is wanted would leave the other one without a listener.
  const bool v6 = Option<int>(fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6;
  if (!IsDns(role) && role != Role::kSocks && v6 != (config.ipv6 && KernelHasIpv6())) {
    return Fail(Code::kInvalidArgument, "it is of another address family");
  }
  // The kernel's queue is what it was; that it does not block is a property of the file.
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return FailErrno("O_NONBLOCK");
  return {};
}

// Marks are left alone: a node agent may have given the socket its own.
Listeners WhatFits(Listeners inherited, const Pod& pod, const Config& config) {
  Listeners out;
  std::set<uint64_t> seen;  // one socket may come from two sides
  for (Listening& one : inherited) {
    if (!seen.insert(Option<uint64_t>(one.fd.get(), SOL_SOCKET, SO_COOKIE)).second) continue;
    const Status status = CheckInherited(one.fd.get(), one.role, pod, config);
    if (status) {
      out.push_back(std::move(one));
    } else {
      LOG_WARN("pods", "pod {}/{} ({}): an inherited {} listener is not used: {}", pod.ns, pod.name,
               pod.uid, RoleName(one.role), status.error().message);
    }
  }
  return out;
}

// ---- new ones

Result<Fd> ListenIn(const Pod& pod, const Config& config, uint16_t port, bool v6) {
  net::ListenOptions options;
  options.address = net::SocketAddress(*net::IpAddress::Parse(v6 ? "::" : "0.0.0.0"), port);
  options.dual_stack = v6;
  options.reuse_port = config.reuse_port;
  options.transparent = !pod.proxy_itself;
  options.mark = config.packet_mark;
  options.stream_options = config.keepalive;
  options.netns = pod.netns.get();
  auto listener = net::Listen(options);
  // Without CAP_NET_ADMIN in the pod's user namespace transparency is out of reach; the capture by
  // address rewriting works without (stock: best effort unless ENABLE_ORIG_SRC=true).
  if (!listener && listener.error().sys_errno == EPERM && !config.orig_src.value_or(false)) {
    options.transparent = false;
    listener = net::Listen(options);
  }
  return listener;
}

// Loopback only: who can connect there is inside the pod.
Result<Fd> ListenSocks(const Pod& pod, const Config& config) {
  net::ListenOptions options;
  options.address = net::SocketAddress(*net::IpAddress::Parse("127.0.0.1"), 15080);
  options.reuse_port = config.reuse_port;
  options.mark = config.packet_mark;
  options.stream_options = config.keepalive;
  options.netns = pod.netns.get();
  return net::Listen(options);
}

Result<Fd> ListenAs(Role role, const Pod& pod, const Config& config, bool& v6) {
  if (role == Role::kSocks) return ListenSocks(pod, config);
  auto listener = ListenIn(pod, config, PortOf(role, config), v6);
  if (!listener && v6 && listener.error().sys_errno == EAFNOSUPPORT) {
    v6 = false;  // a kernel or namespace without IPv6
    listener = ListenIn(pod, config, PortOf(role, config), v6);
  }
  return listener;
}

Result<Fd> Duplicate(const Fd& fd) {
  Fd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return FailErrno("duplicate a listener");
  return copy;
}

// To our own node agent, which leaves the mark of what is accepted here as its client's is then:
// original_destination.h. It does nothing else to TCP, and who does not look for it sees nothing.
void SayWeReadMarks(const Fd& listener) {
  const int on = 1;
  (void)setsockopt(listener.get(), SOL_SOCKET, SO_RCVMARK, &on, sizeof on);
}

// Every worker gets one at least.
Status Distribute(Role role, const Pod& pod, const Config& config, std::vector<Fd> have, bool& v6,
                  std::vector<Listeners>& sets) {
  const bool inherited = !have.empty();
  while (have.size() < sets.size()) {
    if (have.empty() || config.reuse_port) {
      auto listener = ListenAs(role, pod, config, v6);
      if (listener) {
        have.push_back(std::move(*listener));
        continue;
      }
      // Beside inherited ones a new one is a help, not a need.
      if (!inherited) return Fail(listener.error());
    }
    QANAT_ASSIGN_OR_RETURN(Fd copy, Duplicate(have.front()));
    have.push_back(std::move(copy));
  }
  for (size_t i = 0; i < have.size(); ++i) {
    if (role == Role::kOutbound) SayWeReadMarks(have[i]);
    sets[i % sets.size()].push_back({role, std::move(have[i])});
  }
  return {};
}

// A pod whose names cannot be answered here is proxied all the same.
void AddDns(const Pod& pod, const Config& config, Listeners inherited, Listeners& out) {
  const bool udp = std::any_of(inherited.begin(), inherited.end(),
                               [](const Listening& one) { return one.role == Role::kDnsUdp; });
  if (udp) {
    for (Listening& one : inherited) out.push_back(std::move(one));
    return;
  }
  auto sockets = dns::OpenSockets(pod.netns.get(), config);
  if (!sockets) {
    LOG_WARN("pods", "pod {}/{} ({}) has no DNS proxy: {}", pod.ns, pod.name, pod.uid,
             sockets.error().message);
    return;
  }
  for (Fd& fd : sockets->udp) out.push_back({Role::kDnsUdp, std::move(fd)});
  for (Fd& fd : sockets->tcp) out.push_back({Role::kDnsTcp, std::move(fd)});
}

}  // namespace

std::string_view RoleName(Role role) {
  for (const auto& line : kTable) {
    if (line.role == role) return line.name;
  }
  return "";
}

std::optional<Role> RoleOf(std::string_view name) {
  for (const auto& line : kTable) {
    if (line.name == name) return line.role;
  }
  return std::nullopt;
}

Result<std::vector<Listeners>> OpenListeners(const Pod& pod, const Config& config, size_t workers,
                                             Listeners inherited) {
  std::vector<Listeners> sets(workers);
  inherited = WhatFits(std::move(inherited), pod, config);
  const auto take = [&inherited](Role role) {
    std::vector<Fd> out;
    for (Listening& one : inherited) {
      if (one.role == role && one.fd) out.push_back(std::move(one.fd));
    }
    return out;
  };
  bool v6 = config.ipv6;
  std::vector<Role> roles = {Role::kInboundHbone};
  if (!pod.proxy_itself) {
    roles.insert(roles.end(), {Role::kOutbound, Role::kInboundPlain});
    if (config.socks5) roles.push_back(Role::kSocks);
  }
  for (const Role role : roles) {
    QANAT_RETURN_IF_ERROR(Distribute(role, pod, config, take(role), v6, sets));
  }
  if (config.dns_capture && !pod.proxy_itself && !sets.empty()) {
    Listeners dns;
    for (const Role role : {Role::kDnsUdp, Role::kDnsTcp}) {
      for (Fd& fd : take(role)) dns.push_back({role, std::move(fd)});
    }
    AddDns(pod, config, std::move(dns), sets[std::hash<std::string>{}(pod.uid) % sets.size()]);
  }
  return sets;
}

}  // namespace qanat::ztunnel
