// SPDX-License-Identifier: Apache-2.0
#include "common/tls/tls_transport.h"

#include "common/tls/ssl_records.h"
#include "common/tls/tls_verify.h"

namespace qanat::tls {

using net::IoResult;

namespace {

class TlsTransport final : public net::Transport, private net::TransportEvents {
 public:
  explicit TlsTransport(std::unique_ptr<SslRecords> records)
      : records_(std::move(records)), tick_(records_->inner().loop(), [this] { Readable(); }) {
    records_->inner().SetEvents(this);
    records_->inner().ReadEnable(false);
    Update();
  }
  ~TlsTransport() override { records_->inner().SetEvents(nullptr); }

  void SetEvents(net::TransportEvents* events) override { events_ = events; }
  void ReadEnable(bool on) override {
    reading_ = on;
    records_->inner().ReadEnable(on);
    Arm();
  }
  void WriteEnable(bool on) override {
    writing_ = on;
    Update();
  }
  IoResult Read(std::span<uint8_t> into) override {
    if (aborted_) return {IoResult::Kind::kReset, 0};
    IoResult result = records_->Read(into);
    Update();
    if (!dispatching_) Arm();
    return result;
  }
  IoResult Write(std::span<const iovec> from) override {
    if (aborted_) return {IoResult::Kind::kReset, 0};
    IoResult result = records_->Write(from);
    Update();
    return result;
  }
  IoResult ShutdownWrite() override {
    if (aborted_) return {IoResult::Kind::kReset, 0};
    IoResult result = records_->Shutdown();
    Update();
    return result;
  }
  void Abort() override {
    if (aborted_) return;
    aborted_ = true;
    tick_.Stop();
    records_->inner().Abort();
  }
  event::EventLoop& loop() override { return records_->inner().loop(); }
  net::SocketAddress local_address() const override { return records_->inner().local_address(); }
  net::SocketAddress peer_address() const override { return records_->inner().peer_address(); }
  std::string error() const override { return records_->error().message; }

 private:
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

  std::unique_ptr<SslRecords> records_;
  net::TransportEvents* events_ = nullptr;
  bool reading_ = false;
  bool writing_ = false;
  bool write_enabled_ =
      true;  // whatever the handshake left; Update() in the constructor settles it
  bool dispatching_ = false;
  bool aborted_ = false;
  event::Timer tick_;
  std::shared_ptr<bool> life_ = std::make_shared<bool>(true);
};

// How long a server that refused a certificate waits for the client to hang up, so that the alert
// is not lost to the RST of a close with unread input.
constexpr auto kLinger = std::chrono::milliseconds(200);

}  // namespace

struct TlsHandshake::Impl final : private net::TransportEvents {
  Impl(net::TransportPtr transport, TlsContextPtr ctx, HandshakeOptions opts, Done on_done)
      : context(std::move(ctx)),
        options(std::move(opts)),
        done(std::move(on_done)),
        step(transport->loop(), [this] { Step(); }),
        deadline(transport->loop(), [this] { Expired(); }) {
    transport->SetEvents(this);
    bssl::UniquePtr<SSL> ssl(SSL_new(context->impl().ctx.get()));
    Configure(ssl.get());
    records = std::make_unique<SslRecords>(std::move(ssl), std::move(transport));
    deadline.Start(options.timeout);
    step.Start({});
  }
  ~Impl() {
    if (records) records->inner().SetEvents(nullptr);
  }

  void Configure(SSL* ssl) {
    SSL_set_app_data(ssl, this);
    SSL_set_shed_handshake_config(ssl, 1);
    if (options.role == Role::kClient) {
      SSL_set_connect_state(ssl);
      SSL_set_custom_verify(ssl, SSL_VERIFY_PEER, &Impl::Verify);
      if (!options.server_name.empty()) {
        SSL_set_tlsext_host_name(ssl, options.server_name.c_str());
      }
      return;
    }
    SSL_set_accept_state(ssl);
    switch (options.peer.client_certificate) {
      case PeerPolicy::ClientCertificate::kRequired:
        SSL_set_custom_verify(ssl, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                              &Impl::Verify);
        break;
      case PeerPolicy::ClientCertificate::kOptional:
        SSL_set_custom_verify(ssl, SSL_VERIFY_PEER, &Impl::Verify);
        break;
      case PeerPolicy::ClientCertificate::kNone: break;
    }
  }

  static ssl_verify_result_t Verify(SSL* ssl, uint8_t* alert) {
    auto* self = static_cast<Impl*>(SSL_get_app_data(ssl));
    Status status = VerifyPeer(ssl, *self->context, self->options.role, self->options.peer,
                               std::chrono::system_clock::now(), self->peer, alert);
    if (status) return ssl_verify_ok;
    self->refusal = std::move(status).error();
    return ssl_verify_invalid;
  }

  void OnReadable() override {
    records->NoteReadable();
    Step();
  }
  void OnWritable() override { Step(); }

