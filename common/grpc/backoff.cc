// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/backoff.h"

#include <algorithm>

namespace qanat::grpc {

std::chrono::milliseconds Backoff::Next() {
  const std::chrono::milliseconds base = next_;
  const auto grown = static_cast<int64_t>(static_cast<double>(base.count()) * policy_.factor);
  next_ = std::min(policy_.max, std::chrono::milliseconds(grown));
  if (policy_.jitter == 0) return base;
  std::uniform_real_distribution<double> spread(1 - policy_.jitter, 1 + policy_.jitter);
  return std::chrono::milliseconds(
      static_cast<int64_t>(static_cast<double>(base.count()) * spread(random_)));
}

}  // namespace qanat::grpc
