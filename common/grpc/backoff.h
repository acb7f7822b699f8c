// SPDX-License-Identifier: Apache-2.0
// Exponential backoff as a value: the caller has the timer. Pure, so that time can be simulated.
#pragma once

#include <chrono>
#include <cstdint>
#include <random>

namespace qanat::grpc {

class Backoff {
 public:
  struct Policy {
    std::chrono::milliseconds first{10};
    std::chrono::milliseconds max{15000};
    double factor = 2.0;
    double jitter = 0.0;  // 0.2: each delay is multiplied by 0.8 .. 1.2
  };
  explicit Backoff(Policy policy, uint32_t seed = std::random_device{}())
      : policy_(policy), random_(seed), next_(policy.first) {}

  // The delay before the next attempt; grows with each call until Reset().
  std::chrono::milliseconds Next();
  void Reset() { next_ = policy_.first; }

 private:
  Policy policy_;
  std::minstd_rand random_;
  std::chrono::milliseconds next_;
};

}  // namespace qanat::grpc
