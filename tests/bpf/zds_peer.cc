// SPDX-License-Identifier: Apache-2.0
// A proxy as small as can be: speaks ZDS, opens its listeners in each pod as a stock proxy does
// (dual-stack, transparent, marked 0x539, SO_REUSEPORT), and says which of them was reached.
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "bpf/include/abi.h"
#include "common/net/address.h"
#include "common/proto/zds.pb.h"
#include "tests/bpf/bed.h"

namespace qanat::test {
namespace {

namespace pb = istio::workload::zds;

struct Listener {
  std::string what;
  int worker = 0;
  std::string uid;
};

class Peer {
 public:
  Peer(int workers, bool dns, bool reads_marks)
      : workers_(workers),
        dns_(dns),
        reads_marks_(reads_marks),
        epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

  // One ZDS session; returns when it breaks. Listeners stay.
  void Session(const std::string& path) {
    const int zds = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::snprintf(to.sun_path, sizeof to.sun_path, "%s", path.c_str());
    if (::connect(zds, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) {
      ::close(zds);
      Serve(20);
      return;
    }
    pb::ZdsHello hello;
    hello.set_version(pb::V1);
    const std::string bytes = hello.SerializeAsString();
    (void)!::send(zds, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    Watch(zds);
    while (Serve(1000, zds)) {
    }
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, zds, nullptr);
    ::close(zds);
  }

 private:
  void Watch(int fd) {
    epoll_event event{EPOLLIN, {.fd = fd}};
    ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
  }

  // False when the ZDS connection has ended.
  bool Serve(int timeout_ms, int zds = -1) {
    epoll_event events[64];
    const int n = ::epoll_wait(epoll_, events, 64, timeout_ms);
    for (int i = 0; i < n; ++i) {
      if (events[i].data.fd == zds) {
        if (!OnZds(zds)) return false;
        continue;
      }
      if (echoed_.contains(events[i].data.fd)) {
        Echo(events[i].data.fd);
        continue;
      }
      auto it = listeners_.find(events[i].data.fd);
      if (it == listeners_.end()) continue;
      if (it->second.what == "dns")
        AnswerDns(it->first);
      else
        Answer(it->first, it->second);
    }
    return true;
  }

  // Accepts one connection, if there is one, and says what it reached.
  bool Answer(int listener, const Listener& which) {
    const int fd = ::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return false;
    auto local = net::SocketAddress::OfLocal(fd), from = net::SocketAddress::OfPeer(fd);
    if (local && local->port() == 9000) {
      echoed_[fd] = which.uid;
      Watch(fd);
      return true;
    }
    std::string line = which.what + " " + std::to_string(which.worker) + " " +
                       (local ? local->ToString() : "?") + " " + (from ? from->ToString() : "?");
    unsigned mark = 0;
    socklen_t size = sizeof mark;
    ::getsockopt(fd, SOL_SOCKET, SO_MARK, &mark, &size);
    if ((mark & QANAT_MARK_MASK) == QANAT_MARK_DRAWN)
      line += " drawn=" + std::to_string(mark >> QANAT_DRAW_SHIFT);
    line += "\n";
    (void)!::send(fd, line.data(), line.size(), MSG_NOSIGNAL);
    ::shutdown(fd, SHUT_WR);
    // What the client sent (TCP Fast Open) must be read, or close() would reset.
    char sink[64];
    (void)!::recv(fd, sink, sizeof sink, MSG_DONTWAIT);
    ::close(fd);
    return true;
  }

  void Echo(int fd) {
    char bytes[4096];
    const ssize_t n = ::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n > 0 && ::send(fd, bytes, static_cast<size_t>(n), MSG_NOSIGNAL) == n) return;
    ::close(fd);
    echoed_.erase(fd);
  }

  bool OnZds(int zds) {
    char buffer[1024];
    iovec iov{buffer, sizeof buffer};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control;
    msg.msg_controllen = sizeof control;
    const ssize_t n = ::recvmsg(zds, &msg, MSG_CMSG_CLOEXEC);
    if (n <= 0) return false;
    int fd = -1;
    if (cmsghdr* h = CMSG_FIRSTHDR(&msg); h != nullptr && h->cmsg_type == SCM_RIGHTS)
      std::memcpy(&fd, CMSG_DATA(h), sizeof fd);
    pb::WorkloadRequest request;
    std::string error;
    if (!request.ParseFromArray(buffer, static_cast<int>(n)))
      error = "cannot parse";
    else if (request.has_add())
      error = fd < 0 ? "no namespace" : Open(request.add().uid(), fd);
    else if (request.has_del())
      Close(request.del().uid());
    if (fd >= 0) ::close(fd);
    pb::WorkloadResponse response;
    response.mutable_ack()->set_error(error);
    const std::string bytes = response.SerializeAsString();
    return ::send(zds, bytes.data(), bytes.size(), MSG_NOSIGNAL) > 0;
  }

  std::string Open(const std::string& uid, int netns) {
    for (const auto& [fd, l] : listeners_)
      if (l.uid == uid) return "";  // stock: same uid, same namespace is no change
    const int home = ::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (::setns(netns, CLONE_NEWNET) != 0) return "setns";
    std::string error;
    for (int worker = 0; worker < workers_; ++worker)
      for (const auto& [port, what] :
           {std::pair{QANAT_PORT_OUTBOUND, "out"}, std::pair{QANAT_PORT_INBOUND, "in"},
            std::pair{QANAT_PORT_HBONE, "hbone"}}) {
        const int fd = ::socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        const int one = 1, zero = 0;
        const unsigned mark = QANAT_MARK_PROXY;
        ::setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
        ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        ::setsockopt(fd, SOL_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
        ::setsockopt(fd, SOL_IP, IP_TRANSPARENT, &one, sizeof one);
        ::setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark);
        if (reads_marks_ && port == QANAT_PORT_OUTBOUND)
          ::setsockopt(fd, SOL_SOCKET, SO_RCVMARK, &one, sizeof one);
        sockaddr_in6 any{};
        any.sin6_family = AF_INET6;
        any.sin6_port = htons(static_cast<uint16_t>(port));
        if (::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) != 0 ||
            ::listen(fd, 128) != 0) {
          error = std::string("listen: ") + std::strerror(errno);
          ::close(fd);
          continue;
        }
        listeners_[fd] = {what, worker, uid};
        Watch(fd);
      }
    if (dns_)
      for (int fd : OpenDnsListeners(true)) {
        listeners_[fd] = {"dns", 0, uid};
        Watch(fd);
      }
    ::setns(home, CLONE_NEWNET);
    ::close(home);
    return error;
  }

  void Close(const std::string& uid) {
    for (auto it = listeners_.begin(); it != listeners_.end();) {
      if (it->second.uid != uid) {
        ++it;
        continue;
      }
      // Who waits in the queue has been accepted by the kernel: closing would reset them.
      while (it->second.what != "dns" && Answer(it->first, it->second)) {
      }
      ::close(it->first);
      it = listeners_.erase(it);
    }
    std::erase_if(echoed_, [&](const auto& echoed) {
      if (echoed.second == uid) ::close(echoed.first);
      return echoed.second == uid;
    });
  }

  int workers_;
  bool dns_;
  bool reads_marks_;
  int epoll_;
  std::map<int, Listener> listeners_;
  std::map<int, std::string> echoed_;  // the uid of the pod
};

}  // namespace

void RunZdsPeer(const std::string& socket_path, int workers, bool dns, bool reads_marks) {
  Peer peer(workers, dns, reads_marks);
  for (;;) peer.Session(socket_path);
}

}  // namespace qanat::test
