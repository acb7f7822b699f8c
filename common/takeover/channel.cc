// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/channel.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

namespace qanat::takeover {
namespace {

constexpr int kMessagesPerRound = 16;

Result<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Fail(Code::kInvalidArgument,
                "the take-over socket's path \"" + path + "\" has to have 1 to 107 characters");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<Fd> MakeSocket() {
  Fd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return FailErrno("socket");
  return fd;
}

}  // namespace

Result<Fd> ListenAt(const std::string& path) {
  QANAT_ASSIGN_OR_RETURN(Fd fd, MakeSocket());
  // By chance, since processes in containers have the same pid.
  uint32_t chance = 0;
  if (getrandom(&chance, sizeof chance, 0) != sizeof chance) return FailErrno("getrandom");
  std::array<char, 16> ending{};
  std::snprintf(ending.data(), ending.size(), ".%08x", chance);
  const std::string fresh = path + ending.data();
  QANAT_ASSIGN_OR_RETURN(const sockaddr_un address, Address(fresh));
  // The file's mode is the socket's, from the moment of its birth.
  if (fchmod(fd.get(), 0600) != 0) return FailErrno("fchmod of the take-over socket");
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return FailErrno("bind the take-over socket " + fresh);
  }
  if (listen(fd.get(), 4) != 0 || rename(fresh.c_str(), path.c_str()) != 0) {
    const auto failed = FailErrno("listen at the take-over socket " + path);
    unlink(fresh.c_str());
    return failed;
  }
  return fd;
}

Result<Fd> ConnectTo(const std::string& path) {
  QANAT_ASSIGN_OR_RETURN(const sockaddr_un address, Address(path));
  QANAT_ASSIGN_OR_RETURN(Fd fd, MakeSocket());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    auto failed = FailErrno("connect to the take-over socket " + path, error);
    if (error == ENOENT || error == ECONNREFUSED) failed.value().code = Code::kNotFound;
    return failed;
  }
  return fd;
}

Status CheckPeer(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return FailErrno("SO_PEERCRED");
  if (peer.uid == geteuid()) return {};
  return Fail(Code::kPermissionDenied, "the other end of the take-over socket (process " +
                                           std::to_string(peer.pid) + ") has user id " +
                                           std::to_string(peer.uid) + ", not ours (" +
                                           std::to_string(geteuid()) + ")");
}

Channel::Channel(event::EventLoop& loop, Fd fd, AtEnd at_end, Events events)
    : loop_(loop), fd_(std::move(fd)), at_end_(at_end), events_(std::move(events)) {
  // Best effort: larger states then go in fewer rounds.
  const int bytes = 1 << 20;
  setsockopt(fd_.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  watch_ = std::make_unique<event::IoWatch>(loop_, fd_.get(), EPOLLIN,
                                            [this](uint32_t ready) { OnIo(ready); });
}

Channel::~Channel() { watch_.reset(); }

void Channel::Send(Message message) {
  if (!fd_ || broken_) return;
  for (Part& part : Split(std::move(message))) queue_.push_back(std::move(part));
  Flush();
}

void Channel::Flush() {
  while (!queue_.empty()) {
    Part& part = queue_.front();
    iovec io{part.bytes.data(), part.bytes.size()};
    std::array<int, kMaxFdsPerDatagram> fds;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fds)> control{};
    msghdr message{};
    message.msg_iov = &io;
    message.msg_iovlen = 1;
    if (!part.fds.empty()) {
      for (size_t i = 0; i < part.fds.size(); ++i) fds[i] = part.fds[i].get();
      const size_t bytes = part.fds.size() * sizeof(int);
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(bytes);
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(bytes);
      std::memcpy(CMSG_DATA(header), fds.data(), bytes);
    }
    if (sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
      if (errno == EINTR) continue;
      // ETOOMANYREFS: more descriptors on the way than one user may have there.
      if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == ETOOMANYREFS) {
        watch_->SetEvents(EPOLLIN | EPOLLOUT);
        return;
      }
      broken_ = true;
      queue_.clear();
      break;
    }
    queue_.pop_front();
  }
  watch_->SetEvents(EPOLLIN);
}

void Channel::OnIo(uint32_t ready) {
  if (at_end_ == AtEnd::kEndFirst && (ready & (EPOLLHUP | EPOLLERR)) != 0) {
    return Close("the other process has ended the connection");
  }
  const std::weak_ptr<bool> alive = life_;
  if ((ready & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) Read();
  if (alive.expired() || !fd_) return;
  if ((ready & EPOLLOUT) != 0) Flush();
}

void Channel::Read() {
  const std::weak_ptr<bool> alive = life_;
  for (int i = 0; i < kMessagesPerRound; ++i) {
    if (!ReadOne() || alive.expired()) return;
  }
}

bool Channel::ReadOne() {
  // Room for one byte more than any datagram: what is longer shows.
  std::vector<char, WipingAllocator<char>> buffer(kMaxDatagram + 1);
  iovec io{buffer.data(), buffer.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFdsPerDatagram * sizeof(int))> control;
  msghdr message{};
  message.msg_iov = &io;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t n = recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  // A process that was killed with something unread: the kernel says so once, before what that
  // process had sent. Its last word may be a commit, and counts.
  if (n < 0 && errno == ECONNRESET && at_end_ == AtEnd::kReadAll) return true;
  if (n <= 0) {
    Close(n == 0 ? "the other process has ended the connection" : std::strerror(errno));
    return false;
  }
  std::vector<Fd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  auto whole = assembler_.Add({buffer.data(), static_cast<size_t>(n)}, std::move(fds));
  if (!whole) {
    Close(whole.error().message);
    return false;
  }
  if (!*whole) return true;
  const std::weak_ptr<bool> alive = life_;
  const auto on_message = events_.on_message;  // outlives a channel that it destroys
  on_message(std::move(**whole));
  return !alive.expired() && fd_.valid();
}

void Channel::Close(std::string why) {
  watch_.reset();
  fd_.Reset();
  queue_.clear();
  const auto on_closed = std::move(events_.on_closed);
  events_.on_closed = nullptr;
  if (on_closed) on_closed(why);
}

}  // namespace qanat::takeover
