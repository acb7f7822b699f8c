// SPDX-License-Identifier: Apache-2.0
#include "common/net/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <cstring>

namespace qanat::net {
namespace {

constexpr std::array<uint8_t, 12> kMappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

Result<uint16_t> ParsePort(std::string_view text, std::string_view whole) {
  uint32_t port = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port > 65535) {
    return Fail(Code::kInvalidArgument,
                fmt::format("\"{}\": the port must be a number from 0 to 65535", whole));
  }
  return static_cast<uint16_t>(port);
}

// Fast: a connection has its addresses written a dozen times, in headers and in the log.
char* PutNumber(char* at, char* end, unsigned number) { return std::to_chars(at, end, number).ptr; }

constexpr size_t kLongest = INET6_ADDRSTRLEN + 8;  // [ADDRESS]:65535

char* PutIp(char* at, char* end, const IpAddress& ip) {
  if (!ip.is_v4()) {
    inet_ntop(AF_INET6, ip.bytes().data(), at, static_cast<socklen_t>(end - at));
    return at + std::strlen(at);
  }
  for (size_t i = 0; i < 4; ++i) {
    if (i > 0) *at++ = '.';
    at = PutNumber(at, end, ip.bytes()[i]);
  }
  return at;
}

size_t HashBytes(std::span<const uint8_t> bytes, uint64_t seed) {
  uint64_t h = 0xcbf29ce484222325u ^ seed;  // FNV-1a, then a final mix
  for (uint8_t b : bytes) h = (h ^ b) * 0x100000001b3u;
  h ^= h >> 32;
  return h * 0x9e3779b97f4a7c15u;
}

}  // namespace

IpAddress IpAddress::V4(uint32_t host_order) {
  IpAddress ip;
  ip.size_ = 4;
  for (int i = 0; i < 4; ++i) ip.bytes_[i] = static_cast<uint8_t>(host_order >> (24 - 8 * i));
  return ip;
}

IpAddress IpAddress::FromBytes(std::span<const uint8_t> bytes) {
  IpAddress ip;
  if (bytes.size() == 16 && std::equal(kMappedPrefix.begin(), kMappedPrefix.end(), bytes.begin())) {
    bytes = bytes.subspan(12);
  }
  if (bytes.size() != 4 && bytes.size() != 16) return ip;
  std::copy(bytes.begin(), bytes.end(), ip.bytes_.begin());
  ip.size_ = static_cast<uint8_t>(bytes.size());
  return ip;
}

Result<IpAddress> IpAddress::Parse(std::string_view text) {
  std::string copy(text);
  std::array<uint8_t, 16> bytes;
  if (inet_pton(AF_INET, copy.c_str(), bytes.data()) == 1) return FromBytes({bytes.data(), 4});
  if (inet_pton(AF_INET6, copy.c_str(), bytes.data()) == 1) return FromBytes(bytes);
  return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not an IP address", text));
}

bool IpAddress::is_loopback() const {
  if (is_v4()) return bytes_[0] == 127;
  return is_v6() && bytes_[15] == 1 &&
         std::all_of(bytes_.begin(), bytes_.begin() + 15, [](uint8_t b) { return b == 0; });
}

bool IpAddress::is_unspecified() const {
  return is_set() && std::all_of(bytes_.begin(), bytes_.end(), [](uint8_t b) { return b == 0; });
}

bool IpAddress::is_link_local() const {
  if (is_v4()) return bytes_[0] == 169 && bytes_[1] == 254;
  return is_v6() && bytes_[0] == 0xfe && (bytes_[1] & 0xc0) == 0x80;
}

bool IpAddress::is_multicast() const {
  if (is_v4()) return (bytes_[0] & 0xf0) == 0xe0;
  return is_v6() && bytes_[0] == 0xff;
}

std::string IpAddress::ToString() const {
  if (!is_set()) return {};
  char buffer[kLongest];
  return {buffer, PutIp(buffer, buffer + sizeof buffer, *this)};
}

SocketAddress SocketAddress::FromSockaddr(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(address);
    return {IpAddress::V4(ntohl(in->sin_addr.s_addr)), ntohs(in->sin_port)};
  }
  if (address->sa_family == AF_INET6) {
    const auto* in = reinterpret_cast<const sockaddr_in6*>(address);
    return {IpAddress::FromBytes(in->sin6_addr.s6_addr), ntohs(in->sin6_port)};
  }
  return {};
}

