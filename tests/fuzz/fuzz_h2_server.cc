// SPDX-License-Identifier: Apache-2.0
// An HBONE server session against whatever a client may send. The first byte picks in what pieces
// the rest arrives.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_peer.h"

using qanat::hbone::InboundConnect;
using qanat::hbone::Responder;
using qanat::hbone::ServerSession;
using qanat::hbone::SessionOptions;
using qanat::hbone::testing::Party;

namespace {
// Reads what comes and throws it away.
class Sink final : public qanat::net::TransportEvents {
 public:
  explicit Sink(qanat::net::Transport& transport) : transport_(transport) {
    transport_.SetEvents(this);
    transport_.ReadEnable(true);
  }
  void OnReadable() override {
    uint8_t buffer[65536];
    auto got = transport_.Read(buffer);
    if (!got.ok() && got.kind != qanat::net::IoResult::Kind::kWouldBlock) {
      transport_.ReadEnable(false);
    }
  }
  void OnWritable() override {}

 private:
  qanat::net::Transport& transport_;
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  size_t piece = data[0] == 0 ? size : data[0];
  bool preface = (data[1] & 1) != 0;
  qanat::event::EventLoop loop;
  auto [near, far] = qanat::net::MakePipe(loop, 1 << 20);
  std::vector<std::unique_ptr<Party>> users;
  std::vector<Responder> held;
  SessionOptions options;
  options.max_concurrent_streams = 8;
  options.stream_window = 4096;
  {
    ServerSession session(
        std::move(near), options,
        ServerSession::Events{[&](InboundConnect request, Responder responder) {
                                switch (request.authority.size() % 4) {
                                  case 0: responder.Reject(401); break;
                                  case 1: held.push_back(std::move(responder)); break;
                                  default:
                                    users.push_back(std::make_unique<Party>(responder.Accept()));
                                    users.back()->echo = request.authority.size() % 4 == 2;
                                }
                              },
                              [](const qanat::hbone::CloseReason&) {}});
    Sink sink(*far);
    std::string input = preface ? std::string(qanat::hbone::kPreface) : std::string();
    input.append(reinterpret_cast<const char*>(data + 2), size - 2);
    for (size_t at = 0; at < input.size();) {
      iovec part{input.data() + at, std::min(piece, input.size() - at)};
      auto wrote = far->Write({&part, 1});
      if (!wrote.ok()) break;
      at += wrote.bytes;
      loop.RunOnce(std::chrono::milliseconds(0));
    }
    if (!held.empty()) held.pop_back();
    for (int i = 0; i < 4; ++i) loop.RunOnce(std::chrono::milliseconds(0));
    if (size % 2 == 0) session.Drain();
    loop.RunOnce(std::chrono::milliseconds(0));
    if (size % 3 == 0) far.reset();
    loop.RunOnce(std::chrono::milliseconds(0));
    if (far) far->SetEvents(nullptr);
  }
  loop.RunOnce(std::chrono::milliseconds(0));
  held.clear();
  users.clear();
  far.reset();
  loop.RunOnce(std::chrono::milliseconds(0));
  return 0;
}
