// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/takeover/tunnel_mover.h"

#include <algorithm>

#include "common/base/log.h"
#include "ztunnel/proxy/inbound_connection.h"
#include "ztunnel/proxy/outbound_connection.h"
#include "ztunnel/proxy/tunnel_session.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/takeover/sockets.h"

namespace qanat::ztunnel {
namespace {

// Whether its peer's certificate has one of these names.
bool IsOneOf(const tls::TlsHandover& tls, const std::vector<std::string>& identities) {
  const std::vector<std::string>& proven = tls.peer->sans.uri;
  return std::any_of(identities.begin(), identities.end(), [&](const std::string& one) {
    return std::find(proven.begin(), proven.end(), one) != proven.end();
  });
}

}  // namespace

TunnelMover::TunnelMover(Worker& worker) : worker_(worker) {}

TunnelMover::~TunnelMover() = default;

// ---- the old process

void TunnelMover::Offer(uint64_t& next, std::vector<uint64_t>& out) {
  worker_.ForEachConnection([&](Connection& connection) {
    TunnelSession* tunnel = connection.tunnel();
    if (tunnel == nullptr || tunnel->session() == nullptr) return;
    const auto [it, added] = numbers_.try_emplace(&connection, next);
    if (added) items_[next++].inbound = tunnel;
    out.push_back(it->second);
  });
  const std::vector<uint64_t> pooled = worker_.pool().Tunnels();
  std::erase_if(pooled_, [&](const auto& known) {
    const bool over = std::find(pooled.begin(), pooled.end(), known.first) == pooled.end();
    if (over) items_.erase(known.second);
    return over;
  });
  for (const uint64_t one : pooled) {
    const auto [it, added] = pooled_.try_emplace(one, next);
    if (added) items_[next++].pooled = one;
    out.push_back(it->second);
  }
}

bool TunnelMover::AddUsers(const std::vector<const net::Transport*>& handles,
                           std::vector<UserConnection*>& out) const {
  return std::all_of(handles.begin(), handles.end(), [&](const net::Transport* handle) {
    const auto it = users_.find(handle);
    if (it == users_.end() || !it->second->CanFreezeStream()) return false;
    out.push_back(it->second);
    return true;
  });
}

template <typename Session>
std::optional<TunnelMover::Users> TunnelMover::UsersOf(const Session& session,
                                                       const Carriers& carriers) const {
  auto handles = session.Freezable();
  if (!handles) return std::nullopt;
  Users out;
  std::vector<const net::Transport*> own, inside;
  for (size_t i = 0; i < handles->size(); ++i) {
    const auto carrier = carriers.find((*handles)[i]);
    if (carrier == carriers.end()) {
      own.push_back((*handles)[i]);
      continue;
    }
    const auto more = worker_.inner_pool().Find(carrier->second)->Freezable();
    if (!more) return std::nullopt;
    inside.insert(inside.end(), more->begin(), more->end());
    out.inner.emplace_back(i, carrier->second);
  }
  if (!AddUsers(own, out.all) || !AddUsers(inside, out.all)) return std::nullopt;
  return out;
}

std::optional<takeover::Parcel> TunnelMover::Freeze(uint64_t number) {
  Item& item = items_.at(number);
  const hbone::ServerSession* in = item.inbound != nullptr ? item.inbound->session() : nullptr;
  const hbone::ClientSession* out =
      item.inbound == nullptr ? worker_.pool().Find(item.pooled) : nullptr;
  auto users = in != nullptr    ? UsersOf(*in, {})
               : out != nullptr ? UsersOf(*out, FindCarriers())
                                : std::nullopt;
  if (!users) return std::nullopt;
  Frozen frozen;
  frozen.users = std::move(users->all);
  SavedTunnel& saved = frozen.saved;
  net::TransportPtr transport;
  if (in != nullptr) {
    saved = item.inbound->Freeze(transport);
  } else {
    hbone::Pool::Standing standing = worker_.pool().Take(item.pooled);
    pooled_.erase(item.pooled);
    saved.netns_cookie = standing.key.source_netns;
    if (const PodPtr pod = worker_.PodByCookie(saved.netns_cookie)) saved.pod_uid = pod->uid;
    saved.outbound = SavedTunnel::Outbound{std::move(standing.key), standing.leaving};
    saved.session = std::move(standing.session);
    transport = std::move(standing.transport);
  }
  for (const auto& [at, inside] : users->inner) {
    saved.inner.push_back(FreezeInner(inside, saved.session.streams[at].state.id));
  }
  // Their handles of the streams go; nobody is left who would reset something for it.
  for (UserConnection* user : frozen.users) saved.streams.push_back(user->FreezeStream());
  auto state = tls::Export(*transport);
  const bool shared = saved.outbound && saved.outbound->key.shared;
  if (!state || (saved.pod_uid.empty() && !shared)) {
    if (state) {
      saved.tls = std::move(*state);
      transport = nullptr;
    }
    Resume(item, std::move(frozen), std::move(transport));
    if (item.pooled != 0) pooled_[item.pooled] = number;
    return std::nullopt;
  }
  saved.tls = std::move(*state);
  ResetWhenClosed(saved.tls.socket.get(), true);
  auto parcel = EncodeTunnel(saved);
  item.frozen = std::move(frozen);
  if (!parcel) {
    Thaw(number);
    return std::nullopt;
  }
  return std::move(*parcel);
}

// A root may have left the mesh meanwhile.
bool TunnelMover::Believed(const tls::VerifiedPeerPtr& peer, const model::Identity& own) const {
  const auto certificate = worker_.FindCertificate(own);
  if (certificate == nullptr || peer == nullptr) return true;
  const std::string root = peer->path.back().ToPem();
  return std::any_of(certificate->roots.begin(), certificate->roots.end(),
                     [&](const identity::CertificateInfo& one) { return one.pem == root; });
}

void TunnelMover::Resume(Item& item, Frozen frozen, net::TransportPtr transport) {
  SavedTunnel& saved = frozen.saved;
  if (transport == nullptr) {
    ResetWhenClosed(saved.tls.socket.get(), false);
    auto imported =
        tls::Import(worker_.loop(), std::move(saved.tls), &worker_.handshakes().verifier);
    if (!imported) {  // it was in use a moment ago: cannot be
      LOG_ERROR("takeover", "a tunnel is lost: {}", imported.error().message);
      for (UserConnection* user : frozen.users) {
        if (user != nullptr) user->LoseStream();
      }
      if (item.inbound != nullptr) item.inbound->Forget();
      return;
    }
    transport = std::move(*imported);
  }
  const tls::VerifiedPeerPtr proven = transport->verified_peer();
  std::vector<uint32_t> ids;
  for (const hbone::SavedStream& stream : saved.session.streams) ids.push_back(stream.state.id);
  std::vector<net::TransportPtr> streams;
  if (item.inbound != nullptr) {
    item.inbound->Resume(std::move(transport), std::move(saved.session), proven, streams);
  } else {
    const bool shared = saved.outbound->key.shared;
    const uint64_t cookie = saved.outbound->key.source_netns;
    const auto own = model::Identity::Parse(saved.outbound->key.source_identity);
    if (own && !Believed(proven, *own)) saved.outbound->leaving = true;
    if (shared && (!own || worker_.PodsOf(*own) == 0)) saved.outbound->leaving = true;
    item.pooled = worker_.pool().Adopt({std::move(saved.outbound->key), saved.outbound->leaving,
                                        std::move(saved.session), std::move(transport)},
                                       streams);
    if (!shared && worker_.PodByCookie(cookie) == nullptr) {  // went away meanwhile
      worker_.pool().Close([&](const hbone::PoolKey& key) { return key.source_netns == cookie; },
                           "the pod was removed");
    }
  }
  std::vector<Way> ways;
  std::vector<net::TransportPtr> carriers(saved.inner.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t inner = saved.InnerOf(ids[i]);
    if (inner < carriers.size()) {
      carriers[inner] = std::move(streams[i]);
    } else {
      ways.push_back({std::move(streams[i]), proven});
    }
  }
  std::vector<tls::VerifiedPeerPtr> ends = {proven};
  for (size_t i = 0; i < carriers.size(); ++i) {
    ends.push_back(ResumeInner(std::move(saved.inner[i]), std::move(carriers[i]), ways));
  }
  for (size_t i = 0; i < frozen.users.size(); ++i) {
    if (frozen.users[i] == nullptr) continue;  // its pod went away: the handle's end resets it
    if (ways[i].stream == nullptr) {
      frozen.users[i]->LoseStream();
      continue;
    }
    frozen.users[i]->RunStream(std::move(saved.streams[i]), std::move(ways[i].stream),
                               ways[i].proven);
  }
  // It stood aside while lists may have changed, or it comes from where they were older.
  tls::PeerVerifier& verifier = worker_.handshakes().verifier;
  const bool revoked = std::any_of(ends.begin(), ends.end(), [&](const tls::VerifiedPeerPtr& end) {
    return end != nullptr && verifier.Revoked(*end);
  });
  if (revoked) verifier.EndRevoked();
}

void TunnelMover::Thaw(uint64_t number) {
  const auto it = items_.find(number);
  if (it == items_.end() || !it->second.frozen) return;
  Frozen frozen = std::move(*it->second.frozen);
  it->second.frozen.reset();
  Resume(it->second, std::move(frozen), nullptr);
  const auto again = items_.find(number);
  if (again == items_.end()) return;
  if (again->second.pooled != 0) pooled_[again->second.pooled] = number;
  if (again->second.inbound != nullptr) again->second.inbound->CheckAgain();  // may release it
}

void TunnelMover::Drain(const std::function<bool(const hbone::PoolKey&)>& which) {
  const auto drain = [&](SavedTunnel& tunnel) {
    if (tunnel.outbound && which(tunnel.outbound->key)) tunnel.outbound->leaving = true;
    for (SavedTunnel::Inner& inner : tunnel.inner) {
      if (which(inner.key)) inner.leaving = true;
    }
  };
  for (auto& [number, item] : items_) {
    if (item.frozen) drain(item.frozen->saved);
  }
  for (auto& [item, saved] : held_) drain(saved);
}

bool TunnelMover::Forget(uint64_t number) {
  const auto it = items_.find(number);
  if (it == items_.end() || !it->second.frozen) return false;
  const Item item = std::move(it->second);
  items_.erase(it);
  for (UserConnection* user : item.frozen->users) user->Forget();
  if (item.inbound != nullptr) item.inbound->Forget();
  return true;
}

void TunnelMover::OnReleased(Connection* connection) {
  const auto it = numbers_.find(connection);
  if (it == numbers_.end()) return;
  items_.erase(it->second);
  numbers_.erase(it);
}

// ---- the new process

Result<PodPtr> TunnelMover::Owner(const std::string& pod_uid, uint64_t netns_cookie,
                                  const std::string& identity) const {
  PodPtr pod = worker_.PodByUid(pod_uid);
  if (pod == nullptr || pod->netns_cookie != netns_cookie) {
    return Fail(Code::kNotFound, "its pod is not served here");
  }
  const route::Identified own = worker_.Identify(*pod);
  if (own.reason == model::Reason::kSourceUnknown) return Fail(Code::kUnavailable, own.detail);
  if (own.reason != model::Reason::kNone || own.workload->identity().ToString() != identity) {
    return Fail(Code::kNotFound, "its pod has another identity here");
  }
  return pod;
}

Status TunnelMover::Check(const SavedTunnel& saved) const {
  QANAT_RETURN_IF_ERROR(CheckSocket(saved.tls.socket.get()));
  for (const SavedTunnel::Stream& stream : saved.streams) {
    QANAT_RETURN_IF_ERROR(CheckSocket(stream.socket.get()));
  }
  // Who both ends are, by what is known here.
  const std::string& claimed =
      saved.inbound ? saved.inbound->own_identity : saved.outbound->key.source_identity;
  if (saved.outbound && saved.outbound->key.shared) {
    const auto identity = model::Identity::Parse(claimed);
    if (!worker_.environment().config.shares_own() || !identity || worker_.PodsOf(*identity) == 0) {
      return Fail(Code::kNotFound, "nobody here shares it");
    }
    QANAT_RETURN_IF_ERROR(CheckNamespace(saved.tls.socket.get()));
    // A pod that went away takes its own streams with it, and not its siblings'.
    size_t known = 0;
    for (const SavedTunnel::Stream& stream : saved.streams) {
      const auto owner = Owner(stream.connection.pod_uid, stream.connection.netns_cookie, claimed);
      if (owner) {
        ++known;
      } else if (owner.error().code != Code::kNotFound) {
        return Fail(owner.error());
      }
    }
    if (known == 0 && !saved.streams.empty()) {
      return Fail(Code::kNotFound, "none of its pods is served here");
    }
  } else {
    const auto owner = Owner(saved.pod_uid, saved.netns_cookie, claimed);
    if (!owner) return Fail(owner.error());
  }
  bool known = false;
  if (saved.inbound) {
    const std::string& said = saved.inbound->peer_identity;
    known = saved.tls.peer->sans.uri.size() == 1 && IsOneOf(saved.tls, {said}) &&
            model::Identity::Parse(said).has_value();
  } else {
    known = IsOneOf(saved.tls, saved.outbound->key.destination_identities) &&
            std::all_of(saved.inner.begin(), saved.inner.end(), [](const auto& inner) {
              return IsOneOf(inner.tls, inner.key.destination_identities);
            });
  }
  if (known) return {};
  return Fail(Code::kPermissionDenied,
              "the certificate of its peer is not of who it is said to be");
}

Status TunnelMover::Import(takeover::ItemId item, takeover::Parcel parcel) {
  QANAT_ASSIGN_OR_RETURN(SavedTunnel saved, DecodeTunnel(std::move(parcel)));
  QANAT_RETURN_IF_ERROR(Check(saved));
  held_[item] = std::move(saved);
  return {};
}

void TunnelMover::Run(takeover::ItemId item) {
  const auto it = held_.find(item);
  if (it == held_.end()) return;
  Frozen frozen;
  frozen.saved = std::move(it->second);
  held_.erase(it);
  SavedTunnel& saved = frozen.saved;
  const bool shared = saved.outbound && saved.outbound->key.shared;
  const PodPtr owner = shared ? nullptr : worker_.PodByUid(saved.pod_uid);
  if (owner == nullptr && !shared) return;  // removed meanwhile: its connections are reset
  Item running;
  if (saved.inbound) {
    auto tunnel = std::make_unique<TunnelSession>(worker_, owner, *saved.inbound);
    running.inbound = tunnel.get();
    worker_.Adopt(std::move(tunnel));
  }
  for (const SavedTunnel::Stream& stream : saved.streams) {
    const SavedFlow& flow = stream.connection.flow;
    PodPtr pod = owner;
    if (shared) {
      const auto found = Owner(stream.connection.pod_uid, stream.connection.netns_cookie,
                               saved.outbound->key.source_identity);
      pod = found.value_or(nullptr);
    }
    if (pod == nullptr) {
      LOG_WARN("takeover", "a connection of pod {} is reset: it is not served here as who it was",
               stream.connection.pod_uid);
      frozen.users.push_back(nullptr);
      continue;
    }
    std::unique_ptr<UserConnection> user;
    if (saved.inbound) {
      user = std::make_unique<InboundConnection>(
          worker_, pod, flow.source, flow.destination,
          Proven{worker_.Shared(*model::Identity::Parse(saved.inbound->peer_identity)),
                 saved.tls.peer},
          hbone::InboundConnect{}, hbone::Responder());
    } else {
      const SavedConnection::Outbound& from = *stream.connection.outbound;
      user = std::make_unique<OutboundConnection>(
          worker_, pod, Fd(), flow.source, OriginalDestination{from.original, from.by_nat, 0});
    }
    user->Restore(stream.connection);
    frozen.users.push_back(user.get());
    worker_.Adopt(std::move(user));
  }
  std::vector<UserConnection*> users = frozen.users;
  std::erase(users, nullptr);
  Resume(running, std::move(frozen), nullptr);
  // The mesh may be another one than there, and lists of who is not to be believed too.
  for (UserConnection* user : users) {
    user->OnSnapshot();
    user->OnRevocations();
  }
  if (running.inbound != nullptr) running.inbound->CheckAgain();
}

void TunnelMover::Clear() {
  held_.clear();
  items_.clear();
  numbers_.clear();
  pooled_.clear();
}

}  // namespace qanat::ztunnel
