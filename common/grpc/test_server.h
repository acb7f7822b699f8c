// SPDX-License-Identifier: Apache-2.0
// For tests: a gRPC server on our own HTTP/2 and TLS, on the test's loop. Header only. That it and
// the client agree proves little about gRPC: tests/integration/channel has the real library.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "common/http/connection.h"
#include "common/http/ping_guard_for_test.h"
#include "common/net/socket.h"
#include "common/tls/tls_transport.h"

namespace qanat::grpc::test {

class TestServer final : private http::ServerEvents {
 public:
  struct Call final : http::StreamEvents {
    http::RequestHead head;
    http::ServerStream* stream = nullptr;  // null when the call is over
    std::string buffer;
    bool half_closed = false;
    bool headers_sent = false;
    http::CloseReason reason = http::CloseReason::kDone;
    std::function<void(std::string)> on_message;
    std::function<void()> on_half_close;
    std::function<void()> on_closed;

    void Headers() {
      if (headers_sent || stream == nullptr) return;
      headers_sent = true;
      http::ResponseHead response;
      response.status = 200;
      response.headers.Add("content-type", "application/grpc");
      stream->SendResponse(response, false);
    }
    static std::string Frame(std::string_view m) {
      const auto n = static_cast<uint32_t>(m.size());
      std::string out = {0, static_cast<char>(n >> 24), static_cast<char>(n >> 16),
                         static_cast<char>(n >> 8), static_cast<char>(n)};
      return out.append(m);
    }
    void Send(std::string_view message) { SendRaw(Frame(message)); }
    void SendRaw(std::string_view bytes) {
      if (stream == nullptr) return;
      Headers();
      stream->SendData(bytes, false);
    }
    void Finish(int status, const std::string& message = {}) {
      if (stream == nullptr) return;
      http::HeaderList trailers;
      trailers.Add("grpc-status", std::to_string(status));
      if (!message.empty()) trailers.Add("grpc-message", message);
      if (headers_sent) {
        stream->SendTrailers(trailers);
      } else {
        http::ResponseHead response;
        response.status = 200;
        response.headers = trailers;
        response.headers.Add("content-type", "application/grpc");
        stream->SendResponse(response, true);
      }
    }

    void OnData(std::string_view data, bool end) override {
      buffer.append(data);
      while (buffer.size() >= 5) {
        uint32_t n = 0;
        for (size_t i = 1; i < 5; ++i) n = n << 8 | static_cast<uint8_t>(buffer[i]);
        if (buffer.size() < 5 + n) break;
        std::string message = buffer.substr(5, n);
        buffer.erase(0, 5 + n);
        if (on_message) on_message(std::move(message));
      }
      if (end) {
        half_closed = true;
        if (on_half_close) on_half_close();
      }
    }
    void OnTrailers(http::HeaderList) override {}
    void OnClosed(http::CloseReason why, std::string_view) override {
      stream = nullptr;
      reason = why;
      if (on_closed) on_closed();
    }
  };

  explicit TestServer(event::EventLoop& loop, tls::TlsContextPtr tls = nullptr,
                      net::SocketAddress at = *net::SocketAddress::Parse("127.0.0.1:0"))
      : loop_(loop), tls_(std::move(tls)) {
    acceptor_ = std::make_unique<net::Acceptor>(
        loop_, *net::Listen({.address = at}),
        [this](Fd fd, net::SocketAddress) { Accept(std::move(fd)); });
    address_ = acceptor_->local_address();
  }

  net::SocketAddress address() const { return address_; }
  std::string endpoint() const { return (tls_ ? "https://" : "http://") + address_.ToString(); }

  std::function<void(Call&)> on_call;
  std::function<void(int fd)> on_accept;
  http::Options options;
  std::chrono::milliseconds least_ping{
      0};  // sooner ones are too many (PingGuard). 0 = as they come
  std::vector<std::unique_ptr<Call>> calls;
  std::list<http::ServerConnectionPtr> connections;
  int accepted = 0;

 private:
  void Accept(Fd fd) {
    ++accepted;
    if (on_accept) on_accept(fd.get());
    net::TransportPtr socket = net::MakeSocketTransport(loop_, std::move(fd));
    if (!tls_) return Begin(std::move(socket));
    tls::HandshakeOptions handshake;
    handshake.role = tls::Role::kServer;
    handshake.peer.client_certificate = tls::PeerPolicy::ClientCertificate::kNone;
    auto slot = handshakes_.emplace(handshakes_.end());
    *slot = std::make_unique<tls::TlsHandshake>(std::move(socket), tls_, handshake,
                                                [this, slot](Result<tls::TlsConnection> result) {
                                                  if (result) Begin(std::move(result->transport));
                                                  slot->reset();
                                                });
  }
  void Begin(net::TransportPtr transport) {
    if (least_ping.count() > 0) {
      transport = std::make_unique<http::test::PingGuard>(std::move(transport), least_ping);
    }
    connections.push_back(http::MakeHttp2Server(std::move(transport), this, options));
  }
  void OnRequest(http::ServerStream& stream, http::RequestHead head, bool end) override {
    auto call = std::make_unique<Call>();
    call->head = std::move(head);
    call->stream = &stream;
    call->half_closed = end;
    Call& ref = *call;
    calls.push_back(std::move(call));
    stream.SetEvents(&ref);
    if (on_call) on_call(ref);
  }
  void OnConnectionClosed(http::ServerConnection& connection, bool, std::string_view) override {
    for (auto it = connections.begin(); it != connections.end(); ++it) {
      if (it->get() != &connection) continue;
      loop_.DeferDelete(std::move(*it));
      connections.erase(it);
      return;
    }
  }

  event::EventLoop& loop_;
  tls::TlsContextPtr tls_;
  std::unique_ptr<net::Acceptor> acceptor_;
  net::SocketAddress address_;
  std::list<std::unique_ptr<tls::TlsHandshake>> handshakes_;
};

}  // namespace qanat::grpc::test
