// SPDX-License-Identifier: Apache-2.0
#include "agent/redirect/sock_diag.h"

#include <libmnl/libmnl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "bpf/include/abi.h"

namespace qanat::agent {
namespace {

constexpr size_t kBuffer = 32768;
constexpr uint32_t kConnected =
    (1u << TCP_ESTABLISHED) | (1u << TCP_SYN_SENT) | (1u << TCP_SYN_RECV) | (1u << TCP_FIN_WAIT1) |
    (1u << TCP_FIN_WAIT2) | (1u << TCP_CLOSE_WAIT) | (1u << TCP_LAST_ACK) | (1u << TCP_CLOSING);

// Of struct tcp_info, whose newer fields <netinet/tcp.h> does not have.
constexpr size_t kBytesReceived = 128, kBytesSent = 200, kBytesRetransmitted = 208;

struct CloseSocket {
  void operator()(mnl_socket* s) const { mnl_socket_close(s); }
};
using Netlink = std::unique_ptr<mnl_socket, CloseSocket>;

uint64_t CookieOf(const inet_diag_sockid& id) {
  return static_cast<uint64_t>(id.idiag_cookie[1]) << 32 | id.idiag_cookie[0];
}

net::SocketAddress AddressOf(uint8_t family, const __be32 (&address)[4], __be16 port) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(address);
  return {net::IpAddress::FromBytes({bytes, family == AF_INET6 ? 16u : 4u}), ntohs(port)};
}

void TakeBytes(const nlattr* info, TcpSocket& socket) {
  if (mnl_attr_get_payload_len(info) < kBytesRetransmitted + sizeof(uint64_t)) return;
  const auto at = [&](size_t offset) {
    uint64_t value = 0;
    std::memcpy(&value, static_cast<const char*>(mnl_attr_get_payload(info)) + offset,
                sizeof value);
    return value;
  };
  socket.bytes_sent = at(kBytesSent) - at(kBytesRetransmitted);
  socket.bytes_received = at(kBytesReceived);
}

int Take(const nlmsghdr* header, void* data) {
  if (mnl_nlmsg_get_payload_len(header) < sizeof(inet_diag_msg)) return MNL_CB_OK;
  const auto* message = static_cast<const inet_diag_msg*>(mnl_nlmsg_get_payload(header));
  TcpSocket socket;
  socket.family = message->idiag_family;
  socket.id = message->id;
  socket.state = message->idiag_state;
  socket.cookie = CookieOf(message->id);
  socket.local = AddressOf(socket.family, message->id.idiag_src, message->id.idiag_sport);
  socket.remote = AddressOf(socket.family, message->id.idiag_dst, message->id.idiag_dport);
  const auto* a =
      static_cast<const nlattr*>(mnl_nlmsg_get_payload_offset(header, sizeof(inet_diag_msg)));
  const char* end = static_cast<const char*>(mnl_nlmsg_get_payload_tail(header));
  for (; mnl_attr_ok(a, static_cast<int>(end - reinterpret_cast<const char*>(a)));
       a = mnl_attr_next(a)) {
    const uint16_t type = mnl_attr_get_type(a), size = mnl_attr_get_payload_len(a);
    if (type == INET_DIAG_INFO) TakeBytes(a, socket);
    if (type == INET_DIAG_MARK && size == sizeof(uint32_t)) socket.mark = mnl_attr_get_u32(a);
    if (type == INET_DIAG_CGROUP_ID && size == sizeof(uint64_t))
      socket.cgroup = mnl_attr_get_u64(a);
  }
  static_cast<std::vector<TcpSocket>*>(data)->push_back(std::move(socket));
  return MNL_CB_OK;
}

// One request, and what comes back until its end or acknowledgement.
Status Ask(uint16_t type, uint16_t flags, const inet_diag_req_v2& request,
           std::vector<TcpSocket>* out) {
  Netlink netlink(mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC));
  if (!netlink) return FailErrno("sock_diag socket");
  if (mnl_socket_bind(netlink.get(), 0, MNL_SOCKET_AUTOPID) < 0) return FailErrno("sock_diag bind");
  alignas(nlmsghdr) char message[256] = {};
  nlmsghdr* header = mnl_nlmsg_put_header(message);
  header->nlmsg_type = type;
  header->nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
  header->nlmsg_seq = 1;
  *static_cast<inet_diag_req_v2*>(mnl_nlmsg_put_extra_header(header, sizeof request)) = request;
  if (mnl_socket_sendto(netlink.get(), header, header->nlmsg_len) < 0)
    return FailErrno("sock_diag send");
  auto buffer = std::make_unique<char[]>(kBuffer);
  const unsigned port = mnl_socket_get_portid(netlink.get());
  for (;;) {
    const ssize_t n = mnl_socket_recvfrom(netlink.get(), buffer.get(), kBuffer);
    if (n < 0) return FailErrno("sock_diag receive");
    const int run =
        mnl_cb_run(buffer.get(), static_cast<size_t>(n), 1, port, out ? Take : nullptr, out);
    if (run < 0) {
      if (errno == ENOENT) return Fail(Code::kNotFound, "the socket is gone");
      return FailErrno(type == SOCK_DESTROY
                           ? "end a connection (CONFIG_INET_DIAG_DESTROY?)"
                           : "list TCP sockets (CONFIG_INET_DIAG, module tcp_diag?)");
    }
    if (run == MNL_CB_STOP) return {};
  }
}

