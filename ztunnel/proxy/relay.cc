// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/relay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace qanat::ztunnel {
namespace {

using net::IoResult;

// Reads in one go before other connections get their turn.
constexpr int kRounds = 4;

// The kernel delays an ACK by 40 ms (TCP_DELACK_MIN), up to 200 ms, and fires late when busy.
constexpr auto kAckDelayMin = std::chrono::milliseconds(35);
constexpr auto kAckDelayMax = std::chrono::milliseconds(250);

}  // namespace

Relay::Relay(RelayShared& shared, net::TransportPtr downstream, net::TransportPtr upstream,
             Counters counters, Done done)
    : shared_(shared),
      downstream_(std::move(downstream)),
      upstream_(std::move(upstream)),
      done_(std::move(done)) {
  up_.from = down_.to = downstream_.get();
  up_.to = down_.from = upstream_.get();
  up_.counter = std::move(counters.up);
  down_.counter = std::move(counters.down);
  downstream_side_.relay = upstream_side_.relay = this;
  downstream_side_.reading = upstream_side_.writing = &up_;
  downstream_side_.writing = upstream_side_.reading = &down_;
}

Relay::~Relay() {
  downstream_->SetEvents(nullptr);
  upstream_->SetEvents(nullptr);
  for (Direction* direction : {&up_, &down_}) {
    if (direction->pipe) shared_.pipes.Give(std::move(direction->pipe));
  }
}

void Relay::Start() {
  downstream_->SetEvents(&downstream_side_);
  upstream_->SetEvents(&upstream_side_);
  downstream_->ReadEnable(true);
  upstream_->ReadEnable(true);
}

void Relay::Abort() {
  finished_ = true;
  downstream_->SetEvents(nullptr);
  upstream_->SetEvents(nullptr);
  downstream_->Abort();
  upstream_->Abort();
}

bool Relay::CanSplice(const Direction& direction) const {
  return direction.bytes >= shared_.splice_after && direction.from->splice_fd() >= 0 &&
         direction.to->splice_fd() >= 0;
}

void Relay::Pump(Direction& direction) {
  for (int round = 0; round < kRounds; ++round) {
    if (finished_ || direction.eof) return;
    const bool more = CanSplice(direction) ? PumpSplice(direction) : PumpCopy(direction);
    if (!more) return;
  }
}

bool Relay::PumpCopy(Direction& direction) {
  const IoResult read = direction.from->Read(shared_.buffer);
  switch (read.kind) {
    case IoResult::Kind::kOk: break;
    case IoResult::Kind::kWouldBlock: return false;
    case IoResult::Kind::kEof: OnEof(direction); return false;
    case IoResult::Kind::kReset:
    case IoResult::Kind::kError: Fail(*direction.from, *direction.to, "reading"); return false;
  }
  AcknowledgeEarly(direction);
  direction.bytes += read.bytes;
  if (direction.counter) direction.counter->Add(read.bytes);
  const iovec out{shared_.buffer.data(), read.bytes};
  const IoResult written = direction.to->Write({&out, 1});
  if (!written.ok() && written.kind != IoResult::Kind::kWouldBlock) {
    Fail(*direction.to, *direction.from, "writing");
    return false;
  }
  if (written.bytes < read.bytes) {
    direction.pending.assign(shared_.buffer.data() + written.bytes,
                             shared_.buffer.data() + read.bytes);
    direction.pending_at = 0;
    Block(direction);
    return false;
  }
  return read.bytes == shared_.buffer.size();
}

// Not from the start: most applications set TCP_NODELAY, and for them each early ACK is a packet
// too many. What gives the others away is a second segment, without an answer in between, after
// just the time of a delayed ACK.
void Relay::AcknowledgeEarly(Direction& direction) {
  const int fd = direction.from->splice_fd();
  if (fd < 0) return;
  if (!direction.quick_ack) {
    const uint64_t answered = (&direction == &up_ ? down_ : up_).bytes;
    const event::TimePoint now = direction.from->loop().now();
    const auto gap = now - direction.last_read;
    direction.quick_ack = direction.bytes > 0 && answered == direction.answered &&
                          gap >= kAckDelayMin && gap <= kAckDelayMax;
    direction.last_read = now;
    direction.answered = answered;
    if (!direction.quick_ack) return;
  }
  // Not sticky: the kernel goes back to delaying once an answer has been sent.
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
}

