// SPDX-License-Identifier: Apache-2.0
#include "tests/interop/bogo/echo.h"

#include "common/tls/tls_handover.h"

namespace qanat::bogo {

using net::IoResult;

Echo::Echo(net::TransportPtr transport, const Flags& flags, Done done)
    : transport_(std::move(transport)),
      flags_(flags),
      done_(std::move(done)),
      buffer_(flags.read_size) {}

void Echo::Start() {
  transport_->SetEvents(this);
  HandOver();
  if (flags_.different_sizes) {
    for (size_t size : {0, 1, 255, 256, 257, 16383, 16384, 16385, 32767, 32768, 32769}) {
      Queue(std::string(size, '\x42'));
    }
    ending_ = true;
  }
  if (flags_.writes_first) Queue("hello");
  if (flags_.shuts_down) ending_ = true;
  Go();
}

void Echo::Go() {
  while (!out_.empty()) {
    iovec part{out_.data(), out_.size()};
    const IoResult wrote = transport_->Write({&part, 1});
    if (wrote.kind == IoResult::Kind::kWouldBlock) break;
    // What the other end said before it went is still to be read.
    if (!wrote.ok()) {
      out_.clear();
      ending_ = said_ = true;
      break;
    }
    out_.erase(0, wrote.bytes);
  }
  if (out_.empty() && ending_ && !said_) {
    const IoResult ended = transport_->ShutdownWrite();
    said_ = ended.kind != IoResult::Kind::kWouldBlock;
    if (said_ && (ended_ || !flags_.check_close_notify)) return Over({});
  }
  const bool waits = !out_.empty() || (ending_ && !said_);
  transport_->WriteEnable(waits);
  transport_->ReadEnable(!waits && !ended_);
}

void Echo::OnReadable() {
  const IoResult got = transport_->Read(buffer_);
  switch (got.kind) {
    case IoResult::Kind::kWouldBlock: return;
    case IoResult::Kind::kError: return Over(Fail(Code::kInvalidArgument, transport_->error()));
    case IoResult::Kind::kReset:
      // As BoringSSL's shim: the runner often just hangs up.
      if (flags_.check_close_notify) return Over(Fail(Code::kUnavailable, transport_->error()));
      [[fallthrough]];
    case IoResult::Kind::kEof:
      ended_ = ending_ = true;
      if (said_) return Over({});
      break;
    case IoResult::Kind::kOk:
      if (ending_) return;  // nobody asked
      for (size_t i = 0; i < got.bytes; ++i) out_ += static_cast<char>(buffer_[i] ^ 0xff);
      break;
  }
  Go();
  if (!over_ && out_.empty() && !ending_) HandOver();
}

// What cannot be handed over (TLS 1.2) goes on as it is.
void Echo::HandOver() {
  if (!flags_.hand_over) return;
  auto state = tls::Export(*transport_);
  if (!state) return;
  auto decoded = tls::DecodeTls(tls::EncodeTls(*state));
  if (!decoded) return Over(Fail(std::move(decoded).error()));
  decoded->socket = std::move(state->socket);
  event::EventLoop& loop = transport_->loop();
  auto next = tls::Import(loop, std::move(*decoded), nullptr);
  if (!next) return Over(Fail(std::move(next).error()));
  loop.DeferDelete(std::exchange(transport_, std::move(*next)));
  transport_->SetEvents(this);
  transport_->ReadEnable(true);
}

void Echo::OnWritable() { Go(); }

void Echo::Over(Status status) {
  if (std::exchange(over_, true)) return;
  transport_->ReadEnable(false);
  transport_->WriteEnable(false);
  done_(std::move(status));
}

}  // namespace qanat::bogo
