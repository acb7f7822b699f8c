// SPDX-License-Identifier: Apache-2.0
// The kernel's part in load balancing: on the way to a pod of this node that may be reached
// straight it draws the endpoint itself, with the same weights. When the draw falls on another one
// the proxy has to take that: a second draw would give the near ones their share twice. The kernel
// says which it is by the mark of the connection, whose upper bits are a code of the endpoint.
// Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "common/lb/lb.h"

namespace qanat::lb {

// Of a workload's uid, never 0. Two may have the same: who makes a table of them looks.
uint32_t DrawCode(std::string_view uid);
inline constexpr unsigned kDrawCodeBits = 20;

// 0: the mark does not speak of a draw. (bpf/include/abi.h: QANAT_MARK_DRAWN)
uint32_t DrawCodeOfMark(uint32_t mark);

// The endpoint of that code, where a pick could fall on it now. None: pick as ever (the mesh has
// changed, or it was tried, or it keeps failing).
std::optional<Pick> PickDrawn(const model::Service& service,
                              std::span<const model::Endpoint> endpoints,
                              const model::Workload& source, uint16_t service_port,
                              const net::IpAddress& asked, uint32_t code, const Avoid& avoid);

}  // namespace qanat::lb
