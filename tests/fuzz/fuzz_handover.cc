// SPDX-License-Identifier: Apache-2.0
// What another process says of a TLS connection, of an HTTP/2 session, and of a tunnel with both.
// What is taken says the same once more, and a session is gone on with, whatever its peer sends
// then. The input: a state with its length (two bytes) before it, then frames.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/hbone/client_session.h"
#include "common/hbone/saved_session.h"
#include "common/hbone/server_session.h"
#include "common/hbone/test_link.h"
#include "common/takeover/fields_for_test.h"
#include "common/tls/tls_handover.h"
#include "ztunnel/takeover/tunnel_state.h"

using namespace qanat;         // NOLINT: a fuzzer of these namespaces
using namespace qanat::hbone;  // NOLINT

namespace {

// Reads all, writes a little.
class User final : public net::TransportEvents {
 public:
  explicit User(net::TransportPtr transport) : transport_(std::move(transport)) {
    transport_->SetEvents(this);
    transport_->ReadEnable(true);
    transport_->WriteEnable(true);
  }
  void OnReadable() override {
    uint8_t buffer[4096];
    const net::IoResult got = transport_->Read(buffer);
    if (!got.ok() && got.kind != net::IoResult::Kind::kWouldBlock) transport_->ReadEnable(false);
  }
  void OnWritable() override {
    char text[] = "a few bytes";
    const iovec part{text, sizeof text};
    transport_->Write({&part, 1});
    if (++written_ > 3) transport_->ShutdownWrite();
    transport_->WriteEnable(written_ <= 3);
  }

 private:
  net::TransportPtr transport_;
  int written_ = 0;
};

template <typename Session, typename Events>
void GoOn(SavedSession saved, std::string_view frames, Events events) {
  event::EventLoop loop;
  auto [ours, theirs] = testing::LinkEnd::Make(loop, {});
  std::vector<net::TransportPtr> streams;
  Session session(std::move(ours), SessionOptions{}, std::move(events), std::move(saved), streams);
  std::vector<std::unique_ptr<User>> users;
  for (net::TransportPtr& stream : streams)
    users.push_back(std::make_unique<User>(std::move(stream)));
  for (int i = 0; i < 12; ++i) {
    const std::string_view part = frames.substr(0, 1 + frames.size() / 3);
    const iovec piece{const_cast<char*>(part.data()), part.size()};
    frames.remove_prefix(part.size());
    if (!part.empty()) theirs->Write({&piece, 1});
    loop.RunOnce(std::chrono::milliseconds(0));
  }
  if (session.Freezable()) {
    net::TransportPtr transport;
    EncodeSession(session.Export(transport));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.size() < 2) return 0;
  const size_t length = static_cast<uint8_t>(input[0]) << 8 | static_cast<uint8_t>(input[1]);
  const std::string_view state = input.substr(2, length);
  const std::string_view frames = input.substr(2 + state.size());
  if (const auto tls = tls::DecodeTls(state)) {
    const WipedString once = tls::EncodeTls(*tls);
    const auto again = tls::DecodeTls(once);
    if (!again || !(tls::EncodeTls(*again) == std::string_view(once))) std::abort();
  }
  takeover::Parcel parcel{WipedString(state), std::vector<Fd>(1 + frames.size() % 4)};
  if (ztunnel::HoldsTunnel(parcel)) {
    const auto tunnel = ztunnel::DecodeTunnel(std::move(parcel));
    size_t users = tunnel ? tunnel->session.streams.size() : 0;
    for (size_t i = 0; tunnel && i < tunnel->inner.size(); ++i) {
      users += tunnel->inner[i].session.streams.size() - 1;
    }
    if (tunnel && tunnel->streams.size() != users) std::abort();
  }
  auto saved = DecodeSession(state);
  if (!saved) return 0;
  const WipedString once = EncodeSession(*saved);
  const auto again = DecodeSession(once);
  if (!again || !(EncodeSession(*again) == std::string_view(once))) std::abort();
  // One that ends early, wherever, is none; nor is one with a number more where it matters.
  size_t chance = frames.size();
  for (size_t i = 0; i < std::min<size_t>(frames.size(), 8); ++i) {
    chance = chance * 31 + static_cast<uint8_t>(frames[i]);
  }
  const std::string_view cut = std::string_view(once).substr(0, chance % once.size());
  if (DecodeSession(cut)) std::abort();
  takeover::RawFields fields = takeover::TakeApart(once);
  auto& [tag, value] = fields[chance % fields.size()];
  const bool bytes = tag == (takeover::kCritical | 6) || tag == (takeover::kCritical | 8) ||
                     tag == (takeover::kCritical | 15) || tag == (takeover::kCritical | 16);
  if ((tag & takeover::kCritical) != 0 && !bytes) {
    value += std::string(8, '\0');
    if (DecodeSession(takeover::PutTogether(fields))) std::abort();
  }
  if (saved->server) {
    GoOn<ServerSession>(
        std::move(*saved), frames,
        ServerSession::Events{[](InboundConnect, Responder responder) { responder.Reject(503); },
                              nullptr});
  } else {
    GoOn<ClientSession>(std::move(*saved), frames, ClientSession::Events{});
  }
  return 0;
}
