// SPDX-License-Identifier: Apache-2.0
// One datagram with file descriptors on a unix socket, out and in: what supervisor.h and holder.h
// speak. Stateless.
#pragma once

#include <sys/socket.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"

namespace qanat::takeover {

// At most kMaxFdsPerDatagram descriptors. `to` may be null (a connected socket). The error keeps
// errno.
Status SendDatagram(int socket, const sockaddr* to, socklen_t to_size, std::string_view text,
                    std::span<const int> fds, int flags);

struct Datagram {
  std::string text;
  std::vector<Fd> fds;
  std::optional<ucred> sender;  // where the socket has SO_PASSCRED: the kernel's word
  bool cut = false;             // longer than `most`, or more descriptors than there was room for
};
// Code::kUnavailable where there is nothing now; an empty text without descriptors is also what the
// end of a connection reads as.
Result<Datagram> ReceiveDatagram(int socket, size_t most);

}  // namespace qanat::takeover
