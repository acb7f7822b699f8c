// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/relay.h"

#include <algorithm>
#include <cstring>

namespace qanat::waypoint {
namespace {

constexpr size_t kBuffer = 64 * 1024;
// Rounds of read and write before others get their turn; interest is level-triggered.
constexpr int kFairness = 16;

}  // namespace

Relay::Relay(net::TransportPtr a, net::TransportPtr b, std::string a_to_b,
             std::chrono::milliseconds idle, Done done)
    : loop_(a->loop()),
      idle_(idle),
      last_(a->loop().now()),
      timer_(a->loop(),
             [this] {
               auto quiet = loop_.now() - last_;
               if (quiet < idle_) return timer_.Start(idle_ - quiet);
               Finish(true, "idle timeout");
             }),
      done_(std::move(done)) {
  sides_[0].from = std::move(a);
  sides_[1].from = std::move(b);
  for (int i = 0; i < 2; ++i) {
    sides_[i].relay = this;
    sides_[i].opposite = &sides_[1 - i];
    sides_[i].from->SetEvents(&sides_[i]);
  }
  sides_[0].buffer.assign(a_to_b.begin(), a_to_b.end());
  sides_[0].end = a_to_b.size();
  for (Side& side : sides_) side.from->ReadEnable(true);
  if (sides_[0].end > 0) sides_[1].from->WriteEnable(true);
  if (idle_.count() > 0) timer_.Start(idle_);
}

Relay::~Relay() {
  for (Side& side : sides_) {
    if (side.from) side.from->SetEvents(nullptr);
  }
}

void Relay::Abort(std::string why) { Finish(true, std::move(why)); }

void Relay::Finish(bool aborted, std::string detail) {
  if (!done_) return;
  timer_.Stop();
  for (Side& side : sides_) {
    side.from->SetEvents(nullptr);
    if (aborted) side.from->Abort();
  }
  Done done = std::move(done_);
  done_ = nullptr;
  done(aborted, std::move(detail));
}

void Relay::Pump(Side& side) {
  using Kind = net::IoResult::Kind;
  net::Transport& from = *side.from;
  net::Transport& to = *side.opposite->from;
  last_ = loop_.now();
  for (int round = 0; round < kFairness; ++round) {
    if (side.begin < side.end) {
      iovec part{side.buffer.data() + side.begin, side.end - side.begin};
      net::IoResult wrote = to.Write({&part, 1});
      if (wrote.kind == Kind::kWouldBlock) {
        from.ReadEnable(false);
        to.WriteEnable(true);
        return;
      }
      if (!wrote.ok()) return Finish(true, "write: " + to.error());
      side.begin += wrote.bytes;
      side.moved += wrote.bytes;
      continue;
    }
    side.begin = side.end = 0;
    if (side.eof) {
      if (!side.shut) {
        net::IoResult result = to.ShutdownWrite();
        if (result.kind == Kind::kWouldBlock) return to.WriteEnable(true);
        side.shut = true;
      }
      to.WriteEnable(false);
      if (side.opposite->shut) Finish(false, "");
      return;
    }
    if (side.buffer.size() < kBuffer) side.buffer.resize(kBuffer);
    net::IoResult got = from.Read(side.buffer);
    switch (got.kind) {
      case Kind::kOk: side.end = got.bytes; break;
      case Kind::kWouldBlock: to.WriteEnable(false); return from.ReadEnable(true);
      case Kind::kEof:
        side.eof = true;
        from.ReadEnable(false);
        break;
      case Kind::kReset: return Finish(true, "reset by peer");
      case Kind::kError: return Finish(true, "read: " + from.error());
    }
  }
  // Both stay enabled where there is work: the next round goes on.
  if (side.begin < side.end) {
    to.WriteEnable(true);
  } else if (!side.eof) {
    from.ReadEnable(true);
  }
}

}  // namespace qanat::waypoint
