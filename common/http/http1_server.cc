// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 server side of a connection. One exchange at a time: a pipelined request stays unparsed
// until the response before it is complete.
#include <fmt/format.h>

#include "common/http/http1_exchange.h"

namespace qanat::http {
namespace {

class Http1Server final : public ServerConnection, private Wire::Owner {
 public:
  Http1Server(net::TransportPtr transport, ServerEvents* events, const Options& options,
              std::string_view initial)
      : events_(events),
        options_(options),
        parser_(Http1Parser::Side::kRequests, options.max_header_bytes, options.max_headers),
        wire_(std::move(transport), *this),
        header_deadline_(wire_.loop(), [this] { HeaderTimeout(); }),
        idle_deadline_(wire_.loop(), [this] { IdleTimeout(); }),
        exchange_(*this) {
    input_.Append(initial);
    idle_deadline_.Set(options_.idle_timeout);
    wire_.Read(true);
    if (!initial.empty()) wire_.Kick();
  }

  void Drain() override {
    draining_ = true;
    if (!exchange_.active && parser_.between_messages() && input_.empty()) wire_.CloseAfterFlush();
  }
  void Close(std::string_view why) override { wire_.Abort(why); }
  size_t active_streams() const override { return exchange_.active ? 1 : 0; }
  Version version() const override { return Version::kHttp11; }
  net::Transport& transport() override { return wire_.transport(); }

 private:
  struct Exchange final : Http1Exchange<ServerStream> {
    explicit Exchange(Http1Server& c) : Http1Exchange(c.wire_, c.options_), connection(c) {}
    void SendInformational(int status, const HeaderList& headers) override {
      if (!active || response_started || request_version == Version::kHttp10) return;
      std::string out;
      EncodeInformational(status, headers, out);
      connection.Send(out);
    }
    void SendResponse(const ResponseHead& head, bool end) override {
      connection.SendResponse(head, end);
    }
    void SendData(std::string_view data, bool end) override { connection.SendData(data, end); }
    void SendTrailers(const HeaderList& trailers) override { connection.SendTrailers(trailers); }
    void Reset(ResetCode) override { connection.ResetExchange(); }
    Version version() const override { return request_version; }

    Http1Server& connection;
    bool response_started = false;
    bool keep_alive = true;
    Version request_version = Version::kHttp11;
    std::string method;
  };

  // ---- output ----
  void Send(std::string_view bytes) {
    wire_.Append(bytes);
    wire_.Kick();
  }
  void SendResponse(const ResponseHead& head, bool end) {
    Exchange& x = exchange_;
    if (!x.active || x.response_started) return;
    x.response_started = true;
    ++requests_;
    // Without the rest of the request the next one cannot be found.
    if (draining_ || (options_.max_requests != 0 && requests_ >= options_.max_requests)) {
      x.keep_alive = false;
    }
    std::string out;
    x.body = EncodeResponse(head, x.method, x.request_version, end, x.keep_alive, out);
    Send(out);
    if (end) FinishResponse(x.body.Data({}, true, out));
  }
  void SendData(std::string_view data, bool end) {
    Exchange& x = exchange_;
    if (!x.active || !x.response_started || x.outgoing_done) return;
    std::string out;
    const bool ok = x.body.Data(data, end, out);
    if (ok) Send(out);
    x.CheckHighMark();
    if (!ok || end) FinishResponse(ok);
  }
  void SendTrailers(const HeaderList& trailers) {
    Exchange& x = exchange_;
    if (!x.active || !x.response_started || x.outgoing_done) return;
    std::string out;
    const bool ok = x.body.Trailers(trailers, out);
    if (ok) Send(out);
    FinishResponse(ok);
  }
  void FinishResponse(bool ok) {
    exchange_.outgoing_done = true;
    if (!ok) {
      exchange_.keep_alive = false;
      wire_.Abort("the response's length is not its Content-Length");
    }
    wire_.Kick();
  }
  void ResetExchange() {
    Exchange& x = exchange_;
    if (!x.active) return;
    x.Forget();
    if (x.response_started && !x.outgoing_done) {
      wire_.Abort("the response was reset");  // the client must not take it for complete
    } else {
      wire_.CloseAfterFlush();
    }
  }

