// SPDX-License-Identifier: Apache-2.0
// A TCP socket as a Transport.
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "common/base/result.h"
#include "common/net/transport.h"

namespace qanat::net {
namespace {

class SocketTransport final : public Transport {
 public:
  SocketTransport(event::EventLoop& loop, Fd fd)
      : loop_(loop),
        fd_(std::move(fd)),
        local_(SocketAddress::OfLocal(fd_.get()).value_or(SocketAddress())),
        peer_(SocketAddress::OfPeer(fd_.get()).value_or(SocketAddress())),
        watch_(std::make_unique<event::IoWatch>(loop, fd_.get(), 0,
                                                [this](uint32_t events) { OnIo(events); })) {}

  ~SocketTransport() override { watch_.reset(); }

  void SetEvents(TransportEvents* events) override { events_ = events; }
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
    if (n > 0) return {IoResult::Kind::kOk, static_cast<size_t>(n)};
    if (n == 0) return {into.empty() ? IoResult::Kind::kOk : IoResult::Kind::kEof, 0};
    return Failed();
  }

  IoResult Write(std::span<const iovec> from) override {
    if (aborted_) return {IoResult::Kind::kReset, 0};
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
    watch_.reset();
    linger reset{1, 0};  // close() then sends RST
    setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    fd_.Reset();
  }

  event::EventLoop& loop() override { return loop_; }
  SocketAddress local_address() const override { return local_; }
  SocketAddress peer_address() const override { return peer_; }
  int splice_fd() const override { return fd_.get(); }
  std::string error() const override { return errno_ == 0 ? std::string() : std::strerror(errno_); }

 private:
  IoResult Failed() {
    if (errno == EAGAIN || errno == EINTR) return {IoResult::Kind::kWouldBlock, 0};
    errno_ = errno;
    // A peer that answers our data with RST shows as EPIPE on the write side.
    bool reset = errno_ == ECONNRESET || errno_ == EPIPE;
    return {reset ? IoResult::Kind::kReset : IoResult::Kind::kError, 0};
  }
  void Update() {
    if (watch_) watch_->SetEvents((reading_ ? EPOLLIN : 0u) | (writing_ ? EPOLLOUT : 0u));
  }
  void OnIo(uint32_t events) {
    // HUP and ERR arrive although nothing was asked for. Somebody who is not listening in either
    // direction would be called for ever: such a socket leaves the loop until interest returns.
    bool failed = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if (failed && !reading_ && !writing_) {
      watch_->SetEvents(EPOLLET);
      return;
    }
    bool readable = reading_ && (failed || (events & (EPOLLIN | EPOLLRDHUP)) != 0);
    bool writable = writing_ && (failed || (events & EPOLLOUT) != 0);
    std::weak_ptr<bool> alive = life_;
    if (readable && events_ != nullptr) events_->OnReadable();
    if (alive.expired()) return;
    if (writable && writing_ && events_ != nullptr) events_->OnWritable();
  }

  event::EventLoop& loop_;
  Fd fd_;
  SocketAddress local_;
  SocketAddress peer_;
  TransportEvents* events_ = nullptr;
  bool reading_ = false;
  bool writing_ = false;
  bool aborted_ = false;
  int errno_ = 0;
  std::shared_ptr<bool> life_ = std::make_shared<bool>(true);
  std::unique_ptr<event::IoWatch> watch_;
};

}  // namespace

TransportPtr MakeSocketTransport(event::EventLoop& loop, Fd fd) {
  return std::make_unique<SocketTransport>(loop, std::move(fd));
}

}  // namespace qanat::net
