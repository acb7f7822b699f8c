// SPDX-License-Identifier: Apache-2.0
// UDP sockets of the data plane, made in one way as streams are in socket.h, and the local address
// of a packet, so that an answer comes from where the question went.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/net/address.h"
#include "common/netns/netns.h"

namespace qanat::net {

struct DatagramOptions {
  SocketAddress bind;        // none: the kernel picks a random port at the first use
  SocketAddress connect;     // only this peer's packets are received; its family where bind is none
  bool reuse_port = false;   //
  bool packet_info = false;  // ReceivePacket tells the local address
  bool freebind = false;     // IPv6: SendPacket may send from an address that is only routed here
  uint32_t mark = 0;         // SO_MARK, 0 = leave (needs CAP_NET_ADMIN)
  std::string bind_device;   // SO_BINDTODEVICE
  const netns::NetNs* netns = nullptr;  // nullptr: the caller's
};
Result<Fd> OpenDatagram(const DatagramOptions& options);  // non-blocking
// The TCP listener of a service that has both, with the same options.
Result<Fd> ListenBeside(const DatagramOptions& options);

struct Packet {
  SocketAddress peer;
  IpAddress local;  // where it was sent to; with `packet_info`
  int device = 0;   // by which it came; as above
  size_t size = 0;
  bool cut = false;  // the buffer was too small
};
// False with errno where there is none.
bool ReceivePacket(int fd, std::span<uint8_t> buffer, Packet& packet);
// To `peer` from `local` (none: the kernel picks). False with errno where it was not taken.
bool SendPacket(int fd, std::span<const uint8_t> data, const SocketAddress& peer,
                const IpAddress& local);

}  // namespace qanat::net
