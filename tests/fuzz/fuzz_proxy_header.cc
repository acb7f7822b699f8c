// SPDX-License-Identifier: Apache-2.0
// What a peer can put into a PROXY header (authority, certificate) never breaks its frame: a reader
// of its own finds the same ends and values again.
#include <cstdlib>
#include <string>
#include <string_view>

#include "ztunnel/proxy/proxy_header.h"

namespace {

size_t Number(std::string_view bytes, size_t at) {
  if (at + 2 > bytes.size()) std::abort();
  return static_cast<size_t>(static_cast<unsigned char>(bytes[at])) << 8 |
         static_cast<unsigned char>(bytes[at + 1]);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat;
  if (size < 40) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const size_t source_size = (data[0] & 1) != 0 ? 16 : 4;
  const size_t destination_size = (data[0] & 2) != 0 ? 16 : 4;
  ztunnel::ProxyHeader header;
  header.source = {net::IpAddress::FromBytes({data + 1, source_size}),
                   static_cast<uint16_t>(Number(bytes, 33))};
  header.destination = {net::IpAddress::FromBytes({data + 17, destination_size}),
                        static_cast<uint16_t>(Number(bytes, 35))};
  const std::string_view rest = bytes.substr(37);
  const size_t cut = static_cast<size_t>(data[38]) * rest.size() / 256;
  header.identity = rest.substr(0, cut);
  header.hostname = rest.substr(cut);

  const std::string out = ztunnel::EncodeProxyV2(header);
  if (out.size() < 16 || Number(out, 14) != out.size() - 16) std::abort();
  const size_t ip = out[13] == 0x11 ? 4 : 16;
  if (out[13] != 0x11 && out[13] != 0x21) std::abort();
  const auto read_ip = [&](size_t at) {
    return net::IpAddress::FromBytes({reinterpret_cast<const uint8_t*>(out.data()) + at, ip});
  };
  if (read_ip(16) != header.source.ip() || read_ip(16 + ip) != header.destination.ip()) {
    std::abort();
  }
  size_t at = 16 + 2 * ip;
  if (Number(out, at) != header.source.port()) std::abort();
  if (Number(out, at + 2) != header.destination.port()) std::abort();
  at += 4;
  while (at < out.size()) {
    const size_t length = Number(out, at + 1);
    const std::string_view value = std::string_view(out).substr(at + 3, length);
    if (value.size() != length) std::abort();
    const std::string& wanted = out[at] == '\xd0' ? header.identity : header.hostname;
    if (value != wanted) std::abort();
    at += 3 + length;
  }
  if (at != out.size()) std::abort();
  return 0;
}
