// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 server side of a connection. One exchange at a time: a pipelined request stays unparsed
// until the response before it is complete.
#include <fmt/format.h>

#include <optional>

#include "common/http/connection.h"
#include "common/http/http1_encode.h"
#include "common/http/http1_parser.h"
#include "common/http/wire.h"

namespace qanat::http {
namespace {

// Unparsed input that is kept while an exchange is busy; reading goes on until here so that a
// client that leaves is noticed.
constexpr size_t kMaxUnparsed = 64 * 1024;

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
  // The one stream of the connection, used again for each request.
  struct Exchange final : ServerStream {
    explicit Exchange(Http1Server& c) : connection(c) {}
    void SetEvents(StreamEvents* e) override { events = e; }
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
    void PauseReading(bool pause) override {
      paused = pause;
      connection.wire_.Kick();
    }
    size_t buffered() const override { return connection.wire_.pending(); }
    bool Overfull() const override { return overfull; }
    Version version() const override { return request_version; }
    uint64_t id() const override { return number; }

    Http1Server& connection;
    StreamEvents* events = nullptr;
    uint64_t number = 0;
    bool active = false;
    bool request_done = false;
    bool response_started = false;
    bool response_done = false;
    bool paused = false;
    bool overfull = false;
    bool keep_alive = true;
    Version request_version = Version::kHttp11;
    std::string method;
    BodyWriter body;
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
    if (!x.active || !x.response_started || x.response_done) return;
    std::string out;
    const bool ok = x.body.Data(data, end, out);
    if (ok) Send(out);
    if (wire_.pending() > options_.high_watermark) x.overfull = true;
    if (!ok || end) FinishResponse(ok);
  }
  void SendTrailers(const HeaderList& trailers) {
    Exchange& x = exchange_;
    if (!x.active || !x.response_started || x.response_done) return;
    std::string out;
    const bool ok = x.body.Trailers(trailers, out);
    if (ok) Send(out);
    FinishResponse(ok);
  }
  void FinishResponse(bool ok) {
    exchange_.response_done = true;
    if (!ok) {
      exchange_.keep_alive = false;
      wire_.Abort("the response's length is not its Content-Length");
    }
    wire_.Kick();
  }
  void ResetExchange() {
    Exchange& x = exchange_;
    if (!x.active) return;
    x.active = false;
    x.events = nullptr;
    if (x.response_started && !x.response_done) {
      wire_.Abort("the response was reset");  // the client must not take it for complete
    } else {
      wire_.CloseAfterFlush();
    }
  }

  // ---- input ----
  void OnBytes(std::string_view bytes) override {
    if (input_.empty()) {
      Process(bytes);
      input_.Append(bytes);
    } else {
      input_.Append(bytes);
      ProcessQueued();
    }
  }
  void ProcessQueued() {
    std::string_view view = input_.view();
    const size_t before = view.size();
    Process(view);
    input_.Consume(before - view.size());
  }
  void Process(std::string_view& input) {
    while (!wire_.closing() && !failed_) {
      Exchange& x = exchange_;
      if (x.active && (x.request_done || x.paused)) {
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
        case Http1Parser::Event::kBody:
          for (size_t i = 0; i < parser_.body().size(); ++i) {
            const bool last = i + 1 == parser_.body().size() && parser_.complete();
            if (last) x.request_done = true;
            if (x.active && x.events != nullptr) x.events->OnData(parser_.body()[i], last);
          }
          break;
        case Http1Parser::Event::kEnd:
          if (x.active && !x.request_done) {
            x.request_done = true;
            if (x.events != nullptr) {
              if (parser_.trailers().empty()) {
                x.events->OnData({}, true);
              } else {
                x.events->OnTrailers(std::move(parser_.trailers()));
              }
            }
          }
          break;
        case Http1Parser::Event::kError: ParseError(); return;
      }
    }
  }
  void BeginExchange() {
    header_deadline_.Clear();
    idle_deadline_.Clear();
    Exchange& x = exchange_;
    const uint64_t number = x.number + 1;
    x.events = nullptr;
    x.number = number;
    x.active = true;
    x.response_started = x.response_done = x.paused = x.overfull = false;
    x.keep_alive = parser_.keep_alive();
    x.request_version = parser_.request().version;
    x.method = parser_.request().method;
    x.body = {};
    x.request_done = parser_.complete();
    const bool wants_continue = parser_.expect_continue() && !x.request_done;
    parser_.request().headers.Remove("expect");
    events_->OnRequest(x, std::move(parser_.request()), x.request_done);
    if (wants_continue && x.active && x.number == number) x.SendInformational(100, {});
  }
  void ParseError() {
    failed_ = true;
    detail_ = parser_.error();
    header_deadline_.Clear();
    Exchange& x = exchange_;
    if (x.active) {
      if (x.response_started) {
        if (!x.response_done) wire_.Abort(detail_);
      } else {
        SendError(parser_.error_status());
      }
      EndExchange(CloseReason::kProtocolError, detail_);
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
  void EndExchange(CloseReason reason, std::string_view detail) {
    exchange_.active = false;
    if (StreamEvents* e = std::exchange(exchange_.events, nullptr)) e->OnClosed(reason, detail);
  }
  void OnFlush() override {}
  void OnEnd(bool, std::string_view detail) override {
    ended_ = true;
    if (detail_.empty()) detail_ = detail;
    if (wire_.aborted()) failed_ = true;
    // In the middle of an answer an orderly end would make it look whole.
    if (!exchange_.active || exchange_.response_done) wire_.EndWrite();
  }
  void OnSettled() override {
    Exchange& x = exchange_;
    if (x.overfull && wire_.pending() <= options_.low_watermark) {
      x.overfull = false;
      if (x.active && x.events != nullptr && !ended_) x.events->OnWritable();
    }
    if (x.active && x.response_done) {
      const bool reusable = x.keep_alive && x.request_done;
      EndExchange(CloseReason::kDone, {});
      if (!reusable || draining_) {
        wire_.CloseAfterFlush();
      } else {
        idle_deadline_.Set(options_.idle_timeout);
      }
    }
    if (ended_) {
      if (x.active) EndExchange(CloseReason::kConnectionLost, detail_);
      if (!std::exchange(reported_, true)) events_->OnConnectionClosed(*this, !failed_, detail_);
      return;
    }
    if (!input_.empty() && !(x.active && (x.request_done || x.paused)) && !wire_.closing()) {
      const size_t before = input_.size();
      ProcessQueued();
      if (input_.size() != before || x.response_done) wire_.Kick();
    }
    wire_.Read(input_.size() < kMaxUnparsed);
  }

  ServerEvents* events_;
  const Options options_;
  Http1Parser parser_;
  Wire wire_;
  Deadline header_deadline_;
  Deadline idle_deadline_;
  ByteQueue input_;
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
