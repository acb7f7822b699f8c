// SPDX-License-Identifier: Apache-2.0
#include "common/http/wire.h"

namespace qanat::http {
namespace {
// One connection may not keep a loop to itself: after this much the others have their turn.
constexpr int kReadsPerRound = 4;
constexpr size_t kReadSize = 32 * 1024;
constexpr std::chrono::milliseconds kLinger{1000};
constexpr std::chrono::milliseconds kMaxClosing{10000};

std::string_view Describe(net::IoResult::Kind kind) {
  switch (kind) {
    case net::IoResult::Kind::kOk:
    case net::IoResult::Kind::kWouldBlock: break;
    case net::IoResult::Kind::kEof: return "the peer closed the connection";
    case net::IoResult::Kind::kReset: return "the peer reset the connection";
    case net::IoResult::Kind::kError: return "the connection failed";
  }
  return "";
}
}  // namespace

Wire::Wire(net::TransportPtr transport, Owner& owner)
    : transport_(std::move(transport)),
      owner_(owner),
      kick_(transport_->loop(), [this] { Round(); }),
      linger_(transport_->loop(), [this] {
        ended_ = true;
        Round();
      }) {
  transport_->SetEvents(this);
}

Wire::~Wire() { transport_->SetEvents(nullptr); }

void Wire::Read(bool on) {
  if (reading_ == on || ended_) return;
  reading_ = on;
  transport_->ReadEnable(on || closing_);
}

void Wire::Kick() {
  if (!kick_.armed()) kick_.Start({});
}

void Wire::CloseAfterFlush() {
  if (closing_) return;
  closing_ = true;
  if (!ended_) linger_.Start(kMaxClosing);  // a peer that does not read may not hold us for ever
  Kick();
}

void Wire::Abort(std::string_view detail) {
  if (!ended_) {
    aborted_ = true;
    transport_->Abort();
    End(false, detail);
  }
  Kick();
}

void Wire::End(bool orderly, std::string_view detail) {
  if (ended_) return;
  ended_ = true;
  end_orderly_ = orderly;
  end_detail_ = detail;
  transport_->ReadEnable(false);
  transport_->WriteEnable(false);
}

void Wire::OnReadable() {
  // Shared by all connections of the thread: no callback that could come back here runs while it
  // is in use by another connection, since OnBytes() calls no other connection's OnReadable().
  static thread_local std::array<uint8_t, kReadSize> buffer;
  for (int i = 0; i < kReadsPerRound && !ended_ && (reading_ || closing_); ++i) {
    const net::IoResult r = transport_->Read(buffer);
    if (r.kind == net::IoResult::Kind::kWouldBlock) break;
    if (!r.ok()) {
      if (r.kind == net::IoResult::Kind::kEof && !closing_) {
        owner_.OnFlush();
        Flush();  // an answer that is ready may still be wanted
        if (ended_) break;
      }
      std::string detail(Describe(r.kind));
      if (const std::string why = transport_->error(); !why.empty()) detail += ": " + why;
      End(r.kind == net::IoResult::Kind::kEof, detail);
      break;
    }
    // While closing, what still arrives is dropped: unread bytes would turn our FIN into a RST that
    // destroys the answer on its way.
    if (!closing_) {
      owner_.OnBytes({reinterpret_cast<const char*>(buffer.data()), r.bytes});
    }
    if (r.bytes < buffer.size()) break;
  }
  Round();
}

void Wire::OnWritable() {
  transport_->WriteEnable(false);
  Round();
}

void Wire::Round() {
  kick_.Stop();
  if (!ended_) {
    owner_.OnFlush();
    Flush();
  }
  if (ended_ && !told_) {
    told_ = true;
    owner_.OnEnd(end_orderly_, end_detail_);
  }
  owner_.OnSettled();
}

void Wire::Flush() {
  while (!ended_) {
    if (out_.empty()) {
      owner_.OnFlush();
      if (out_.empty()) break;
    }
    const std::string_view bytes = out_.view();
    const iovec part{const_cast<char*>(bytes.data()), bytes.size()};
    const net::IoResult r = transport_->Write({&part, 1});
    if (r.kind == net::IoResult::Kind::kWouldBlock) {
      transport_->WriteEnable(true);
      return;
    }
    if (!r.ok()) {
      End(false, Describe(r.kind));
      return;
    }
    out_.Consume(r.bytes);
    if (r.bytes < bytes.size()) {
      transport_->WriteEnable(true);
      return;
    }
  }
  if (closing_ && !ended_ && !shut_) {
    const net::IoResult r = transport_->ShutdownWrite();
    if (r.kind == net::IoResult::Kind::kWouldBlock) {
      transport_->WriteEnable(true);
      return;
    }
    shut_ = true;
    if (!r.ok()) {
      End(false, Describe(r.kind));
      return;
    }
    transport_->ReadEnable(true);
    linger_.Start(kLinger);
  }
}

}  // namespace qanat::http
