// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/listeners.h"

#include <cerrno>
#include <charconv>

#include "common/net/datagram.h"

namespace qanat::ztunnel::dns {
namespace {

Status Open(const netns::NetNs* netns, const Config& config, const BindAddress& bind,
            Sockets& out) {
  net::DatagramOptions options;
  options.bind = bind.address;
  options.reuse_port = config.reuse_port;
  options.packet_info = true;
  options.mark = config.packet_mark;
  options.bind_device = bind.device;
  options.netns = netns;
  QANAT_ASSIGN_OR_RETURN(Fd tcp, net::ListenBeside(options));
  if (bind.any_by_udp) {
    QANAT_ASSIGN_OR_RETURN(const auto any, net::IpAddress::Parse("::"));
    options.bind = net::SocketAddress(any, bind.address.port());
    options.freebind = true;
  }
  QANAT_ASSIGN_OR_RETURN(Fd udp, net::OpenDatagram(options));
  out.udp.push_back(std::move(udp));
  out.tcp.push_back(std::move(tcp));
  return {};
}

// No IPv6 in the kernel, or not on the namespace's loopback device (lo/disable_ipv6).
bool HasNoAddress(const Error& error) {
  return error.sys_errno == EAFNOSUPPORT || error.sys_errno == EADDRNOTAVAIL;
}

}  // namespace

Result<std::vector<BindAddress>> ParseBindAddress(const std::string& text, bool ipv6) {
  constexpr std::string_view kLocalhost = "localhost:";
  if (text.starts_with(kLocalhost)) {
    uint16_t port = 0;
    const char* end = text.data() + text.size();
    const auto [parsed, error] = std::from_chars(text.data() + kLocalhost.size(), end, port);
    if (error == std::errc() && parsed == end && port != 0) {
      std::vector<BindAddress> out;
      out.push_back({{*net::IpAddress::Parse("0.0.0.0"), port}, false, "lo", false});
      if (ipv6) out.push_back({{*net::IpAddress::Parse("::1"), port}, true, "", true});
      return out;
    }
  } else if (const auto address = net::SocketAddress::Parse(text);
             address && address->port() != 0) {
    return std::vector<BindAddress>{{*address, false, "", false}};
  }
  return Fail(Code::kInvalidArgument,
              "ISTIO_META_DNS_PROXY_ADDR=\"" + text + "\": expected localhost:PORT or IP:PORT");
}

Result<Sockets> OpenSockets(const netns::NetNs* netns, const Config& config) {
  QANAT_ASSIGN_OR_RETURN(const auto addresses, ParseBindAddress(config.dns_address, config.ipv6));
  Sockets out;
  for (const BindAddress& bind : addresses) {
    const Status status = Open(netns, config, bind, out);
    if (!status && !(bind.optional && HasNoAddress(status.error()))) return Fail(status.error());
  }
  return out;
}

}  // namespace qanat::ztunnel::dns
