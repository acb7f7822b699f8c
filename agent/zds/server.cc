// SPDX-License-Identifier: Apache-2.0
#include "agent/zds/server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "common/base/log.h"

namespace qanat::agent::zds {
namespace {

// Stock agents accept at most 5 proxies a second: a proxy in a crash loop must not starve us.
constexpr auto kAcceptPause = std::chrono::milliseconds(200);
constexpr int kSoPeerPidFd = 77;  // SO_PEERPIDFD, Linux 6.5
constexpr size_t kMaxConnections = 16;

Result<Peer> Identify(int fd, uint64_t id, std::optional<gid_t> group) {
  ucred cred{};
  socklen_t size = sizeof cred;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) != 0) return FailErrno("SO_PEERCRED");
  if (cred.uid != 0 && cred.gid != group)
    return Fail(Code::kPermissionDenied, "user " + std::to_string(cred.uid) + ":" +
                                             std::to_string(cred.gid) +
                                             " may not be the proxy (--zds-group)");
  Peer peer;
  peer.id = id;
  peer.pid = cred.pid;
  int pidfd = -1;
  size = sizeof pidfd;
  if (::getsockopt(fd, SOL_SOCKET, kSoPeerPidFd, &pidfd, &size) == 0) {
    peer.pidfd.Reset(pidfd);
  } else if (cred.pid > 0) {
    peer.pidfd.Reset(static_cast<int>(::syscall(SYS_pidfd_open, cred.pid, 0)));
  }
  if (!peer.pidfd)
    return Fail(Code::kFailedPrecondition,
                "the proxy's process cannot be seen (another pid namespace on a kernel before 6.5: "
                "run the agent with hostPID)");
  return peer;
}

}  // namespace

Server::Server(event::EventLoop& loop, Owner* owner)
    : loop_(loop), owner_(owner), accept_pause_(loop, [this] {
        if (watch_) watch_->SetEvents(EPOLLIN);
      }) {}

Server::~Server() = default;

Status Server::Listen(const std::string& path, std::optional<gid_t> group) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Fail(Code::kInvalidArgument, "the ZDS socket's path is longer than 107 bytes: " + path);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  ::unlink(path.c_str());
  const bool accepting = watch_ != nullptr;
  watch_.reset();
  listener_.Reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!listener_) return FailErrno("ZDS socket");
  const mode_t old = ::umask(0177);
  const int bound = ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address);
  ::umask(old);
  if (bound != 0) return FailErrno("bind " + path);
  group_ = group;
  if (group && (::chown(path.c_str(), static_cast<uid_t>(-1), *group) != 0 ||
                ::chmod(path.c_str(), 0660) != 0)) {
    return FailErrno("open " + path + " to group " + std::to_string(*group) +
                     " (--zds-group; it must be one of the agent's own: supplementalGroups)");
  }
  if (::listen(listener_.get(), 16) != 0) return FailErrno("listen on " + path);
  if (accepting) StartAccepting();
  return {};
}

void Server::StartAccepting() {
  if (watch_ || !listener_) return;
  watch_ = std::make_unique<event::IoWatch>(loop_, listener_.get(), EPOLLIN,
                                            [this](uint32_t) { Accept(); });
}

void Server::Accept() {
  Fd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  watch_->SetEvents(0);
  accept_pause_.Start(kAcceptPause);
  if (!fd) return;
  ++stats_.accepted;
  auto peer = Identify(fd.get(), next_peer_++, group_);
  if (!peer || connections_.size() >= kMaxConnections) {
    ++stats_.refused;
    LOG_WARN("zds", "connection refused: {}", peer ? "too many connections" : peer.error().message);
    return;
  }
  Connection::Events events;
  events.on_hello = [this](Connection& c) { SendSnapshot(c); };
  events.on_closed = [this](Connection& c, const Error& why) { OnClosed(c, why); };
  connections_.push_back(
      std::make_unique<Connection>(loop_, std::move(fd), std::move(*peer), std::move(events)));
}

