// SPDX-License-Identifier: Apache-2.0
// Sockets that others find by a path, made again when the path is lost: /run is wiped now and then,
// by hand or by a tool that cleans up, and a living agent must not become deaf by it. Lives on one
// loop.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "common/event/event_loop.h"

namespace qanat::agent {

class KeptSockets {
 public:
  explicit KeptSockets(event::EventLoop& loop,
                       event::Duration look_every = std::chrono::milliseconds(250));

  // Makes the folder and calls `listen`, which makes the socket at `path`: now, where an error is
  // returned, and whenever nothing is there any more, until it succeeds. What somebody else has put
  // there is left alone: two agents must not take a path from each other for ever.
  Status Keep(const std::string& path, std::function<Status()> listen);
  // Called at each look, for files of others that go with the sockets.
  void SetOnLook(std::function<void()> on_look) { on_look_ = std::move(on_look); }

  uint64_t restored() const { return restored_; }

 private:
  struct Kept {
    std::string path;
    std::function<Status()> listen;
    bool complained = false;
  };
  static Status Listen(Kept& kept);
  void Look();

  std::vector<Kept> kept_;
  std::function<void()> on_look_;
  uint64_t restored_ = 0;
  event::Duration look_every_;
  event::Timer look_;
};

}  // namespace qanat::agent
