// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 client side of a connection: one request at a time, reused while both sides keep it.
#include "common/http/http1_exchange.h"

namespace qanat::http {
namespace {

class Http1Client final : public ClientConnection, private Wire::Owner {
 public:
  Http1Client(net::TransportPtr transport, ClientEvents* events, const Options& options)
      : events_(events),
        options_(options),
        parser_(Http1Parser::Side::kResponses, options.max_header_bytes, options.max_headers),
        wire_(std::move(transport), *this),
        idle_deadline_(wire_.loop(),
                       [this] {
                         if (!exchange_.active) wire_.CloseAfterFlush();
                       }),
        exchange_(*this) {
    idle_deadline_.Set(options_.idle_timeout);
    wire_.Read(true);
  }

  Stream* Open(const RequestHead& head, bool end, StreamEvents* events) override {
    if (!CanOpen() || !IsToken(head.method) || !IsRequestTarget(head.path) ||
        (!head.authority.empty() && !IsAuthority(head.authority))) {
      return nullptr;
    }
    idle_deadline_.Clear();
    Exchange& x = exchange_;
    x.Begin(events);
    x.outgoing_done = end;
    x.response_started = false;
    parser_.SetRequestMethod(head.method);
    keep_alive_ = !draining_;
    std::string out;
    x.body = EncodeRequest(head, end, out);
    Send(out);
    if (end && !x.body.Data({}, true, out)) {
      wire_.Abort("the request's length is not its Content-Length");
    }
    return &x;
  }
  bool CanOpen() const override {
    return !exchange_.active && !Finished() && parser_.between_messages() && input_.empty();
  }
  bool Finished() const override {
    return draining_ || failed_ || ended_ || wire_.closing() || (!keep_alive_ && requests_ > 0);
  }
  void Drain() override {
    draining_ = true;
    if (!exchange_.active) wire_.CloseAfterFlush();
  }
  void Close(std::string_view why) override { wire_.Abort(why); }
  size_t active_streams() const override { return exchange_.active ? 1 : 0; }
  Version version() const override { return Version::kHttp11; }
  net::Transport& transport() override { return wire_.transport(); }

 private:
  struct Exchange final : Http1Exchange<Stream> {
    explicit Exchange(Http1Client& c) : Http1Exchange(c.wire_, c.options_), connection(c) {}
    void SendData(std::string_view data, bool end) override { connection.SendData(data, end); }
    void SendTrailers(const HeaderList& trailers) override { connection.SendTrailers(trailers); }
    void Reset(ResetCode) override {
      if (!active) return;
      Forget();
      // Whatever the server still sends for it would be taken for the next response.
      connection.wire_.Abort("the request was cancelled");
    }
    Version version() const override { return Version::kHttp11; }

    Http1Client& connection;
    bool response_started = false;
  };

  void Send(std::string_view bytes) {
    wire_.Append(bytes);
    wire_.Kick();
  }
  void SendData(std::string_view data, bool end) {
    Exchange& x = exchange_;
    if (!x.active || x.outgoing_done) return;
    std::string out;
    const bool ok = x.body.Data(data, end, out);
    Finish(ok, end, out);
    x.CheckHighMark();
  }
  void SendTrailers(const HeaderList& trailers) {
    Exchange& x = exchange_;
    if (!x.active || x.outgoing_done) return;
    std::string out;
    const bool ok = x.body.Trailers(trailers, out);
    Finish(ok, true, out);
  }
  void Finish(bool ok, bool end, std::string_view out) {
    if (!ok) return wire_.Abort("the request's length is not its Content-Length");
    Send(out);
    if (end) exchange_.outgoing_done = true;
  }

