// SPDX-License-Identifier: Apache-2.0
#include <sys/epoll.h>
#include <sys/signalfd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "common/base/fd.h"
#include "common/net/socket.h"
#include "tools/loadgen/loadgen.h"

namespace qanat::loadgen {
namespace {

enum class Kind { kEcho, kSink, kHttp };

struct Peer {
  Fd fd;
  Kind kind;
  std::string out;   // echo: not yet sent back; http: answers not yet sent
  std::string head;  // http: an unfinished request head
};

std::string HttpAnswer() {
  std::string body(1024, 'x');
  return "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n" + body;
}

class Server {
 public:
  Status Run(uint16_t port) {
    epoll_.Reset(epoll_create1(EPOLL_CLOEXEC));
    std::array<Fd, 3> listeners;
    for (size_t i = 0; i < 3; ++i) {
      auto any = *net::IpAddress::Parse("::");
      QANAT_ASSIGN_OR_RETURN(
          listeners[i],
          net::Listen({.address = {any, static_cast<uint16_t>(port + i)}, .dual_stack = true}));
      Add(listeners[i].get(), EPOLLIN);
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    Fd signals(signalfd(-1, &set, SFD_CLOEXEC));
    Add(signals.get(), EPOLLIN);
    std::array<epoll_event, 256> events;
    for (;;) {
      int n = epoll_wait(epoll_.get(), events.data(), events.size(), -1);
      if (n < 0 && errno != EINTR) return FailErrno("epoll_wait");
      for (int i = 0; i < n; ++i) {
        int fd = events[static_cast<size_t>(i)].data.fd;
        if (fd == signals.get()) return {};
        bool accepted = false;
        for (size_t k = 0; k < 3; ++k) {
          if (fd == listeners[k].get()) {
            Accept(fd, static_cast<Kind>(k));
            accepted = true;
          }
        }
        if (!accepted) OnPeer(fd);
      }
    }
  }

 private:
  void Add(int fd, uint32_t what) {
    epoll_event event{};
    event.events = what;
    event.data.fd = fd;
    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
  }
  void Accept(int listener, Kind kind) {
    for (int i = 0; i < 64; ++i) {
      Fd fd(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!fd) return;
      net::SetStreamOptions(fd.get());
      int raw = fd.get();
      Add(raw, EPOLLIN);
      peers_[raw] = std::make_unique<Peer>(Peer{std::move(fd), kind, {}, {}});
    }
  }
  void OnPeer(int fd) {
    auto it = peers_.find(fd);
    if (it == peers_.end()) return;
    Peer& peer = *it->second;
    if (peer.out.empty()) {
      ssize_t n = recv(fd, buffer_.data(), buffer_.size(), 0);
      if (n <= 0) {
        if (n < 0 && errno == EAGAIN) return;
        peers_.erase(it);
        return;
      }
      Take(peer, {buffer_.data(), static_cast<size_t>(n)});
    }
    if (peer.out.empty()) return;
    ssize_t sent = send(fd, peer.out.data(), peer.out.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
      peers_.erase(it);
      return;
    }
    if (sent > 0) peer.out.erase(0, static_cast<size_t>(sent));
    // Either there is something to send, or we read on: never both, so memory stays bounded.
    epoll_event event{};
    event.events = peer.out.empty() ? EPOLLIN : EPOLLOUT;
    event.data.fd = fd;
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
  }
  void Take(Peer& peer, std::string_view bytes) {
    switch (peer.kind) {
      case Kind::kSink: return;
      case Kind::kEcho: peer.out += bytes; return;
      case Kind::kHttp:
        peer.head += bytes;  // GET only: a request ends with its head
        for (size_t end; (end = peer.head.find("\r\n\r\n")) != peer.head.npos;) {
          peer.head.erase(0, end + 4);
          peer.out += answer_;
        }
        return;
    }
  }

  Fd epoll_;
  std::unordered_map<int, std::unique_ptr<Peer>> peers_;
  std::vector<char> buffer_ = std::vector<char>(256 * 1024);
  std::string answer_ = HttpAnswer();
};

}  // namespace

Status RunServer(uint16_t port) { return Server().Run(port); }

}  // namespace qanat::loadgen
