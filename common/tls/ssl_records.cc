// SPDX-License-Identifier: Apache-2.0
#include "common/tls/ssl_records.h"

#include <algorithm>
#include <cstring>

#include "common/tls/own_records.h"
#include "common/tls/tls_verify.h"

namespace qanat::tls {

using net::IoResult;

SslRecords::SslRecords(bssl::UniquePtr<SSL> ssl, net::TransportPtr inner)
    : Records(std::move(inner)), ssl_(std::move(ssl)) {
  BIO* bio = BIO_new(BioMethod());
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
}

const BIO_METHOD* SslRecords::BioMethod() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "qanat transport");
    BIO_meth_set_read(m, &SslRecords::BioRead);
    BIO_meth_set_write(m, &SslRecords::BioWrite);
    BIO_meth_set_ctrl(m, &SslRecords::BioControl);
    return m;
  }();
  return method;
}

long SslRecords::BioControl(BIO*, int command, long, void*) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

int SslRecords::BioRead(BIO* bio, char* out, int size) {
  auto* self = static_cast<SslRecords*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  int n = self->FromBelow(reinterpret_cast<uint8_t*>(out), static_cast<size_t>(size));
  if (n < 0 && !self->below_failed_) BIO_set_retry_read(bio);
  return n;
}

// Never blocks: what the transport below does not take waits in out_, and Write() stops taking
// plaintext meanwhile.
int SslRecords::BioWrite(BIO* bio, const char* in, int size) {
  auto* self = static_cast<SslRecords*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  const auto* bytes = reinterpret_cast<const uint8_t*>(in);  // of the vector's type: one memcpy
  self->out_.insert(self->out_.end(), bytes, bytes + size);
  return size;
}

int SslRecords::FromBelow(uint8_t* out, size_t size) {
  if (in_begin_ == in_end_) {
    if (below_ended_) return 0;
    if (below_failed_) return -1;
    if (!in_) in_ = std::unique_ptr<uint8_t[]>(new uint8_t[kReadSize]);
    Charge();
    IoResult got = inner_->Read({in_.get(), kReadSize});
    if (!got.ok()) in_.reset();
    switch (got.kind) {
      case IoResult::Kind::kOk:
        in_begin_ = 0;
        in_end_ = got.bytes;
        break;
      case IoResult::Kind::kWouldBlock: starved_ = true; return -1;
      case IoResult::Kind::kEof: below_ended_ = true; return 0;
      case IoResult::Kind::kReset:
      case IoResult::Kind::kError:
        below_failed_ = true;
        terminal_ = got.kind;
        error_ =
            Error{Code::kUnavailable,
                  got.kind == IoResult::Kind::kReset ? "the peer reset the connection"
                                                     : "the connection failed: " + inner_->error(),
                  0};
        return -1;
    }
  }
  size_t n = std::min(size, in_end_ - in_begin_);
  std::memcpy(out, in_.get() + in_begin_, n);
  in_begin_ += n;
  if (in_begin_ == in_end_) in_begin_ = in_end_ = 0;
  return static_cast<int>(n);
}

bool SslRecords::may_have_input() const {
  if (terminal_ != IoResult::Kind::kOk) return true;
  if (starved_) return false;
  return in_begin_ != in_end_ || below_ended_ || SSL_has_pending(ssl_.get()) == 1;
}

SslRecords::Step SslRecords::Handshake() {
  ERR_clear_error();
  int result = SSL_do_handshake(ssl_.get());
  if (result == 1) return Step::kDone;
  int why = SSL_get_error(ssl_.get(), result);
  if (why == SSL_ERROR_WANT_READ && !below_failed_) return Step::kWait;
  if (below_failed_) return Step::kFailed;
  if (why == SSL_ERROR_SYSCALL || (why == SSL_ERROR_SSL && ERR_peek_error() == 0)) {
    error_ = Error{Code::kUnavailable, "the peer closed the connection during the handshake", 0};
  } else {
    error_ = ExplainSslError("the TLS handshake");
  }
  return Step::kFailed;
}

void SslRecords::SendTickets() {
  ERR_clear_error();
  SSL_write(ssl_.get(), nullptr, 0);
  ERR_clear_error();
}

std::unique_ptr<Records> SslRecords::Continue(std::unique_ptr<SslRecords> records,
                                              std::unique_ptr<TicketTaker> tickets) {
  auto layer = std::make_unique<RecordLayer>();
  if (records->below_failed_ || !layer->FromHandshake(records->ssl())) return records;
  OwnRecords::Rest rest;
  rest.unopened = {records->in_.get() + records->in_begin_, records->in_end_ - records->in_begin_};
  records->out_.erase(records->out_.begin(),
                      records->out_.begin() + static_cast<std::ptrdiff_t>(records->out_head_));
  rest.unsent = std::move(records->out_);
  rest.below_ended = records->below_ended_;
  if (tickets) {
    tickets->Hold(std::move(records->ssl_));
    layer->KeepTickets();
    rest.tickets = std::move(tickets);
  }
  return std::make_unique<OwnRecords>(std::move(records->inner_), std::move(layer),
                                      std::move(rest));
}