inet_diag_req_v2 RequestFor(uint8_t family, uint32_t states) {
  inet_diag_req_v2 request{};
  request.sdiag_family = family;
  request.sdiag_protocol = IPPROTO_TCP;
  request.idiag_states = states;
  return request;
}

bool IsProxysMark(uint32_t mark) { return mark == QANAT_MARK_PROXY || mark == QANAT_MARK_ONE_PASS; }
bool IsCapturesMark(uint32_t mark) {
  return mark == QANAT_MARK_CAPTURE || mark == QANAT_MARK_LO_LEG ||
         (mark & QANAT_MARK_MASK) == QANAT_MARK_DRAWN;
}

}  // namespace

Result<std::vector<TcpSocket>> ListTcpSockets(WithBytes bytes) {
  std::vector<TcpSocket> sockets;
  for (const uint8_t family : {AF_INET, AF_INET6}) {
    if (family == AF_INET6 && ::access("/proc/sys/net/ipv6", F_OK) != 0) continue;
    inet_diag_req_v2 request = RequestFor(family, kConnected | (1u << TCP_LISTEN));
    if (bytes == WithBytes::kYes) request.idiag_ext = 1u << (INET_DIAG_INFO - 1);
    QANAT_RETURN_IF_ERROR(Ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request, &sockets));
  }
  std::set<uint16_t> listened;
  for (const TcpSocket& socket : sockets)
    if (socket.state == TCP_LISTEN) listened.insert(socket.local.port());
  std::erase_if(sockets, [](const TcpSocket& s) { return s.state == TCP_LISTEN; });
  for (TcpSocket& socket : sockets) socket.accepted = listened.contains(socket.local.port());
  return sockets;
}

Status DestroyTcpSocket(const TcpSocket& socket) {
  const bool named =
      socket.cookie != 0 && socket.cookie != UINT64_MAX && CookieOf(socket.id) == socket.cookie;
  if (!named || socket.state == TCP_LISTEN)
    return Fail(Code::kInvalidArgument, "only a connection with its cookie may be ended");
  inet_diag_req_v2 request = RequestFor(socket.family, 1u << socket.state);
  request.id = socket.id;
  return Ask(SOCK_DESTROY, NLM_F_ACK, request, nullptr);
}

Status DestroyTcpSocket(const net::SocketAddress& local, const net::SocketAddress& remote,
                        uint64_t cookie) {
  TcpSocket socket;
  socket.local = local;
  socket.remote = remote;
  socket.state = TCP_ESTABLISHED;  // whichever it is: the cookie says which socket
  socket.cookie = cookie;
  socket.family = local.ip().is_v4() ? AF_INET : AF_INET6;
  socket.id.idiag_sport = htons(local.port());
  socket.id.idiag_dport = htons(remote.port());
  std::memcpy(socket.id.idiag_src, local.ip().bytes().data(), local.ip().bytes().size());
  std::memcpy(socket.id.idiag_dst, remote.ip().bytes().data(), remote.ip().bytes().size());
  socket.id.idiag_cookie[0] = static_cast<uint32_t>(cookie);
  socket.id.idiag_cookie[1] = static_cast<uint32_t>(cookie >> 32);
  return DestroyTcpSocket(socket);
}

Status DestroyTcpSocketByCookie(uint64_t cookie) {
  QANAT_ASSIGN_OR_RETURN(const auto sockets, ListTcpSockets());
  for (const TcpSocket& socket : sockets) {
    if (socket.cookie == cookie) return DestroyTcpSocket(socket);
  }
  return Fail(Code::kNotFound, "the socket is gone");
}

bool IsPlain(const TcpSocket& socket, const std::vector<net::IpAddress>& own,
             const std::set<uint64_t>& proxy_cgroups) {
  if (IsProxysMark(socket.mark) || IsCapturesMark(socket.mark)) return false;
  if (socket.cgroup != 0 && proxy_cgroups.contains(socket.cgroup)) return false;
  if (socket.remote.ip().is_loopback() || socket.remote.ip() == socket.local.ip()) return false;
  return std::find(own.begin(), own.end(), socket.remote.ip()) == own.end();
}

bool NeedsCapture(const TcpSocket& socket) {
  if (IsCapturesMark(socket.mark)) return true;
  return IsProxysMark(socket.mark) && socket.local.port() != QANAT_PORT_HBONE &&
         socket.remote.port() != QANAT_PORT_HBONE;
}

size_t CountConnections(const std::vector<TcpSocket>& sockets) {
  std::set<std::pair<net::SocketAddress, net::SocketAddress>> ends;
  for (const TcpSocket& socket : sockets) ends.insert(std::minmax(socket.local, socket.remote));
  return ends.size();
}

}  // namespace qanat::agent
