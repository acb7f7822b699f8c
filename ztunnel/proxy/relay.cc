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

// For differences.
uint32_t Milliseconds(event::TimePoint at) {
  const auto since = at.time_since_epoch();
  return static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(since).count());
}

}  // namespace

template <bool kDownstream>
void RelaySide<kDownstream>::OnReadable() {
  auto& relay = static_cast<Relay&>(*this);
  relay.Pump(kDownstream ? relay.up_ : relay.down_);
}

template <bool kDownstream>
void RelaySide<kDownstream>::OnWritable() {
  auto& relay = static_cast<Relay&>(*this);
  relay.Flush(kDownstream ? relay.down_ : relay.up_);
}

Relay::Relay(RelayShared& shared, net::TransportPtr downstream, net::TransportPtr upstream,
             Counters counters, Owner& owner)
    : shared_(shared),
      downstream_(std::move(downstream)),
      upstream_(std::move(upstream)),
      owner_(owner) {
  up_.counter = std::move(counters.up);
  down_.counter = std::move(counters.down);
}

Relay::~Relay() {
  Listen(false);
  for (Direction* direction : {&up_, &down_}) {
    if (direction->pipe) shared_.pipes.Give(std::move(direction->pipe));
  }
}

void Relay::Listen(bool on) {
  downstream_->SetEvents(on ? static_cast<RelaySide<true>*>(this) : nullptr);
  upstream_->SetEvents(on ? static_cast<RelaySide<false>*>(this) : nullptr);
}

void Relay::ChargeTo(MemoryMeter* owner) {
  payer_ = owner;
  downstream_->ChargeTo(owner);
  upstream_->ChargeTo(owner);
}

size_t Relay::held() const {
  return (held_ ? held_->charge.bytes() : 0) + downstream_->held() + upstream_->held();
}

Relay::Held& Relay::MakeHeld() {
  if (!held_) {
    held_ = std::make_unique<Held>(downstream_->loop().memory());
    held_->charge.ChargeTo(payer_);
  }
  return *held_;
}

Relay::Waiting* Relay::WaitingIn(const Direction& direction) const {
  if (!held_) return nullptr;
  Waiting& waiting = is_up(direction) ? held_->up : held_->down;
  return waiting.rest().empty() ? nullptr : &waiting;
}

// What a pipe holds is the kernel's memory, and as much ours to answer for.
void Relay::Charge() {
  size_t bytes = 0;
  for (const Direction* direction : {&up_, &down_}) {
    bytes += direction->pipe ? direction->pipe->bytes : 0;
  }
  if (held_) bytes += held_->up.bytes.capacity() + held_->down.bytes.capacity();
  if (bytes == 0) return held_.reset();
  MakeHeld().charge.Set(bytes);
}

void Relay::Start(RelayEarly early) {
  Listen(true);
  downstream_->ReadEnable(true);
  upstream_->ReadEnable(true);
  up_.bytes = early.sent + early.unsent.size();
  up_.last_read_ms = Milliseconds(downstream_->loop().now());
  if (up_.counter && up_.bytes > 0) up_.counter->Add(up_.bytes);
  if (!early.unsent.empty()) {
    MakeHeld().up.bytes = std::move(early.unsent);
    Block(up_);
    return Flush(up_);  // reading goes on when it is written
  }
  // Its first bytes are nearly always here by now: the way to the other end took longer.
  if (!early.all) Pump(up_);
}

