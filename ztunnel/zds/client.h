// SPDX-License-Identifier: Apache-2.0
// The proxy's end of ZDS: connects to the node agent's seqpacket socket, takes one message at a
// time, acknowledges each after it has been done, and reconnects for ever. Whatever the peer sends
// ends at worst the connection. Lives on the main loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/event/event_loop.h"
#include "common/grpc/backoff.h"
#include "common/netns/netns.h"
#include "ztunnel/zds/message.h"

namespace qanat::ztunnel::zds {

class PodSink {
 public:
  using Done = std::function<void(Status)>;
  // A connection was made: what it announces until SnapshotSent is the whole truth.
  virtual void OnConnected() = 0;
  // Start proxying for the pod. `done` once, at any time; an error makes the agent retry, and the
  // sink retries by itself.
  virtual void OnAdd(const Add& add, std::shared_ptr<const netns::NetNs> netns, Done done) = 0;
  virtual void OnKeep(const std::string& uid) = 0;
  virtual void OnDel(const std::string& uid) = 0;
  virtual void OnSnapshotSent() = 0;
  virtual void OnDisconnected() = 0;

 protected:
  ~PodSink() = default;
};

// What the proxy has of its node agent.
enum class Agent {
  kAwaited,  // none has told all of its pods yet
  kHere,     // the one that is connected has
  kAway,     // one has; now there is none, or it has not told all of them again
};

class Client {
 public:
  struct Counters {
    uint64_t connects = 0;
    uint64_t messages = 0;
    uint64_t protocol_errors = 0;
  };

  Client(event::EventLoop& loop, std::string socket_path, PodSink& sink);
  ~Client();

  void Start();
  bool connected() const { return fd_.valid(); }
  Agent agent() const { return agent_; }
  const Counters& counters() const { return counters_; }

 private:
  void Connect();
  void OnReadable();
  void Handle(std::string_view bytes, Fd netns, bool has_netns);
  void HandleAdd(const Add& add, Fd netns, bool has_netns);
  void Answer(std::string_view error);
  void ProtocolError(const std::string& what);
  void Disconnect(const std::string& why);

  event::EventLoop& loop_;
  const std::string path_;
  PodSink& sink_;
  Fd fd_;
  std::unique_ptr<event::IoWatch> watch_;
  event::Timer retry_;
  grpc::Backoff backoff_;
  Agent agent_ = Agent::kAwaited;
  uint64_t connection_ = 0;  // so that the answer to an older connection's Add is dropped
  std::string last_failure_;
  Counters counters_;
};

}  // namespace qanat::ztunnel::zds
