// SPDX-License-Identifier: Apache-2.0
// Private to common/hbone: one CONNECT stream, and the Transport that its user holds. The Stream is
// shared by the session (while it is in the session's table) and its user's handle; either may go
// first.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/byte_queue.h"
#include "common/hbone/client_session.h"
#include "common/hbone/saved_session.h"
#include "common/net/transport.h"

namespace qanat::hbone {

class Core;
class StreamTransport;

// Both ends of a session's transport, for all of its streams.
struct Ends {
  net::SocketAddress local, peer;
};

// Most streams of a node are idle: what is rarely there is behind a pointer.
struct Stream : std::enable_shared_from_this<Stream> {
  using Views = std::vector<std::span<const uint8_t>>;
  struct Kept {
    explicit Kept(MemoryMeter& meter) : charge(meter) {}
    ByteQueue bytes;
    MemoryCharge charge;
  };
  struct Ending {
    std::string error;
    // The peer ended its direction and then wants no more of ours (RFC 9113 8.1: NO_ERROR after a
    // whole response; Envoy does it when its application ends first). This many bytes may still be
    // written, and go nowhere: were the user told of a reset now, it would cut off its own side,
    // where the peer's last bytes may still be on their way.
    std::optional<size_t> discard;
  };

  // Whom to tell of the answer (a client), or that none is wanted any more (a server).
  struct Unanswered {
    ClientSession::OnResponse on_response;
    std::function<void()> on_gone;
    size_t early = 0;  // bytes that went along with the request
  };

  StreamState state;
  Core* core = nullptr;  // null once the session is over
  StreamTransport* handle = nullptr;
  net::TransportEvents* events = nullptr;
  bool reading = false;
  bool writing = false;
  bool queued = false;   // in the core's list of streams to be called
  bool retired = false;  // both directions are over; only unread input may be left
  // Set when the stream did not end in order: how reading goes on after the buffered input.
  net::IoResult::Kind end = net::IoResult::Kind::kWouldBlock;
  bool write_broken = false;
  std::unique_ptr<Ending> ending;

  // Received and not yet read: first what is kept, then `views`, which point into the session's
  // receive buffer, and are lent by the session while that is being worked through.
  std::unique_ptr<Kept> kept;
  std::unique_ptr<Views> views;
  MemoryMeter* owner = nullptr;  // whose memory that is; none: nobody's in particular
  size_t unread = 0;
  uint64_t moved = 0;           // bytes of both directions
  event::TimePoint refilled{};  // when the peer got credit last

  std::unique_ptr<Unanswered> unanswered;  // null: it was, or nobody wants to know

  bool Readable() const {
    return unread > 0 || state.remote_ended || end != net::IoResult::Kind::kWouldBlock;
  }
  size_t TakeInput(std::span<uint8_t> into);
  void Keep(std::span<const uint8_t> bytes, MemoryMeter& meter);
  void KeepViews(MemoryMeter& meter);  // what they still show
  size_t DropInput();                  // returns how much it was
  size_t held() const { return kept ? kept->charge.bytes() : 0; }
  void ChargeTo(MemoryMeter* to);

  Ending& MakeEnding() {
    if (!ending) ending = std::make_unique<Ending>();
    return *ending;
  }
  void SetError(std::string why) { MakeEnding().error = std::move(why); }
  std::string error() const { return ending ? ending->error : std::string(); }
  std::optional<size_t> discard() const { return ending ? ending->discard : std::nullopt; }
};

// The user's end. Destroying it ends the stream: with our END_STREAM sent the rest of the peer's
// direction is cancelled, without it the stream is reset with CONNECT_ERROR, so that the peer does
// not take a cut stream for a whole one.
class StreamTransport final : public net::Transport {
 public:
  StreamTransport(std::shared_ptr<Stream> stream, event::EventLoop& loop,
                  std::shared_ptr<const Ends> ends);
  ~StreamTransport() override;

  void SetEvents(net::TransportEvents* events) override;
  void ReadEnable(bool on) override;
  void WriteEnable(bool on) override;
  net::IoResult Read(std::span<uint8_t> into) override;
  net::IoResult Write(std::span<const iovec> from) override;
  net::IoResult ShutdownWrite() override;
  void Abort() override;
  event::EventLoop& loop() override { return loop_; }
  net::SocketAddress local_address() const override { return ends_->local; }
  net::SocketAddress peer_address() const override { return ends_->peer; }
  std::shared_ptr<const tls::VerifiedPeer> verified_peer() const override;
  std::string error() const override { return stream_->error(); }
  size_t held() const override { return stream_->held(); }
  void ChargeTo(MemoryMeter* owner) override { stream_->ChargeTo(owner); }

  // Has the stream's events delivered soon if there is something to tell.
  void Arm();

 private:
  void Tick();

  std::shared_ptr<Stream> stream_;
  event::EventLoop& loop_;
  std::shared_ptr<const Ends> ends_;
  // Only for what is left to tell after the session has ended.
  std::unique_ptr<event::Timer> tick_;
};

}  // namespace qanat::hbone
