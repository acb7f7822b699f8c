// SPDX-License-Identifier: Apache-2.0
#include "agent/zds/connection.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <span>

#include "common/base/log.h"

namespace qanat::agent::zds {
namespace {

constexpr auto kDeadline = std::chrono::seconds(5);

}  // namespace

Connection::Connection(event::EventLoop& loop, Fd fd, Peer peer, Events events)
    : loop_(loop),
      fd_(std::move(fd)),
      peer_(std::move(peer)),
      events_(std::move(events)),
      deadline_(loop, [this] {
        Close({Code::kDeadlineExceeded,
               greeted_ ? "the proxy did not answer within 5 s (is it stuck, or stopped?)"
                        : "no ZdsHello within 5 s (not a ZDS client?)"});
      }) {
  watch_ = std::make_unique<event::IoWatch>(loop_, fd_.get(), EPOLLIN | EPOLLRDHUP,
                                            [this](uint32_t e) { OnEvents(e); });
  deadline_.Start(kDeadline);
}

Connection::~Connection() = default;

void Connection::Send(std::string message, Fd fd, Done done) {
  if (closed_) {
    done(Fail(Code::kUnavailable, "the ZDS connection is closed"));
    return;
  }
  queue_.push_back({std::move(message), std::move(fd), std::move(done)});
  TrySend();
}

void Connection::TrySend() {
  if (closed_ || awaiting_ack_ || !greeted_) return;
  if (queue_.empty()) {
    deadline_.Stop();
    watch_->SetEvents(EPOLLIN | EPOLLRDHUP);
    return;
  }
  Outgoing& out = queue_.front();
  iovec iov{out.message.data(), out.message.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  if (out.fd) {
    msg.msg_control = control;
    msg.msg_controllen = sizeof control;
    cmsghdr* header = CMSG_FIRSTHDR(&msg);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    const int raw = out.fd.get();
    std::memcpy(CMSG_DATA(header), &raw, sizeof raw);
  }
  if (!deadline_.armed()) deadline_.Start(kDeadline);
  if (::sendmsg(fd_.get(), &msg, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
    if (errno == EAGAIN || errno == EINTR) {
      watch_->SetEvents(EPOLLIN | EPOLLOUT | EPOLLRDHUP);
      return;
    }
    Close(FailErrno("send to the proxy").value());
    return;
  }
  // The pod's namespace is not kept alive by us while the proxy thinks.
  out.fd.Reset();
  awaiting_ack_ = true;
  watch_->SetEvents(EPOLLIN | EPOLLRDHUP);
  deadline_.Start(kDeadline);
}

void Connection::OnEvents(uint32_t events) {
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) {
    ReadOne();
    if (closed_) return;
  }
  if (events & EPOLLOUT) TrySend();
}

void Connection::ReadOne() {
  uint8_t buffer[kMaxMessage];
  iovec iov{buffer, sizeof buffer};
  alignas(cmsghdr) char control[CMSG_SPACE(16 * sizeof(int))];
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  const ssize_t n = ::recvmsg(fd_.get(), &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    Close(FailErrno("read from the proxy").value());
    return;
  }
  // Nobody sends us descriptors; whatever came is closed at once.
  for (cmsghdr* h = CMSG_FIRSTHDR(&msg); h != nullptr; h = CMSG_NXTHDR(&msg, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof fd);
      Fd closes(fd);
    }
  }
  // A datagram of no bytes is a message too (an empty Ack never is); end of stream reads the same.
  if (n == 0) return Close({Code::kCancelled, "the proxy closed the connection"});
  if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
    return Close({Code::kInvalidArgument, "message longer than 1024 bytes"});
  const std::span<const uint8_t> bytes(buffer, static_cast<size_t>(n));
  if (!greeted_) {
    auto hello = DecodeHello(bytes);
    if (!hello) return Close(hello.error());
    greeted_ = true;
    deadline_.Stop();
    LOG_INFO("zds", "proxy {} (pid {}) connected, version {}", peer_.id, peer_.pid, hello->version);
    events_.on_hello(*this);
    if (!closed_) TrySend();
    return;
  }
  if (!awaiting_ack_) return Close({Code::kInvalidArgument, "message without a request"});
  auto ack = DecodeAck(bytes);
  if (!ack) return Close(ack.error());
  deadline_.Stop();
  awaiting_ack_ = false;
  Outgoing done = std::move(queue_.front());
  queue_.pop_front();
  if (ack->error.empty())
    done.done({});
  else
    done.done(Fail(Code::kFailedPrecondition, "the proxy refused: " + ack->error));
  TrySend();
}

void Connection::Close(const Error& why) {
  if (closed_) return;
  closed_ = true;
  ready_ = false;
  deadline_.Stop();
  watch_.reset();
  fd_.Reset();
  std::deque<Outgoing> left = std::move(queue_);
  queue_.clear();
  for (Outgoing& out : left)
    out.done(Fail(Code::kUnavailable, "ZDS connection lost: " + why.message));
  events_.on_closed(*this, why);
}

}  // namespace qanat::agent::zds
