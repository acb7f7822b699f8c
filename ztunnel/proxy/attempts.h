// SPDX-License-Identifier: Apache-2.0
// How often and how long one outgoing connection tries endpoints, before anything that its client
// sent has gone anywhere: three tries within the time that one connect() may take. Pure: the time
// is given. Owned by its connection.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/model/reason.h"

namespace qanat::ztunnel {

class Attempts {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::steady_clock::duration;
  static constexpr unsigned kMaxTries = 3;
  static constexpr Duration kBudget = std::chrono::seconds(10);  // the stock proxy's connect()

  explicit Attempts(TimePoint start) : deadline_(start + kBudget) {}

  // The endpoint could not be reached, or what answered there could not serve: another one may.
  // Never a refusal by policy or of the request itself (401, 400), nor what is wrong with our end.
  static bool IsEndpointFailure(model::Reason reason);

  bool MayRetry(model::Reason reason, TimePoint now) const;
  // The endpoint (a workload's uid) failed, and another one is tried.
  void Next(std::string failed) { tried_.push_back(std::move(failed)); }
  // How long the present try may take: its share of what is left.
  Duration ForThisTry(TimePoint now) const;
  // Of the time for all of them; not more than 0 when it is over.
  Duration Left(TimePoint now) const { return deadline_ - now; }

  const std::vector<std::string>& tried() const { return tried_; }
  unsigned number() const { return static_cast<unsigned>(tried_.size()) + 1; }  // of this try

 private:
  TimePoint deadline_;
  std::vector<std::string> tried_;
};

}  // namespace qanat::ztunnel
