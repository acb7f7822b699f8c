// SPDX-License-Identifier: Apache-2.0
// Asks the control plane for what connections need to know (XDS_ON_DEMAND), each name once, and
// notes what does not exist. Lives on the main thread.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/event/event_loop.h"
#include "common/state/mesh_state.h"
#include "common/xds/delta_client.h"

namespace qanat::ztunnel {

class OnDemand {
 public:
  // How long a question counts as open; then it is asked again if it still matters.
  static constexpr std::chrono::seconds kAskAgain{5};
  // So many names that nobody has are remembered (the addresses of the world outside).
  static constexpr size_t kMostAbsent = 10'000;

  // `known`: whether the present state has something of that name.
  OnDemand(xds::DeltaClient& client, state::MeshState& mesh,
           std::function<bool(std::string_view)> known, size_t most_absent = kMostAbsent);

  // Somebody waits for these.
  void Want(const std::vector<std::string>& names);
  // These may matter soon: only what has never been asked for.
  void Prefetch(const std::vector<std::string>& names);
  // The server says that nothing has this name.
  void OnRemoved(std::string_view name);

  size_t names() const { return asked_.size(); }
  size_t absent() const { return absent_.size(); }
  uint64_t questions() const { return questions_; }

 private:
  void Ask(const std::string& name, bool again);

  struct Asked {
    event::TimePoint at;  // when last; none: it is answered
    bool absent = false;
  };

  xds::DeltaClient& client_;
  state::MeshState& mesh_;
  const std::function<bool(std::string_view)> known_;
  const size_t most_absent_;
  std::unordered_map<std::string, Asked> asked_;
  std::deque<std::string> absent_;  // the oldest first
  uint64_t questions_ = 0;
};

}  // namespace qanat::ztunnel
