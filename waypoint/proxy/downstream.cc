// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/downstream.h"

#include <utility>

#include "common/base/log.h"
#include "waypoint/proxy/exchange.h"

namespace qanat::waypoint {

Downstream::Downstream(WorkerContext& context, Owner& owner, net::TransportPtr transport,
                       PeerPtr peer, Authority authority, ChainPtr chain, Codec codec,
                       std::string initial)
    : context_(context),
      owner_(owner),
      peer_(std::move(peer)),
      authority_(std::move(authority)),
      chain_(std::move(chain)),
      chain_snapshot_(context.snapshot) {
  http::Options options;
  options.max_header_bytes = size_t{chain_->http->max_header_kb} * 1024;
  options.header_timeout = chain_->http->request_headers_timeout;
  options.idle_timeout = chain_->http->idle_timeout;
  switch (codec) {
    case Codec::kAuto:
      connection_ = http::MakeAutoServer(std::move(transport), this, options);
      break;
    case Codec::kHttp1:
      connection_ = http::MakeHttp1Server(std::move(transport), this, options, std::move(initial));
      break;
    case Codec::kHttp2:
      connection_ = http::MakeHttp2Server(std::move(transport), this, options, std::move(initial));
      break;
  }
}

Downstream::~Downstream() {
  // Streams die with the connection and say nothing; the requests must still be accounted for.
  auto left = std::exchange(exchanges_, {});
  for (auto& [exchange, owned] : left) exchange->ConnectionGone();
}

void Downstream::Drain() {
  if (connection_) connection_->Drain();
}

ChainPtr Downstream::CurrentChain() {
  if (context_.snapshot != chain_snapshot_) {
    chain_snapshot_ = context_.snapshot;
    chain_ = chain_snapshot_->FindChain(authority_.text);
  }
  return chain_;
}

void Downstream::OnRequest(http::ServerStream& stream, http::RequestHead head, bool end) {
  auto exchange = std::make_unique<Exchange>(*this, stream, std::move(head), end);
  Exchange* raw = exchange.get();
  exchanges_.emplace(raw, std::move(exchange));
  raw->Start();
}

void Downstream::Remove(Exchange* exchange) {
  auto it = exchanges_.find(exchange);
  if (it == exchanges_.end()) return;
  context_.loop.DeferDelete(std::move(it->second));
  exchanges_.erase(it);
}

void Downstream::OnConnectionClosed(http::ServerConnection&, bool clean, std::string_view detail) {
  if (!clean) {
    context_.telemetry.BadInput("http");
    LOG_DEBUG("http", "connection of {} for {} ended: {}", peer_->address.ToString(),
              authority_.text, detail);
  }
  auto left = std::exchange(exchanges_, {});
  for (auto& [exchange, owned] : left) {
    exchange->ConnectionGone();
    context_.loop.DeferDelete(std::move(owned));
  }
  context_.loop.DeferDelete(std::move(connection_));
  owner_.Release(this);
}

}  // namespace qanat::waypoint
