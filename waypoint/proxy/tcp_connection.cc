// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/tcp_connection.h"

namespace qanat::waypoint {

TcpConnection::TcpConnection(WorkerContext& context, Owner& owner, PeerPtr peer,
                             Authority authority, ChainPtr chain, hbone::Responder responder)
    : TcpConnection(context, owner, std::move(peer), std::move(authority), std::move(chain),
                    net::TransportPtr(), {}) {
  responder_ = std::move(responder);
}

TcpConnection::TcpConnection(WorkerContext& context, Owner& owner, PeerPtr peer,
                             Authority authority, ChainPtr chain, net::TransportPtr client,
                             std::string initial)
    : context_(context),
      owner_(owner),
      authority_(std::move(authority)),
      chain_(std::move(chain)),
      client_(std::move(client)),
      initial_(std::move(initial)) {
  record_.http = false;
  record_.start = std::chrono::system_clock::now();
  record_.started = event::Clock::now();
  record_.chain = chain_->name;
  record_.destination =
      authority_.address.is_set() ? authority_.address : net::SocketAddress({}, authority_.port);
  record_.authority = authority_.text;
  record_.peer = std::move(peer);
}

TcpConnection::~TcpConnection() { Finish(); }

bool TcpConnection::Allowed() {
  AuthzInput input;
  input.identity = record_.peer->identity;
  input.source_ip = record_.peer->address.ip();
  input.destination = record_.destination;
  AuthzDecision decision = Evaluate({&chain_->tcp->rbac}, input);
  if (decision.allowed) return true;
  record_.reason = decision.reason;
  record_.details = "rbac_access_denied_matched_policy[" +
                    (decision.policy.empty() ? "none" : decision.policy) + "]";
  return false;
}

void TcpConnection::Start() {
  // Stock ztunnel answers a refusal by policy with 401.
  if (!Allowed()) return Refuse(401, Flag{}, record_.reason, record_.details);
  uint64_t total = 0;
  for (const auto& [name, weight] : chain_->tcp->clusters) total += weight;
  uint64_t point = total == 0 ? 0 : context_.random() % total;
  std::string cluster;
  for (const auto& [name, weight] : chain_->tcp->clusters) {
    if (point < weight) {
      cluster = name;
      break;
    }
    point -= weight;
  }
  cluster_ = context_.clusters.Find(*context_.snapshot, cluster);
  if (!cluster_) return Refuse(503, Flag::kNoCluster, model::Reason::kNoRoute, "cluster_not_found");
  record_.cluster = cluster_->config_ptr();
  auto pick =
      cluster_->PickEndpoint([this] { return context_.random(); }, context_.loop.now(), {}, 1);
  if (!pick) {
    return Refuse(503, Flag::kNoHealthyUpstream, model::Reason::kNoHealthyUpstream,
                  "no_healthy_upstream");
  }
  pick_ = std::move(*pick);
  ++pick_.state->active;
  record_.endpoint = pick_.endpoint;
  record_.endpoint_owner = pick_.owner;
  record_.attempts = 1;
  if (responder_.pending())
    responder_.OnGone([this] {
      record_.Set(Flag::kDownstreamTermination);
      record_.details = "downstream_remote_disconnect";
      Finish();
    });
  dial_ = context_.dialer.Dial(*pick_.endpoint, cluster_->config().connect_timeout,
                               record_.peer->address,
                               [this](Result<net::TransportPtr> t) { Dialled(std::move(t)); });
}

void TcpConnection::Dialled(Result<net::TransportPtr> upstream) {
  context_.loop.DeferDelete(std::move(dial_));  // it called us from inside itself
  cluster_->Report(pick_, upstream ? 200 : 0, context_.loop.now());
  if (!upstream) {
    record_.upstream_failure = upstream.error().message;
    return Refuse(503, Flag::kUpstreamConnectionFailure,
                  upstream.error().code == Code::kPermissionDenied ? model::Reason::kDeniedByPeer
                                                                   : model::Reason::kConnectFailed,
                  "upstream_connect_failure");
  }
  if (!client_) client_ = responder_.Accept();
  if (!client_) {
    record_.Set(Flag::kDownstreamTermination);
    return Finish();
  }
  series_ = context_.telemetry.Tcp(record_);
  series_.opened->Add();
  relay_ =
      std::make_unique<Relay>(std::move(client_), std::move(*upstream), std::move(initial_),
                              chain_->tcp->idle_timeout, [this](bool aborted, std::string why) {
                                if (aborted && record_.details.empty()) record_.details = why;
                                Finish();
                              });
}

void TcpConnection::Recheck() {
  if (finished_) return;
  ChainPtr now = context_.snapshot->FindChain(authority_.text);
  // A service that is gone lets its connections run out; one that has become HTTP does too.
  if (!now || !now->tcp) return;
  chain_ = now;
  if (Allowed()) return;
  if (relay_) {
    relay_->Abort(record_.details);
  } else {
    Refuse(401, Flag{}, record_.reason, record_.details);
  }
}

void TcpConnection::Refuse(int status, Flag flag, model::Reason reason, std::string detail) {
  record_.flags |= static_cast<uint16_t>(flag);
  record_.reason = reason;
  record_.details = std::move(detail);
  if (responder_.pending()) responder_.Reject(status);
  if (client_) client_->Abort();
  Finish();
}

void TcpConnection::Finish() {
  if (finished_) return;
  finished_ = true;
  dial_.reset();
  if (pick_.state) --pick_.state->active;
  pick_.state.reset();
  if (relay_) {
    record_.bytes_received = relay_->bytes_a_to_b();
    record_.bytes_sent = relay_->bytes_b_to_a();
  }
  if (series_.opened) {
    series_.closed->Add();
    series_.received->Add(record_.bytes_received);
    series_.sent->Add(record_.bytes_sent);
  }
  context_.telemetry.TcpFinished(record_, event::Clock::now(), true);
  owner_.Release(this);
}

}  // namespace qanat::waypoint
