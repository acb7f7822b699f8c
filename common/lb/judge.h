// SPDX-License-Identifier: Apache-2.0
// Private to common/lb: whether an endpoint can be picked at all, and how near it is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/lb/lb.h"

namespace qanat::lb {

enum class Fit : uint8_t { kUsable, kUnhealthy, kNoPort, kUnreachable, kTooFar, kTried };
inline constexpr size_t kFits = 6;

struct Candidate {
  Fit fit = Fit::kUsable;
  uint16_t port = 0;
  int rank = 0;
};

Candidate Judge(const model::Service& service, const model::Endpoint& endpoint,
                const model::Workload& source, uint16_t service_port, const Avoid& avoid);

}  // namespace qanat::lb