Result<SocketAddress> SocketAddress::Parse(std::string_view text) {
  std::string_view host = text;
  size_t colon = text.rfind(':');
  if (colon == text.npos) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\": expected IP:PORT", text));
  }
  host = text.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != host.npos) {
    return Fail(Code::kInvalidArgument,
                fmt::format("\"{}\": write an IPv6 address with a port as [ADDRESS]:PORT", text));
  }
  QANAT_ASSIGN_OR_RETURN(IpAddress ip, IpAddress::Parse(host));
  QANAT_ASSIGN_OR_RETURN(uint16_t port, ParsePort(text.substr(colon + 1), text));
  return SocketAddress(ip, port);
}

Result<SocketAddress> SocketAddress::OfLocal(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return FailErrno("getsockname");
  }
  return FromSockaddr(reinterpret_cast<sockaddr*>(&storage));
}

Result<SocketAddress> SocketAddress::OfPeer(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return FailErrno("getpeername");
  }
  return FromSockaddr(reinterpret_cast<sockaddr*>(&storage));
}

socklen_t SocketAddress::ToSockaddr(sockaddr_storage& out, bool as_v6) const {
  std::memset(&out, 0, sizeof out);
  if (ip_.is_v4() && !as_v6) {
    auto* in = reinterpret_cast<sockaddr_in*>(&out);
    in->sin_family = AF_INET;
    in->sin_port = htons(port_);
    std::memcpy(&in->sin_addr, ip_.bytes().data(), 4);
    return sizeof *in;
  }
  auto* in = reinterpret_cast<sockaddr_in6*>(&out);
  in->sin6_family = AF_INET6;
  in->sin6_port = htons(port_);
  if (ip_.is_v4()) {
    std::copy(kMappedPrefix.begin(), kMappedPrefix.end(), in->sin6_addr.s6_addr);
    std::memcpy(in->sin6_addr.s6_addr + 12, ip_.bytes().data(), 4);
  } else if (ip_.is_v6()) {
    std::memcpy(&in->sin6_addr, ip_.bytes().data(), 16);
  }
  return sizeof *in;
}

std::string SocketAddress::ToString() const {
  if (!ip_.is_set()) return {};
  char buffer[kLongest];
  char* const end = buffer + sizeof buffer;
  char* at = buffer;
  if (ip_.is_v6()) *at++ = '[';
  at = PutIp(at, end, ip_);
  if (ip_.is_v6()) *at++ = ']';
  *at++ = ':';
  at = PutNumber(at, end, port_);
  return {buffer, at};
}

Result<Cidr> Cidr::Make(IpAddress ip, unsigned length) {
  size_t bits = ip.bytes().size() * 8;
  if (!ip.is_set() || length > bits) {
    return Fail(Code::kInvalidArgument, fmt::format("{}/{}: the prefix length must be at most {}",
                                                    ip.ToString(), length, bits));
  }
  std::array<uint8_t, 16> bytes{};
  std::copy(ip.bytes().begin(), ip.bytes().end(), bytes.begin());
  for (unsigned bit = length; bit < bits; ++bit) {
    bytes[bit / 8] &= static_cast<uint8_t>(~(0x80u >> (bit % 8)));
  }
  Cidr cidr;
  // A cleared IPv6 prefix is never in the mapped range unless it was: sizes stay as they are.
  cidr.ip_ = IpAddress::FromBytes({bytes.data(), bits / 8});
  cidr.length_ = static_cast<uint8_t>(length);
  return cidr;
}

Result<Cidr> Cidr::Parse(std::string_view text) {
  size_t slash = text.find('/');
  QANAT_ASSIGN_OR_RETURN(IpAddress ip, IpAddress::Parse(text.substr(0, slash)));
  if (slash == text.npos) return Make(ip, static_cast<unsigned>(ip.bytes().size() * 8));
  std::string_view digits = text.substr(slash + 1);
  unsigned length = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return Fail(Code::kInvalidArgument, fmt::format("\"{}\" is not a CIDR block", text));
  }
  return Make(ip, length);
}

bool Cidr::Contains(const IpAddress& ip) const {
  if (!ip_.is_set() || ip.bytes().size() != ip_.bytes().size()) return false;
  unsigned whole = length_ / 8;
  unsigned rest = length_ % 8;
  auto a = ip_.bytes();
  auto b = ip.bytes();
  if (!std::equal(a.begin(), a.begin() + whole, b.begin())) return false;
  if (rest == 0) return true;
  auto mask = static_cast<uint8_t>(0xff00u >> rest);
  return ((a[whole] ^ b[whole]) & mask) == 0;
}

std::string Cidr::ToString() const { return fmt::format("{}/{}", ip_.ToString(), length_); }

size_t HashValue(const IpAddress& ip) { return HashBytes(ip.bytes(), 0); }
size_t HashValue(const SocketAddress& a) { return HashBytes(a.ip().bytes(), a.port()); }

}  // namespace qanat::net
