// SPDX-License-Identifier: Apache-2.0
// The proxy's in-pod listeners, found in the proxy's own descriptor table (pidfd_getfd) and put
// into the SOCKMAP. Works with any proxy: it needs to know nothing of the capture.
#pragma once

#include <array>
#include <vector>

#include "agent/zds/connection.h"
#include "bpf/include/abi.h"
#include "bpf/user/node_maps.h"
#include "common/base/fd.h"
#include "common/base/result.h"

namespace qanat::agent {

struct FoundListener {
  // A copy keeps the proxy's listener alive: close it as soon as it is in the map.
  Fd fd;
  uint64_t netns_cookie = 0;
  uint64_t socket_cookie = 0;
  uint32_t role = 0;  // qanat_role
  // SO_RCVMARK, which does nothing to TCP: our own proxy says by it that it reads the mark of what
  // it accepts (QANAT_MARK_DRAWN).
  bool reads_marks = false;
};

// A UDP socket at port 15053 that takes packets of every address: the redirection of DNS asks at
// many. A stock proxy binds 127.0.0.1 and ::1 only.
struct FoundDns {
  uint64_t netns_cookie = 0;
  uint32_t families = 0;  // qanat_dns_families
};

// Every listening TCP socket of the process on 15001, 15006 or 15008, with 15001 and 15006 made
// transparent and 15001 given the capture mark, or none where it reads marks (see listeners.cc for
// why).
// Into `dns` go the proxy's DNS listeners, of which nothing is taken.
Result<std::vector<FoundListener>> TakeListeners(const zds::Peer& peer, std::vector<FoundDns>* dns);

struct SlotReport {
  std::array<uint32_t, QANAT_ROLES> filled{};  // live listeners per role
  bool reads_draws = false;                    // all on 15001 do; FillSlots() only
  bool complete() const { return filled[0] > 0 && filled[1] > 0 && filled[2] > 0; }
};

// Writes the pod's listeners into its slots (only where they differ), sets state->workers and
// stores it, and empties what is left over. The caller owns *state.
Result<SlotReport> FillSlots(bpf::NodeMaps& maps, uint32_t pod_id, uint64_t netns_cookie,
                             const std::vector<FoundListener>& found, qanat_pod_state* state);
// Live listeners per role as the map has them now; `workers`: in how many slots of each to look.
SlotReport ReadSlots(const bpf::NodeMaps& maps, uint32_t pod_id, const uint32_t* workers = nullptr);
void EmptySlots(bpf::NodeMaps& maps, uint32_t pod_id);

}  // namespace qanat::agent
