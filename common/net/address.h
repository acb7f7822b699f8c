// SPDX-License-Identifier: Apache-2.0
// IP addresses, socket addresses and CIDR blocks as plain values. An IPv4-mapped IPv6 address is
// turned into its IPv4 form on the way in, everywhere: one address has one representation.
#pragma once

#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::net {

class IpAddress {
 public:
  IpAddress() = default;  // "none"; is_set() is false
  static IpAddress V4(uint32_t host_order);
  static IpAddress FromBytes(std::span<const uint8_t> bytes);  // 4 or 16 bytes, else none
  static Result<IpAddress> Parse(std::string_view text);       // no brackets, no zone

  bool is_set() const { return size_ != 0; }
  bool is_v4() const { return size_ == 4; }
  bool is_v6() const { return size_ == 16; }
  bool is_loopback() const;
  bool is_unspecified() const;  // 0.0.0.0 or ::
  bool is_link_local() const;
  bool is_multicast() const;
  int family() const { return is_v4() ? AF_INET : AF_INET6; }
  std::span<const uint8_t> bytes() const { return {bytes_.data(), size_}; }  // network order
  std::string ToString() const;                                              // "" when none

  auto operator<=>(const IpAddress&) const = default;

 private:
  std::array<uint8_t, 16> bytes_{};
  uint8_t size_ = 0;
};

class SocketAddress {
 public:
  SocketAddress() = default;
  SocketAddress(IpAddress ip, uint16_t port) : ip_(ip), port_(port) {}
  static SocketAddress FromSockaddr(const sockaddr* address);  // none when not AF_INET/AF_INET6
  static Result<SocketAddress> Parse(std::string_view text);   // "1.2.3.4:80", "[fd00::1]:80"
  static Result<SocketAddress> OfLocal(int fd);                // getsockname
  static Result<SocketAddress> OfPeer(int fd);                 // getpeername

  const IpAddress& ip() const { return ip_; }
  uint16_t port() const { return port_; }
  bool is_set() const { return ip_.is_set(); }
  // Fills `out`; with `as_v6` an IPv4 address becomes ::ffff:a.b.c.d. Returns the length.
  socklen_t ToSockaddr(sockaddr_storage& out, bool as_v6 = false) const;
  std::string ToString() const;

  auto operator<=>(const SocketAddress&) const = default;

 private:
  IpAddress ip_;
  uint16_t port_ = 0;
};

class Cidr {
 public:
  Cidr() = default;
  // Host bits must not matter: they are cleared. Fails when the length exceeds the family's.
  static Result<Cidr> Make(IpAddress ip, unsigned length);
  static Result<Cidr> Parse(std::string_view text);  // "10.0.0.0/8"; a bare address is a host
  bool Contains(const IpAddress& ip) const;          // false across families and for none
  const IpAddress& ip() const { return ip_; }
  unsigned length() const { return length_; }
  std::string ToString() const;
  auto operator<=>(const Cidr&) const = default;

 private:
  IpAddress ip_;
  uint8_t length_ = 0;
};

size_t HashValue(const IpAddress& ip);
size_t HashValue(const SocketAddress& address);

}  // namespace qanat::net

template <>
struct std::hash<qanat::net::IpAddress> {
  size_t operator()(const qanat::net::IpAddress& ip) const { return qanat::net::HashValue(ip); }
};
template <>
struct std::hash<qanat::net::SocketAddress> {
  size_t operator()(const qanat::net::SocketAddress& a) const { return qanat::net::HashValue(a); }
};
