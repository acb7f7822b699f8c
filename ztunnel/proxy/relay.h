// SPDX-License-Identifier: Apache-2.0
// Moves bytes between two transports, each direction on its own, until both have ended.
//
// End of stream and abort stay what they are: EOF on one side ends the other's direction only
// (half-close), a reset becomes a reset, so a truncated stream never looks complete. Backpressure:
// what the receiver does not take is kept (at most one read) and reading stops until it is gone. An
// idle relay holds no buffer: reads go through the worker's shared one, and it is made small, since
// most connections are idle. Once a direction between
// two plain sockets turns out to be bulk it is moved inside the kernel by splice(). An application
// that writes a request in two segments without TCP_NODELAY waits 40 ms for the first one's ACK;
// after the first such wait its segments are acknowledged at once.
//
// Lives on the loop of its transports. Its owner is told once, from a handler, that it is over; the
// relay must then be destroyed later (DeferDelete), not inside the call.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/metrics/registry.h"
#include "common/model/reason.h"
#include "common/net/transport.h"
#include "ztunnel/proxy/pipes.h"

namespace qanat::ztunnel {

// What the relays of one worker share.
struct RelayShared {
  explicit RelayShared(size_t buffer_bytes = 128 << 10) { SetBuffer(buffer_bytes); }
  // Not set to zero: as far as no read has reached it is not resident.
  void SetBuffer(size_t bytes) {
    memory.reset(new uint8_t[bytes]);
    buffer = {memory.get(), bytes};
  }
  std::unique_ptr<uint8_t[]> memory;
  std::span<uint8_t> buffer;
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

class Relay;

// What one side of a relay tells it.
template <bool kDownstream>
class RelaySide : public net::TransportEvents {
 public:
  void OnReadable() final;
  void OnWritable() final;

 protected:
  ~RelaySide() = default;
};

class Relay final : private RelaySide<true>, private RelaySide<false> {
 public:
  struct Result {
    model::Reason reason = model::Reason::kNone;  // kNone: both directions ended in order
    std::string error;
  };
  class Owner {
   public:
    virtual void OnRelayEnd(const Result& result) = 0;

   protected:
    ~Owner() = default;
  };
  // Bumped while bytes move; may be null.
  struct Counters {
    std::shared_ptr<metrics::Counter> up, down;
  };

  Relay(RelayShared& shared, net::TransportPtr downstream, net::TransportPtr upstream,
        Counters counters, Owner& owner);
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
  // Takes all out of this relay, which is over then; its owner is not told. Needs one of the two,
  // and not from inside of a handler.
  RelayState Freeze();
  // In place of Start(): goes on where another one stood still.
  void Resume(RelayState::Way up, RelayState::Way down);
  // Aborts both sides so that both peers see it. The owner is not told.
  void Abort();

  // One direction has ended and the other has not.
  bool half_closed() const { return !finished_ && up_.done != down_.done; }
  // Memory of the bytes that wait, in either direction.
  size_t held() const;
  uint64_t bytes_up() const { return up_.bytes; }      // downstream -> upstream
  uint64_t bytes_down() const { return down_.bytes; }  // upstream -> downstream

 private:
  template <bool kDownstream>
  friend class RelaySide;

  // Read and not yet written.
  struct Waiting {
    std::vector<uint8_t> bytes;
    size_t at = 0;
    std::span<const uint8_t> rest() const { return std::span(bytes).subspan(at); }
  };
  // Exists while something waits, in pipes too.
  struct Held {
    explicit Held(MemoryMeter& meter) : charge(meter) {}
    Waiting up, down;
    MemoryCharge charge;
  };
  struct Direction {
    std::shared_ptr<metrics::Counter> counter;
    std::unique_ptr<Pipe> pipe;
    uint64_t bytes = 0;
    // For AcknowledgeEarly(), which does well with what is left of them.
    uint32_t last_read_ms = 0;
    uint32_t answered = 0;   // bytes of the other direction by then
    bool quick_ack = false;  // where it comes from ACKs are waited for
    bool eof = false;        // ... and that has ended
    bool done = false;       // ... and where it goes has been told
  };

  bool is_up(const Direction& direction) const { return &direction == &up_; }
  net::Transport& From(const Direction& direction) const {
    return is_up(direction) ? *downstream_ : *upstream_;
  }
  net::Transport& To(const Direction& direction) const {
    return is_up(direction) ? *upstream_ : *downstream_;
  }
  const Direction& Other(const Direction& direction) const {
    return is_up(direction) ? down_ : up_;
  }
  void Listen(bool on);
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
  Held& MakeHeld();
  Waiting* WaitingIn(const Direction& direction) const;  // null: nothing
  void Charge();
  bool scarce() const {
    return downstream_->loop().memory().scarce() || (payer_ != nullptr && payer_->scarce());
  }

  RelayShared& shared_;
  net::TransportPtr downstream_;
  net::TransportPtr upstream_;
  Owner& owner_;
  MemoryMeter* payer_ = nullptr;
  std::unique_ptr<Held> held_;
  Direction up_, down_;
  bool finished_ = false;
};

}  // namespace qanat::ztunnel