void Relay::Abort() {
  finished_ = true;
  Listen(false);
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
  const auto take = [this](Direction& direction) {
    RelayState::Way way;
    if (const Waiting* waiting = WaitingIn(direction)) {
      const auto rest = waiting->rest();
      way.pending.assign(rest.begin(), rest.end());
    }
    // Either the pipe holds something or `waiting` does: nothing is read while something waits.
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
  Listen(false);
  state.downstream = downstream_->Release();
  state.upstream = upstream_->Release();
  return state;
}

void Relay::Resume(RelayState::Way up, RelayState::Way down) {
  Listen(true);
  const auto put = [this](Direction& direction, RelayState::Way way) {
    const bool waits = !way.pending.empty();
    if (waits) (is_up(direction) ? MakeHeld().up : MakeHeld().down).bytes = std::move(way.pending);
    direction.bytes = way.bytes;
    direction.eof = way.eof;
    direction.done = way.done;
    direction.quick_ack = way.quick_ack;
    if (waits || (direction.eof && !direction.done)) {
      To(direction).WriteEnable(true);  // Flush() does the rest
    } else if (!direction.eof) {
      From(direction).ReadEnable(true);
    }
  };
  put(up_, std::move(up));
  put(down_, std::move(down));
  Charge();
}

bool Relay::CanSplice(const Direction& direction) const {
  return direction.bytes >= shared_.splice_after && From(direction).splice_fd() >= 0 &&
         To(direction).splice_fd() >= 0;
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
  net::Transport& from = From(direction);
  net::Transport& to = To(direction);
  const IoResult read = from.Read(buffer);
  switch (read.kind) {
    case IoResult::Kind::kOk: break;
    case IoResult::Kind::kWouldBlock: return false;
    case IoResult::Kind::kEof: OnEof(direction); return false;
    case IoResult::Kind::kReset:
    case IoResult::Kind::kError: Fail(from, to, "reading"); return false;
  }
  AcknowledgeEarly(direction);
  direction.bytes += read.bytes;
  if (direction.counter) direction.counter->Add(read.bytes);
  const iovec out{shared_.buffer.data(), read.bytes};
  const IoResult written = to.Write({&out, 1});
  if (!written.ok() && written.kind != IoResult::Kind::kWouldBlock) {
    Fail(to, from, "writing");
    return false;
  }
  if (written.bytes < read.bytes) {
    Waiting& waiting = is_up(direction) ? MakeHeld().up : MakeHeld().down;
    waiting.bytes.assign(shared_.buffer.data() + written.bytes, shared_.buffer.data() + read.bytes);
    waiting.at = 0;
    Block(direction);
    return false;
  }
  return read.bytes == buffer.size();
}

// Not from the start: most applications set TCP_NODELAY, and for them each early ACK is a packet
// too many. What gives the others away is a second segment, without an answer in between, after
// just the time of a delayed ACK.
void Relay::AcknowledgeEarly(Direction& direction) {
  const net::Transport& from = From(direction);
  const int fd = from.splice_fd();
  if (fd < 0) return;
  if (!direction.quick_ack) {
    const auto answered = static_cast<uint32_t>(Other(direction).bytes);
    const uint32_t now_ms = Milliseconds(downstream_->loop().now());
    const auto gap = std::chrono::milliseconds(now_ms - direction.last_read_ms);
    direction.quick_ack = direction.bytes > 0 && answered == direction.answered &&
                          gap >= kAckDelayMin && gap <= kAckDelayMax;
    direction.last_read_ms = now_ms;
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
  const ssize_t n = splice(From(direction).splice_fd(), nullptr, pipe.write.get(), nullptr, most,
                           SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
  if (n <= 0) {
    const bool would_block = n < 0 && (errno == EAGAIN || errno == EINTR);
    shared_.pipes.Give(std::move(direction.pipe));
    if (n == 0) {
      OnEof(direction);
    } else if (!would_block) {
      Fail(From(direction), To(direction), std::strerror(errno));
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
    const ssize_t n = splice(pipe.read.get(), nullptr, To(direction).splice_fd(), nullptr,
                             pipe.bytes, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
    if (n > 0) {
      pipe.bytes -= static_cast<size_t>(n);
    } else if (n < 0 && errno == EAGAIN) {
      Block(direction);
      return false;
    } else if (n < 0 && errno != EINTR) {
      Fail(To(direction), From(direction), std::strerror(errno));
      return false;
    }
  }
  return true;
}

void Relay::Block(Direction& direction) {
  From(direction).ReadEnable(false);
  To(direction).WriteEnable(true);
  Charge();
}

void Relay::Flush(Direction& direction) {
  if (finished_) return;
  if (direction.pipe && direction.pipe->bytes > 0) {
    if (!DrainPipe(direction)) return;
    shared_.pipes.Give(std::move(direction.pipe));
  }
  net::Transport& to = To(direction);
  while (Waiting* waiting = WaitingIn(direction)) {
    const auto rest = waiting->rest();
    const iovec out{const_cast<uint8_t*>(rest.data()), rest.size()};
    const IoResult written = to.Write({&out, 1});
    if (written.kind == IoResult::Kind::kWouldBlock) return;
    if (!written.ok()) return Fail(to, From(direction), "writing");
    waiting->at += written.bytes;
  }
  if (held_) (is_up(direction) ? held_->up : held_->down) = Waiting();
  Charge();
  to.WriteEnable(false);
  if (direction.eof) return TryShutdown(direction);
  From(direction).ReadEnable(true);
}

void Relay::OnEof(Direction& direction) {
  direction.eof = true;
  // Of the last one both sides are closed in this round, which takes them out of the loop as well.
  if (!IsLast(direction)) From(direction).ReadEnable(false);
  TryShutdown(direction);
}

bool Relay::IsLast(const Direction& direction) const { return Other(direction).done; }

void Relay::TryShutdown(Direction& direction) {
  if (direction.done) return;
  // A socket from which everything was read, its end too, says by being closed what a shutdown
  // would say.
  if (IsLast(direction) && To(direction).splice_fd() >= 0) {
    direction.done = true;
    return Finish({});
  }
  const IoResult result = To(direction).ShutdownWrite();
  if (result.kind == IoResult::Kind::kWouldBlock) {
    From(direction).ReadEnable(false);
    To(direction).WriteEnable(true);
    return;
  }
  if (!result.ok()) return Fail(To(direction), From(direction), "ending");
  direction.done = true;
  To(direction).WriteEnable(false);
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
  Listen(false);
  owner_.OnRelayEnd(result);
}

}  // namespace qanat::ztunnel
