// SPDX-License-Identifier: Apache-2.0
// Bytes both ways between two transports, with half-close and backpressure: what one side does not
// take is not read from the other. Worker thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/event/event_loop.h"
#include "common/net/transport.h"

namespace qanat::waypoint {

class Relay {
 public:
  // `aborted`: one side broke; both have been aborted. Called once, from the loop; may destroy it.
  using Done = std::function<void(bool aborted, std::string detail)>;
  // `a_to_b`: bytes of `a` that were read before. idle 0: no limit.
  Relay(net::TransportPtr a, net::TransportPtr b, std::string a_to_b,
        std::chrono::milliseconds idle, Done done);
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  void Abort(std::string why);
  uint64_t bytes_a_to_b() const { return sides_[0].moved; }
  uint64_t bytes_b_to_a() const { return sides_[1].moved; }

 private:
  // Reads from one end, writes to the other.
  struct Side final : net::TransportEvents {
    void OnReadable() override { relay->Pump(*this); }
    void OnWritable() override { relay->Pump(*opposite); }
    Relay* relay = nullptr;
    Side* opposite = nullptr;
    net::TransportPtr from;
    std::vector<uint8_t> buffer;
    size_t begin = 0, end = 0;
    bool eof = false, shut = false;
    uint64_t moved = 0;
  };
  void Pump(Side& side);
  void Finish(bool aborted, std::string detail);

  Side sides_[2];
  event::EventLoop& loop_;
  std::chrono::milliseconds idle_;
  event::TimePoint last_;
  event::Timer timer_;
  Done done_;
};

}  // namespace qanat::waypoint
