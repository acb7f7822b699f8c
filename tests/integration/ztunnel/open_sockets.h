// SPDX-License-Identifier: Apache-2.0
// The internet sockets of this process as the kernel has them: of proxies that run in it, of their
// fakes and of the test.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/net/address.h"

namespace qanat::ztunnel::test {

struct OpenSocket {
  int fd = -1;
  uint64_t netns = 0;  // its cookie
  bool tcp = false, listens = false;
  net::SocketAddress local, peer;  // no peer: it is not connected

  uint32_t mark() const;
  std::vector<int> keepalive() const;  // on or not, then TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT
};

std::vector<OpenSocket> FindSockets(const std::function<bool(const OpenSocket&)>& fits);
std::vector<uint32_t> Marks(const std::vector<OpenSocket>& sockets);

}  // namespace qanat::ztunnel::test
