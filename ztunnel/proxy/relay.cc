// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy/relay.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>

namespace qanat::ztunnel {
namespace {

using net::IoResult;

// About how much one direction moves before everybody else of the worker has a turn: some 100 us.
// Coming back costs an epoll_wait, a hundredth of that.
constexpr uint64_t kTurn = 128 << 10;

// A read while memory is scarce: it may have to be kept.
constexpr size_t kScarceRead = 16 << 10;
constexpr size_t kScarceSplice = 64 << 10;

// The kernel delays an ACK by 40 ms (TCP_DELACK_MIN), up to 200 ms, and fires late when busy.
constexpr auto kAckDelayMin = std::chrono::milliseconds(35);
constexpr auto kAckDelayMax = std::chrono::milliseconds(250);

}  // namespace

Relay::Relay(RelayShared& shared, net::TransportPtr downstream, net::TransportPtr upstream,
             Counters counters, Done done)
    : shared_(shared),
      downstream_(std::move(downstream)),
      upstream_(std::move(upstream)),
      charge_(downstream_->loop().memory()),
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

void Relay::ChargeTo(MemoryMeter* owner) {
  owner_ = owner;
  charge_.ChargeTo(owner);
  downstream_->ChargeTo(owner);
  upstream_->ChargeTo(owner);
}

size_t Relay::held() const { return charge_.bytes() + downstream_->held() + upstream_->held(); }

// What a pipe holds is the kernel's memory, and as much ours to answer for.
void Relay::Charge() {
  size_t bytes = 0;
  for (const Direction* direction : {&up_, &down_}) {
    bytes += direction->pending.capacity() + (direction->pipe ? direction->pipe->bytes : 0);
  }
  charge_.Set(bytes);
}

void Relay::Start(RelayEarly early) {
  downstream_->SetEvents(&downstream_side_);
  upstream_->SetEvents(&upstream_side_);
  downstream_->ReadEnable(true);
  upstream_->ReadEnable(true);
  up_.bytes = early.sent + early.unsent.size();
  up_.last_read = downstream_->loop().now();
  if (up_.counter && up_.bytes > 0) up_.counter->Add(up_.bytes);
  if (!early.unsent.empty()) {
    up_.pending = std::move(early.unsent);
    Block(up_);
    return Flush(up_);  // reading goes on when it is written
  }
  // Its first bytes are nearly always here by now: the way to the other end took longer.
  if (!early.all) Pump(up_);
}

void Relay::Abort() {
  finished_ = true;
  downstream_->SetEvents(nullptr);
  upstream_->SetEvents(nullptr);
  downstream_->Abort();
  upstream_->Abort();
}

bool Relay::CanFreeze() const {
  return !finished_ && downstream_->splice_fd() >= 0 && upstream_->splice_fd() >= 0;
}

bool Relay::CanFreezeStream() const {
  return !finished_ && (downstream_->splice_fd() >= 0) != (upstream_->splice_fd() >= 0);
}

RelayState Relay::Freeze() {
  finished_ = true;
  const auto take = [](Direction& direction) {
    RelayState::Way way;
    way.pending.assign(
        direction.pending.begin() + static_cast<std::ptrdiff_t>(direction.pending_at),
        direction.pending.end());
    // Either the pipe holds something or `pending` does: nothing is read while something waits.
    while (direction.pipe && direction.pipe->bytes > 0) {
      const size_t had = way.pending.size();
      way.pending.resize(had + direction.pipe->bytes);
      const ssize_t n =
          read(direction.pipe->read.get(), way.pending.data() + had, direction.pipe->bytes);
      way.pending.resize(had + (n > 0 ? static_cast<size_t>(n) : 0));
      if (n <= 0 && errno != EINTR) break;
      if (n > 0) direction.pipe->bytes -= static_cast<size_t>(n);
    }
    way.bytes = direction.bytes;
    way.eof = direction.eof;
    way.done = direction.done;
    way.quick_ack = direction.quick_ack;
    return way;
  };
  RelayState state;
  state.up = take(up_);
  state.down = take(down_);
  downstream_->SetEvents(nullptr);
  upstream_->SetEvents(nullptr);
  state.downstream = downstream_->Release();
  state.upstream = upstream_->Release();
  return state;
}

void Relay::Resume(RelayState::Way up, RelayState::Way down) {
  downstream_->SetEvents(&downstream_side_);
  upstream_->SetEvents(&upstream_side_);
  const auto put = [](Direction& direction, RelayState::Way way) {
    direction.pending = std::move(way.pending);
    direction.bytes = way.bytes;
    direction.eof = way.eof;
    direction.done = way.done;
    direction.quick_ack = way.quick_ack;
    direction.pending_at = 0;
    if (!direction.pending.empty() || (direction.eof && !direction.done)) {
      direction.to->WriteEnable(true);  // Flush() does the rest
    } else if (!direction.eof) {
      direction.from->ReadEnable(true);
    }
  };
  put(up_, std::move(up));
  put(down_, std::move(down));
  Charge();
}

bool Relay::CanSplice(const Direction& direction) const {
  return direction.bytes >= shared_.splice_after && direction.from->splice_fd() >= 0 &&
         direction.to->splice_fd() >= 0;
}

void Relay::Pump(Direction& direction) {
  const uint64_t before = direction.bytes;
  while (!finished_ && !direction.eof && direction.bytes - before < kTurn) {
    const bool more = CanSplice(direction) ? PumpSplice(direction) : PumpCopy(direction);
    if (!more) return;
  }
  // Between turns an empty pipe is anybody's.
  if (direction.pipe && direction.pipe->bytes == 0) shared_.pipes.Give(std::move(direction.pipe));
}

bool Relay::PumpCopy(Direction& direction) {
  std::span<uint8_t> buffer(shared_.buffer);
  if (scarce()) buffer = buffer.first(std::min(buffer.size(), kScarceRead));
  const IoResult read = direction.from->Read(buffer);
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
  return read.bytes == buffer.size();
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
  const size_t most = scarce() ? std::min(pipe.capacity, kScarceSplice) : pipe.capacity;
  const ssize_t n = splice(direction.from->splice_fd(), nullptr, pipe.write.get(), nullptr, most,
                           SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
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
  Charge();
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
  Charge();
  direction.to->WriteEnable(false);
  if (direction.eof) return TryShutdown(direction);
  direction.from->ReadEnable(true);
}

void Relay::OnEof(Direction& direction) {
  direction.eof = true;
  // Of the last one both sides are closed in this round, which takes them out of the loop as well.
  if (!IsLast(direction)) direction.from->ReadEnable(false);
  TryShutdown(direction);
}

bool Relay::IsLast(const Direction& direction) const {
  return (&direction == &up_ ? down_ : up_).done;
}

void Relay::TryShutdown(Direction& direction) {
  if (direction.done) return;
  // A socket from which everything was read, its end too, says by being closed what a shutdown
  // would say.
  if (IsLast(direction) && direction.to->splice_fd() >= 0) {
    direction.done = true;
    return Finish({});
  }
  const IoResult result = direction.to->ShutdownWrite();
  if (result.kind == IoResult::Kind::kWouldBlock) {
    direction.from->ReadEnable(false);
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
  Finish(result);
}

void Relay::Finish(const Result& result) {
  if (finished_) return;
  finished_ = true;
  downstream_->SetEvents(nullptr);
  upstream_->SetEvents(nullptr);
  const Done done = std::move(done_);
  done(result);
}

}  // namespace qanat::ztunnel
