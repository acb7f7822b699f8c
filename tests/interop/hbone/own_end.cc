// SPDX-License-Identifier: Apache-2.0
#include "tests/interop/hbone/own_end.h"

#include <array>

namespace qanat::interop {

using net::IoResult;

struct Relay::Impl {
  // One direction: reads from `from`, writes to `to`.
  struct Lane {
    std::vector<uint8_t> buffer = std::vector<uint8_t>(65536);
    size_t begin = 0, end = 0;
    bool read_over = false, over = false;
  };
  struct Side final : net::TransportEvents {
    Impl* impl = nullptr;
    size_t index = 0;
    void OnReadable() override { impl->Move(index); }
    void OnWritable() override { impl->Move(1 - index); }
  };

  Impl(net::TransportPtr a, net::TransportPtr b, std::function<void()> on_over)
      : ends{std::move(a), std::move(b)}, over(std::move(on_over)) {
    for (size_t i = 0; i < 2; ++i) {
      sides[i].impl = this;
      sides[i].index = i;
      ends[i]->SetEvents(&sides[i]);
      ends[i]->ReadEnable(true);
    }
  }

  void Abort() {
    for (auto& end : ends) end->Abort();
    lanes[0].over = lanes[1].over = true;
  }

  // Lane i carries from ends[i] to ends[1 - i].
  void Move(size_t i) {
    Lane& lane = lanes[i];
    net::Transport& from = *ends[i];
    net::Transport& to = *ends[1 - i];
    while (!lane.over) {
      if (lane.begin < lane.end) {
        iovec part{lane.buffer.data() + lane.begin, lane.end - lane.begin};
        IoResult wrote = to.Write({&part, 1});
        if (wrote.kind == IoResult::Kind::kWouldBlock) return Wait(i, true);
        if (!wrote.ok()) {
          Abort();
          break;
        }
        lane.begin += wrote.bytes;
        continue;
      }
      if (lane.read_over) {
        IoResult ended = to.ShutdownWrite();
        if (ended.kind == IoResult::Kind::kWouldBlock) return Wait(i, true);
        lane.over = true;
        Wait(i, false);
        from.ReadEnable(false);
        break;
      }
      IoResult got = from.Read(lane.buffer);
      if (got.kind == IoResult::Kind::kWouldBlock) return Wait(i, false);
      if (got.kind == IoResult::Kind::kEof) {
        lane.read_over = true;
        continue;
      }
      if (!got.ok()) {
        Abort();
        break;
      }
      lane.begin = 0;
      lane.end = got.bytes;
    }
    if (lanes[0].over && lanes[1].over && over) std::exchange(over, nullptr)();
  }

  // Waiting for the writer stops the reader, and the other way round.
  void Wait(size_t i, bool for_writer) {
    ends[1 - i]->WriteEnable(for_writer);
    ends[i]->ReadEnable(!for_writer);
  }

  std::array<net::TransportPtr, 2> ends;
  std::array<Side, 2> sides;
  std::array<Lane, 2> lanes;
  std::function<void()> over;
};

Relay::Relay(net::TransportPtr a, net::TransportPtr b, std::function<void()> over)
    : impl_(std::make_unique<Impl>(std::move(a), std::move(b), std::move(over))) {}
Relay::~Relay() = default;

struct OwnEnd::Impl {
  struct Held : event::Deferred {  // anything that must live until its round is over
    std::unique_ptr<Relay> relay;
  };
  struct Inbound {
    std::unique_ptr<tls::TlsHandshake> handshake;
    std::unique_ptr<hbone::ServerSession> session;
  };
  struct Upstream {
    std::unique_ptr<net::Connector> connector;
    std::unique_ptr<hbone::PendingConnect> pending;
    net::TransportPtr downstream;
  };

  Impl(OwnEnd& o, event::EventLoop& l, tls::TlsContextPtr c)
      : owner(o),
        loop(l),
        context(std::move(c)),
        pool(l, {}, hbone::MakeTlsDial(l, [this](const hbone::PoolKey&) -> Result<hbone::DialPlan> {
               return hbone::DialPlan{context, {}};
             })) {}

  void Carry(net::TransportPtr a, net::TransportPtr b) {
    auto it = relays.emplace(relays.end());
    *it = std::make_unique<Relay>(std::move(a), std::move(b), [this, it] {
      auto held = std::make_unique<Held>();
      held->relay = std::move(*it);
      relays.erase(it);
      loop.DeferDelete(std::move(held));
    });
  }

