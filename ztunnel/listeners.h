// SPDX-License-Identifier: Apache-2.0
// The listening sockets of a pod: opened inside its namespace, or inherited (from the process
// before this one, or from a supervisor) so that nobody who waits in a queue is lost. Main thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "ztunnel/config.h"
#include "ztunnel/pod.h"

namespace qanat::ztunnel {

// What a listening socket is for. The numbers are those of the hand-over: never changed.
enum class Role : uint16_t {
  kOutbound = 1,      // 15001
  kInboundPlain = 2,  // 15006
  kInboundHbone = 3,  // 15008
  kSocks = 4,         // 15080 on loopback, where it is switched on
  kDnsUdp = 5,        // 15053, at one worker of the pod
  kDnsTcp = 6,
};
inline constexpr Role kRoles[] = {Role::kOutbound, Role::kInboundPlain, Role::kInboundHbone,
                                  Role::kSocks,    Role::kDnsUdp,       Role::kDnsTcp};
std::string_view RoleName(Role role);  // "outbound"; no dashes
std::optional<Role> RoleOf(std::string_view name);

struct Listening {
  Role role;
  Fd fd;
};
using Listeners = std::vector<Listening>;

// One set for each worker. Of `inherited`, what fits the pod and the configuration is used, each
// socket by one worker; the rest is closed. Without SO_REUSEPORT (INPOD_PORT_REUSE=false) workers
// share sockets.
Result<std::vector<Listeners>> OpenListeners(const Pod& pod, const Config& config, size_t workers,
                                             Listeners inherited);

}  // namespace qanat::ztunnel
