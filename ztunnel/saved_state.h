// SPDX-License-Identifier: Apache-2.0
// The last good mesh state, kept on disk so that a restart while the control plane is away brings
// the node's pods back. No keys are in it, only what xDS delivered. Its functions are for the main
// thread; a thread of its own writes.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/state/journal.h"
#include "common/state/mesh_state.h"
#include "common/xds/delta_client.h"
#include "ztunnel/state_file.h"

namespace qanat::ztunnel {

class SavedState {
 public:
  using Type = state::JournalRecord::Type;
  using SystemTime = std::chrono::system_clock::time_point;

  explicit SavedState(std::string directory);
  ~SavedState();  // when everything is written

  struct Loaded {
    xds::DeltaClient::Versions addresses, policies;  // what the server may count as received
    std::vector<KeptText> names;                     // of workloads and services
    SystemTime current_at;
  };
  // What is saved, put into `mesh`: all of it, or nothing. kNotFound: there is nothing.
  Result<Loaded> Load(state::MeshState& mesh);

  // What happens from here on, in a new file, which takes the place of what was loaded at
  // Complete().
  void Put(Type type, std::string_view name, std::string_view version, std::string_view bytes,
           bool refused = false);
  void Remove(Type type, std::string_view name);
  void BatchEnd();
  void Complete();  // every type has been received in full
  void Confirm();   // the control plane is there, so this is still the present state
  void Stop();      // another process takes over; what happens now is not ours to save

  uint64_t errors() const { return errors_; }

 private:
  void Begin();
  void Record(const state::JournalRecord& record);
  void Hand(bool batch_end);
  void Run(std::function<Status(StateFile&)> task);  // on the writer's thread, in order

  const std::string directory_;
  std::string loaded_;  // the file, until the new one begins with it
  int64_t loaded_at_ = 0;
  std::string piece_;  // records that have not been handed over
  bool begun_ = false, open_ = false, stopped_ = false;

  std::atomic<uint64_t> errors_{0};
  std::atomic<size_t> queued_{0};  // bytes
  std::atomic<bool> overflow_{false};
  // The writer's thread.
  StateFile file_;
  bool failing_ = false;
  bool dirty_ = false;
  std::unique_ptr<event::Timer> sync_;
  event::LoopThread thread_{"state"};
};

}  // namespace qanat::ztunnel
