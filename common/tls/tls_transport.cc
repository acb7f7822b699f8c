// SPDX-License-Identifier: Apache-2.0
#include "common/tls/tls_transport.h"

#include "common/tls/established.h"
#include "common/tls/ssl_records.h"
#include "common/tls/ticket_state.h"
#include "common/tls/tls_verify.h"

namespace qanat::tls {

using net::IoResult;

namespace {

// How long a server that refused a certificate waits for the client to hang up, so that the alert
// is not lost to the RST of a close with unread input.
constexpr auto kLinger = std::chrono::milliseconds(200);

}  // namespace

struct TlsHandshake::Impl final : private net::TransportEvents,
                                  private HandshakeGate::Waiter,
                                  private TicketJudge {
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
    if (options.shared != nullptr) options.shared->gate.Leave(*this);
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
      OfferTicket(ssl);
      return;
    }
    SSL_set_accept_state(ssl);
    if (resumes() && options.peer.client_certificate == PeerPolicy::ClientCertificate::kRequired) {
      SetTicketJudge(ssl, this);
      tickets = true;
    } else {
      SSL_set_options(ssl, SSL_OP_NO_TICKET);  // nobody would take it back
    }
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
    PeerVerifier* verifier = self->verifier();
    self->generation = verifier != nullptr ? verifier->generation() : 0;
    Status status = VerifyPeer(SSL_get0_peer_certificates(ssl), *self->context, self->options.role,
                               self->options.peer, verifier, std::chrono::system_clock::now(),
                               self->peer, alert);
    if (status) return ssl_verify_ok;
    self->refusal = std::move(status).error();
    return ssl_verify_invalid;
  }

  // ---- resumption

  bool resumes() const {
    return options.shared != nullptr && context->impl().ticket_key != nullptr;
  }

  // Of what the session was authenticated by nothing may have ended, on either side.
  void OfferTicket(SSL* ssl) {
    if (!resumes() || options.ticket_address.empty()) return;
    ticket_key = TicketKey(*context, options.ticket_address, options.server_name, options.peer);
    const auto session = options.shared->tickets.state()->Take(
        ticket_key, std::chrono::system_clock::now(),
        [this](const VerifiedPeer& known) { return !verifier()->Revoked(known); });
    if (session) SSL_set_session(ssl, session.get());
  }

  bool MayResume(const STACK_OF(CRYPTO_BUFFER) * chain) override {
    generation = verifier()->generation();
    uint8_t alert = 0;
    const Status passed = VerifyPeer(chain, *context, options.role, options.peer, verifier(),
                                     std::chrono::system_clock::now(), peer, &alert);
    if (!passed) peer = {};  // the full handshake that follows will say why
    return passed.has_value();
  }

  std::unique_ptr<TicketTaker> Taker() const {
    if (ticket_key.empty() || peer.verified == nullptr) return nullptr;
    return std::make_unique<TicketTaker>(
        options.shared->tickets.state(), ticket_key, peer.verified,
        std::min(peer.verified->not_after, context->options().chain.front().not_after()));
  }

  void OnReadable() override {
    readable = true;
    records->NoteReadable();
    Step();
  }
  void OnWritable() override { Step(); }

  PeerVerifier* verifier() const {
    return options.shared != nullptr ? &options.shared->verifier : nullptr;
  }

  // Each step may compute for long: it is made when the loop can afford it.
  void Step() {
    if (lingering) return Drain();
    if (!begun && options.role == Role::kServer && !readable) {
      return records->inner().ReadEnable(true);  // the client speaks first
    }
    if (options.shared == nullptr || options.shared->gate.Enter(*this, begun)) return OnTurn();
    records->inner().ReadEnable(false);
    records->inner().WriteEnable(false);
  }

  void OnShed() override {
    outcome = Error{Code::kResourceExhausted,
                    "more TLS handshakes are wanted than this thread can do; those that waited "
                    "longest are given up (is somebody making connections in a loop? are more "
                    "worker threads needed?)",
                    0};
    Finish(HandshakeOutcome::Kind::kShed);
  }

  void OnTurn() override {
    begun = true;
    SslRecords::Step result = records->Handshake();
    if (result == SslRecords::Step::kDone && tickets) records->SendTickets();
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
    peer.resumed = SSL_session_reused(ssl) == 1;
    if (peer.resumed && peer.verified == nullptr) {
      return Failed(Error{Code::kInternal, "a session was resumed that nobody has looked at", 0});
    }
    peer.version = SSL_get_version(ssl);
    const char* group = SSL_get_group_name(SSL_get_group_id(ssl));
    peer.group = group != nullptr ? group : "";
    peer.cipher = SSL_CIPHER_standard_name(SSL_get_current_cipher(ssl));
    // New lists may have come between the peer's certificate and its last message.
    if (verifier() != nullptr && peer.verified != nullptr &&
        generation != verifier()->generation()) {
      if (auto why = verifier()->Revoked(*peer.verified)) {
        return Failed(RevokedError(std::move(*why)));
      }
    }
    SSL_set_app_data(ssl, nullptr);
    SetTicketJudge(ssl, nullptr);
    deadline.Stop();
    step.Stop();
    Report(HandshakeOutcome::Kind::kOk);
    VerifiedPeerPtr verified = peer.verified;
    TlsConnection connection{
        MakeEstablished(SslRecords::Continue(std::move(records), Taker()), context,
                        std::move(verified), verifier(), event::Clock::now() - started),
        std::move(peer)};
    Done call = std::move(done);
    call(std::move(connection));  // may destroy this
  }

  void Failed(Error error) {
    outcome = std::move(error);
    if (outcome.sys_errno == kUnknownIssuer && verifier() != nullptr &&
        verifier()->live()->on_unknown_issuer) {
      verifier()->live()->on_unknown_issuer(context->identity());
    }
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

  void Report(HandshakeOutcome::Kind kind) {
    if (options.shared == nullptr || !options.shared->on_outcome) return;
    options.shared->on_outcome(
        {options.role == Role::kServer, kind, peer.resumed, event::Clock::now() - started});
  }

  void Expired() {
    if (lingering) return Finish();
    outcome =
        Error{Code::kDeadlineExceeded,
              "the TLS handshake did not finish within " + std::to_string(options.timeout.count()) +
                  " ms (the peer accepted the connection but does not answer)",
              0};
    Finish(HandshakeOutcome::Kind::kTimeout);
  }

  void Finish(HandshakeOutcome::Kind kind = HandshakeOutcome::Kind::kFailed) {
    if (options.shared != nullptr) options.shared->gate.Leave(*this);
    Report(kind);
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
  uint64_t generation = 0;  // of the revocation lists when `peer` was verified
  const event::TimePoint started = event::Clock::now();
  bool begun = false;
  bool readable = false;
  bool tickets = false;    // a server that gives them
  std::string ticket_key;  // client that resumes
  Error refusal;           // by our verification
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
    if (options.ticket_address.empty()) options.ticket_address = to.ToString();
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
