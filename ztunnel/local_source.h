// SPDX-License-Identifier: Apache-2.0
// Keeps the mesh state in step with a local configuration: a text (LOCAL_XDS), or a file that is
// read again when it has changed (LOCAL_XDS_PATH). A file that cannot be read or understood changes
// nothing: the last good state stays, and the log says why. Lives on the main loop.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/state/mesh_state.h"
#include "ztunnel/local_config.h"

namespace qanat::ztunnel {

class LocalSource {
 public:
  // `names` of what was put in or removed; called inside Start() too.
  using Changed = std::function<void(const std::vector<std::string>& names)>;
  // One of `path` and `text` is empty.
  LocalSource(event::EventLoop& loop, std::string path, std::string text, state::MeshState& state,
              Changed changed, event::Duration poll = std::chrono::seconds(1));

  Status Start();  // an error at the start is an error of the configuration
  uint64_t failures() const { return failures_; }

 private:
  void Look();
  Status Load();
  void Apply(LocalResources wanted);

  const std::string path_, text_;
  state::MeshState& state_;
  const Changed changed_;
  const event::Duration poll_;
  LocalResources have_;
  struct stat seen_{};       // of what was loaded last, or could not be
  struct stat looked_at_{};  // at the last look
  uint64_t failures_ = 0;
  event::Timer timer_;
};

}  // namespace qanat::ztunnel
