// SPDX-License-Identifier: Apache-2.0
// Our HTTP/2 connections (nghttp2 behind them) with a hostile peer. The first byte picks the side;
// the server answers what it is asked, so that both directions run.
#include <cstdint>
#include <memory>
#include <string>

#include "common/http/connection.h"

namespace {

using namespace qanat;  // NOLINT

struct Server final : http::ServerEvents, http::StreamEvents {
  bool closed = false;
  void OnRequest(http::ServerStream& stream, http::RequestHead head, bool end) override {
    stream.SetEvents(this);
    http::ResponseHead response;
    response.status = head.path.size() % 2 == 0 ? 200 : 404;
    stream.SendResponse(response, false);
    stream.SendData(head.path, end);
    if (head.headers.size() > 3) stream.Reset(http::ResetCode::kInternal);
  }
  void OnData(std::string_view, bool) override {}
  void OnTrailers(http::HeaderList) override {}
  void OnClosed(http::CloseReason, std::string_view) override {}
  void OnConnectionClosed(http::ServerConnection&, bool, std::string_view) override {
    closed = true;
  }
};

struct Client final : http::ClientEvents, http::StreamEvents {
  bool closed = false;
  void OnData(std::string_view, bool) override {}
  void OnTrailers(http::HeaderList) override {}
  void OnClosed(http::CloseReason, std::string_view) override {}
  void OnConnectionClosed(http::ClientConnection&, bool, std::string_view) override {
    closed = true;
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  event::EventLoop loop;
  auto [ours, theirs] = net::MakePipe(loop, 1 << 20);
  Server server_events;
  Client client_events;
  http::ServerConnectionPtr server;
  http::ClientConnectionPtr client;
  http::Options options;
  options.max_header_bytes = 4096;
  if ((data[0] & 1) != 0) {
    client = http::MakeHttp2Client(std::move(ours), &client_events, options);
    for (int i = 0; i < 3; ++i) {
      http::RequestHead head;
      head.method = "POST";
      head.authority = "a";
      head.path = "/";
      if (http::Stream* s = client->Open(head, i == 0, &client_events)) s->SendData("hello", true);
    }
  } else {
    server = http::MakeAutoServer(std::move(ours), &server_events, options);
  }
  const size_t step = 1 + (data[0] >> 1) * 8;
  for (size_t i = 1; i < size; i += step) {
    const iovec part{const_cast<uint8_t*>(data) + i, std::min(step, size - i)};
    if (!theirs->Write({&part, 1}).ok()) break;
    loop.RunOnce({});
    uint8_t buffer[65536];
    while (theirs->Read(buffer).ok()) {
    }
  }
  for (int i = 0; i < 4; ++i) loop.RunOnce({});
  theirs.reset();
  for (int i = 0; i < 4; ++i) loop.RunOnce({});
  return 0;
}
