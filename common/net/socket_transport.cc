// SPDX-License-Identifier: Apache-2.0
// A TCP socket as a Transport.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "common/base/result.h"
#include "common/net/socket.h"
#include "common/net/transport.h"

namespace qanat::net {
namespace {

class SocketTransport final : public Transport {
 public:
  SocketTransport(event::EventLoop& loop, Fd fd, Delay delay)
      : loop_(loop), fd_(std::move(fd)), delay_(delay) {}

  ~SocketTransport() override {
    if (gone_ != nullptr) *gone_ = true;
    Leave();
  }

  void SetEvents(TransportEvents* events) override {
    events_ = events;
    if (watch_ && edge_) Update();
  }
  void ReadEnable(bool on) override {
    reading_ = on;
    Update();
  }
  void WriteEnable(bool on) override {
    writing_ = on;
    Update();
  }

  IoResult Read(std::span<uint8_t> into) override {
    if (aborted_) return {IoResult::Kind::kReset, 0};
    ssize_t n = ::recv(fd_.get(), into.data(), into.size(), 0);
    const int error = n < 0 ? errno : 0;
    const bool would_block = error == EAGAIN || error == EINTR;
    // A short count says that this was all, unless an end stands behind it.
    NoteRead(n > 0 ? static_cast<size_t>(n) < into.size() && !ended_ : would_block);
    if (n > 0) return {IoResult::Kind::kOk, static_cast<size_t>(n)};
    if (n == 0) return {into.empty() ? IoResult::Kind::kOk : IoResult::Kind::kEof, 0};
    errno = error;
    return Failed();
  }

  IoResult Write(std::span<const iovec> from) override {
    if (aborted_) return {IoResult::Kind::kReset, 0};
    if (delay_ == Delay::kNagle && std::exchange(written_, true)) EndDelay();
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(from.data());
    message.msg_iovlen = std::min<size_t>(from.size(), 1024);  // IOV_MAX
    ssize_t n = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL);
    if (n >= 0) return {IoResult::Kind::kOk, static_cast<size_t>(n)};
    return Failed();
  }

  IoResult ShutdownWrite() override {
    if (aborted_) return {IoResult::Kind::kReset, 0};
    if (::shutdown(fd_.get(), SHUT_WR) != 0 && errno != ENOTCONN) return Failed();
    return {};
  }

  void Abort() override {
    if (aborted_) return;
    aborted_ = true;
    // For who asks afterwards.
    local_address();
    peer_address();
    Leave();
    linger reset{1, 0};  // close() then sends RST
    setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    fd_.Reset();
  }

