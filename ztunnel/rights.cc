// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/rights.h"

#include <sys/socket.h>

#include "common/base/fd.h"
#include "common/netns/netns.h"

namespace qanat::ztunnel {
namespace {

Status EnterOwnNamespace() {
  QANAT_ASSIGN_OR_RETURN(const netns::NetNs own, netns::NetNs::Current());
  return own.Run([] { return Status(); });
}

Status MarkASocket(uint32_t mark) {
  const Fd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return FailErrno("make a socket");
  if (setsockopt(fd.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0) {
    return FailErrno("mark a socket");
  }
  return {};
}

}  // namespace

Status CheckRights(const Config& config) {
  if (config.mode == Config::Mode::kShared) {
    if (Status status = EnterOwnNamespace(); !status) {
      return Fail(status.error().Annotate(
          "network namespaces of pods cannot be entered (this needs the capability SYS_ADMIN)"));
    }
  }
  if (config.packet_mark == 0) return {};
  if (Status status = MarkASocket(config.packet_mark); !status) {
    return Fail(status.error().Annotate(
        "sockets cannot be marked, and unmarked ones would be captured again (this needs the "
        "capability NET_RAW, or NET_ADMIN)"));
  }
  return {};
}

}  // namespace qanat::ztunnel
