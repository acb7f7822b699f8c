// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/tcp_client.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace qanat::ztunnel::dns {
namespace {

constexpr auto kIdle = std::chrono::seconds(5);  // as the stock proxy
constexpr size_t kMaxOpen = 64;                  // further questions wait in the socket
constexpr size_t kMaxUnwritten = 256 << 10;

}  // namespace

TcpClient::TcpClient(Server& server, uint64_t id, Fd fd)
    : server_(server),
      id_(id),
      fd_(std::move(fd)),
      charge_(server.loop_.memory()),
      idle_(server.loop_, [this] { server_.Remove(id_); }),
      watch_(std::make_unique<event::IoWatch>(server.loop_, fd_.get(), EPOLLIN,
                                              [this](uint32_t events) { OnIo(events); })) {
  charge_.ChargeTo(&server.pod_->load->memory);
  idle_.Start(kIdle);
}

void TcpClient::Stop() {
  idle_.Stop();
  watch_.reset();
  charge_.ChargeTo(nullptr);
}

void TcpClient::OnIo(uint32_t events) {
  if ((events & (EPOLLERR | EPOLLHUP)) == 0 && Read()) return Settle();
  server_.Remove(id_);
}

bool TcpClient::Read() {
  if (ended_ || open_ >= kMaxOpen || full()) return true;
  std::array<uint8_t, 8192> buffer;
  const ssize_t n = recv(fd_.get(), buffer.data(), buffer.size(), 0);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  ended_ = n == 0;
  in_.insert(in_.end(), buffer.data(), buffer.data() + n);
  return true;
}

bool TcpClient::full() const { return out_.size() - written_ > kMaxUnwritten; }

void TcpClient::TakeMessages() {
  size_t at = 0;
  while (open_ < kMaxOpen && !full() && in_.size() - at >= 2) {
    const size_t size = (static_cast<size_t>(in_[at]) << 8) | in_[at + 1];
    if (in_.size() - at < 2 + size) break;
    ++open_;
    idle_.Stop();  // while we owe an answer
    // An answer may come at once; it does not touch in_.
    server_.Handle(::qanat::dns::Bytes(in_).subspan(at + 2, size), true,
                   [server = &server_, id = id_](::qanat::dns::Bytes answer) {
                     const auto it = server->clients_.find(id);
                     if (it != server->clients_.end()) it->second->Reply(answer);
                   });
    at += 2 + size;
  }
  in_.erase(in_.begin(), in_.begin() + static_cast<ptrdiff_t>(at));
}

void TcpClient::Reply(::qanat::dns::Bytes answer) {
  if (--open_ == 0) idle_.Start(kIdle);
  if (answer.empty()) {
    ended_ = true;  // whoever sends such things is not listened to any more
  } else {
    out_.push_back(static_cast<uint8_t>(answer.size() >> 8));
    out_.push_back(static_cast<uint8_t>(answer.size()));
    out_.insert(out_.end(), answer.begin(), answer.end());
  }
  if (!handling_) Settle();
}

bool TcpClient::Write() {
  while (written_ < out_.size()) {
    const ssize_t n = send(fd_.get(), out_.data() + written_, out_.size() - written_, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    written_ += static_cast<size_t>(n);
    if (open_ == 0) idle_.Start(kIdle);  // slow, but there
  }
  out_.clear();
  written_ = 0;
  return true;
}

bool TcpClient::has_message() const {
  return in_.size() >= 2 && in_.size() >= 2 + ((static_cast<size_t>(in_[0]) << 8) | in_[1]);
}

void TcpClient::Settle() {
  // Questions that were left for want of room are taken when there is some: nothing else will
  // happen that could remind of them.
  while (true) {
    if (!Write()) return server_.Remove(id_);
    if (full() || open_ >= kMaxOpen || !has_message()) break;
    handling_ = true;
    TakeMessages();
    handling_ = false;
  }
  if (ended_ && open_ == 0 && out_.empty() && !has_message()) return server_.Remove(id_);
  charge_.Set(in_.capacity() + out_.capacity());
  const bool read = !ended_ && open_ < kMaxOpen && !full();
  uint32_t events = 0;
  if (read) events |= EPOLLIN;
  if (!out_.empty()) events |= EPOLLOUT;
  watch_->SetEvents(events);
}

}  // namespace qanat::ztunnel::dns