  event::EventLoop& loop() override { return loop_; }
  SocketAddress local_address() const override {
    std::optional<SocketAddress>& local = names().local;
    if (!local) local = SocketAddress::OfLocal(fd_.get()).value_or(SocketAddress());
    return *local;
  }
  SocketAddress peer_address() const override {
    std::optional<SocketAddress>& peer = names().peer;
    if (!peer) peer = SocketAddress::OfPeer(fd_.get()).value_or(SocketAddress());
    return *peer;
  }
  int splice_fd() const override { return fd_.get(); }
  std::optional<event::Duration> last_acknowledged() const override {
    tcp_info info{};
    socklen_t size = sizeof info;
    // Of an end that was lost it is 0 as well.
    if (::getsockopt(fd_.get(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
        info.tcpi_state == TCP_CLOSE) {
      return std::nullopt;
    }
    // Data acknowledges as well, but where it says nothing new the kernel may not note that; nor
    // does it ask then (a probe is sent when neither has come).
    return std::chrono::milliseconds(std::min(info.tcpi_last_ack_recv, info.tcpi_last_data_recv));
  }
  Fd Release() override {
    aborted_ = true;
    if (!fd_) return Fd();
    EndDelay();  // nobody else knows of it
    // For who asks afterwards.
    local_address();
    peer_address();
    watch_.reset();  // out of the loop by itself: closing one of several fds would not do that
    return std::move(fd_);
  }
  std::string error() const override { return errno_ == 0 ? std::string() : std::strerror(errno_); }

 private:
  void EndDelay() {
    if (std::exchange(delay_, Delay::kNone) == Delay::kNagle) SetNoDelay(fd_.get());
  }
  struct Names {
    std::optional<SocketAddress> local, peer;
  };
  // Most sockets are never asked.
  Names& names() const {
    if (!names_) names_ = std::make_unique<Names>();
    return *names_;
  }
  IoResult Failed() {
    if (errno == EAGAIN || errno == EINTR) return {IoResult::Kind::kWouldBlock, 0};
    errno_ = errno;
    // A peer that answers our data with RST shows as EPIPE on the write side.
    bool reset = errno_ == ECONNRESET || errno_ == EPIPE;
    return {reset ? IoResult::Kind::kReset : IoResult::Kind::kError, 0};
  }
  // ---- interest
  //
  // The first interest brings the socket into the loop. As long as all that is wanted are bytes,
  // and each time all of them are read, the kernel reports arrivals only (EPOLLET): nothing is
  // asked for twice, and neither the end of a direction nor a pause costs a system call. Who leaves
  // something behind, reads by other means (splice), wants to write when it is full, or gets urgent
  // data, where a short count does not mean what it does elsewhere, is reported to by level from
  // then on.

  void Update() {
    if (!watch_) {
      if ((!reading_ && !writing_) || aborted_) return;
      edge_ = !writing_;
      watch_.emplace(loop_, fd_.get(), edge_ ? kEdges : Level(),
                     [this](uint32_t ready) { OnIo(ready); });
    } else if (!edge_) {
      watch_->SetEvents(Level());
    } else if (writing_ || (Listening() && left_ && !in_event_)) {
      GoByLevel();
    }
  }
  // Of who has nobody to be told nothing is asked until there is somebody.
  bool Listening() const { return reading_ && events_ != nullptr; }
  uint32_t Level() const { return (reading_ ? EPOLLIN : 0u) | (writing_ ? EPOLLOUT : 0u); }
  void GoByLevel() {
    edge_ = false;
    watch_->SetEvents(Level());
  }
  void NoteRead(bool all) {
    read_ = true;
    left_ = !all;
    // Inside of an event what is left is looked at when the reader has returned.
    if (left_ && edge_ && !in_event_ && Listening() && watch_) GoByLevel();
  }

  // False: whoever was told has destroyed this transport.
  bool TellReadable() {
    bool gone = false;
    bool* const outer = std::exchange(gone_, &gone);
    events_->OnReadable();
    if (!gone) {
      gone_ = outer;
    } else if (outer != nullptr) {
      *outer = true;
    }
    return !gone;
  }
  // The fd is closed next and nobody else has it, which takes it out of the loop.
  void Leave() {
    if (watch_) watch_->FdIsClosedNext();
    watch_.reset();
  }
  void OnIo(uint32_t events) {
    if (edge_ && (events & EPOLLPRI) == 0) return OnEdge(events);
    if (edge_) GoByLevel();
    // HUP and ERR arrive although nothing was asked for. Somebody who is not listening in either
    // direction would be called for ever: such a socket leaves the loop until interest returns.
    bool failed = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if (failed && !reading_ && !writing_) {
      watch_->SetEvents(EPOLLET);
      return;
    }
    bool readable = reading_ && (failed || (events & (EPOLLIN | EPOLLRDHUP)) != 0);
    bool writable = writing_ && (failed || (events & EPOLLOUT) != 0);
    if (readable && events_ != nullptr && !TellReadable()) return;
    if (writable && writing_ && events_ != nullptr) events_->OnWritable();
  }
  void OnEdge(uint32_t events) {
    ended_ = ended_ || (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
    left_ = true;  // until somebody has read it
    // Bytes and the end behind them came together: the second call reads the end.
    for (int call = 0; call < (ended_ ? 2 : 1); ++call) {
      if (!Listening() || !left_ || !watch_) break;
      in_event_ = true;
      read_ = false;
      if (!TellReadable()) return;
      in_event_ = false;
      left_ = left_ || !read_;
    }
    if (watch_ && edge_ && Listening() && left_) GoByLevel();
  }

  static constexpr uint32_t kEdges = EPOLLIN | EPOLLRDHUP | EPOLLPRI | EPOLLET;

  event::EventLoop& loop_;
  Fd fd_;
  int errno_ = 0;
  mutable std::unique_ptr<Names> names_;
  TransportEvents* events_ = nullptr;
  Delay delay_;
  bool written_ = false;  // something, or nothing where there was no room
  bool reading_ = false;
  bool writing_ = false;
  bool aborted_ = false;
  bool edge_ = false;   // reported by edge
  bool left_ = false;   // there may be something to read that no event will tell of
  bool read_ = false;   // by Read() since the present event
  bool ended_ = false;  // the kernel has said that the peer's direction is over
  bool in_event_ = false;
  bool* gone_ = nullptr;  // on the stack of TellReadable()
  std::optional<event::IoWatch> watch_;
};

}  // namespace

TransportPtr MakeSocketTransport(event::EventLoop& loop, Fd fd, Delay delay) {
  return std::make_unique<SocketTransport>(loop, std::move(fd), delay);
}

}  // namespace qanat::net