bool Relay::PumpSplice(Direction& direction) {
  if (!direction.pipe) direction.pipe = shared_.pipes.Take();
  if (!direction.pipe) return PumpCopy(direction);
  Pipe& pipe = *direction.pipe;
  const ssize_t n = splice(direction.from->splice_fd(), nullptr, pipe.write.get(), nullptr,
                           pipe.capacity, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  if (n <= 0) {
    const bool would_block = n < 0 && (errno == EAGAIN || errno == EINTR);
    shared_.pipes.Give(std::move(direction.pipe));
    if (n == 0) {
      OnEof(direction);
    } else if (!would_block) {
      Fail(*direction.from, *direction.to, std::strerror(errno));
    }
    return false;
  }
  pipe.bytes = static_cast<size_t>(n);
  direction.bytes += pipe.bytes;
  if (direction.counter) direction.counter->Add(pipe.bytes);
  if (!DrainPipe(direction)) return false;
  return true;
}

bool Relay::DrainPipe(Direction& direction) {
  Pipe& pipe = *direction.pipe;
  while (pipe.bytes > 0) {
    const ssize_t n = splice(pipe.read.get(), nullptr, direction.to->splice_fd(), nullptr,
                             pipe.bytes, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
    if (n > 0) {
      pipe.bytes -= static_cast<size_t>(n);
    } else if (n < 0 && errno == EAGAIN) {
      Block(direction);
      return false;
    } else if (n < 0 && errno != EINTR) {
      Fail(*direction.to, *direction.from, std::strerror(errno));
      return false;
    }
  }
  return true;
}

void Relay::Block(Direction& direction) {
  direction.from->ReadEnable(false);
  direction.to->WriteEnable(true);
}

void Relay::Flush(Direction& direction) {
  if (finished_) return;
  if (direction.pipe && direction.pipe->bytes > 0) {
    if (!DrainPipe(direction)) return;
    shared_.pipes.Give(std::move(direction.pipe));
  }
  while (direction.pending_at < direction.pending.size()) {
    const iovec out{direction.pending.data() + direction.pending_at,
                    direction.pending.size() - direction.pending_at};
    const IoResult written = direction.to->Write({&out, 1});
    if (written.kind == IoResult::Kind::kWouldBlock) return;
    if (!written.ok()) return Fail(*direction.to, *direction.from, "writing");
    direction.pending_at += written.bytes;
  }
  std::vector<uint8_t>().swap(direction.pending);
  direction.pending_at = 0;
  direction.to->WriteEnable(false);
  if (direction.eof) return TryShutdown(direction);
  direction.from->ReadEnable(true);
}

void Relay::OnEof(Direction& direction) {
  direction.eof = true;
  direction.from->ReadEnable(false);
  TryShutdown(direction);
}

void Relay::TryShutdown(Direction& direction) {
  if (direction.done) return;
  const IoResult result = direction.to->ShutdownWrite();
  if (result.kind == IoResult::Kind::kWouldBlock) {
    direction.to->WriteEnable(true);
    return;
  }
  if (!result.ok()) return Fail(*direction.to, *direction.from, "ending");
  direction.done = true;
  direction.to->WriteEnable(false);
  if (up_.done && down_.done) Finish({});
}

void Relay::Fail(net::Transport& broken, net::Transport& other, std::string_view doing) {
  if (finished_) return;
  Result result;
  result.reason = model::Reason::kReset;
  const std::string error = broken.error();
  result.error = fmt::format("{} side: {}", &broken == downstream_.get() ? "client" : "server",
                             error.empty() ? doing : std::string_view(error));
  other.Abort();
  broken.Abort();
  Finish(std::move(result));
}

void Relay::Finish(Result result) {
  if (finished_) return;
  finished_ = true;
  downstream_->SetEvents(nullptr);
  upstream_->SetEvents(nullptr);
  const Done done = std::move(done_);
  done(result);
}

}  // namespace qanat::ztunnel
