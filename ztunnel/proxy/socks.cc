// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/socks.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>

#include "ztunnel/proxy/outbound_connection.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {
namespace {

constexpr auto kTimeout = std::chrono::seconds(10);

}  // namespace

SocksConnection::SocksConnection(Worker& worker, PodPtr pod, Fd fd, net::SocketAddress peer)
    : Connection(worker, std::move(pod)), fd_(std::move(fd)), peer_(peer) {}

void SocksConnection::Start() {
  timer_ = std::make_unique<event::Timer>(
      worker_.loop(), [this] { Close(model::Reason::kNone, "the client says nothing"); });
  timer_->Start(kTimeout);
  watch_ = std::make_unique<event::IoWatch>(worker_.loop(), fd_.get(), EPOLLIN,
                                            [this](uint32_t) { OnReadable(); });
}

void SocksConnection::OnReadable() {
  while (parser_.state() == SocksParser::State::kReading) {
    std::array<char, 256> buffer;
    const ssize_t n =
        recv(fd_.get(), buffer.data(), std::min(buffer.size(), parser_.wanted()), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return Close(model::Reason::kNone, "");
    const std::string answer = parser_.Take({buffer.data(), static_cast<size_t>(n)});
    // A few bytes into an empty socket buffer: they fit, or the client has gone.
    if (!answer.empty() && send(fd_.get(), answer.data(), answer.size(), MSG_NOSIGNAL) !=
                               static_cast<ssize_t>(answer.size())) {
      return Close(model::Reason::kNone, "");
    }
  }
  if (parser_.state() == SocksParser::State::kRefused) return Close(model::Reason::kNone, "");
  GoOn();
}

void SocksConnection::GoOn() {
  watch_.reset();
  timer_.reset();
  // The client came over loopback; towards others it is the pod.
  net::SocketAddress source = peer_;
  for (const net::IpAddress& ip : pod_->addresses) {
    if (ip.family() != parser_.destination().ip().family()) continue;
    source = net::SocketAddress(ip, peer_.port());
    break;
  }
  auto connection = std::make_unique<OutboundConnection>(
      worker_, pod_, std::move(fd_), source, OriginalDestination{parser_.destination(), true, 0});
  OutboundConnection& started = *connection;
  worker_.Adopt(std::move(connection));
  worker_.Release(this);
  started.Start();
}

void SocksConnection::Close(model::Reason, const std::string&) {
  watch_.reset();
  timer_.reset();
  fd_.Reset();
  worker_.Release(this);
}

}  // namespace qanat::ztunnel