void Server::SendSnapshot(Connection& connection) {
  if (Status allowed = owner_->OnPeer(connection.peer()); !allowed) {
    ++stats_.refused;
    LOG_ERROR("zds", "proxy {} refused: {}", connection.peer().id, allowed.error().message);
    connection.Close({Code::kPermissionDenied, allowed.error().message});
    return;
  }
  Connection* raw = &connection;
  for (SnapshotItem& item : owner_->Snapshot()) {
    const std::string uid = item.workload.uid;
    auto message = item.netns ? EncodeAdd(item.workload) : EncodeKeep(uid);
    if (!message) {
      owner_->OnSnapshotAck(connection.peer(), uid, tl::unexpected(message.error()));
      continue;
    }
    connection.Send(std::move(*message), std::move(item.netns),
                    [this, raw, uid](const Status& status) {
                      owner_->OnSnapshotAck(raw->peer(), uid, status);
                    });
  }
  connection.Send(EncodeSnapshotSent(), Fd(), [this, raw](Status status) {
    if (!status) {
      LOG_WARN("zds", "proxy {}: snapshot not acknowledged: {}", raw->peer().id,
               status.error().message);
      return;
    }
    raw->set_ready();
    owner_->OnPeerReady(raw->peer());
  });
}

void Server::Add(const Workload& workload, Fd netns, Connection::Done done) {
  Connection* newest = Newest();
  if (newest == nullptr) {
    done(Fail(Code::kUnavailable, "no proxy is connected to the ZDS socket"));
    return;
  }
  auto message = EncodeAdd(workload);
  if (!message) {
    done(tl::unexpected(message.error()));
    return;
  }
  newest->Send(std::move(*message), std::move(netns), std::move(done));
}

void Server::Del(const std::string& uid) {
  auto message = EncodeDel(uid);
  if (!message) return;
  for (size_t i = 0; i < connections_.size(); ++i) {
    Connection& connection = *connections_[i];
    if (!connection.greeted() || connection.closed()) continue;
    connection.Send(*message, Fd(), [uid](Status status) {
      if (!status) LOG_DEBUG("zds", "deletion of {}: {}", uid, status.error().message);
    });
  }
}

Connection* Server::Newest() const {
  for (auto it = connections_.rbegin(); it != connections_.rend(); ++it)
    if ((*it)->greeted() && !(*it)->closed()) return it->get();
  return nullptr;
}

std::set<pid_t> Server::Pids() const {
  std::set<pid_t> out;
  for (const auto& one : connections_) {
    if (one->greeted() && !one->closed()) out.insert(one->peer().pid);
  }
  return out;
}

const Peer* Server::newest_peer() const {
  Connection* newest = Newest();
  return newest ? &newest->peer() : nullptr;
}

const Peer* Server::ready_peer() const {
  for (auto it = connections_.rbegin(); it != connections_.rend(); ++it)
    if ((*it)->ready() && !(*it)->closed()) return &(*it)->peer();
  return nullptr;
}

void Server::OnClosed(Connection& connection, const Error& why) {
  if (why.code == Code::kInvalidArgument) ++stats_.protocol_errors;
  if (why.code == Code::kDeadlineExceeded) ++stats_.timeouts;
  const bool was_peer = connection.greeted();
  const uint64_t id = connection.peer().id;
  if (why.code == Code::kCancelled)
    LOG_INFO("zds", "proxy {}: {}", id, why.message);
  else
    LOG_WARN("zds", "proxy {} disconnected: {}", id, why.message);
  auto it = std::find_if(connections_.begin(), connections_.end(),
                         [&](const auto& c) { return c.get() == &connection; });
  if (it != connections_.end()) {
    std::unique_ptr<Connection> dying = std::move(*it);
    connections_.erase(it);
    loop_.DeferDelete(std::move(dying));
  }
  if (was_peer) owner_->OnPeerGone(id);
}

}  // namespace qanat::agent::zds
