// SPDX-License-Identifier: Apache-2.0
// How the pool's tunnels are made, end, and go to another process.
#include <algorithm>

#include "common/base/log.h"
#include "common/hbone/pool_impl.h"

namespace qanat::hbone {
namespace {

constexpr auto kPauseAfterFailure = std::chrono::seconds(1);
constexpr auto kPauseOfStripes = std::chrono::seconds(30);

std::string Hint(const PoolKey& key) {
  return " (maybe a NetworkPolicy is blocking HBONE port " +
         std::to_string(key.destination.port()) + ")";
}

}  // namespace

std::string Wanted(const PoolKey& key) {
  std::string text = key.destination.ToString();
  if (!key.destination_identities.empty()) text += " (" + key.destination_identities[0] + ")";
  return text;
}

void Pool::Impl::StartDial(Entries::iterator it, bool stripe) {
  const PoolKey& key = it->first;
  Count(counters->dialed);
  if (stripe) Count(counters->stripes);
  Dialing dialing;
  const uint64_t id = dialing.id = ++last_dial;
  dialing.stripe = stripe;
  dialing.deadline = std::make_unique<event::Timer>(loop, [this, key, id] {
    Dialed(key, id,
           Fail(Code::kDeadlineExceeded, "no HBONE tunnel to " + Wanted(key) + " within " +
                                             std::to_string(options.connect_timeout.count()) +
                                             " ms" + Hint(key)));
  });
  dialing.deadline->Start(options.connect_timeout);
  dialing.dial = dial(key, [this, key, id](Result<net::TransportPtr> result) {
    Dialed(key, id, std::move(result));
  });
  it->second.dials.push_back(std::move(dialing));
}

void Pool::Impl::Dialed(const PoolKey& wanted, uint64_t id, Result<net::TransportPtr> result) {
  const auto found = entries.find(wanted);
  if (found == entries.end()) return;
  const PoolKey& key = found->first;  // `wanted` may go with the dial
  Entry& entry = found->second;
  const auto at = std::find_if(entry.dials.begin(), entry.dials.end(),
                               [id](const Dialing& one) { return one.id == id; });
  if (at == entry.dials.end()) return;
  // We may be inside of the dialer or its timer: both live until the end of the round.
  Dialing over = std::move(*at);
  entry.dials.erase(at);
  Discard(std::move(over.dial));
  if (result) {
    entry.no_dial_before = {};
    entry.tunnels.emplace_back();
    AddSession(found, entry.tunnels.back(), std::move(*result));
    return Serve(found);
  }
  Count(counters->failed);
  Error error = result.error();
  if (error.code == Code::kDeadlineExceeded &&
      error.message.find("NetworkPolicy") == std::string::npos) {
    error.message += Hint(key);
  }
  LOG_DEBUG("pool", "tunnel to {} failed: {}", Wanted(key), error.message);
  Due(found);
  if (over.stripe) entry.no_stripe_before = loop.now() + kPauseOfStripes;
  const bool others = std::any_of(entry.tunnels.begin(), entry.tunnels.end(),
                                  [](const Tunnel& t) { return !t.leaving; });
  if (others) entry.no_dial_before = loop.now() + kPauseAfterFailure;
  if (!others && entry.dials.empty()) FailWaiting(entry, error);
  Publish(entry);
}

void Pool::Impl::AddSession(Entries::iterator it, Tunnel& tunnel, net::TransportPtr transport) {
  tunnel.idle = IdleTimer(it, &tunnel);
  tunnel.idle->Start(options.idle_release);
  tunnel.session =
      std::make_unique<ClientSession>(std::move(transport), options.session, EventsOf(it, &tunnel));
}

std::unique_ptr<event::Timer> Pool::Impl::IdleTimer(Entries::iterator it, Tunnel* at) {
  at->id = ++last_tunnel;
  return std::make_unique<event::Timer>(loop, [this, it, at] {
    at->leaving = true;
    at->session->Drain();
    Due(it);
  });
}

ClientSession::Events Pool::Impl::EventsOf(Entries::iterator it, Tunnel* at) {
  return {[this, it, at] { Changed(it, *at); },
          [this, it, at](const CloseReason& reason) {
            at->leaving = at->over = true;
            if (reason.abuse != Abuse::kNone) {
              Count(counters->abused[static_cast<size_t>(reason.abuse)]);
            }
            if (reason.failed) Count(counters->broken);
            if (!reason.message.empty()) {
              LOG_DEBUG("pool", "tunnel to {} ended: {}", Wanted(it->first), reason.message);
            }
            Due(it);
          }};
}

void Pool::Impl::Changed(Entries::iterator it, Tunnel& tunnel) {
  ClientSession& session = *tunnel.session;
  if (it->second.shared && session.settings_seen() && !session.peer_takes_source()) {
    LOG_DEBUG("pool", "{} takes no sources: pods use tunnels of their own", Wanted(it->first));
    tunnel.leaving = true;
    session.Drain();
  }
  if (tunnel.session->streams() == 0 && !tunnel.leaving) {
    if (!tunnel.idle->armed()) tunnel.idle->Start(options.idle_release);
  } else {
    tunnel.idle->Stop();
  }
  const bool busy = options.stripes > 1 && tunnel.session->bulk() > 0;
  if (!it->second.waiting.empty() || tunnel.leaving || busy) Due(it);
}

// ---- hand-over

std::vector<uint64_t> Pool::Tunnels() const {
  std::vector<uint64_t> out;
  for (const auto& [key, entry] : impl_->entries) {
    for (const Tunnel& tunnel : entry.tunnels) {
      if (!tunnel.over && !tunnel.session->closed()) out.push_back(tunnel.id);
    }
  }
  return out;
}

const ClientSession* Pool::Find(uint64_t tunnel) const {
  for (const auto& [key, entry] : impl_->entries) {
    for (const Tunnel& one : entry.tunnels) {
      if (one.id == tunnel) return one.over ? nullptr : one.session.get();
    }
  }
  return nullptr;
}

Pool::Standing Pool::Take(uint64_t tunnel) {
  Standing out;
  for (auto it = impl_->entries.begin(); it != impl_->entries.end(); ++it) {
    auto& tunnels = it->second.tunnels;
    const auto at = std::find_if(tunnels.begin(), tunnels.end(),
                                 [&](const Tunnel& one) { return one.id == tunnel; });
    if (at == tunnels.end()) continue;
    out.key = it->first;
    out.leaving = at->leaving;
    out.session = at->session->Export(out.transport);
    tunnels.erase(at);
    impl_->Publish(it->second);
    impl_->Due(it);
    break;
  }
  return out;
}

uint64_t Pool::Adopt(Standing standing, std::vector<net::TransportPtr>& streams) {
  const auto it = impl_->entries.try_emplace(std::move(standing.key)).first;
  it->second.shared = it->first.shared;
  Tunnel& tunnel = it->second.tunnels.emplace_back();
  tunnel.idle = impl_->IdleTimer(it, &tunnel);
  tunnel.leaving = standing.leaving;
  tunnel.session = std::make_unique<ClientSession>(
      std::move(standing.transport), impl_->options.session, impl_->EventsOf(it, &tunnel),
      std::move(standing.session), streams);
  if (tunnel.leaving) tunnel.session->Drain();
  impl_->Changed(it, tunnel);
  impl_->Publish(it->second);
  impl_->Due(it);
  return tunnel.id;
}

}  // namespace qanat::hbone
