// SPDX-License-Identifier: Apache-2.0
// Sees what arrives at one interface, before any program of ours there.
#pragma once

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <functional>
#include <string>

#include "bpf/include/abi.h"
#include "common/base/fd.h"
#include "common/netns/netns.h"

namespace qanat::test {

class Recorder {
 public:
  Recorder(const std::string& netns, const std::string& device) {
    auto ns = netns::NetNs::Open("/run/netns/" + netns);
    if (!ns) return;
    (void)ns->Run([&]() -> Status {
      sockaddr_ll to{};
      to.sll_family = AF_PACKET;
      to.sll_protocol = htons(ETH_P_ALL);
      to.sll_ifindex = static_cast<int>(::if_nametoindex(device.c_str()));
      Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      if (fd && to.sll_ifindex != 0 &&
          ::bind(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) == 0)
        fd_ = std::move(fd);
      return {};
    });
  }
  bool valid() const { return fd_.valid(); }
  // SYNs (without ACK) that arrived since the last call.
  int Syns() { return Count(IsSyn); }
  // Frames of which `is` is true, likewise.
  int Count(const std::function<bool(const uint8_t* frame, size_t size)>& is) {
    int count = 0;
    uint8_t frame[2048];
    sockaddr_ll from{};
    socklen_t size = sizeof from;
    for (ssize_t n; (n = ::recvfrom(fd_.get(), frame, sizeof frame, 0,
                                    reinterpret_cast<sockaddr*>(&from), &size)) > 0;
         size = sizeof from)
      count += from.sll_pkttype != PACKET_OUTGOING && is(frame, static_cast<size_t>(n));
    return count;
  }

 private:
  static bool IsSyn(const uint8_t* frame, size_t size) {
    if (size < 54) return false;
    const int type = frame[12] << 8 | frame[13];
    size_t tcp = 0;
    if (type == ETH_P_IP && frame[23] == IPPROTO_TCP) tcp = 14 + (frame[14] & 0x0f) * 4u;
    if (type == ETH_P_IPV6 && frame[20] == IPPROTO_TCP) tcp = 54;
    if (tcp == 0 || size <= tcp + 13 || (frame[tcp + 2] << 8 | frame[tcp + 3]) == QANAT_PORT_PROBE)
      return false;  // the agent's own, which end at this interface
    return (frame[tcp + 13] & 0x12) == 0x02;
  }
  Fd fd_;
};

}  // namespace qanat::test
