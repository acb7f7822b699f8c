// SPDX-License-Identifier: Apache-2.0
// One proxy on the ZDS socket: its Hello, then one message at a time, each answered by one ack.
// Stock agents' deadlines: 5 s to write, 5 s for the ack. Whatever the proxy sends unasked ends the
// connection. On the agent's loop; owned by Server.
#pragma once

#include <sys/types.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "agent/zds/codec.h"
#include "common/base/fd.h"
#include "common/event/event_loop.h"

namespace qanat::agent::zds {

struct Peer {
  uint64_t id = 0;  // counts up: the greatest is the newest
  pid_t pid = 0;    // 0 when it cannot be seen from our pid namespace
  Fd pidfd;
};

class Connection : public event::Deferred {
 public:
  using Done = std::function<void(Status)>;
  struct Events {
    std::function<void(Connection&)> on_hello;
    // After this no `done` is left uncalled. The owner destroys by DeferDelete.
    std::function<void(Connection&, const Error&)> on_closed;
  };
  Connection(event::EventLoop& loop, Fd fd, Peer peer, Events events);
  ~Connection() override;

  // In order; `fd` (may be none) travels with the message and is closed here once sent.
  void Send(std::string message, Fd fd, Done done);
  void Close(const Error& why);

  const Peer& peer() const { return peer_; }
  bool greeted() const { return greeted_; }
  bool closed() const { return closed_; }
  bool ready() const { return ready_; }  // snapshot sent and acknowledged
  void set_ready() { ready_ = true; }

 private:
  struct Outgoing {
    std::string message;
    Fd fd;
    Done done;
  };
  void OnEvents(uint32_t events);
  void ReadOne();
  void TrySend();

  event::EventLoop& loop_;
  Fd fd_;
  Peer peer_;
  Events events_;
  event::Timer deadline_;
  std::deque<Outgoing> queue_;  // the front is in flight when awaiting_ack_
  bool awaiting_ack_ = false;
  bool greeted_ = false;
  bool ready_ = false;
  bool closed_ = false;
  std::unique_ptr<event::IoWatch> watch_;
};

}  // namespace qanat::agent::zds
