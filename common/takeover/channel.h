// SPDX-License-Identifier: Apache-2.0
// One connection between the old and the new process: a unix seqpacket socket whose other end has
// our own user id. Sends messages in order, however long the other takes, and gives received ones
// whole. Lives on one loop; owned by a session.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/takeover/wire.h"

namespace qanat::takeover {

// A seqpacket socket that listens at `path`, which only our user can connect to. Takes the place of
// what is there (the predecessor's socket) in one step, so that nobody ever finds none.
Result<Fd> ListenAt(const std::string& path);
// Fails with kNotFound where nobody listens: there is nothing to take over.
Result<Fd> ConnectTo(const std::string& path);
// Fails unless the other end's process had our user id when it connected or listened.
Status CheckPeer(int fd);

class Channel {
 public:
  struct Events {
    std::function<void(Message)> on_message;
    // Once; never from inside of Send(). Nothing comes after it.
    std::function<void(const std::string& why)> on_closed;
  };
  // What counts when the other end has closed but messages from it still wait here.
  enum class AtEnd : uint8_t { kReadAll, kEndFirst };

  // Both events may destroy the channel.
  Channel(event::EventLoop& loop, Fd fd, AtEnd at_end, Events events);
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  void Send(Message message);
  // Everything that was sent is with the kernel.
  bool flushed() const { return queue_.empty(); }

 private:
  void OnIo(uint32_t ready);
  void Read();
  bool ReadOne();  // false: nothing more for now, or closed
  void Flush();
  void Close(std::string why);

  event::EventLoop& loop_;
  Fd fd_;
  const AtEnd at_end_;
  Events events_;
  Assembler assembler_;
  std::deque<Part> queue_;
  bool broken_ = false;  // writing; the end comes by reading
  std::shared_ptr<bool> life_ = std::make_shared<bool>(true);
  std::unique_ptr<event::IoWatch> watch_;
};

}  // namespace qanat::takeover
