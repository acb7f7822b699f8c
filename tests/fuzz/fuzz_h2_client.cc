// SPDX-License-Identifier: Apache-2.0
// An HBONE client session with open CONNECT streams against whatever a server may send.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/event/event_loop.h"
#include "common/hbone/client_session.h"
#include "common/hbone/test_peer.h"

using qanat::hbone::ClientSession;
using qanat::hbone::PendingConnect;
using qanat::hbone::SessionOptions;
using qanat::hbone::testing::Party;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  size_t piece = data[0] == 0 ? size : data[0];
  size_t streams = 1 + data[1] % 4;
  qanat::event::EventLoop loop;
  auto [near, far] = qanat::net::MakePipe(loop, 1 << 20);
  std::vector<std::unique_ptr<Party>> users;
  std::vector<std::unique_ptr<PendingConnect>> pending;
  SessionOptions options;
  options.stream_window = 4096;
  {
    ClientSession session(std::move(near), options, {});
    for (size_t i = 0; i < streams; ++i) {
      pending.push_back(session.Connect(
          {"10.0.0.1:80", {{"baggage", "x"}}}, [&](ClientSession::ConnectResult result) {
            if (result && result->stream) {
              users.push_back(std::make_unique<Party>(std::move(result->stream)));
              users.back()->Send("hello");
            }
          }));
    }
    loop.RunOnce(std::chrono::milliseconds(0));
    data += 2;
    size -= 2;
    uint8_t drain[65536];
    for (size_t at = 0; at < size;) {
      iovec part{const_cast<uint8_t*>(data) + at, std::min(piece, size - at)};
      auto wrote = far->Write({&part, 1});
      if (!wrote.ok()) break;
      at += wrote.bytes;
      loop.RunOnce(std::chrono::milliseconds(0));
      while (far->Read(drain).ok()) {
      }
    }
    if (size % 2 == 0) pending.clear();
    loop.RunOnce(std::chrono::milliseconds(0));
    if (size % 3 == 0) far.reset();
    loop.RunOnce(std::chrono::milliseconds(0));
    if (size % 5 == 0) session.Drain();
    loop.RunOnce(std::chrono::milliseconds(0));
  }
  pending.clear();
  users.clear();
  far.reset();
  loop.RunOnce(std::chrono::milliseconds(0));
  return 0;
}