  void Step() {
    if (lingering) return Drain();
    SslRecords::Step result = records->Handshake();
    IoResult flushed = records->Flush();
    bool gone = !flushed.ok() && flushed.kind != IoResult::Kind::kWouldBlock;
    switch (result) {
      case SslRecords::Step::kWait:
        if (gone) {
          // The peer may have said why before it went: its alert is read next.
          records->inner().WriteEnable(false);
        } else {
          records->inner().WriteEnable(records->pending_output() > 0);
        }
        records->inner().ReadEnable(true);
        return;
      case SslRecords::Step::kFailed:
        return Failed(refusal.message.empty() ? records->error() : refusal);
      case SslRecords::Step::kDone: return Established();
    }
  }

  void Established() {
    SSL* ssl = records->ssl();
    const uint8_t* alpn = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(ssl, &alpn, &size);
    peer.alpn.assign(reinterpret_cast<const char*>(alpn), size);
    if (peer.alpn.empty() && !context->options().alpn.empty()) {
      return Failed(Error{Code::kInvalidArgument,
                          "the peer did not agree on a protocol (ALPN); wanted is " +
                              context->options().alpn.front(),
                          0});
    }
    peer.version = SSL_get_version(ssl);
    const char* group = SSL_get_group_name(SSL_get_group_id(ssl));
    peer.group = group != nullptr ? group : "";
    peer.cipher = SSL_CIPHER_standard_name(SSL_get_current_cipher(ssl));
    SSL_set_app_data(ssl, nullptr);
    deadline.Stop();
    step.Stop();
    TlsConnection connection{std::make_unique<TlsTransport>(std::move(records)), std::move(peer)};
    Done call = std::move(done);
    call(std::move(connection));  // may destroy this
  }

  void Failed(Error error) {
    outcome = std::move(error);
    bool refused = options.role == Role::kServer && !refusal.message.empty();
    if (!refused) return Finish();
    // Tell the client, then wait until it has heard.
    lingering = true;
    records->inner().ShutdownWrite();
    records->inner().WriteEnable(false);
    records->inner().ReadEnable(true);
    deadline.Start(kLinger);
    Drain();
  }

  void Drain() {
    uint8_t discard[4096];
    for (int i = 0; i < 64; ++i) {
      IoResult got = records->inner().Read(discard);
      if (got.kind == IoResult::Kind::kWouldBlock) return;
      if (!got.ok()) return Finish();
    }
  }

  void Expired() {
    if (lingering) return Finish();
    outcome =
        Error{Code::kDeadlineExceeded,
              "the TLS handshake did not finish within " + std::to_string(options.timeout.count()) +
                  " ms (the peer accepted the connection but does not answer)",
              0};
    Finish();
  }

  void Finish() {
    deadline.Stop();
    step.Stop();
    records->inner().SetEvents(nullptr);
    records->inner().loop().DeferDelete(std::make_unique<Holder>(std::move(records)));
    Done call = std::move(done);
    Error error = std::move(outcome);
    call(Fail(std::move(error)));  // may destroy this
  }

  struct Holder : event::Deferred {
    explicit Holder(std::unique_ptr<SslRecords> r) : records(std::move(r)) {}
    std::unique_ptr<SslRecords> records;
  };

  TlsContextPtr context;
  HandshakeOptions options;
  Done done;
  event::Timer step;
  event::Timer deadline;
  std::unique_ptr<SslRecords> records;
  PeerInfo peer;
  Error refusal;  // by our verification
  Error outcome;
  bool lingering = false;
};

TlsHandshake::TlsHandshake(net::TransportPtr transport, TlsContextPtr context,
                           HandshakeOptions options, Done done)
    : impl_(std::make_unique<Impl>(std::move(transport), std::move(context), std::move(options),
                                   std::move(done))) {}
TlsHandshake::~TlsHandshake() = default;

struct TlsConnector::Impl {
  Impl(event::EventLoop& l, const net::ConnectOptions& connect, TlsContextPtr ctx,
       HandshakeOptions opts, Done on_done)
      : loop(l),
        context(std::move(ctx)),
        options(std::move(opts)),
        done(std::move(on_done)),
        to(connect.to),
        connector(std::make_unique<net::Connector>(
            loop, connect, [this](Result<Fd> fd) { Connected(std::move(fd)); })) {}

  void Connected(Result<Fd> fd) {
    if (!fd) {
      Done call = std::move(done);
      call(Fail(fd.error()));  // may destroy this
      return;
    }
    net::SetStreamOptions(fd->get());
    handshake = std::make_unique<TlsHandshake>(
        net::MakeSocketTransport(loop, std::move(*fd)), std::move(context), std::move(options),
        [this](Result<TlsConnection> result) {
          Done call = std::move(done);
          if (!result) {
            call(Fail(result.error().Annotate("TLS with " + to.ToString())));
          } else {
            call(std::move(result));
          }
        });
  }

  event::EventLoop& loop;
  TlsContextPtr context;
  HandshakeOptions options;
  Done done;
  net::SocketAddress to;
  std::unique_ptr<net::Connector> connector;
  std::unique_ptr<TlsHandshake> handshake;
};

TlsConnector::TlsConnector(event::EventLoop& loop, const net::ConnectOptions& connect,
                           TlsContextPtr context, HandshakeOptions options, Done done)
    : impl_(std::make_unique<Impl>(loop, connect, std::move(context), std::move(options),
                                   std::move(done))) {}
TlsConnector::~TlsConnector() = default;

}  // namespace qanat::tls