  // ---- input ----
  void OnBytes(std::string_view bytes) override {
    input_.Add(bytes, [this](std::string_view& input) { Process(input); });
  }
  void Process(std::string_view& input) {
    while (!wire_.closing() && !failed_) {
      Exchange& x = exchange_;
      if (x.active && (x.incoming_done || x.paused)) {
        std::string_view none;
        if (parser_.complete()) (void)parser_.Next(none);  // kEnd: ready for the next message
        return;
      }
      switch (parser_.Next(input)) {
        case Http1Parser::Event::kMore:
          if (!parser_.between_messages() && !x.active && !header_deadline_.set()) {
            header_deadline_.Set(options_.header_timeout);
          }
          return;
        case Http1Parser::Event::kHead: BeginExchange(); break;
        case Http1Parser::Event::kBody: x.Deliver(parser_, Http1Parser::Event::kBody); break;
        case Http1Parser::Event::kEnd: x.Deliver(parser_, Http1Parser::Event::kEnd); break;
        case Http1Parser::Event::kError: ParseError(); return;
      }
    }
  }
  void BeginExchange() {
    header_deadline_.Clear();
    idle_deadline_.Clear();
    Exchange& x = exchange_;
    x.Begin(nullptr);
    const uint64_t number = x.number;
    x.response_started = false;
    x.keep_alive = parser_.keep_alive();
    x.request_version = parser_.request().version;
    x.method = parser_.request().method;
    x.incoming_done = parser_.complete();
    const bool wants_continue = parser_.expect_continue() && !x.incoming_done;
    parser_.request().headers.Remove("expect");
    events_->OnRequest(x, std::move(parser_.request()), x.incoming_done);
    if (wants_continue && x.active && x.number == number) x.SendInformational(100, {});
  }
  void ParseError() {
    failed_ = true;
    detail_ = parser_.error();
    header_deadline_.Clear();
    Exchange& x = exchange_;
    if (x.active) {
      if (x.response_started) {
        if (!x.outgoing_done) wire_.Abort(detail_);
      } else {
        SendError(parser_.error_status());
      }
      x.End(CloseReason::kProtocolError, detail_);
    } else {
      SendError(parser_.error_status());
    }
    wire_.CloseAfterFlush();
  }
  void SendError(int status) {
    const std::string body = fmt::format("{}\n", detail_);
    Send(
        fmt::format("HTTP/1.1 {} {}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n"
                    "connection: close\r\n\r\n{}",
                    status, ReasonPhrase(status), body.size(), body));
  }
  void HeaderTimeout() {
    if (exchange_.active || wire_.closing()) return;
    failed_ = true;
    detail_ = "the head of a request did not arrive in time";
    SendError(408);
    wire_.CloseAfterFlush();
  }
  void IdleTimeout() {
    if (!exchange_.active) wire_.CloseAfterFlush();
  }

  // ---- end of things ----
  void OnFlush() override {}
  void OnEnd(bool, std::string_view detail) override {
    ended_ = true;
    if (detail_.empty()) detail_ = detail;
    if (wire_.aborted()) failed_ = true;
    // In the middle of an answer an orderly end would make it look whole.
    if (!exchange_.active || exchange_.outgoing_done) wire_.EndWrite();
  }
  void OnSettled() override {
    Exchange& x = exchange_;
    x.CheckLowMark(ended_);
    if (x.active && x.outgoing_done) {
      const bool reusable = x.keep_alive && x.incoming_done;
      x.End(CloseReason::kDone, {});
      if (!reusable || draining_) {
        wire_.CloseAfterFlush();
      } else {
        idle_deadline_.Set(options_.idle_timeout);
      }
    }
    if (ended_) {
      if (x.active) x.End(CloseReason::kConnectionLost, detail_);
      if (!std::exchange(reported_, true)) events_->OnConnectionClosed(*this, !failed_, detail_);
      return;
    }
    if (!input_.empty() && !(x.active && (x.incoming_done || x.paused)) && !wire_.closing()) {
      const size_t before = input_.size();
      input_.Again([this](std::string_view& input) { Process(input); });
      if (input_.size() != before || x.outgoing_done) wire_.Kick();
    }
    wire_.Read(input_.size() < Http1Input::kMost);
  }

  ServerEvents* events_;
  const Options options_;
  Http1Parser parser_;
  Wire wire_;
  Deadline header_deadline_;
  Deadline idle_deadline_;
  Http1Input input_;
  Exchange exchange_;
  uint32_t requests_ = 0;
  bool draining_ = false;
  bool failed_ = false;
  bool ended_ = false;
  bool reported_ = false;
  std::string detail_;
};

}  // namespace

ServerConnectionPtr MakeHttp1Server(net::TransportPtr transport, ServerEvents* events,
                                    const Options& options,
                                    std::string initial) {  // NOLINT: same form as MakeHttp2Server
  return std::make_unique<Http1Server>(std::move(transport), events, options, initial);
}

}  // namespace qanat::http