  void Taken(Fd fd) {
    auto it = inbound.emplace(inbound.end());
    tls::HandshakeOptions options;
    options.role = tls::Role::kServer;
    it->handshake = std::make_unique<tls::TlsHandshake>(
        net::MakeSocketTransport(loop, std::move(fd)), context, options,
        [this, it](Result<tls::TlsConnection> result) {
          if (!result) {
            owner.log.push_back("refused: " + result.error().message);
            return;
          }
          owner.log.push_back("tunnel from " + result->peer.identity + " " + result->peer.version +
                              " " + result->peer.group);
          it->session = std::make_unique<hbone::ServerSession>(
              std::move(result->transport), hbone::SessionOptions{},
              hbone::ServerSession::Events{
                  [this](hbone::InboundConnect request, hbone::Responder responder) {
                    Connect(std::move(request), std::move(responder));
                  },
                  [this](const hbone::CloseReason& reason) {
                    owner.log.push_back("tunnel ended: " + reason.message);
                  }});
        });
  }

  void Connect(hbone::InboundConnect request, hbone::Responder responder) {
    owner.log.push_back("connect " + request.authority + " baggage " +
                        std::string(request.baggage()));
    int status = owner.policy ? owner.policy(request) : 200;
    auto to = net::SocketAddress::Parse(request.authority);
    if (status != 200 || !to) return responder.Reject(status != 200 ? status : 400);
    auto it = upstreams.emplace(upstreams.end());
    auto shared = std::make_shared<hbone::Responder>(std::move(responder));
    net::ConnectOptions options;
    options.to = *to;
    it->connector =
        std::make_unique<net::Connector>(loop, options, [this, it, shared](Result<Fd> fd) {
          if (!fd) {
            shared->Reject(503);
          } else if (auto stream = shared->Accept({{"baggage", "service.name=ours"}})) {
            Carry(std::move(stream), net::MakeSocketTransport(loop, std::move(*fd)));
          }
          Forget(it);
        });
  }

  void Send(Fd fd, const hbone::PoolKey& key, const std::string& authority) {
    auto it = upstreams.emplace(upstreams.end());
    it->downstream = net::MakeSocketTransport(loop, std::move(fd));
    it->pending =
        pool.Connect(key,
                     {authority,
                      {{"baggage", "k8s.namespace.name=shop"},
                       {"forwarded", "for=\"10.0.0.1:1234\""},
                       {"traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"}}},
                     [this, it](hbone::ClientSession::ConnectResult result) {
                       if (!result) {
                         owner.log.push_back("failed: " + result.error().error.message);
                         it->downstream->Abort();
                       } else if (result->status != 200) {
                         owner.log.push_back("http status: " + std::to_string(result->status));
                         it->downstream->Abort();
                       } else {
                         Carry(std::move(it->downstream), std::move(result->stream));
                       }
                       Forget(it);
                     });
  }

  // We may be inside one of its parts.
  void Forget(std::list<Upstream>::iterator it) {
    struct Old : event::Deferred {
      Upstream upstream;
    };
    auto old = std::make_unique<Old>();
    old->upstream = std::move(*it);
    upstreams.erase(it);
    loop.DeferDelete(std::move(old));
  }

  OwnEnd& owner;
  event::EventLoop& loop;
  tls::TlsContextPtr context;
  hbone::Pool pool;
  std::list<std::unique_ptr<net::Acceptor>> acceptors;
  std::list<Inbound> inbound;
  std::list<Upstream> upstreams;
  std::list<std::unique_ptr<Relay>> relays;
};

namespace {
Fd MustListen(net::SocketAddress address) {
  net::ListenOptions options;
  options.address = address;
  return net::Listen(options).value();
}
}  // namespace

OwnEnd::OwnEnd(event::EventLoop& loop, tls::TlsContextPtr context)
    : impl_(std::make_unique<Impl>(*this, loop, std::move(context))) {}
OwnEnd::~OwnEnd() = default;

void OwnEnd::Serve(net::SocketAddress address) {
  impl_->acceptors.push_back(std::make_unique<net::Acceptor>(
      impl_->loop, MustListen(address),
      [this](Fd fd, net::SocketAddress) { impl_->Taken(std::move(fd)); }));
}

void OwnEnd::Tunnel(net::SocketAddress address, net::SocketAddress peer, std::string identity,
                    std::string authority) {
  hbone::PoolKey key{impl_->context->identity(), {std::move(identity)}, peer, {}, 0};
  impl_->acceptors.push_back(std::make_unique<net::Acceptor>(
      impl_->loop, MustListen(address),
      [this, key, authority = std::move(authority)](Fd fd, net::SocketAddress) {
        impl_->Send(std::move(fd), key, authority);
      }));
}

void OwnEnd::DrainServers() {
  for (auto& one : impl_->inbound) {
    if (one.session) one.session->Drain();
  }
}

size_t OwnEnd::tunnels_taken() const { return impl_->inbound.size(); }

}  // namespace qanat::interop
