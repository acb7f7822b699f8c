// SPDX-License-Identifier: Apache-2.0
#include "common/net/socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "common/base/log.h"

namespace qanat::net {
namespace {

// What one turn may take from who else waits: to set a connection up costs some 100 us.
constexpr int kMostAccepted = 8;
constexpr int kSingles = 16;
constexpr int kMostWaiting = 4096;    // as many as queue up
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

// Failing to tune a socket is no reason to refuse a connection.
void SetKeepAlive(int fd, const KeepAlive& keepalive) {
  if (!keepalive.enabled) return;
  const int one = 1;
  const int idle = static_cast<int>(keepalive.time.count());
  const int interval = static_cast<int>(keepalive.interval.count());
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &keepalive.retries, sizeof keepalive.retries);
  if (!keepalive.user_timeout) return;
  const unsigned timeout =
      static_cast<unsigned>((keepalive.time + keepalive.interval * keepalive.retries).count()) *
      1000u;
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
}

}  // namespace

void SetNoDelay(int fd) {
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

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
    if (options.stream_options) SetStreamOptions(fd, *options.stream_options);
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

Result<std::vector<Fd>> MakeSockets(const ConnectOptions& options, size_t count) {
  const int family = options.to.ip().family();
  auto annotate = [&](Error error) {
    return Fail(error.Annotate("connect to " + options.to.ToString()));
  };
  std::vector<Fd> out;
  auto make = [&]() -> Status {
    while (out.size() < count) {
      Fd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
      if (!fd) return FailErrno("socket");
      SetKeepAlive(fd.get(), options.keepalive);
      if (options.no_delay) SetNoDelay(fd.get());
      QANAT_RETURN_IF_ERROR(SetMark(fd.get(), options.mark));
      if (options.transparent) QANAT_RETURN_IF_ERROR(SetTransparent(fd.get(), family));
      if (!options.bind_device.empty() &&
          setsockopt(fd.get(), SOL_SOCKET, SO_BINDTODEVICE, options.bind_device.data(),
                     static_cast<socklen_t>(options.bind_device.size())) != 0) {
        return FailErrno("SO_BINDTODEVICE " + options.bind_device);
      }
      out.push_back(std::move(fd));
    }
    return {};
  };
  const Status status = options.netns == nullptr ? make() : options.netns->Run(make);
  if (!status && out.empty()) return annotate(status.error());
  return out;
}

Result<Fd> StartConnect(Fd made, const ConnectOptions& options) {
  const int fd = made.get();
  auto start = [&]() -> Status {
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
  if (Status status = start(); !status) {
    return Fail(status.error().Annotate("connect to " + options.to.ToString()));
  }
  return made;
}

Result<Fd> StartConnect(const ConnectOptions& options) {
  QANAT_ASSIGN_OR_RETURN(std::vector<Fd> made, MakeSockets(options, 1));
  return StartConnect(std::move(made.front()), options);
}

bool IsConnected(int fd) {
  // The state comes first in tcp_info. A second connect() would ask too, but takes a failure away
  // from who waits for it.
  uint8_t state = 0;
  socklen_t size = sizeof state;
  return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &size) == 0 && state == TCP_ESTABLISHED;
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
    : Connector(loop, options, StartConnect(options), std::move(done)) {}

Connector::Connector(event::EventLoop& loop, const ConnectOptions& options, Result<Fd> started,
                     Done done)
    : impl_(std::make_unique<Impl>(loop, options.to, std::move(done))) {
  Impl* impl = impl_.get();
  impl->timeout = options.timeout;
  if (!started) {
    impl->failure = started.error();
    impl->timer.Start({});
    return;
  }
  impl->fd = std::move(*started);
  impl->timer.Start(options.timeout);
  impl->watch = std::make_unique<event::IoWatch>(loop, impl->fd.get(), EPOLLOUT,
                                                 [impl](uint32_t) { impl->OnIo(); });
}

Connector::~Connector() {
  if (impl_) impl_->watch.reset();  // before the fd closes
}

void SetStreamOptions(int fd, const KeepAlive& keepalive) {
  SetNoDelay(fd);
  SetKeepAlive(fd, keepalive);
}

struct Acceptor::Impl {
  Impl(event::EventLoop& event_loop, Fd listening, OnAccept handler,
       std::function<void(const Error&)> exhausted)
      : loop(event_loop),
        listener(std::move(listening)),
        on_accept(std::move(handler)),
        on_exhausted(std::move(exhausted)),
        pause(event_loop, [this] { watch->SetEvents(paused ? 0 : EPOLLIN); }) {
    watch = std::make_unique<event::IoWatch>(loop, listener.get(), EPOLLIN,
                                             [this](uint32_t) { Accept(); });
  }

  void Accept() {
    // Bounded per round, so that one busy listener does not starve the loop's other fds. Most often
    // one connection waits, and asking for a second would be a system call for each: more are taken
    // while there are more, and after a try in vain that is tried again after a while.
    std::weak_ptr<bool> alive = life;
    const int most = batch;
    if (singles > 0) {
      --singles;
    } else {
      batch = std::min(2 * batch, kMostAccepted);
    }
    for (int i = 0; i < most; ++i) {
      SocketAddress peer;
      Fd fd = AcceptOne(peer);
      if (!fd) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
          const Error error = FailErrno("accept", errno).value();
          watch->SetEvents(0);
          pause.Start(std::chrono::milliseconds(100));
          if (on_exhausted) return on_exhausted(error);
          LOG_WARN("net", "{}; no new connections for 100 ms (raise the limit of open files)",
                   error.message);
          return;
        }
        // Everything else is the failure of one connection, or EAGAIN.
        if (errno == ECONNABORTED || errno == EINTR || errno == EPROTO) continue;
        batch = std::max(i, 1);
        if (i <= 1) singles = kSingles;
        return;
      }
      on_accept(std::move(fd), peer);
      if (alive.expired() || paused) return;  // the handler destroyed or stopped the acceptor
    }
  }

  Fd AcceptOne(SocketAddress& peer) {
    if (scarce && Fd(fcntl(listener.get(), F_DUPFD_CLOEXEC, 0)).get() >= kept_from) {
      errno = EMFILE;
      return {};
    }
    sockaddr_storage storage;
    socklen_t size = sizeof storage;
    auto* address = reinterpret_cast<sockaddr*>(&storage);
    Fd fd(accept4(listener.get(), address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) peer = SocketAddress::FromSockaddr(address);
    scarce = fd.get() >= kept_from;
    return fd;
  }

  void TakeWaiting() {
    std::weak_ptr<bool> alive = life;
    // Bounded: who connects meanwhile comes behind.
    for (int i = 0; i < kMostWaiting && !alive.expired() && !paused; ++i) {
      SocketAddress peer;
      Fd fd = AcceptOne(peer);
      if (fd) {
        on_accept(std::move(fd), peer);
      } else if (errno != ECONNABORTED && errno != EINTR && errno != EPROTO) {
        return;
      }
    }
  }

  event::EventLoop& loop;
  Fd listener;
  OnAccept on_accept;
  std::function<void(const Error&)> on_exhausted;
  std::unique_ptr<event::IoWatch> watch;
  event::Timer pause;
  bool paused = false;  // by the owner
  int batch = 1;        // how many are taken the next time
  int kept_from = std::numeric_limits<int>::max();
  bool scarce = false;  // the last one had a number that is kept: the next one's is asked for first
  int singles = 0;      // how often one is taken before more are tried
  std::shared_ptr<bool> life = std::make_shared<bool>(true);
};

Acceptor::Acceptor(event::EventLoop& loop, Fd listener, OnAccept on_accept,
                   std::function<void(const Error&)> on_exhausted)
    : impl_(std::make_unique<Impl>(loop, std::move(listener), std::move(on_accept),
                                   std::move(on_exhausted))) {}

Acceptor::~Acceptor() { impl_->watch.reset(); }

SocketAddress Acceptor::local_address() const {
  return SocketAddress::OfLocal(impl_->listener.get()).value_or(SocketAddress());
}

int Acceptor::fd() const { return impl_->listener.get(); }

void Acceptor::KeepFrom(int first) { impl_->kept_from = first; }

void Acceptor::TakeWaiting() { impl_->TakeWaiting(); }

void Acceptor::SetPaused(bool paused) {
  impl_->paused = paused;
  impl_->pause.Stop();
  impl_->watch->SetEvents(paused ? 0 : EPOLLIN);
}

}  // namespace qanat::net
