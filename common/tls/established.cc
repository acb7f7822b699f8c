// SPDX-License-Identifier: Apache-2.0
#include "common/tls/established.h"

#include <utility>

#include "common/tls/tls_handover.h"

namespace qanat::tls {
namespace {

using net::IoResult;

class TlsTransport final : public net::Transport,
                           private net::TransportEvents,
                           private PeerVerifier::Live {
 public:
  TlsTransport(std::unique_ptr<Records> records, TlsContextPtr context, VerifiedPeerPtr peer,
               const PeerVerifier* verifier, event::Duration handshake_time)
      : records_(std::move(records)),
        context_(std::move(context)),
        peer_(std::move(peer)),
        handshake_time_(handshake_time),
        tick_(records_->inner().loop(), [this] { Tick(); }) {
    records_->inner().SetEvents(this);
    records_->inner().ReadEnable(false);
    // What the handshake could not send yet goes out without waiting for a write from above.
    write_enabled_ = records_->pending_output() > 0;
    records_->inner().WriteEnable(write_enabled_);
    if (verifier != nullptr && peer_ != nullptr) {
      live_ = verifier->live();
      live_->all.insert(this);
    }
  }
  ~TlsTransport() override {
    if (live_) live_->all.erase(this);
    records_->inner().SetEvents(nullptr);
  }

  void SetEvents(net::TransportEvents* events) override { events_ = events; }
  void ReadEnable(bool on) override {
    reading_ = on;
    if (!revoked_.empty()) return tick_.Start({});
    records_->inner().ReadEnable(on);
    Arm();
  }
  void WriteEnable(bool on) override {
    writing_ = on;
    if (!revoked_.empty()) return tick_.Start({});
    Update();
  }
  IoResult Read(std::span<uint8_t> into) override {
    if (aborted_) return {Aborted(), 0};
    IoResult result = records_->Read(into);
    // A client whose certificate was refused learns it here (TLS 1.3).
    if (result.kind == IoResult::Kind::kError && records_->error().sys_errno == kUnknownIssuer &&
        live_ && live_->on_unknown_issuer && !std::exchange(told_, true)) {
      if (context_ != nullptr) live_->on_unknown_issuer(context_->identity());
    }
    Update();
    if (!dispatching_) Arm();
    return result;
  }
  IoResult Write(std::span<const iovec> from) override {
    if (aborted_) return {Aborted(), 0};
    IoResult result = records_->Write(from);
    Update();
    return result;
  }
  IoResult ShutdownWrite() override {
    if (aborted_) return {Aborted(), 0};
    IoResult result = records_->Shutdown();
    Update();
    return result;
  }
  void Abort() override {
    tick_.Stop();
    if (aborted_) return;
    aborted_ = true;
    records_->inner().Abort();
  }
  const net::Transport& below() const { return records_->inner(); }
  bool CanExport() const { return !aborted_ && records_->CanExport(); }
  TlsHandover Export() {
    TlsHandover out;
    records_->Export(out);
    out.socket = records_->inner().Release();
    out.peer = peer_;
    aborted_ = true;
    tick_.Stop();
    if (live_) live_->all.erase(this);
    return out;
  }
  event::EventLoop& loop() override { return records_->inner().loop(); }
  net::SocketAddress local_address() const override { return records_->inner().local_address(); }
  net::SocketAddress peer_address() const override { return records_->inner().peer_address(); }
  std::optional<event::Duration> last_acknowledged() const override {
    return records_->inner().last_acknowledged();
  }
  std::shared_ptr<const VerifiedPeer> verified_peer() const override { return peer_; }
  event::Duration handshake_time() const override { return handshake_time_; }
  size_t held() const override { return records_->held(); }
  std::string error() const override {
    return revoked_.empty() ? records_->error().message : revoked_;
  }

 private:
  const VerifiedPeer& proven() const override { return *peer_; }
  // The peer sees a reset; the user, whatever it waits for, an error.
  void Revoke(const std::string& why) override {
    if (aborted_) return;
    Abort();
    revoked_ = why;
    tick_.Start({});
  }
  IoResult::Kind Aborted() const {
    return revoked_.empty() ? IoResult::Kind::kReset : IoResult::Kind::kError;
  }
  void Tick() {
    if (!revoked_.empty() && !reading_) {
      if (writing_ && events_ != nullptr) events_->OnWritable();
      return;
    }
    Readable();
  }
  // Below reports only new bytes; what waits in here is reported by a timer of no delay.
  void Arm() {
    if (reading_ && !aborted_ && !tick_.armed() && records_->may_have_input()) tick_.Start({});
  }
  void Update() {
    if (aborted_) return;
    bool wanted = writing_ || records_->pending_output() > 0;
    if (wanted != write_enabled_) {
      write_enabled_ = wanted;
      records_->inner().WriteEnable(wanted);
    }
  }
  void Readable() {
    if (!reading_ || events_ == nullptr) return;
    std::weak_ptr<bool> alive = life_;
    dispatching_ = true;
    events_->OnReadable();
    if (alive.expired()) return;
    dispatching_ = false;
    Arm();
  }
  void OnReadable() override {
    records_->NoteReadable();
    Readable();
  }
  void OnWritable() override {
    if (records_->pending_output() > 0) {
      IoResult flushed = records_->Flush();
      if (!flushed.ok() && flushed.kind != IoResult::Kind::kWouldBlock) {
        // Nobody below will take it any more. A writer learns it from its next Write(); without
        // one, stop asking.
        if (!writing_) records_->inner().WriteEnable(write_enabled_ = false);
      } else {
        Update();
      }
      if (flushed.kind == IoResult::Kind::kWouldBlock && !records_->has_room()) return;
    }
    if (writing_ && events_ != nullptr) events_->OnWritable();
  }

  std::unique_ptr<Records> records_;
  const TlsContextPtr context_;
  const VerifiedPeerPtr peer_;
  const event::Duration handshake_time_;
  bool told_ = false;
  std::shared_ptr<PeerVerifier::LiveSet> live_;
  std::string revoked_;  // why this was ended from outside
  net::TransportEvents* events_ = nullptr;
  bool reading_ = false;
  bool writing_ = false;
  bool write_enabled_ = false;
  bool dispatching_ = false;
  bool aborted_ = false;
  event::Timer tick_;
  std::shared_ptr<bool> life_ = std::make_shared<bool>(true);
};

}  // namespace

const net::Transport* CarrierOf(const net::Transport& transport) {
  const auto* tls = dynamic_cast<const TlsTransport*>(&transport);
  return tls != nullptr && tls->CanExport() ? &tls->below() : nullptr;
}

std::optional<TlsHandover> Export(net::Transport& transport) {
  const net::Transport* carrier = CarrierOf(transport);
  if (carrier == nullptr || carrier->splice_fd() < 0) return std::nullopt;
  return static_cast<TlsTransport&>(transport).Export();
}

std::optional<TlsHandover> ExportInner(net::Transport& transport) {
  const net::Transport* carrier = CarrierOf(transport);
  if (carrier == nullptr || carrier->splice_fd() >= 0) return std::nullopt;
  return static_cast<TlsTransport&>(transport).Export();
}

net::TransportPtr MakeEstablished(std::unique_ptr<Records> records, TlsContextPtr context,
                                  VerifiedPeerPtr peer, const PeerVerifier* verifier,
                                  event::Duration handshake_time) {
  return std::make_unique<TlsTransport>(std::move(records), std::move(context), std::move(peer),
                                        verifier, handshake_time);
}

}  // namespace qanat::tls