  void OnBytes(std::string_view bytes) override {
    input_.Add(bytes, [this](std::string_view& input) { Process(input); });
  }
  void Process(std::string_view& input) {
    while (!wire_.closing() && !failed_ && !input.empty()) {
      Exchange& x = exchange_;
      if (!x.active || x.incoming_done) {
        // Bytes that answer no request: somebody tries to plant a response.
        return Broken("bytes from the server that no request asked for");
      }
      if (x.paused) return;
      if (!Handle(parser_.Next(input))) return;
      // The end of a message needs no input.
      if (parser_.complete() && input.empty()) Handle(parser_.Next(input));
    }
  }
  // False: nothing more to do now.
  bool Handle(Http1Parser::Event event) {
    Exchange& x = exchange_;
    switch (event) {
      case Http1Parser::Event::kMore: return false;
      case Http1Parser::Event::kHead: {
        ResponseHead head = std::move(parser_.response());
        if (head.status < 200) {
          if (x.events != nullptr && x.active) x.events->OnInformational(std::move(head));
          return true;
        }
        ++requests_;
        keep_alive_ = keep_alive_ && parser_.keep_alive();
        x.response_started = true;
        x.incoming_done = parser_.complete();
        if (x.active && x.events != nullptr) x.events->OnResponse(std::move(head), x.incoming_done);
        return true;
      }
      case Http1Parser::Event::kBody: x.Deliver(parser_, event); return true;
      case Http1Parser::Event::kEnd:
        if (x.response_started) x.Deliver(parser_, event);  // else of a 1xx
        return true;
      case Http1Parser::Event::kError: Broken(parser_.error()); return false;
    }
    return false;
  }
  void Broken(std::string_view why) {
    failed_ = true;
    detail_ = why;
    const bool large = parser_.error_status() == 431;
    if (exchange_.active && !exchange_.incoming_done) {
      exchange_.End(large ? CloseReason::kTooLarge : CloseReason::kProtocolError, why);
    }
    wire_.Abort(why);
  }
  void OnFlush() override {}
  void OnEnd(bool orderly, std::string_view detail) override {
    ended_ = true;
    wire_.EndWrite();
    if (detail_.empty()) detail_ = detail;
    Exchange& x = exchange_;
    if (!input_.empty()) ProcessPaused();
    if (x.active && !x.incoming_done && orderly && !failed_) {
      // Either the end of the connection ends the body, or it came in the middle of a message.
      const Http1Parser::Event event = parser_.Finish();
      if (event == Http1Parser::Event::kError) {
        x.End(CloseReason::kPeerReset, parser_.error());
      } else {
        Handle(event);
      }
    }
    if (wire_.aborted()) failed_ = true;
  }
  // The connection is gone; what it had delivered before is still given to a paused reader, since
  // no more than Http1Input::kMost is there.
  void ProcessPaused() {
    exchange_.paused = false;
    std::string_view view = input_.view();
    while (!failed_ && !view.empty() && exchange_.active && !exchange_.incoming_done) {
      if (!Handle(parser_.Next(view))) break;
    }
    input_.Clear();
  }
  void OnSettled() override {
    Exchange& x = exchange_;
    x.CheckLowMark(ended_);
    if (!ended_ && !input_.empty() && !x.paused && !wire_.closing()) {
      input_.Again([this](std::string_view& input) { Process(input); });
    }
    if (x.active && x.incoming_done) {
      const bool reusable = keep_alive_ && x.outgoing_done && !draining_;
      x.End(CloseReason::kDone, {});
      if (!reusable) {
        keep_alive_ = false;
        wire_.CloseAfterFlush();
      } else if (!ended_) {
        idle_deadline_.Set(options_.idle_timeout);
        events_->OnCapacity(*this);
      }
    }
    if (ended_) {
      if (x.active) x.End(CloseReason::kConnectionLost, detail_);
      if (!std::exchange(reported_, true)) events_->OnConnectionClosed(*this, !failed_, detail_);
      return;
    }
    wire_.Read(input_.size() < Http1Input::kMost);
  }

  ClientEvents* events_;
  const Options options_;
  Http1Parser parser_;
  Wire wire_;
  Deadline idle_deadline_;
  Http1Input input_;
  Exchange exchange_;
  uint32_t requests_ = 0;
  bool keep_alive_ = true;
  bool draining_ = false;
  bool failed_ = false;
  bool ended_ = false;
  bool reported_ = false;
  std::string detail_;
};

}  // namespace

ClientConnectionPtr MakeHttp1Client(net::TransportPtr transport, ClientEvents* events,
                                    const Options& options) {
  return std::make_unique<Http1Client>(std::move(transport), events, options);
}

}  // namespace qanat::http
