// SPDX-License-Identifier: Apache-2.0
// Moves bytes between two transports, each direction on its own, until both have ended.
//
// End of stream and abort stay what they are: EOF on one side ends the other's direction only
// (half-close), a reset becomes a reset, so a truncated stream never looks complete. Backpressure:
// what the receiver does not take is kept (at most one read) and reading stops until it is gone. An
// idle relay holds no buffer: reads go through the worker's shared one. Once a direction between
// two plain sockets turns out to be bulk it is moved inside the kernel by splice(). An application
// that writes a request in two segments without TCP_NODELAY waits 40 ms for the first one's ACK;
// after the first such wait its segments are acknowledged at once.
//
// Lives on the loop of its transports. `done` is called once, from a handler; the relay must then
// be destroyed later (DeferDelete), not inside the call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/metrics/registry.h"
#include "common/model/reason.h"
#include "common/net/transport.h"
#include "ztunnel/proxy/pipes.h"

namespace qanat::ztunnel {

// What the relays of one worker share.
struct RelayShared {
  explicit RelayShared(size_t buffer_bytes = 128 << 10) : buffer(buffer_bytes) {}
  std::vector<uint8_t> buffer;
  PipePool pipes;
  uint64_t splice_after = 1 << 20;  // bytes in one direction; 0 = from the start
};

// A relay between two sockets of the kernel that stands still: what another process, or another
// relay, needs to go on with it.
struct RelayState {
  struct Way {
    std::vector<uint8_t> pending;  // read and not yet written
    uint64_t bytes = 0;
    bool eof = false, done = false, quick_ack = false;
  };
  Way up, down;
  Fd downstream, upstream;
};

// The downstream's first bytes, where they were read before the relay began: with the upstream
// already, or still to be written to it. `all`: nothing more waited then.
struct RelayEarly {
  uint64_t sent = 0;
  std::vector<uint8_t> unsent;
  bool all = false;
};

class Relay {
 public:
  struct Result {
    model::Reason reason = model::Reason::kNone;  // kNone: both directions ended in order
    std::string error;
  };
  using Done = std::function<void(const Result&)>;
  // Bumped while bytes move; may be null.
  struct Counters {
    std::shared_ptr<metrics::Counter> up, down;
  };

  Relay(RelayShared& shared, net::TransportPtr downstream, net::TransportPtr upstream,
        Counters counters, Done done);
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // Before Start() or Resume(): whose memory the waiting bytes are; outlives the relay.
  void ChargeTo(MemoryMeter* owner);
  void Start(RelayEarly early = {});
  // Between two sockets, or between one and a stream of a tunnel that stands still as well: of a
  // stream there is no descriptor.
  bool CanFreeze() const;
  bool CanFreezeStream() const;
  // Takes all out of this relay, which is over then; `done` is not called. Needs one of the two,
  // and not from inside of a handler.
  RelayState Freeze();
  // In place of Start(): goes on where another one stood still.
  void Resume(RelayState::Way up, RelayState::Way down);
  // Aborts both sides so that both peers see it. `done` is not called.
  void Abort();

  // One direction has ended and the other has not.
  bool half_closed() const { return !finished_ && up_.done != down_.done; }
  // Memory of the bytes that wait, in either direction.
  size_t held() const;
  uint64_t bytes_up() const { return up_.bytes; }      // downstream -> upstream
  uint64_t bytes_down() const { return down_.bytes; }  // upstream -> downstream

 private:
  struct Direction {
    net::Transport* from = nullptr;
    net::Transport* to = nullptr;
    std::shared_ptr<metrics::Counter> counter;
    std::vector<uint8_t> pending;  // read and not yet written
    size_t pending_at = 0;
    std::unique_ptr<Pipe> pipe;
    uint64_t bytes = 0;
    event::TimePoint last_read{};
    uint64_t answered = 0;   // bytes of the other direction at last_read
    bool quick_ack = false;  // `from` waits for ACKs
    bool eof = false;        // `from` has ended
    bool done = false;       // ... and `to` has been told
  };
  struct Side final : net::TransportEvents {
    Relay* relay = nullptr;
    Direction* reading = nullptr;  // from this side
    Direction* writing = nullptr;  // to this side
    void OnReadable() override { relay->Pump(*reading); }
    void OnWritable() override { relay->Flush(*writing); }
  };

  void Pump(Direction& direction);
  bool PumpCopy(Direction& direction);    // false: stop for now
  bool PumpSplice(Direction& direction);  // false: stop for now
  void Flush(Direction& direction);
  bool DrainPipe(Direction& direction);  // false: blocked or over
  void Block(Direction& direction);
  void OnEof(Direction& direction);
  bool IsLast(const Direction& direction) const;  // the other one is over
  void TryShutdown(Direction& direction);
  void Fail(net::Transport& broken, net::Transport& other, std::string_view doing);
  void Finish(const Result& result);
  bool CanSplice(const Direction& direction) const;
  void AcknowledgeEarly(Direction& direction);
  void Charge();
  bool scarce() const { return charge_.meter().scarce() || (owner_ && owner_->scarce()); }

  RelayShared& shared_;
  net::TransportPtr downstream_;
  net::TransportPtr upstream_;
  MemoryCharge charge_;
  const MemoryMeter* owner_ = nullptr;
  Direction up_, down_;
  Side downstream_side_, upstream_side_;
  Done done_;
  bool finished_ = false;
};

}  // namespace qanat::ztunnel
