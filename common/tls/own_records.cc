// SPDX-License-Identifier: Apache-2.0
#include "common/tls/own_records.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "common/event/scratch.h"
#include "common/tls/tls_handover.h"
#include "common/tls/tls_verify.h"

namespace qanat::tls {

using net::IoResult;

namespace {

// Cuts records out of a list of pieces.
class Cursor {
 public:
  explicit Cursor(std::span<const iovec> from) : from_(from) {
    for (const iovec& part : from) left_ += part.iov_len;
  }
  size_t left() const { return left_; }
  // The next `size` bytes at most, as pieces; fewer when there are too many pieces.
  std::span<const iovec> Take(size_t size) {
    size_t count = 0;
    while (size > 0 && left_ > 0 && count < pieces_.size()) {
      const iovec& part = from_.front();
      size_t n = std::min(size, part.iov_len - offset_);
      if (n > 0) pieces_[count++] = {static_cast<uint8_t*>(part.iov_base) + offset_, n};
      size -= n;
      left_ -= n;
      offset_ += n;
      if (offset_ == part.iov_len) {
        from_ = from_.subspan(1);
        offset_ = 0;
      }
    }
    return {pieces_.data(), count};
  }

 private:
  std::span<const iovec> from_;
  size_t offset_ = 0;
  size_t left_ = 0;
  std::array<iovec, RecordLayer::kMaxPieces> pieces_;
};

size_t Sum(std::span<const iovec> pieces) {
  size_t sum = 0;
  for (const iovec& piece : pieces) sum += piece.iov_len;
  return sum;
}

}  // namespace

OwnRecords::OwnRecords(net::TransportPtr inner, std::unique_ptr<RecordLayer> layer, Rest rest)
    : Records(std::move(inner)),
      layer_(std::move(layer)),
      tickets_(std::move(rest.tickets)),
      out_(std::move(rest.unsent)),
      last_write_(inner_->loop().now()),
      below_ended_(rest.below_ended) {
  sent_small_ = static_cast<size_t>(std::min<uint64_t>(rest.sent_small, kSmallUntil));
  rest_ = {const_cast<uint8_t*>(rest.plaintext.data()), rest.plaintext.size()};  // Keep() copies
  Keep(rest.unopened.data(), 0, rest.unopened.size());
}

OwnRecords::~OwnRecords() = default;

bool OwnRecords::CanExport() const {
  return terminal_ == IoResult::Kind::kOk && !below_ended_ && !write_broken_ && !closing_ &&
         !finished_ && error_.message.empty();
}

void OwnRecords::Export(TlsHandover& to) {
  to.state = layer_->Export();
  if (in_) {
    to.plaintext.assign(in_.get() + plain_begin_, in_.get() + plain_end_);
    to.received.assign(in_.get() + in_begin_, in_.get() + in_end_);
    DropInput();
  }
  to.unsent.assign(out_.begin() + static_cast<std::ptrdiff_t>(out_head_), out_.end());
  std::vector<uint8_t>().swap(out_);
  out_head_ = 0;
  Charge();
  to.sent_small = sent_small_;
  write_broken_ = true;
  terminal_ = IoResult::Kind::kReset;
}

// ---- reading ----

bool OwnRecords::may_have_input() const {
  if (plain_begin_ != plain_end_ || terminal_ != IoResult::Kind::kOk || below_ended_) return true;
  if (!in_) return false;
  size_t size = RecordLayer::SizeOfRecord({in_.get() + in_begin_, in_end_ - in_begin_});
  return size != 0 && (size <= in_end_ - in_begin_ || !RecordLayer::Acceptable(size));
}

void OwnRecords::DropInput() {
  in_.reset();
  plain_begin_ = plain_end_ = in_begin_ = in_end_ = 0;
  Charge();
}

void OwnRecords::Keep(const uint8_t* in, size_t begin, size_t end) {
  const size_t plain = rest_.size(), sealed = end - begin;
  if (plain + sealed > 0) {
    in_ = std::unique_ptr<uint8_t[]>(new uint8_t[plain + sealed]);
    if (plain > 0) std::memcpy(in_.get(), rest_.data(), plain);
    if (sealed > 0) std::memcpy(in_.get() + plain, in + begin, sealed);
  }
  plain_begin_ = 0;
  plain_end_ = in_begin_ = plain;
  in_end_ = plain + sealed;
  rest_ = {};
  Charge();
}

size_t OwnRecords::OpenRecords(uint8_t* in, size_t& begin, size_t end, std::span<uint8_t> into) {
  size_t total = 0;
  while (rest_.empty()) {
    const size_t have = end - begin;
    const size_t size = RecordLayer::SizeOfRecord({in + begin, have});
    if (size == 0) break;
    const bool acceptable = RecordLayer::Acceptable(size);
    if (acceptable && size > have) break;
    // A record that does not fit behind others waits for the next Read().
    if (total > 0 && size > into.size() - total + RecordLayer::kOverhead) break;
    auto opened =
        layer_->Open({in + begin, acceptable ? size : RecordLayer::kHead}, into.subspan(total));
    begin += acceptable ? size : RecordLayer::kHead;
    switch (opened.kind) {
      case RecordLayer::Opened::Kind::kData:
        if (tickets_) {
          tickets_.reset();  // ours come before a server's first data
          layer_->KeepTickets(false);
        }
        total += opened.copied;
        rest_ = opened.rest;
        last_record_ = size;
        break;
      case RecordLayer::Opened::Kind::kControl:
        if (!tickets_) break;
        for (const auto& ticket : layer_->TakeTickets()) {
          if (tickets_->Take(ticket)) continue;
          layer_->Refuse(SSL_AD_DECODE_ERROR, "a malformed NewSessionTicket");
          Broken();
          begin = end;
          return total;
        }
        break;
      case RecordLayer::Opened::Kind::kClosed:
        terminal_ = IoResult::Kind::kEof;
        begin = end;  // nothing after it counts (RFC 8446 6.1)
        return total;
      case RecordLayer::Opened::Kind::kFailed:
        Broken();
        begin = end;
        return total;
    }
  }
  return total;
}

// As many bytes as whole records like the last one need to fill `room`, so that none is cut.
size_t OwnRecords::WantedInput(size_t room, size_t have) const {
  constexpr size_t kLeast = 4096;
  const size_t limit = event::Scratch::kSize - have;
  const size_t record =
      last_record_ > 0 ? last_record_ : RecordLayer::kMaxPlaintext + RecordLayer::kOverhead;
  const size_t count = std::max<size_t>(room / (record - RecordLayer::kOverhead), 1);
  size_t wanted = std::min(count, event::Scratch::kSize / record) * record;
  wanted = wanted > have ? wanted - have : 0;
  // The record that has begun may be larger than the last one was.
  const size_t begun = in_ ? RecordLayer::SizeOfRecord({in_.get() + in_begin_, have}) : 0;
  if (begun > have) wanted = std::max(wanted, begun - have);
  return std::clamp(wanted, std::min(kLeast, limit), limit);
}

IoResult OwnRecords::Read(std::span<uint8_t> into) {
  if (into.empty()) return {};
  if (plain_begin_ != plain_end_) {
    size_t n = std::min(into.size(), plain_end_ - plain_begin_);
    std::memcpy(into.data(), in_.get() + plain_begin_, n);
    plain_begin_ += n;
    if (plain_begin_ == plain_end_ && in_begin_ == in_end_) DropInput();
    return {IoResult::Kind::kOk, n};
  }
  if (terminal_ != IoResult::Kind::kOk) return {terminal_, 0};
  size_t total = 0;
  if (in_) {
    size_t begin = in_begin_;
    total = OpenRecords(in_.get(), begin, in_end_, into);
    if (!rest_.empty()) {
      plain_begin_ = static_cast<size_t>(rest_.data() - in_.get());
      plain_end_ = plain_begin_ + rest_.size();
      rest_ = {};
    }
    in_begin_ = begin;
    if (in_begin_ == in_end_ && plain_begin_ == plain_end_) DropInput();
  }
  if (total == 0 && terminal_ == IoResult::Kind::kOk) {
    event::Scratch scratch(inner_->loop());
    bool more = true;
    while (more && total == 0 && terminal_ == IoResult::Kind::kOk) {
      const size_t have = in_end_ - in_begin_;
      const size_t wanted = WantedInput(into.size(), have);
      IoResult got = below_ended_ ? IoResult{IoResult::Kind::kEof, 0}
                                  : inner_->Read({scratch.data() + have, wanted});
      if (got.kind == IoResult::Kind::kWouldBlock) break;
      if (!got.ok()) {
        EndReading(got);
        break;
      }
      more = got.bytes == wanted;  // else this was all; below reports what comes later
      if (have > 0) std::memcpy(scratch.data(), in_.get() + in_begin_, have);
      DropInput();
      size_t begin = 0, end = have + got.bytes;
      total = OpenRecords(scratch.data(), begin, end, into);
      Keep(scratch.data(), begin, end);
    }
  }
  SendOwedControl();
  if (total > 0) return {IoResult::Kind::kOk, total};
  if (terminal_ != IoResult::Kind::kOk) return {terminal_, 0};
  return {IoResult::Kind::kWouldBlock, 0};
}

void OwnRecords::EndReading(IoResult below) {
  DropInput();
  if (below.kind == IoResult::Kind::kEof) {
    terminal_ = IoResult::Kind::kReset;
    error_ = Error{Code::kUnavailable,
                   "the peer closed the connection without close_notify: bytes may be missing", 0};
    return;
  }
  terminal_ = below.kind;
  error_ = Error{Code::kUnavailable,
                 below.kind == IoResult::Kind::kReset ? "the peer reset the connection"
                                                      : "the connection failed: " + inner_->error(),
                 0};
}

// What came is no good, or the peer said that it ends.
void OwnRecords::Broken() {
  terminal_ = IoResult::Kind::kError;
  const RecordLayer::Failure& failure = layer_->failure();
  if (failure.received_alert != 0) {
    error_ = ExplainAlert(failure.received_alert);
  } else {
    error_ = Error{Code::kInvalidArgument,
                   std::string("the TLS connection is broken: ") + failure.why, 0};
    if (!closing_ && !write_broken_) {
      uint8_t alert[RecordLayer::kOverhead + 2];
      size_t size = layer_->SealAlert(2, failure.alert, alert);
      out_.insert(out_.end(), alert, alert + size);
      write_broken_ = true;
      Flush();
    }
  }
  write_broken_ = true;
}

// ---- writing ----

// The answer to a KeyUpdate. At most one waits, so that a peer who asks for many and reads none
// costs nothing.
void OwnRecords::SendOwedControl() {
  if (!layer_->key_update_due() || closing_ || write_broken_ || pending_output() > 0) return;
  uint8_t record[RecordLayer::kOverhead + 5];
  size_t size = layer_->SealKeyUpdate(false, record);
  if (size > 0) Send({record, size});
}

// Waiting bytes and `sealed` in one call; what is not taken waits.
IoResult OwnRecords::Send(std::span<const uint8_t> sealed) {
  iovec parts[2];
  size_t count = 0;
  const size_t waiting = pending_output();
  if (waiting > 0) parts[count++] = {out_.data() + out_head_, waiting};
  if (!sealed.empty()) parts[count++] = {const_cast<uint8_t*>(sealed.data()), sealed.size()};
  IoResult result;
  size_t taken = 0;
  if (count > 0) {
    result = inner_->Write({parts, count});
    if (result.ok()) taken = result.bytes;
  }
  const size_t of_waiting = std::min(taken, waiting);
  out_head_ += of_waiting;
  if (out_head_ == out_.size()) {
    std::vector<uint8_t>().swap(out_);
    out_head_ = 0;
  }
  sealed = sealed.subspan(taken - of_waiting);
  out_.insert(out_.end(), sealed.begin(), sealed.end());
  Charge();
  if (!result.ok() && result.kind != IoResult::Kind::kWouldBlock && error_.message.empty()) {
    error_ = Error{Code::kUnavailable, "the connection is gone: " + inner_->error(), 0};
  }
  return result;
}

IoResult OwnRecords::Flush() {
  while (pending_output() > 0) {
    IoResult result = Send({});
    if (!result.ok()) return result;
    if (result.bytes == 0) return {IoResult::Kind::kWouldBlock, 0};
  }
  if (layer_->key_update_due()) {
    SendOwedControl();
    if (pending_output() > 0) return {IoResult::Kind::kWouldBlock, 0};
  }
  return {};
}

size_t OwnRecords::RecordLimit() {
  event::TimePoint now = inner_->loop().now();
  if (now - last_write_ > kPause) sent_small_ = 0;
  last_write_ = now;
  return sent_small_ < kSmallUntil ? kSmallRecord : RecordLayer::kMaxPlaintext;
}

IoResult OwnRecords::Write(std::span<const iovec> from) {
  if (write_broken_ || closing_) return {IoResult::Kind::kError, 0};
  if (!has_room()) {
    IoResult flushed = Flush();
    if (!flushed.ok() && flushed.kind != IoResult::Kind::kWouldBlock) return flushed;
    if (!has_room()) return {IoResult::Kind::kWouldBlock, 0};
  }
  Cursor cursor(from);
  if (cursor.left() == 0) return {};
  size_t limit = RecordLimit();
  size_t total = 0;
  IoResult sent;
  event::Scratch scratch(inner_->loop());
  do {
    size_t used = 0;
    while (cursor.left() > 0) {
      constexpr size_t kUpdate = RecordLayer::kOverhead + 5;
      if (used + kUpdate + limit + RecordLayer::kOverhead > event::Scratch::kSize) break;
      if (layer_->key_update_due()) used += layer_->SealKeyUpdate(false, scratch.data() + used);
      std::span<const iovec> pieces = cursor.Take(limit);
      size_t size = layer_->Seal(pieces, scratch.data() + used);
      if (size == 0) {
        write_broken_ = true;
        error_ = Error{Code::kInternal, "a record could not be sealed", 0};
        return {IoResult::Kind::kError, 0};
      }
      used += size;
      total += Sum(pieces);
      if (sent_small_ < kSmallUntil) {
        sent_small_ += Sum(pieces);
        if (sent_small_ >= kSmallUntil) limit = RecordLayer::kMaxPlaintext;
      }
    }
    sent = Send({scratch.data(), used});
    if (!sent.ok() && sent.kind != IoResult::Kind::kWouldBlock) return sent;
  } while (cursor.left() > 0 && pending_output() == 0);
  return {IoResult::Kind::kOk, total};
}

IoResult OwnRecords::Shutdown() {
  if (finished_) return {};
  if (!closing_ && !write_broken_) {
    uint8_t alert[RecordLayer::kOverhead + 2];
    size_t size = layer_->SealAlert(1, SSL_AD_CLOSE_NOTIFY, alert);
    out_.insert(out_.end(), alert, alert + size);
    closing_ = true;
  }
  IoResult flushed = Flush();
  if (!flushed.ok()) return flushed;
  IoResult ended = inner_->ShutdownWrite();
  finished_ = ended.ok();
  return ended;
}

}  // namespace qanat::tls
