// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstring>

#include "common/takeover/datagram.h"
#include "common/takeover/wire.h"

namespace qanat::takeover {
namespace {

constexpr int kFirst = 3;  // SD_LISTEN_FDS_START
constexpr int kMost = 65536;
constexpr size_t kMostOwed = 65536;  // who is away for so long has none of them left

bool Number(const char* text, int& out) {
  if (text == nullptr) return false;
  const char* end = text + std::strlen(text);
  const auto [parsed, error] = std::from_chars(text, end, out);
  return error == std::errc() && parsed == end;
}

}  // namespace

std::vector<PassedFd> ReadPassedFds(const GetEnvironment& get) {
  int pid = 0, count = 0;
  if (!Number(get("LISTEN_PID"), pid) || pid != getpid()) return {};
  if (!Number(get("LISTEN_FDS"), count) || count < 0 || count > kMost) return {};
  const char* text = get("LISTEN_FDNAMES");
  std::string_view names = text == nullptr ? std::string_view() : text;
  std::vector<PassedFd> out;
  for (int i = 0; i < count; ++i) {
    const size_t end = std::min(names.find(':'), names.size());
    out.push_back({std::string(names.substr(0, end)), kFirst + i});
    names.remove_prefix(std::min(end + 1, names.size()));
  }
  return out;
}

Fd TakePassed(const PassedFd& passed) {
  const int flags = fcntl(passed.fd, F_GETFD);
  if (flags < 0) return Fd();
  fcntl(passed.fd, F_SETFD, flags | FD_CLOEXEC);
  return Fd(passed.fd);
}

bool IsFdName(std::string_view name) {
  return !name.empty() && name.size() <= 255 && std::all_of(name.begin(), name.end(), [](char c) {
    return c > ' ' && c < 0x7f && c != ':';
  });
}

Supervisor::Supervisor(std::string notify_socket) : path_(std::move(notify_socket)) {
  if (!present()) return;
  fd_.Reset(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const timeval limit{0, 200000};
  setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

Status Supervisor::Keep(const std::string& name, std::span<const int> fds) {
  if (!present() || fds.empty()) return {};
  if (!IsFdName(name)) {
    return Fail(Code::kInvalidArgument, "a supervisor cannot keep anything as \"" + name + "\"");
  }
  QANAT_RETURN_IF_ERROR(Settle());  // in their order
  while (!fds.empty()) {
    const size_t now = std::min(fds.size(), kMaxFdsPerDatagram);
    // A listener shows no hang-up; one that does is still ours to judge.
    QANAT_RETURN_IF_ERROR(Send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + name, fds.first(now)));
    fds = fds.subspan(now);
  }
  return {};
}

Status Supervisor::Forget(const std::string& name) {
  if (path_.empty() || !IsFdName(name)) return {};
  if (owed_.size() < kMostOwed) owed_.insert(name);
  return Settle();
}

bool Supervisor::TryAgain() {
  if (path_.empty()) return false;
  away_ = false;
  if (!Send(std::string(kHere), {})) return false;
  return Settle().has_value();
}

Status Supervisor::Settle() {
  while (present() && !owed_.empty()) {
    Status told = Send("FDSTOREREMOVE=1\nFDNAME=" + *owed_.begin(), {});
    if (!told && away_) return told;
    owed_.erase(owed_.begin());
    QANAT_RETURN_IF_ERROR(told);
  }
  return {};
}

Status Supervisor::Ready() {
  if (!present()) return {};
  return Send("READY=1", {});
}

Status Supervisor::Send(const std::string& text, std::span<const int> fds) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof address.sun_path) {
    return Fail(Code::kInvalidArgument, "NOTIFY_SOCKET is longer than a socket's path can be");
  }
  std::memcpy(address.sun_path, path_.data(), path_.size());
  if (path_[0] == '@') address.sun_path[0] = '\0';  // abstract: its length is part of the name
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path_.size());
  const Status sent = SendDatagram(fd_.get(), reinterpret_cast<const sockaddr*>(&address), size,
                                   text, fds, /*flags=*/0);
  if (sent) return {};
  const int error = sent.error().sys_errno;
  away_ = error == EAGAIN || error == ENOENT || error == ECONNREFUSED;
  return FailErrno("tell the supervisor at " + path_, error);
}

Status Supervisor::Ask() {
  answer_.Reset();
  if (!present()) return {};
  QANAT_RETURN_IF_ERROR(Settle());
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    return FailErrno("socketpair");
  }
  Fd mine(pair[0]);
  const Fd theirs(pair[1]);
  const int fds[] = {theirs.get()};
  QANAT_RETURN_IF_ERROR(Send(std::string(kFetch), fds));
  answer_ = std::move(mine);
  return {};
}

std::vector<Supervisor::Named> Supervisor::Answer(std::chrono::milliseconds most) {
  std::vector<Named> out;
  const auto end = std::chrono::steady_clock::now() + most;
  const Fd from = std::move(answer_);
  while (from) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    pollfd ready{from.get(), POLLIN, 0};
    const int n = poll(&ready, 1, static_cast<int>(std::max<int64_t>(0, left.count())));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    auto message = ReceiveDatagram(from.get(), kMaxFdsPerDatagram * 256);
    if (!message || message->fds.empty()) break;
    std::string_view names = message->text;
    for (Fd& fd : message->fds) {
      const size_t line = std::min(names.find('\n'), names.size());
      out.push_back({std::string(names.substr(0, line)), std::move(fd)});
      names.remove_prefix(std::min(line + 1, names.size()));
    }
  }
  return out;
}

}  // namespace qanat::takeover
