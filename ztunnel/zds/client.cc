// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/zds/client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include "common/base/log.h"

namespace qanat::ztunnel::zds {
namespace {

struct Received {
  ssize_t size = 0;
  bool truncated = false;
  std::vector<Fd> fds;
};

Received Receive(int socket, std::span<char> into) {
  Received out;
  iovec io{into.data(), into.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  out.size = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (out.size < 0) return out;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      out.fds.emplace_back(fd);
    }
  }
  out.truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  return out;
}

}  // namespace

// Stock ztunnel doubles from 20 ms to 15 s. The socket is on this machine and trying it costs
// nothing, while pods cannot start without us: half a second is the most.
Client::Client(event::EventLoop& loop, std::string socket_path, PodSink& sink)
    : loop_(loop),
      path_(std::move(socket_path)),
      sink_(sink),
      retry_(loop, [this] { Connect(); }),
      backoff_({std::chrono::milliseconds(20), std::chrono::milliseconds(500), 2.0, 0.2}) {}

Client::~Client() { watch_.reset(); }

void Client::Start() { Connect(); }

void Client::Connect() {
  ++connection_;
  const auto fail = [this](const std::string& why) {
    if (why != last_failure_) {
      LOG_WARN("zds", "cannot reach the node agent at {}: {}; trying again", path_, why);
    }
    last_failure_ = why;
    fd_.Reset();
    retry_.Start(backoff_.Next());
  };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof address.sun_path) return fail("the path is too long");
  std::memcpy(address.sun_path, path_.data(), path_.size());
  fd_.Reset(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd_) return fail(std::strerror(errno));
  if (connect(fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    if (errno != EACCES) return fail(std::strerror(errno));
    return fail(fmt::format(
        "user {}:{} may not: the agent has to open its socket to that group (qanat-agent "
        "--zds-group), or the proxy to stay root (no QANAT_RUN_AS), as a stock agent wants it",
        geteuid(), getegid()));
  }
  const std::string hello = EncodeHello();
  if (send(fd_.get(), hello.data(), hello.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(hello.size())) {
    return fail(std::strerror(errno));
  }
  last_failure_.clear();
  ++counters_.connects;
  LOG_INFO("zds", "connected to the node agent at {}", path_);
  watch_ = std::make_unique<event::IoWatch>(loop_, fd_.get(), EPOLLIN,
                                            [this](uint32_t) { OnReadable(); });
  sink_.OnConnected();
}

void Client::OnReadable() {
  std::array<char, kMaxMessage + 1> buffer;
  Received received = Receive(fd_.get(), buffer);
  if (received.size < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    return Disconnect(std::strerror(errno));
  }
  if (received.size == 0) return Disconnect("the node agent closed the connection");
  backoff_.Reset();
  ++counters_.messages;
  if (received.truncated || received.size > static_cast<ssize_t>(kMaxMessage)) {
    return ProtocolError("failure to read message : too long");
  }
  if (received.fds.size() > 1) {
    return ProtocolError("failure to read message : more than one file descriptor");
  }
  const bool has_netns = !received.fds.empty();
  Handle({buffer.data(), static_cast<size_t>(received.size)},
         has_netns ? std::move(received.fds.front()) : Fd(), has_netns);
}

void Client::Handle(std::string_view bytes, Fd netns, bool has_netns) {
  auto request = DecodeRequest(bytes);
  if (!request) return ProtocolError("failure to read message : " + request.error().message);
  if (const auto* add = std::get_if<Add>(&*request)) {
    return HandleAdd(*add, std::move(netns), has_netns);
  }
  if (has_netns) return ProtocolError("a file descriptor beside a message that takes none");
  if (const auto* keep = std::get_if<Keep>(&*request)) {
    if (agent_ == Agent::kHere) return ProtocolError("KeepWorkload after the snapshot");
    sink_.OnKeep(keep->uid);
  } else if (const auto* del = std::get_if<Del>(&*request)) {
    sink_.OnDel(del->uid);
  } else {
    if (agent_ == Agent::kHere) return ProtocolError("a second SnapshotSent");
    if (agent_ == Agent::kAway) LOG_INFO("zds", "the node agent is back and has told all its pods");
    agent_ = Agent::kHere;
    sink_.OnSnapshotSent();
  }
  Answer("");
}

void Client::HandleAdd(const Add& add, Fd netns, bool has_netns) {
  if (!has_netns) return ProtocolError("AddWorkload without a network namespace");
  auto opened = netns::NetNs::FromFd(std::move(netns));
  if (!opened) return ProtocolError("AddWorkload: " + opened.error().message);
  watch_->SetEvents(0);  // one message at a time: the next is read after the answer
  sink_.OnAdd(add, std::make_shared<const netns::NetNs>(std::move(*opened)),
              [this, connection = connection_](const Status& status) {
                if (connection != connection_ || !fd_) return;
                watch_->SetEvents(EPOLLIN);
                Answer(status ? "" : "failure to start proxy : " + status.error().message);
              });
}

void Client::Answer(std::string_view error) {
  const std::string ack = EncodeAck(error);
  if (send(fd_.get(), ack.data(), ack.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(ack.size())) {
    Disconnect(std::strerror(errno));
  }
}

void Client::ProtocolError(const std::string& what) {
  ++counters_.protocol_errors;
  LOG_ERROR("zds", "{}; reconnecting", what);
  const std::string nack = EncodeAck(what);
  send(fd_.get(), nack.data(), nack.size(), MSG_NOSIGNAL);
  Disconnect(what);
}

void Client::Disconnect(const std::string& why) {
  LOG_WARN("zds", "connection to the node agent lost: {}{}", why,
           agent_ == Agent::kHere ? "; the pods that are served go on, others wait for it" : "");
  ++connection_;
  watch_.reset();
  fd_.Reset();
  if (agent_ == Agent::kHere) agent_ = Agent::kAway;
  sink_.OnDisconnected();
  retry_.Start(backoff_.Next());
}

}  // namespace qanat::ztunnel::zds