IoResult SslRecords::Classify(int result, std::string_view doing) {
  int why = SSL_get_error(ssl_.get(), result);
  if (why == SSL_ERROR_WANT_READ && !below_failed_) return {IoResult::Kind::kWouldBlock, 0};
  if (why == SSL_ERROR_ZERO_RETURN) {
    terminal_ = IoResult::Kind::kEof;
  } else if (below_failed_) {
    // terminal_ and error_ were set where it was seen.
  } else if (why == SSL_ERROR_SYSCALL || below_ended_) {
    terminal_ = IoResult::Kind::kReset;
    error_ = Error{Code::kUnavailable,
                   "the peer closed the connection without close_notify: bytes may be missing", 0};
    ERR_clear_error();
  } else {
    terminal_ = IoResult::Kind::kError;
    error_ = ExplainSslError(doing);
  }
  return {terminal_, 0};
}

IoResult SslRecords::Read(std::span<uint8_t> into) {
  if (into.empty()) return {};
  if (terminal_ != IoResult::Kind::kOk) return {terminal_, 0};
  ERR_clear_error();
  size_t total = 0;
  // One record per SSL_read; several small ones fill the caller's buffer in one go.
  while (total < into.size()) {
    int n = SSL_read(ssl_.get(), into.data() + total, static_cast<int>(into.size() - total));
    if (n <= 0) {
      IoResult result = Classify(n, "reading");
      if (pending_output() > 0) Flush();  // an alert, or the answer to a KeyUpdate
      if (total == 0) return result;
      break;
    }
    total += static_cast<size_t>(n);
    if (in_begin_ == in_end_ && SSL_pending(ssl_.get()) == 0) break;
  }
  return {IoResult::Kind::kOk, total};
}

void SslRecords::Charge() { charge_.Set((in_ ? kReadSize : 0) + out_.capacity()); }

IoResult SslRecords::Flush() {
  const IoResult result = FlushOut();
  Charge();
  return result;
}

IoResult SslRecords::FlushOut() {
  while (pending_output() > 0) {
    iovec part{out_.data() + out_head_, pending_output()};
    IoResult wrote = inner_->Write({&part, 1});
    if (!wrote.ok()) {
      if (wrote.kind != IoResult::Kind::kWouldBlock && error_.message.empty()) {
        error_ = Error{Code::kUnavailable, "the connection is gone: " + inner_->error(), 0};
      }
      return wrote;
    }
    out_head_ += wrote.bytes;
    if (out_head_ < out_.size() && wrote.bytes == 0) return {IoResult::Kind::kWouldBlock, 0};
  }
  out_.clear();
  out_head_ = 0;
  if (out_.capacity() > kKeep && !writing_) std::vector<uint8_t>().swap(out_);
  return {};
}

IoResult SslRecords::Write(std::span<const iovec> from) {
  if (pending_output() > 0) {
    IoResult flushed = Flush();
    if (!flushed.ok() && flushed.kind != IoResult::Kind::kWouldBlock) return flushed;
    if (!has_room()) return {IoResult::Kind::kWouldBlock, 0};
  }
  ERR_clear_error();
  size_t wanted = 0;
  for (const iovec& part : from) wanted += part.iov_len;
  if (wanted > kKeep) out_.reserve(std::min(pending_output() + wanted, kHighWater) + 2 * kRecord);
  writing_ = true;  // the memory for output is kept until all is written
  size_t total = 0;
  size_t index = 0, offset = 0;
  IoResult flushed;
  while (index < from.size()) {
    if (pending_output() >= kHighWater) {
      flushed = Flush();
      if (!flushed.ok() && flushed.kind != IoResult::Kind::kWouldBlock) break;
      if (pending_output() >= kHighWater) break;
    }
    // A record from one piece where it is large, else gathered from several.
    uint8_t gathered[kRecord];
    const uint8_t* record = static_cast<const uint8_t*>(from[index].iov_base) + offset;
    size_t size = std::min(from[index].iov_len - offset, kRecord);
    if (size < kRecord && index + 1 < from.size()) {
      size = 0;
      while (index < from.size() && size < kRecord) {
        size_t n = std::min(from[index].iov_len - offset, kRecord - size);
        if (n > 0) {
          std::memcpy(gathered + size, static_cast<const uint8_t*>(from[index].iov_base) + offset,
                      n);
        }
        size += n;
        offset += n;
        if (offset == from[index].iov_len) {
          ++index;
          offset = 0;
        }
      }
      record = gathered;
    } else {
      offset += size;
      if (offset == from[index].iov_len) {
        ++index;
        offset = 0;
      }
    }
    if (size == 0) continue;
    int n = SSL_write(ssl_.get(), record, static_cast<int>(size));
    if (n != static_cast<int>(size)) {
      error_ = ExplainSslError("writing");
      flushed = {IoResult::Kind::kError, 0};
      break;
    }
    total += size;
  }
  writing_ = false;
  if (flushed.ok()) flushed = Flush();
  if (!flushed.ok() && flushed.kind != IoResult::Kind::kWouldBlock) return flushed;
  return {IoResult::Kind::kOk, total};
}

IoResult SslRecords::Shutdown() {
  if (finished_) return {};
  ERR_clear_error();
  if ((SSL_get_shutdown(ssl_.get()) & SSL_SENT_SHUTDOWN) == 0) SSL_shutdown(ssl_.get());
  ERR_clear_error();
  IoResult flushed = Flush();
  if (!flushed.ok()) return flushed;
  IoResult ended = inner_->ShutdownWrite();
  finished_ = ended.ok();
  return ended;
}

}  // namespace qanat::tls
