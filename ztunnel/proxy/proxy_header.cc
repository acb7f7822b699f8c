// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/proxy_header.h"

#include <string_view>

namespace qanat::ztunnel {
namespace {

constexpr std::string_view kSignature("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr char kVersion2Proxy = 0x21;
constexpr char kTcp4 = 0x11;
constexpr char kTcp6 = 0x21;
constexpr char kTypeIdentity = '\xd0';
constexpr char kTypeHostname = '\xd1';
constexpr size_t kMaxValue = 4096;

void PutNumber(std::string& out, size_t value) {
  out.push_back(static_cast<char>(value >> 8));
  out.push_back(static_cast<char>(value & 0xff));
}

void PutIp(std::string& out, const net::IpAddress& ip, bool as_v6) {
  if (as_v6 && ip.is_v4()) out.append(10, '\0').append("\xff\xff");
  out.append(reinterpret_cast<const char*>(ip.bytes().data()), ip.bytes().size());
}

void PutTlv(std::string& out, char type, const std::string& value) {
  if (value.empty() || value.size() > kMaxValue) return;
  out.push_back(type);
  PutNumber(out, value.size());
  out += value;
}

}  // namespace

std::string EncodeProxyV2(const ProxyHeader& header) {
  const bool v6 = header.source.ip().is_v6() || header.destination.ip().is_v6();
  std::string rest;
  PutIp(rest, header.source.ip(), v6);
  PutIp(rest, header.destination.ip(), v6);
  PutNumber(rest, header.source.port());
  PutNumber(rest, header.destination.port());
  PutTlv(rest, kTypeIdentity, header.identity);
  PutTlv(rest, kTypeHostname, header.hostname);
  std::string out(kSignature);
  out.push_back(kVersion2Proxy);
  out.push_back(v6 ? kTcp6 : kTcp4);
  PutNumber(out, rest.size());
  return out + rest;
}

}  // namespace qanat::ztunnel
