// SPDX-License-Identifier: Apache-2.0
// The messages between the old and the new process, and the datagrams that they are sent as. A
// message has a kind, the item that it is about, a body (fields.h) and file descriptors; one that
// is larger than a datagram goes in parts, which follow each other directly. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/fd.h"
#include "common/base/result.h"
#include "common/base/wiped_string.h"

namespace qanat::takeover {

// Changed only where older processes could not even refuse in a way that we understand.
inline constexpr uint16_t kWireVersion = 1;
inline constexpr size_t kMaxFdsPerDatagram = 253;  // SCM_MAX_FD of the kernel
inline constexpr size_t kHeadBytes = 20;
inline constexpr size_t kMaxPart = 48 << 10;  // of the body in one datagram
inline constexpr size_t kMaxDatagram = kHeadBytes + kMaxPart;
// What an item may take: an HBONE tunnel with all its streams and their windows full.
inline constexpr size_t kMaxBody = 256u << 20;
inline constexpr size_t kMaxFds = 16384;

using ItemId = uint64_t;

enum class Kind : uint16_t {
  kHello = 1,  // both, first; the new one begins
  kAsk,        // new: what is there of one sort?
  kOffer,      // old: an item, described
  kAsked,      // old: all of them were offered
  kWant,       // new: give it to me
  kState,      // old: frozen; its state and descriptors
  kAccepted,   // new: I could go on with it
  kRefused,    // new: keep it
  kCommitted,  // old: I have forgotten it; it is yours
  kWithdrawn,  // old: I go on with it, or it is over
  kFinished,   // new: I have what I wanted; the connection stays as a sign of life
};

struct Message {
  Kind kind = Kind::kHello;
  ItemId item = 0;
  WipedString body;  // keys may be in it
  std::vector<Fd> fds;
  // Descriptors were lost on the way (the receiver has no more): no good for anybody.
  bool damaged = false;
};

// A datagram's worth of a message.
struct Part {
  WipedString bytes;
  std::vector<Fd> fds;
};
std::vector<Part> Split(Message message);

// Puts the datagrams of one connection together again.
class Assembler {
 public:
  // A message when this was its last part. After an error nothing more can be understood.
  Result<std::optional<Message>> Add(std::string_view datagram, std::vector<Fd> fds);

 private:
  std::optional<Message> partial_;
};

}  // namespace qanat::takeover
