// SPDX-License-Identifier: Apache-2.0
// A client's first bytes, read before it is known who gets them, to go along with the CONNECT that
// asks for the other end. They are kept until that is answered: who refused them has dropped them,
// and another one may get them; of who did not answer it is not known, and nobody else may.
//
// Of one connection, on its worker's thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/base/memory_meter.h"
#include "ztunnel/proxy/relay.h"

namespace qanat::ztunnel {

class EarlyBytes {
 public:
  // Both outlive it.
  EarlyBytes(MemoryMeter& loop, MemoryMeter& owner) : charge_(loop) { charge_.ChargeTo(&owner); }

  // What `fd` has, without waiting, hbone::kMostEarly at most; read once, the same from then on.
  // Whoever gets them from here may have them from then on.
  std::span<const uint8_t> Give(int fd);
  // They were certainly dropped by who got them last.
  void Dropped() { given_ = false; }
  // Somebody may have them, so nobody else may get them.
  bool given() const { return given_; }
  // The client is gone (a reset shows once, to who reads first).
  const std::string& error() const { return error_; }
  size_t held() const { return charge_.bytes(); }
  // The end of it: `sent` of them (all, or none) are with the upstream.
  RelayEarly Take(size_t sent);

 private:
  MemoryCharge charge_;
  bool read_ = false, given_ = false;
  std::vector<uint8_t> bytes_;
  std::string error_;
};

}  // namespace qanat::ztunnel
