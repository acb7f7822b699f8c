// SPDX-License-Identifier: Apache-2.0
// The two faces of Http2Core.
#include "common/http/http2_core.h"

namespace qanat::http {
namespace {

class Http2Server final : public ServerConnection, private Http2Core {
 public:
  Http2Server(net::TransportPtr transport, ServerEvents* events, const Options& options,
              std::string initial)
      : Http2Core(true, std::move(transport), options, std::move(initial)), events_(events) {}
  void Drain() override { StartDrain(); }
  void Close(std::string_view why) override { wire_.Abort(why); }
  size_t active_streams() const override { return streams_.size(); }
  Version version() const override { return Version::kHttp2; }
  net::Transport& transport() override { return wire_.transport(); }

 private:
  void OnHead(Http2Stream& stream, bool end) override {
    events_->OnRequest(stream, std::move(request(stream)), end);
  }
  void OnConnectionClosed(bool clean, std::string_view detail) override {
    events_->OnConnectionClosed(*this, clean, detail);
  }
  ServerEvents* events_;
};

class Http2Client final : public ClientConnection, private Http2Core {
 public:
  Http2Client(net::TransportPtr transport, ClientEvents* events, const Options& options)
      : Http2Core(false, std::move(transport), options, {}), events_(events) {}

  Stream* Open(const RequestHead& head, bool end, StreamEvents* events) override {
    return CanOpen() ? OpenRequest(head, end, events) : nullptr;
  }
  bool CanOpen() const override {
    return !Finished() && streams_.size() < nghttp2_session_get_remote_settings(
                                                session_, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
  }
  bool Finished() const override {
    return draining_ || goaway_received_ || failed_ || wire_.closing() ||
           nghttp2_session_check_request_allowed(session_) == 0;
  }
  void Drain() override { StartDrain(); }
  void Close(std::string_view why) override { wire_.Abort(why); }
  size_t active_streams() const override { return streams_.size(); }
  Version version() const override { return Version::kHttp2; }
  net::Transport& transport() override { return wire_.transport(); }

 private:
  void OnHead(Http2Stream&, bool) override {}
  void OnCapacity() override { events_->OnCapacity(*this); }
  void OnPingAnswered(event::TimePoint sent) override { events_->OnPingAnswered(*this, sent); }
  void OnCalmDown() override { events_->OnCalmDown(*this); }
  void OnConnectionClosed(bool clean, std::string_view detail) override {
    events_->OnConnectionClosed(*this, clean, detail);
  }
  ClientEvents* events_;
};

}  // namespace

ServerConnectionPtr MakeHttp2Server(net::TransportPtr transport, ServerEvents* events,
                                    const Options& options, std::string initial) {
  return std::make_unique<Http2Server>(std::move(transport), events, options, std::move(initial));
}

ClientConnectionPtr MakeHttp2Client(net::TransportPtr transport, ClientEvents* events,
                                    const Options& options) {
  return std::make_unique<Http2Client>(std::move(transport), events, options);
}

}  // namespace qanat::http
