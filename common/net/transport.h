// SPDX-License-Identifier: Apache-2.0
// A two-way byte stream on one event loop: a TCP socket, TLS over one, an HBONE stream, or an
// in-memory pipe in tests. Relays, HTTP codecs and HTTP/2 sessions are written against this.
//
// Everything happens on the thread of loop(). Interest is level-triggered: while reading is enabled
// and data, end or an error waits, OnReadable() is called again each round. Errors are not events:
// they come out of the Read() or Write() that follows. Destroying a transport closes it at once
// (a socket with unread input sends RST, as the kernel does).
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "common/base/memory_meter.h"
#include "common/event/event_loop.h"
#include "common/net/address.h"

namespace qanat::tls {
struct VerifiedPeer;
}

namespace qanat::net {

struct IoResult {
  enum class Kind : uint8_t {
    kOk,          // `bytes` were moved (at least one, unless zero were asked for)
    kWouldBlock,  // nothing moved; wait for the next OnReadable / OnWritable
    kEof,         // read side: the peer ended its direction in order
    kReset,       // the peer aborted (RST, RST_STREAM): data may be lost
    kError,       // anything else; see Transport::error()
  };
  Kind kind = Kind::kOk;
  size_t bytes = 0;
  bool ok() const { return kind == Kind::kOk; }
};

class TransportEvents {
 public:
  virtual void OnReadable() = 0;
  virtual void OnWritable() = 0;

 protected:
  ~TransportEvents() = default;
};

class Transport : public event::Deferred {
 public:
  // Not owned; nullptr detaches. No event is delivered from inside SetEvents or *Enable.
  virtual void SetEvents(TransportEvents* events) = 0;
  virtual void ReadEnable(bool on) = 0;   // off at the start
  virtual void WriteEnable(bool on) = 0;  // off at the start

  virtual IoResult Read(std::span<uint8_t> into) = 0;
  // Writes as much as fits; a short count means: wait for OnWritable.
  virtual IoResult Write(std::span<const iovec> from) = 0;
  // Ends our direction after everything written so far (FIN, close_notify, END_STREAM).
  // kWouldBlock: call again on OnWritable.
  virtual IoResult ShutdownWrite() = 0;
  // Aborts both directions so that the peer sees it (RST, RST_STREAM). Idempotent.
  virtual void Abort() = 0;

  virtual event::EventLoop& loop() = 0;
  virtual SocketAddress local_address() const = 0;
  virtual SocketAddress peer_address() const = 0;
  // The kernel's socket when the bytes on it are the bytes of this stream, so that a relay may
  // splice(); -1 otherwise.
  virtual int splice_fd() const { return -1; }
  // Who the other end has proved to be by a certificate (common/tls/verified_peer.h); null without.
  virtual std::shared_ptr<const tls::VerifiedPeer> verified_peer() const { return nullptr; }
  // How long ago the peer's kernel acknowledged something, if only a probe (SO_KEEPALIVE). Nothing:
  // there is no such socket.
  virtual std::optional<event::Duration> last_acknowledged() const { return std::nullopt; }
  // How long the two ends took to agree on keys once they were connected; 0 without keys, or by
  // another process.
  virtual event::Duration handshake_time() const { return {}; }
  // Gives up that socket: it leaves the loop, its peer notices nothing, and this transport is over.
  // None where there is no such socket.
  virtual Fd Release() { return Fd(); }
  // Bytes of our memory that wait in it, counted at the loop; ChargeTo: and at who owns it from now
  // on, who outlives this transport.
  virtual size_t held() const { return 0; }
  virtual void ChargeTo(MemoryMeter*) {}
  // After kError: what failed, for the log.
  virtual std::string error() const { return {}; }
};

using TransportPtr = std::unique_ptr<Transport>;

// A connected (or connecting) TCP socket. Takes the fd; it must be non-blocking. kNagle: it has no
// TCP_NODELAY yet, which is set before the second write. The first one goes out at once without it,
// and of many sockets it is the only one.
enum class Delay : uint8_t { kNone, kNagle };
TransportPtr MakeSocketTransport(event::EventLoop& loop, Fd fd, Delay delay = Delay::kNone);

// Two ends of an in-memory stream that behave like sockets with `capacity` bytes of buffer each
// way; for tests. Both live on `loop`.
std::pair<TransportPtr, TransportPtr> MakePipe(event::EventLoop& loop, size_t capacity = 65536);

}  // namespace qanat::net
