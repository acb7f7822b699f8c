// SPDX-License-Identifier: Apache-2.0
#include "common/takeover/wire.h"

#include <algorithm>
#include <iterator>

namespace qanat::takeover {
namespace {

// {magic u32, version u16, kind u16, item u64, descriptors u16, flags u16}
constexpr uint32_t kMagic = 0x51544b4f;  // "QTKO"
constexpr uint16_t kMore = 1;

void Put(WipedString& out, uint64_t value, int bytes) {
  for (int shift = bytes * 8 - 8; shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(value >> shift & 0xff));
  }
}

uint64_t Get(std::string_view& in, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value = value << 8 | static_cast<uint8_t>(in[i]);
  in.remove_prefix(bytes);
  return value;
}

}  // namespace

std::vector<Part> Split(Message message) {
  std::vector<Part> parts;
  std::string_view body = message.body;
  auto fd = message.fds.begin();
  do {
    const size_t bytes = std::min(body.size(), kMaxPart);
    const auto fds = std::min<std::ptrdiff_t>(std::distance(fd, message.fds.end()),
                                              static_cast<std::ptrdiff_t>(kMaxFdsPerDatagram));
    Part part;
    part.fds.assign(std::make_move_iterator(fd), std::make_move_iterator(fd + fds));
    fd += fds;
    const bool more = bytes < body.size() || fd != message.fds.end();
    Put(part.bytes, kMagic, 4);
    Put(part.bytes, kWireVersion, 2);
    Put(part.bytes, static_cast<uint16_t>(message.kind), 2);
    Put(part.bytes, message.item, 8);
    Put(part.bytes, static_cast<uint64_t>(fds), 2);
    Put(part.bytes, more ? kMore : 0, 2);
    part.bytes.append(body.substr(0, bytes));
    body.remove_prefix(bytes);
    parts.push_back(std::move(part));
  } while (!body.empty() || fd != message.fds.end());
  return parts;
}

Result<std::optional<Message>> Assembler::Add(std::string_view datagram, std::vector<Fd> fds) {
  if (datagram.size() < kHeadBytes || datagram.size() > kMaxDatagram) {
    return Fail(Code::kInvalidArgument, "a datagram of a strange size");
  }
  if (Get(datagram, 4) != kMagic) return Fail(Code::kInvalidArgument, "not our protocol");
  const uint64_t version = Get(datagram, 2);
  if (version != kWireVersion) {
    return Fail(Code::kUnimplemented, "version " + std::to_string(version) + " of the protocol");
  }
  const auto kind = static_cast<Kind>(Get(datagram, 2));
  const ItemId item = Get(datagram, 8);
  const uint64_t count = Get(datagram, 2);
  const uint64_t flags = Get(datagram, 2);
  if (count > kMaxFdsPerDatagram || fds.size() > count) {
    return Fail(Code::kInvalidArgument, "more descriptors than announced");
  }
  if (!partial_) {
    partial_.emplace();
    partial_->kind = kind;
    partial_->item = item;
  } else if (partial_->kind != kind || partial_->item != item) {
    return Fail(Code::kInvalidArgument, "a message begins inside of another one");
  }
  if (partial_->body.size() + datagram.size() > kMaxBody ||
      partial_->fds.size() + fds.size() > kMaxFds) {
    return Fail(Code::kResourceExhausted, "an item larger than any");
  }
  if (fds.size() < count) partial_->damaged = true;
  partial_->body.append(datagram);
  std::move(fds.begin(), fds.end(), std::back_inserter(partial_->fds));
  if ((flags & kMore) != 0) return std::nullopt;
  std::optional<Message> whole = std::move(partial_);
  partial_.reset();
  return whole;
}

}  // namespace qanat::takeover
