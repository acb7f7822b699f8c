// SPDX-License-Identifier: Apache-2.0
#include "common/net/socket.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <cerrno>

#include "common/base/log.h"

namespace qanat::net {
namespace {

constexpr int kIpv6Transparent = 75;  // IPV6_TRANSPARENT, not in every libc

Status SetInt(int fd, int level, int option, int value, const char* name) {
  if (setsockopt(fd, level, option, &value, sizeof value) != 0) return FailErrno(name);
  return {};
}

Status SetTransparent(int fd, int family) {
  if (family == AF_INET6) {
    // On a dual-stack socket this covers IPv4 too; IP_TRANSPARENT is set beside it because the
    // two are one bit in the kernel, but only one of them may be allowed by a seccomp filter.
    QANAT_RETURN_IF_ERROR(
        SetInt(fd, SOL_IPV6, kIpv6Transparent, 1, "IPV6_TRANSPARENT (needs CAP_NET_ADMIN)"));
    return {};
  }
  return SetInt(fd, SOL_IP, IP_TRANSPARENT, 1, "IP_TRANSPARENT (needs CAP_NET_ADMIN)");
}

Result<Fd> MakeSocket(int family, const netns::NetNs* netns) {
  Fd fd;
  auto make = [&]() -> Status {
    fd.Reset(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
    if (!fd) return FailErrno("socket");
    return {};
  };
  if (netns == nullptr) {
    QANAT_RETURN_IF_ERROR(make());
  } else {
    QANAT_RETURN_IF_ERROR(netns->Run(make));
  }
  return fd;
}

Status SetMark(int fd, uint32_t mark) {
  if (mark == 0) return {};
  return SetInt(fd, SOL_SOCKET, SO_MARK, static_cast<int>(mark), "SO_MARK (needs CAP_NET_ADMIN)");
}

}  // namespace

Result<Fd> Listen(const ListenOptions& options) {
  int family = options.address.ip().family();
  auto annotate = [&](Error error) {
    return Fail(error.Annotate("listen on " + options.address.ToString()));
  };
  auto made = MakeSocket(family, options.netns);
  if (!made) return annotate(made.error());
  int fd = made->get();
  auto configure = [&]() -> Status {
    QANAT_RETURN_IF_ERROR(SetInt(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR"));
    if (family == AF_INET6) {
      QANAT_RETURN_IF_ERROR(
          SetInt(fd, SOL_IPV6, IPV6_V6ONLY, options.dual_stack ? 0 : 1, "IPV6_V6ONLY"));
    }
    if (options.reuse_port) {
      QANAT_RETURN_IF_ERROR(SetInt(fd, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT"));
    }
    if (options.transparent) QANAT_RETURN_IF_ERROR(SetTransparent(fd, family));
    QANAT_RETURN_IF_ERROR(SetMark(fd, options.mark));
    sockaddr_storage storage;
    socklen_t size = options.address.ToSockaddr(storage);
    if (bind(fd, reinterpret_cast<sockaddr*>(&storage), size) != 0) {
      if (errno == EADDRINUSE) {
        return FailErrno("bind: another process has the port (ss -ltnp shows it)", EADDRINUSE);
      }
      return FailErrno("bind");
    }
    if (listen(fd, options.backlog) != 0) return FailErrno("listen");
    return {};
  };
  if (Status status = configure(); !status) return annotate(status.error());
  return std::move(*made);
}

Result<Fd> StartConnect(const ConnectOptions& options) {
  int family = options.to.ip().family();
  auto annotate = [&](Error error) {
    return Fail(error.Annotate("connect to " + options.to.ToString()));
  };
  auto made = MakeSocket(family, options.netns);
  if (!made) return annotate(made.error());
  int fd = made->get();
  auto start = [&]() -> Status {
    SetStreamOptions(fd);
    QANAT_RETURN_IF_ERROR(SetMark(fd, options.mark));
    if (options.transparent) QANAT_RETURN_IF_ERROR(SetTransparent(fd, family));
    if (!options.bind_device.empty() &&
        setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, options.bind_device.data(),
                   static_cast<socklen_t>(options.bind_device.size())) != 0) {
      return FailErrno("SO_BINDTODEVICE " + options.bind_device);
    }
    sockaddr_storage storage;
    if (options.bind.is_set()) {
      socklen_t size = options.bind.ToSockaddr(storage);
      if (bind(fd, reinterpret_cast<sockaddr*>(&storage), size) != 0) {
        return FailErrno("bind the source address " + options.bind.ToString());
      }
    }
    socklen_t size = options.to.ToSockaddr(storage);
    if (connect(fd, reinterpret_cast<sockaddr*>(&storage), size) != 0 && errno != EINPROGRESS) {
      int err = errno;
      auto failed = FailErrno("connect", err);
      if (err == ECONNREFUSED || err == ENETUNREACH || err == EHOSTUNREACH || err == ETIMEDOUT) {
        failed.value().code = Code::kUnavailable;
      }
      return failed;
    }
    return {};
  };
  if (Status status = start(); !status) return annotate(status.error());
  return std::move(*made);
}

struct Connector::Impl {
  Impl(event::EventLoop& loop, SocketAddress to, Done on_done)
      : loop(loop), to(to), done(std::move(on_done)), timer(loop, [this] { OnTimeout(); }) {}

  void Finish(Result<Fd> result) {
    watch.reset();
    timer.Stop();
    // `done` often destroys the Connector; nothing of it is used after the call.
    Done call = std::move(done);
    call(std::move(result));
  }
  void OnTimeout() {
    if (failure) {
      Finish(tl::unexpected(*failure));
      return;
    }
    Finish(Fail(Code::kDeadlineExceeded,
                fmt::format("connect to {}: no answer in {} ms (a NetworkPolicy or firewall may "
                            "drop port {})",
                            to.ToString(), timeout.count(), to.port())));
  }
  void OnIo() {
    int err = 0;
    socklen_t size = sizeof err;
    getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &err, &size);
    if (err == 0) {
      Finish(std::move(fd));
      return;
    }
    auto failed = FailErrno("connect to " + to.ToString(), err);
    failed.value().code = err == ETIMEDOUT ? Code::kDeadlineExceeded : Code::kUnavailable;
    Finish(std::move(failed));
  }

  event::EventLoop& loop;
  SocketAddress to;
  Done done;
  std::chrono::milliseconds timeout{};
  event::Timer timer;
  Fd fd;
  std::optional<Error> failure;  // found at once, reported in the next round
  std::unique_ptr<event::IoWatch> watch;
};

Connector::Connector(event::EventLoop& loop, const ConnectOptions& options, Done done)
    : impl_(std::make_unique<Impl>(loop, options.to, std::move(done))) {
  Impl* impl = impl_.get();
  impl->timeout = options.timeout;
  auto fd = StartConnect(options);
  if (!fd) {
    impl->failure = fd.error();
    impl->timer.Start({});
    return;
  }
  impl->fd = std::move(*fd);
  impl->timer.Start(options.timeout);
  impl->watch = std::make_unique<event::IoWatch>(loop, impl->fd.get(), EPOLLOUT,
                                                 [impl](uint32_t) { impl->OnIo(); });
}

Connector::~Connector() {
  if (impl_) impl_->watch.reset();  // before the fd closes
}

void SetStreamOptions(int fd) {
  // Failing to tune a socket is no reason to refuse a connection.
  int one = 1, idle = 180, interval = 180, count = 9;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
}

struct Acceptor::Impl {
  Impl(event::EventLoop& event_loop, Fd listening, OnAccept handler)
      : loop(event_loop),
        listener(std::move(listening)),
        on_accept(std::move(handler)),
        pause(event_loop, [this] { watch->SetEvents(EPOLLIN); }) {
    watch = std::make_unique<event::IoWatch>(loop, listener.get(), EPOLLIN,
                                             [this](uint32_t) { Accept(); });
  }

  void Accept() {
    // Bounded per round, so that one busy listener does not starve the loop's other fds.
    std::weak_ptr<bool> alive = life;
    for (int i = 0; i < 64; ++i) {
      sockaddr_storage storage;
      socklen_t size = sizeof storage;
      Fd fd(accept4(listener.get(), reinterpret_cast<sockaddr*>(&storage), &size,
                    SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!fd) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
          LOG_WARN("net",
                   "accept: {}; no new connections for 100 ms (raise the limit of open "
                   "files)",
                   FailErrno("out of resources", errno).value().message);
          watch->SetEvents(0);
          pause.Start(std::chrono::milliseconds(100));
        }
        // Everything else is the failure of one connection, or EAGAIN.
        if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO) continue;
        return;
      }
      on_accept(std::move(fd), SocketAddress::FromSockaddr(reinterpret_cast<sockaddr*>(&storage)));
      if (alive.expired()) return;  // the handler destroyed the acceptor
    }
  }

  event::EventLoop& loop;
  Fd listener;
  OnAccept on_accept;
  std::unique_ptr<event::IoWatch> watch;
  event::Timer pause;
  std::shared_ptr<bool> life = std::make_shared<bool>(true);
};

Acceptor::Acceptor(event::EventLoop& loop, Fd listener, OnAccept on_accept)
    : impl_(std::make_unique<Impl>(loop, std::move(listener), std::move(on_accept))) {}

Acceptor::~Acceptor() { impl_->watch.reset(); }

SocketAddress Acceptor::local_address() const {
  return SocketAddress::OfLocal(impl_->listener.get()).value_or(SocketAddress());
}

int Acceptor::fd() const { return impl_->listener.get(); }

}  // namespace qanat::net
