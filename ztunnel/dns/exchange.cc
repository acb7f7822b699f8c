// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/exchange.h"

#include <fmt/format.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <optional>

#include "common/dns/response.h"
#include "common/net/datagram.h"
#include "common/net/socket.h"

namespace qanat::ztunnel::dns {
namespace {

namespace wire = ::qanat::dns;
using Packet = std::vector<uint8_t>;

uint16_t RandomId() {
  uint16_t id = 0;
  // Two bytes do not fail once the machine has started; a known id alone forges nothing.
  if (getrandom(&id, sizeof id, 0) != sizeof id) id = 0x2a2a;
  return id;
}

class Common : public Exchange {
 protected:
  Common(event::EventLoop& loop, const Options& options, wire::Bytes query, Done done)
      : loop_(loop),
        options_(options),
        query_(query.begin(), query.end()),
        id_(wire::ReadHeader(query).value_or(wire::Header{}).id),
        done_(std::move(done)),
        timer_(loop, [this] { OnTimer(); }) {
    wire::WriteId(query_, RandomId());
    timer_.Start(options.timeout);
  }

  // `done` may destroy this object: nothing of it is used after the call.
  void Finish(Result<Packet> result) {
    watch_.reset();
    timer_.Stop();
    if (result) wire::WriteId(*result, id_);
    Done call = std::move(done_);
    call(std::move(result));
  }
  void FailLater(Error error) {
    failure_ = std::move(error);
    timer_.Start({});
  }
  Error Annotated(const Error& error) const {
    return error.Annotate("name server " + options_.server.ToString());
  }

  event::EventLoop& loop_;
  Options options_;
  Packet query_;
  uint16_t id_;  // the client's
  Done done_;
  Fd fd_;
  std::unique_ptr<event::IoWatch> watch_;  // after the fd: goes first
  event::Timer timer_;

 private:
  void OnTimer() {
    if (failure_) return Finish(Fail(Annotated(*failure_)));
    Finish(Fail(Code::kDeadlineExceeded,
                fmt::format("name server {}: no answer by {} in {} ms", options_.server.ToString(),
                            options_.tcp ? "TCP" : "UDP", options_.timeout.count())));
  }
  std::optional<Error> failure_;  // found at once, told in the next round
};

class UdpExchange final : public Common {
 public:
  UdpExchange(event::EventLoop& loop, const Options& options, wire::Bytes query, Done done)
      : Common(loop, options, query, std::move(done)) {
    net::DatagramOptions socket;
    socket.connect = options.server;
    socket.mark = options.mark;
    socket.netns = options.netns;
    auto fd = net::OpenDatagram(socket);
    if (!fd) {
      FailLater(fd.error());
      return;
    }
    fd_ = std::move(*fd);
    if (send(fd_.get(), query_.data(), query_.size(), MSG_NOSIGNAL) < 0) {
      FailLater(FailErrno("send").value());
      return;
    }
    watch_ = std::make_unique<event::IoWatch>(loop, fd_.get(), EPOLLIN,
                                              [this](uint32_t) { OnReadable(); });
  }

 private:
  void OnReadable() {
    // Answers that are none may come in numbers; the loop has other work too.
    for (int i = 0; i < 16; ++i) {
      const ssize_t size = recv(fd_.get(), nullptr, 0, MSG_PEEK | MSG_TRUNC);
      if (size < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        return Finish(Fail(Annotated(FailErrno("receive").value())));  // its host says: no port
      }
      Packet packet(static_cast<size_t>(size));
      const ssize_t n = recv(fd_.get(), packet.data(), packet.size(), 0);
      if (n < 0) continue;
      packet.resize(static_cast<size_t>(n));
      if (wire::Answers(query_, packet)) return Finish(std::move(packet));
    }
  }
};

class TcpExchange final : public Common {
 public:
  TcpExchange(event::EventLoop& loop, const Options& options, wire::Bytes query, Done done)
      : Common(loop, options, query, std::move(done)) {
    net::ConnectOptions connect;
    connect.to = options.server;
    connect.mark = options.mark;
    connect.netns = options.netns;
    connect.timeout = options.timeout;
    connector_ =
        std::make_unique<net::Connector>(loop, connect, [this](Result<Fd> fd) { OnConnected(fd); });
  }

 private:
  void OnConnected(Result<Fd>& fd) {
    if (!fd) return Finish(Fail(Annotated(fd.error())));
    fd_ = std::move(*fd);
    out_ = {static_cast<uint8_t>(query_.size() >> 8), static_cast<uint8_t>(query_.size())};
    out_.insert(out_.end(), query_.begin(), query_.end());
    watch_ = std::make_unique<event::IoWatch>(loop_, fd_.get(), EPOLLIN | EPOLLOUT,
                                              [this](uint32_t) { OnIo(); });
  }
  void OnIo() {
    if (sent_ < out_.size()) {
      const ssize_t n = send(fd_.get(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return Finish(Fail(Annotated(FailErrno("send").value())));
      if (n > 0) sent_ += static_cast<size_t>(n);
      if (sent_ == out_.size()) watch_->SetEvents(EPOLLIN);
    }
    std::array<uint8_t, 8192> buffer;
    for (int i = 0; i < 16; ++i) {
      const ssize_t n = recv(fd_.get(), buffer.data(), buffer.size(), 0);
      if (n < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        return Finish(Fail(Annotated(FailErrno("receive").value())));
      }
      if (n == 0) return Finish(Fail(Annotated({Code::kUnavailable, "closed without an answer"})));
      in_.insert(in_.end(), buffer.data(), buffer.data() + n);
      size_t at = 0;
      while (in_.size() - at >= 2) {
        const size_t size = (static_cast<size_t>(in_[at]) << 8) | in_[at + 1];
        if (in_.size() - at < 2 + size) break;
        const auto begin = in_.begin() + static_cast<ptrdiff_t>(at + 2);
        Packet packet(begin, begin + static_cast<ptrdiff_t>(size));
        if (wire::Answers(query_, packet)) return Finish(std::move(packet));
        at += 2 + size;
      }
      in_.erase(in_.begin(), in_.begin() + static_cast<ptrdiff_t>(at));
    }
  }

  std::unique_ptr<net::Connector> connector_;
  Packet out_, in_;
  size_t sent_ = 0;
};

}  // namespace

std::unique_ptr<Exchange> Exchange::Start(event::EventLoop& loop, const Options& options,
                                          wire::Bytes query, Done done) {
  if (options.tcp) return std::make_unique<TcpExchange>(loop, options, query, std::move(done));
  return std::make_unique<UdpExchange>(loop, options, query, std::move(done));
}

}  // namespace qanat::ztunnel::dns
