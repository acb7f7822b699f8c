// SPDX-License-Identifier: Apache-2.0
// A server session as the node proxy's, on a plain socket: h2spec has no client certificate. Says
// its port, then serves until it is ended. What asks for no tunnel is answered by the session
// itself (400); a tunnel says a few words, reads until its client ends, and ends.
#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <list>
#include <memory>
#include <string_view>

#include "common/event/event_loop.h"
#include "common/hbone/server_session.h"
#include "common/net/socket.h"

namespace {

using namespace qanat;  // NOLINT: a program of one page

class Tunnel final : public net::TransportEvents {
 public:
  Tunnel(net::TransportPtr stream, std::function<void()> over)
      : stream_(std::move(stream)), over_(std::move(over)) {
    stream_->SetEvents(this);
    stream_->ReadEnable(true);
    stream_->WriteEnable(true);
  }
  void OnReadable() override {
    std::array<uint8_t, 4096> buffer;
    const net::IoResult got = stream_->Read(buffer);
    if (got.ok() || got.kind == net::IoResult::Kind::kWouldBlock) return;
    stream_->ReadEnable(false);
    if (got.kind != net::IoResult::Kind::kEof) return Over();
    ended_ = true;
    stream_->WriteEnable(true);
  }
  void OnWritable() override {
    if (!words_.empty()) {
      const iovec part{const_cast<char*>(words_.data()), words_.size()};
      const net::IoResult wrote = stream_->Write({&part, 1});
      if (wrote.ok()) words_.remove_prefix(wrote.bytes);
      if (!wrote.ok() && wrote.kind != net::IoResult::Kind::kWouldBlock) return Over();
      return;
    }
    stream_->WriteEnable(false);
    if (!ended_) return;
    stream_->ShutdownWrite();
    Over();
  }

 private:
  void Over() {
    stream_->SetEvents(nullptr);
    over_();
  }

  net::TransportPtr stream_;
  const std::function<void()> over_;
  std::string_view words_ = "a few words of what is at the other end";
  bool ended_ = false;
};

class Server {
 public:
  explicit Server(event::EventLoop& loop) : loop_(loop) {}
  void Take(Fd fd) {
    hbone::SessionOptions options;
    // h2spec never says that it has taken a smaller table over, which would be the end of each of
    // its connections at its first request.
    options.header_table = 4096;
    const auto it = sessions_.emplace(sessions_.end());
    *it = std::make_unique<hbone::ServerSession>(
        net::MakeSocketTransport(loop_, std::move(fd)), options,
        hbone::ServerSession::Events{
            [this](const hbone::InboundConnect&, hbone::Responder responder) {
              if (auto stream = responder.Accept()) Carry(std::move(stream));
            },
            [this, it](const hbone::CloseReason& reason) {
              fmt::print(stderr, "closed: {}\n", reason.message);
              sessions_.erase(it);
            }});
  }

 private:
  // Ends inside of its own callback.
  struct Old final : event::Deferred {
    std::unique_ptr<Tunnel> tunnel;
  };
  void Carry(net::TransportPtr stream) {
    const auto it = tunnels_.emplace(tunnels_.end());
    *it = std::make_unique<Tunnel>(std::move(stream), [this, it] {
      auto old = std::make_unique<Old>();
      old->tunnel = std::move(*it);
      tunnels_.erase(it);
      loop_.DeferDelete(std::move(old));
    });
  }

  event::EventLoop& loop_;
  std::list<std::unique_ptr<hbone::ServerSession>> sessions_;
  std::list<std::unique_ptr<Tunnel>> tunnels_;
};

}  // namespace

int main() {
  event::EventLoop loop;
  Server server(loop);
  net::ListenOptions options;
  options.address = {net::IpAddress::V4(0x7f000001), 0};
  auto listening = net::Listen(options);
  if (!listening) {
    fmt::print(stderr, "{}\n", listening.error().message);
    return 1;
  }
  const net::Acceptor acceptor(loop, std::move(*listening),
                               [&](Fd fd, net::SocketAddress) { server.Take(std::move(fd)); });
  fmt::print("{}\n", acceptor.local_address().port());
  std::fflush(stdout);
  loop.Run();
}
