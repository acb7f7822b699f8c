// SPDX-License-Identifier: Apache-2.0
// Packets for the guard, from their Ethernet header on, put together piece by piece.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace qanat::test {

using Bytes = std::vector<uint8_t>;

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
inline Bytes Cut(Bytes bytes, size_t size) {
  bytes.resize(size);
  return bytes;
}

inline Bytes Ethernet(uint16_t type) {
  Bytes out(12, 2);
  out.push_back(static_cast<uint8_t>(type >> 8));
  out.push_back(static_cast<uint8_t>(type));
  return out;
}

// `fragment`: the flags and the offset as they lie in the header; `options`: words after the 20
// bytes.
inline Bytes Ip4(uint8_t protocol, uint16_t fragment = 0, uint8_t options = 0) {
  Bytes h(20 + options * 4u, 0);
  h[0] = static_cast<uint8_t>(0x45 + options);
  h[6] = static_cast<uint8_t>(fragment >> 8);
  h[7] = static_cast<uint8_t>(fragment);
  h[8] = 64;
  h[9] = protocol;
  h[12] = h[16] = 10;
  return Ethernet(0x0800) + h;
}

inline Bytes Ip6(uint8_t next) {
  Bytes h(40, 0);
  h[0] = 0x60;
  h[6] = next;
  h[7] = 64;
  h[8] = h[24] = 0xfd;
  return Ethernet(0x86dd) + h;
}
// A hop-by-hop, routing or destination header of 8 * (1 + `words`) bytes.
inline Bytes Extension(uint8_t next, uint8_t words = 0) {
  Bytes h(8u * (1u + words), 0);
  h[0] = next;
  h[1] = words;
  return h;
}
inline Bytes Fragment6(uint8_t next, uint16_t offset_and_flags) {
  return {next,
          0,
          static_cast<uint8_t>(offset_and_flags >> 8),
          static_cast<uint8_t>(offset_and_flags),
          0,
          0,
          0,
          1};
}

// With these last words of the addresses: 10.0.0.LAST and fd00::LAST, of a packet of Ip4 or Ip6.
inline Bytes Between(Bytes packet, uint8_t from, uint8_t to) {
  const bool v4 = packet[12] == 0x08;
  packet[v4 ? 29 : 37] = from;
  packet[v4 ? 33 : 53] = to;
  if (!v4) packet[23] = packet[39] = 0;
  return packet;
}
inline Bytes Ports(Bytes packet, size_t at, uint16_t from, uint16_t to) {
  packet[at] = static_cast<uint8_t>(from >> 8);
  packet[at + 1] = static_cast<uint8_t>(from);
  packet[at + 2] = static_cast<uint8_t>(to >> 8);
  packet[at + 3] = static_cast<uint8_t>(to);
  return packet;
}
// ARP of `sender` 10.0.0.LAST.
inline Bytes Arp(uint8_t sender) {
  return Ethernet(0x0806) + Bytes{0,  1, 8, 0,      6, 4, 0, 1, 2, 2, 2,  2, 2, 2,
                                  10, 0, 0, sender, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1};
}
// ICMPv6 with an address, as neighbour solicitations (135) and advertisements (136) have one.
inline Bytes Neighbour(uint8_t type, uint8_t last) {
  Bytes h(24, 0);
  h[0] = type;
  h[8] = 0xfd;
  h[23] = last;
  return h;
}
// The same with a tag behind the addresses of the frame.
inline Bytes Tagged(Bytes packet, uint16_t kind = 0x8100) {
  const Bytes tag = {static_cast<uint8_t>(kind >> 8), static_cast<uint8_t>(kind), 0, 0};
  packet.insert(packet.begin() + 12, tag.begin(), tag.end());
  return packet;
}

inline Bytes Tcp(uint8_t flags) {
  Bytes h(20, 0);
  h[1] = 80;
  h[3] = 80;
  h[12] = 0x50;
  h[13] = flags;
  return h;
}

}  // namespace qanat::test
