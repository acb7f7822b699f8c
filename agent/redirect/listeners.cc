// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/listeners.h"

#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "common/base/log.h"
#include "common/net/address.h"

namespace qanat::agent {
namespace {

constexpr int kSoNetnsCookie = 71;
constexpr int kIpv6Transparent = 75;
constexpr int kBlindScanLimit = 1024;  // without /proc of the proxy

int RoleOfPort(uint16_t port) {
  switch (port) {
    case QANAT_PORT_OUTBOUND: return QANAT_ROLE_OUTBOUND;
    case QANAT_PORT_INBOUND: return QANAT_ROLE_INBOUND;
    case QANAT_PORT_HBONE: return QANAT_ROLE_HBONE;
    default: return -1;
  }
}

// Descriptor numbers of the process that are sockets.
std::vector<int> SocketNumbers(pid_t pid) {
  std::vector<int> out;
  const std::string path = "/proc/" + std::to_string(pid) + "/fd";
  std::unique_ptr<DIR, int (*)(DIR*)> dir(pid > 0 ? ::opendir(path.c_str()) : nullptr, ::closedir);
  if (!dir) {
    for (int i = 0; i < kBlindScanLimit; ++i) out.push_back(i);
    return out;
  }
  while (dirent* entry = ::readdir(dir.get())) {
    char target[32];
    const ssize_t n = ::readlinkat(::dirfd(dir.get()), entry->d_name, target, sizeof target);
    if (n >= 7 && std::memcmp(target, "socket:", 7) == 0) out.push_back(std::atoi(entry->d_name));
  }
  return out;
}

bool InspectDns(int fd, FoundDns& out) {
  int protocol = 0;
  socklen_t size = sizeof protocol;
  if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0 || protocol != IPPROTO_UDP)
    return false;
  auto local = net::SocketAddress::OfLocal(fd);
  if (!local || local->port() != QANAT_PORT_DNS || !local->ip().is_unspecified()) return false;
  int v6_only = 0;
  size = sizeof v6_only;
  if (::getsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &v6_only, &size) != 0)
    out.families = QANAT_DNS_V4;
  else
    out.families = v6_only ? QANAT_DNS_V6 : QANAT_DNS_V6 | QANAT_DNS_V4;
  size = sizeof out.netns_cookie;
  return ::getsockopt(fd, SOL_SOCKET, kSoNetnsCookie, &out.netns_cookie, &size) == 0;
}

bool Inspect(FoundListener& l) {
  const int fd = l.fd.get();
  int listening = 0, protocol = 0;
  socklen_t size = sizeof listening;
  if (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0 || !listening)
    return false;
  size = sizeof protocol;
  if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0 || protocol != IPPROTO_TCP)
    return false;
  auto local = net::SocketAddress::OfLocal(fd);
  if (!local) return false;
  const int role = RoleOfPort(local->port());
  if (role < 0) return false;
  l.role = static_cast<uint32_t>(role);
  int reads_marks = 0;
  size = sizeof reads_marks;
  l.reads_marks =
      ::getsockopt(fd, SOL_SOCKET, SO_RCVMARK, &reads_marks, &size) == 0 && reads_marks != 0;
  size = sizeof l.netns_cookie;
  if (::getsockopt(fd, SOL_SOCKET, kSoNetnsCookie, &l.netns_cookie, &size) != 0) return false;
  size = sizeof l.socket_cookie;
  return ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &l.socket_cookie, &size) == 0;
}

void Prepare(const FoundListener& l) {
  const int on = 1;
  // The SYN-ACK's source is the original destination, which is no address of the pod: without
  // IP_TRANSPARENT it cannot be routed. A stock proxy tries the IPv4 option only.
  if (::setsockopt(l.fd.get(), SOL_IP, IP_TRANSPARENT, &on, sizeof on) != 0 &&
      ::setsockopt(l.fd.get(), SOL_IPV6, kIpv6Transparent, &on, sizeof on) != 0)
    LOG_WARN("listeners", "cannot make a listener transparent: {}", std::strerror(errno));
  if (l.role != QANAT_ROLE_OUTBOUND) return;
  // Children inherit the mark. With fwmark_reflect a client in TIME_WAIT acknowledges with the mark
  // of the packet it answers: any other mark would send that ACK out of eth0. A listener without a
  // mark gives its children that of their SYN (tcp_fwmark_accept), of which each has an ip rule.
  const uint32_t mark = l.reads_marks ? 0 : QANAT_MARK_CAPTURE;
  if (::setsockopt(l.fd.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0)
    LOG_WARN("listeners", "cannot mark the listener on 15001: {}", std::strerror(errno));
}

}  // namespace

