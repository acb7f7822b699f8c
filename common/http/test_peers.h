// SPDX-License-Identifier: Apache-2.0
// For tests of this folder: a transport that cuts reads and writes at random, and recording ends of
// an HTTP connection. Not part of the library.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/http/connection.h"

namespace qanat::http::test {

class ChoppyTransport final : public net::Transport {
 public:
  ChoppyTransport(net::TransportPtr inner, uint32_t seed)
      : inner_(std::move(inner)), random_(seed) {}
  void SetEvents(net::TransportEvents* events) override { inner_->SetEvents(events); }
  void ReadEnable(bool on) override { inner_->ReadEnable(on); }
  void WriteEnable(bool on) override { inner_->WriteEnable(on); }
  net::IoResult Read(std::span<uint8_t> into) override {
    return inner_->Read(into.first(Cut(into.size())));
  }
  net::IoResult Write(std::span<const iovec> from) override {
    if (from.empty() || from[0].iov_len == 0) return inner_->Write(from);
    iovec part = from[0];
    part.iov_len = Cut(part.iov_len);
    return inner_->Write({&part, 1});
  }
  net::IoResult ShutdownWrite() override { return inner_->ShutdownWrite(); }
  void Abort() override { inner_->Abort(); }
  event::EventLoop& loop() override { return inner_->loop(); }
  net::SocketAddress local_address() const override { return inner_->local_address(); }
  net::SocketAddress peer_address() const override { return inner_->peer_address(); }
  std::string error() const override { return inner_->error(); }

 private:
  size_t Cut(size_t n) {
    if (n <= 1) return n;
    // Mostly small pieces, sometimes everything.
    const size_t limit = random_() % 4 == 0 ? n : std::min<size_t>(n, 40);
    return 1 + random_() % limit;
  }
  net::TransportPtr inner_;
  std::minstd_rand random_;
};

// Records what happens on one stream.
struct Recorder final : StreamEvents {
  std::vector<ResponseHead> informational;
  ResponseHead response;
  bool has_response = false;
  std::string data;
  HeaderList trailers;
  bool has_trailers = false;
  bool ended = false;
  bool closed = false;
  int writable = 0;
  CloseReason reason = CloseReason::kDone;
  std::string detail;
  std::function<void()> on_writable, on_data, on_end, on_closed;

  void OnInformational(ResponseHead head) override { informational.push_back(std::move(head)); }
  void OnResponse(ResponseHead head, bool end) override {
    response = std::move(head);
    has_response = true;
    if (end) End();
  }
  void OnData(std::string_view d, bool end) override {
    data.append(d);
    if (on_data) on_data();
    if (end) End();
  }
  void OnTrailers(HeaderList t) override {
    trailers = std::move(t);
    has_trailers = true;
    End();
  }
  void OnWritable() override {
    ++writable;
    if (on_writable) on_writable();
  }
  void OnClosed(CloseReason r, std::string_view d) override {
    closed = true;
    reason = r;
    detail = d;
    if (on_closed) on_closed();
  }
  void End() {
    ended = true;
    if (on_end) on_end();
  }
};

// The server end: keeps each request's recorder and stream; `on_request` answers.
struct ServerEnd final : ServerEvents {
  struct Exchange {
    RequestHead head;
    ServerStream* stream = nullptr;
    Recorder in;
  };
  std::vector<std::unique_ptr<Exchange>> exchanges;
  std::function<void(Exchange&)> on_request;
  bool closed = false;
  bool clean = false;
  std::string detail;
  ServerConnectionPtr connection;

  void OnRequest(ServerStream& stream, RequestHead head, bool end) override {
    auto x = std::make_unique<Exchange>();
    x->head = std::move(head);
    x->stream = &stream;
    x->in.ended = end;
    Exchange& ref = *x;
    exchanges.push_back(std::move(x));
    ref.in.on_closed = [&ref] { ref.stream = nullptr; };
    stream.SetEvents(&ref.in);
    if (on_request) on_request(ref);
  }
  void OnConnectionClosed(ServerConnection&, bool c, std::string_view d) override {
    closed = true;
    clean = c;
    detail = d;
  }
};

struct ClientEnd final : ClientEvents {
  int capacity = 0;
  int calm_downs = 0;
  bool closed = false;
  bool clean = false;
  std::string detail;
  ClientConnectionPtr connection;
  void OnCapacity(ClientConnection&) override { ++capacity; }
  void OnCalmDown(ClientConnection&) override { ++calm_downs; }
  void OnConnectionClosed(ClientConnection&, bool c, std::string_view d) override {
    closed = true;
    clean = c;
    detail = d;
  }
};

inline RequestHead Get(std::string path = "/") {
  RequestHead head;
  head.method = "GET";
  head.scheme = "http";
  head.authority = "shop.example";
  head.path = std::move(path);
  return head;
}
inline RequestHead Post(std::string path = "/") {
  RequestHead head = Get(std::move(path));
  head.method = "POST";
  return head;
}
inline ResponseHead Status(int status) {
  ResponseHead head;
  head.status = status;
  return head;
}

}  // namespace qanat::http::test
