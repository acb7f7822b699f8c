// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/server.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "common/base/log.h"
#include "common/net/datagram.h"
#include "ztunnel/dns/tcp_client.h"

namespace qanat::ztunnel::dns {

namespace wire = ::qanat::dns;

namespace {

constexpr int kLoopbackDevice = 1;
constexpr int kPacketsPerRound = 64;                 // other pods of the worker come next
constexpr size_t kMaxQuestion = 4096;                // a question by UDP
constexpr size_t kMaxClients = 256;                  // TCP connections of a pod
constexpr size_t kMaxHeld = 256;                     // questions that wait for the pod's identity
constexpr auto kHoldTime = std::chrono::seconds(2);  // less than a client waits before it repeats

}  // namespace

Server::Server(event::EventLoop& loop, PodPtr pod, Sockets sockets, Hooks hooks)
    : loop_(loop),
      pod_(std::move(pod)),
      sockets_(std::move(sockets)),
      hooks_(std::move(hooks)),
      settings_(PodFilePath(hooks_.config.inpod_uds, pod_->uid), hooks_.config.resolv_conf,
                pod_->ns, hooks_.config.cluster_domain),
      inside_only_(hooks_.config.dns_address.starts_with("localhost:")),
      random_(std::random_device{}()),
      held_timer_(loop, [this] { RetryHeld(); }),
      forwarder_(loop, pod_, hooks_.config.packet_mark, settings_,
                 [this](const Forwarder::Outcome& outcome) {
                   Series& series = SeriesFor(outcome.type, outcome.tcp);
                   series.upstream->Add();
                   if (outcome.failed) series.failures->Add();
                   series.duration->Observe(outcome.seconds);
                 }) {
  for (const Fd& udp : sockets_.udp) {
    udp_watches_.push_back(std::make_unique<event::IoWatch>(
        loop, udp.get(), EPOLLIN, [this, fd = udp.get()](uint32_t) { OnUdp(fd); }));
  }
  for (Fd& tcp : sockets_.tcp) {
    acceptors_.push_back(std::make_unique<net::Acceptor>(
        loop, std::move(tcp), [this](Fd fd, net::SocketAddress) { OnTcp(std::move(fd)); },
        hooks_.exhausted));
    acceptors_.back()->KeepFrom(hooks_.kept_from);
  }
}

Server::~Server() = default;

void Server::Drain() { acceptors_.clear(); }

void Server::SetPaused(bool paused) {
  for (auto& watch : udp_watches_) watch->SetEvents(paused ? 0 : EPOLLIN);
  for (auto& acceptor : acceptors_) acceptor->SetPaused(paused);
}

std::vector<int> Server::udp_sockets() const {
  std::vector<int> out;
  for (const Fd& udp : sockets_.udp) out.push_back(udp.get());
  return out;
}

std::vector<int> Server::tcp_sockets() const {
  std::vector<int> out;
  for (const auto& acceptor : acceptors_) out.push_back(acceptor->fd());
  return out;
}

// ---- transports

void Server::OnUdp(int socket) {
  std::array<uint8_t, kMaxQuestion> buffer;
  for (int i = 0; i < kPacketsPerRound; ++i) {
    net::Packet packet;
    if (!net::ReceivePacket(socket, buffer, packet)) {
      if (errno == EINTR) continue;
      return;
    }
    if (packet.cut || !packet.peer.is_set()) continue;
    if (packet.local.is_v6() && packet.device != kLoopbackDevice && inside_only_) continue;
    Handle(wire::Bytes(buffer).first(packet.size), false,
           [socket, peer = packet.peer, local = packet.local](wire::Bytes answer) {
             if (answer.empty()) return;
             // From where the question went, so that the client and the redirection know it again.
             if (!net::SendPacket(socket, answer, peer, local)) {
               LOG_DEBUG("dns", "answer to {}: {}", peer.ToString(),
                         FailErrno("send").value().message);
             }
           });
  }
}

void Server::OnTcp(Fd fd) {
  if (clients_.size() >= kMaxClients) return CountAnswer("limit");
  net::SetStreamOptions(fd.get());
  const uint64_t id = next_client_++;
  clients_.emplace(id, std::make_unique<TcpClient>(*this, id, std::move(fd)));
}

void Server::Remove(uint64_t client) {
  const auto it = clients_.find(client);
  if (it == clients_.end()) return;
  it->second->Stop();  // it may outlive this object until the end of the round
  loop_.DeferDelete(std::move(it->second));
  clients_.erase(it);
}

// ---- questions

void Server::Handle(wire::Bytes message, bool tcp, Reply reply) {
  const auto header = wire::ReadHeader(message);
  if (!header || header->response()) return reply({});
  // By TCP one could be larger; a question never is, and it is kept several times over.
  if (message.size() > kMaxQuestion) return reply(wire::BareAnswer(*header, wire::Rcode::kFormErr));
  if (header->opcode() != 0) return reply(wire::BareAnswer(*header, wire::Rcode::kNotImp));
  const auto query = wire::ReadQuery(message);
  if (!query) return reply(wire::BareAnswer(*header, wire::Rcode::kFormErr));
  if (query->edns && query->edns->version != 0) return reply(wire::BadVersion(message, *query));
  const uint16_t type = query->question.type;
  // A transfer is many messages; nobody needs one through a proxy.
  if (type == wire::type::kAxfr || type == wire::type::kIxfr) {
    return ReplyError(message, *query, wire::Rcode::kRefused, reply);
  }
  const Identified client = hooks_.identify(*pod_);
  if (client.workload == nullptr) return Hold(message, tcp, std::move(reply));
  if (canonical_name_ != client.workload->canonical_name ||
      canonical_revision_ != client.workload->canonical_revision) {
    canonical_name_ = client.workload->canonical_name;
    canonical_revision_ = client.workload->canonical_revision;
    series_.clear();
  }
  AnswerKnown(message, *query, tcp, *client.workload, reply);
}

void Server::AnswerKnown(wire::Bytes message, const wire::Query& query, bool tcp,
                         const model::Workload& client, const Reply& reply) {
  const uint16_t type = query.question.type;
  SeriesFor(type, tcp).requests->Add();
  Match match;
  const auto host = wire::HostOf(query.question.name);
  if (host && query.question.klass == wire::kClassIn) {
    const Scope scope{hooks_.config.cluster_domain, settings_.Get(loop_.now()).search,
                      hooks_.config.ipv6, hooks_.config.preferred_service_namespace};
    match = LookUp(hooks_.snapshot(), client, scope, *host, type);
  }
  if (match.kind == Match::Kind::kAnswer) {
    return AnswerFromMesh(message, query, tcp, std::move(match), reply);
  }
  Forward(message, query, tcp, match.known, reply);
}

void Server::AnswerFromMesh(wire::Bytes message, const wire::Query& query, bool tcp, Match match,
                            const Reply& reply) {
  CountAnswer("mesh");
  wire::AnswerBuilder builder(message, query, wire::Rcode::kNoError, true,
                              tcp ? wire::kMaxMessage : query.UdpLimit());
  if (!match.alias.empty()) {
    if (const auto alias = wire::WireOf(match.alias)) builder.AddCname(*alias, kMeshTtl);
  }
  std::shuffle(match.addresses.begin(), match.addresses.end(), random_);
  for (const auto& ip : match.addresses) builder.AddAddress(ip, kMeshTtl);
  reply(std::move(builder).Finish());
}

void Server::Forward(wire::Bytes message, const wire::Query& query, bool tcp, bool known,
                     const Reply& reply) {
  // The message lies in a buffer that is used again; what an odd answer needs is kept.
  auto kept = std::make_shared<std::pair<std::vector<uint8_t>, wire::Query>>(
      std::vector<uint8_t>(message.begin(), message.end()), query);
  forwarder_.Ask(message, query.question.type, tcp,
                 [this, kept, tcp, known, reply](wire::Bytes answer, Forwarder::Origin origin) {
                   switch (origin) {
                     case Forwarder::Origin::kCache: CountAnswer("cache"); break;
                     case Forwarder::Origin::kUpstream: CountAnswer("upstream"); break;
                     case Forwarder::Origin::kStale: CountAnswer("stale"); break;
                     case Forwarder::Origin::kFailed:
                       CountAnswer("failed");
                       return ReplyError(kept->first, kept->second, wire::Rcode::kServFail, reply);
                     case Forwarder::Origin::kLimit:
                       CountAnswer("limit");
                       return ReplyError(kept->first, kept->second, wire::Rcode::kServFail, reply);
                   }
                   const auto header = wire::ReadHeader(answer);
                   if (known && header->rcode() == static_cast<unsigned>(wire::Rcode::kNxDomain)) {
                     // The host exists, in the mesh; it has just no record of this type.
                     return ReplyError(kept->first, kept->second, wire::Rcode::kNoError, reply);
                   }
                   if (!tcp && answer.size() > kept->second.UdpLimit()) {
                     return reply(wire::Truncated(kept->first, kept->second, answer));
                   }
                   reply(answer);
                 });
}

void Server::ReplyError(wire::Bytes message, const wire::Query& query, wire::Rcode rcode,
                        const Reply& reply) {
  reply(wire::AnswerBuilder(message, query, rcode, false, wire::kPlainUdpLimit).Finish());
}

// ---- before the control plane has announced the pod

void Server::Hold(wire::Bytes message, bool tcp, Reply reply) {
  if (held_.size() >= kMaxHeld) {
    CountAnswer("limit");
    return ReplyError(message, *wire::ReadQuery(message), wire::Rcode::kServFail, reply);
  }
  held_.push_back({std::vector<uint8_t>(message.begin(), message.end()), tcp, std::move(reply),
                   event::Clock::now() + kHoldTime});
  if (!held_timer_.armed()) held_timer_.Start(kHoldTime);
}

void Server::Update(PodPtr pod) {
  pod_ = std::move(pod);
  OnSnapshot();
}

void Server::OnSnapshot() {
  if (!held_.empty()) RetryHeld();
}

void Server::RetryHeld() {
  const bool known = hooks_.identify(*pod_).workload != nullptr;
  const auto now = event::Clock::now();
  std::vector<Held> held = std::exchange(held_, {});
  for (Held& question : held) {
    if (known) {
      Handle(question.message, question.tcp, std::move(question.reply));
    } else if (now >= question.until) {
      CountAnswer("unknown_client");
      ReplyError(question.message, *wire::ReadQuery(question.message), wire::Rcode::kServFail,
                 question.reply);
    } else {
      held_.push_back(std::move(question));
    }
  }
  held_timer_.Stop();
  if (!held_.empty()) held_timer_.Start(held_.front().until - now);
}

// ---- metrics

Server::Series& Server::SeriesFor(uint16_t type, bool tcp) {
  const std::string_view name = wire::TypeName(type);
  auto [it, inserted] = series_.try_emplace({name, tcp});
  if (inserted) {
    const metrics::LabelValues labels{std::string(name), tcp ? "tcp" : "udp",
                                      DnsLabel(canonical_name_), DnsLabel(canonical_revision_)};
    it->second = {hooks_.metrics.dns_requests.With(labels),
                  hooks_.metrics.dns_upstream_requests.With(labels),
                  hooks_.metrics.dns_upstream_failures.With(labels),
                  hooks_.metrics.dns_upstream_duration.With(labels)};
  }
  return it->second;
}

void Server::CountAnswer(const char* origin) {
  auto& counter = answers_[origin];
  if (counter == nullptr) counter = hooks_.metrics.dns_answers.With({origin});
  counter->Add();
}

}  // namespace qanat::ztunnel::dns