Result<std::vector<FoundListener>> TakeListeners(const zds::Peer& peer,
                                                 std::vector<FoundDns>* dns) {
  std::vector<FoundListener> out;
  size_t tried = 0;
  int refused = 0;
  for (int number : SocketNumbers(peer.pid)) {
    ++tried;
    FoundListener l;
    l.fd.Reset(static_cast<int>(::syscall(SYS_pidfd_getfd, peer.pidfd.get(), number, 0)));
    if (!l.fd) {
      if (errno == ESRCH) return Fail(Code::kUnavailable, "the proxy's process is gone");
      if (errno == EPERM) ++refused;
      continue;
    }
    if (FoundDns found; InspectDns(l.fd.get(), found)) dns->push_back(found);
    if (!Inspect(l)) continue;
    Prepare(l);
    out.push_back(std::move(l));
  }
  if (out.empty() && (refused > 0 || tried == 0))
    return Fail(Code::kPermissionDenied,
                "the proxy's sockets cannot be taken: the agent needs CAP_SYS_PTRACE");
  // Which worker sits in which slot must not change from scan to scan.
  std::sort(out.begin(), out.end(),
            [](const auto& a, const auto& b) { return a.socket_cookie < b.socket_cookie; });
  return out;
}

Result<SlotReport> FillSlots(bpf::NodeMaps& maps, uint32_t pod_id, uint64_t netns_cookie,
                             const std::vector<FoundListener>& found, qanat_pod_state* state) {
  SlotReport report;
  report.reads_draws = true;
  for (const FoundListener& l : found) {
    if (l.netns_cookie != netns_cookie) continue;
    if (report.filled[l.role] >= QANAT_MAX_WORKERS) continue;
    const uint32_t slot = qanat_slot(pod_id, l.role, report.filled[l.role]);
    auto present = maps.listeners.Lookup(slot);
    if (!present || !*present || **present != l.socket_cookie)
      QANAT_RETURN_IF_ERROR(maps.listeners.Update(slot, static_cast<__u64>(l.fd.get())));
    ++report.filled[l.role];
    if (l.role == QANAT_ROLE_OUTBOUND && !l.reads_marks) report.reads_draws = false;
  }
  if (report.filled[QANAT_ROLE_OUTBOUND] == 0) report.reads_draws = false;
  qanat_pod_state next = *state;
  for (uint32_t role = 0; role < QANAT_ROLES; ++role) next.workers[role] = report.filled[role];
  if (std::memcmp(&next, state, sizeof next) != 0) {
    QANAT_RETURN_IF_ERROR(maps.pod_state.Update(pod_id, next));
    *state = next;
  }
  // Only now: until the count was lowered a SYN could still start at one of these.
  for (uint32_t role = 0; role < QANAT_ROLES; ++role)
    for (uint32_t w = report.filled[role]; w < QANAT_MAX_WORKERS; ++w)
      (void)maps.listeners.Erase(qanat_slot(pod_id, role, w));
  return report;
}

SlotReport ReadSlots(const bpf::NodeMaps& maps, uint32_t pod_id, const uint32_t* workers) {
  SlotReport report;
  for (uint32_t role = 0; role < QANAT_ROLES; ++role)
    for (uint32_t w = 0; w < (workers ? workers[role] : QANAT_MAX_WORKERS); ++w) {
      auto cookie = maps.listeners.Lookup(qanat_slot(pod_id, role, w));
      if (cookie && *cookie && **cookie != 0) ++report.filled[role];
    }
  return report;
}

void EmptySlots(bpf::NodeMaps& maps, uint32_t pod_id) {
  for (uint32_t role = 0; role < QANAT_ROLES; ++role)
    for (uint32_t w = 0; w < QANAT_MAX_WORKERS; ++w)
      (void)maps.listeners.Erase(qanat_slot(pod_id, role, w));
}

}  // namespace qanat::agent
