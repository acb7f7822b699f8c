// SPDX-License-Identifier: Apache-2.0
// Signs that what runs in a pod does not use the kernel's sockets: a network stack of its own
// (gVisor) takes packets off the interface by a packet socket, a virtual machine (Kata) by a tap
// device. Neither connect() nor a listener lookup happens for it, so it cannot be captured.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "agent/redirect/rtnetlink.h"
#include "common/base/result.h"

namespace qanat::agent {

// "a packet socket on eth0", "the tap device tap0", or "" without such a sign. A sign alone proves
// nothing (tcpdump has one too). Acts on the network namespace of the calling thread.
Result<std::string> SignOfOwnStack(const std::vector<rtnl::Interface>& interfaces);

// Pure: the same, of the text of /proc/net/packet.
std::string PacketSocketIn(std::string_view table, const std::vector<rtnl::Interface>& interfaces);

}  // namespace qanat::agent
