// SPDX-License-Identifier: Apache-2.0
// Tunnels inside of a tunnel (ztunnel/proxy/inner_tunnels.h) stand still with it and go on with it:
// each is the user of one of its streams, which is found by what its TLS connection goes over.
#include "common/base/log.h"
#include "ztunnel/proxy/user_connection.h"
#include "ztunnel/proxy/worker.h"
#include "ztunnel/takeover/tunnel_mover.h"

namespace qanat::ztunnel {

TunnelMover::Carriers TunnelMover::FindCarriers() const {
  Carriers out;
  const hbone::Pool& pool = worker_.inner_pool();
  for (const uint64_t number : pool.Tunnels()) {
    const net::Transport* transport = pool.Find(number)->transport();
    const net::Transport* carrier = transport != nullptr ? tls::CarrierOf(*transport) : nullptr;
    if (carrier != nullptr) out[carrier] = number;
  }
  return out;
}

// The session outside has let go of its streams: what ends here resets nothing.
SavedTunnel::Inner TunnelMover::FreezeInner(uint64_t number, uint32_t stream) {
  hbone::Pool::Standing standing = worker_.inner_pool().Take(number);
  auto tls = tls::ExportInner(*standing.transport);  // FindCarriers() has seen that it can be
  return {stream, std::move(standing.key), standing.leaving, std::move(*tls),
          std::move(standing.session)};
}

void TunnelMover::ResumeInner(SavedTunnel::Inner inner, net::TransportPtr carrier,
                              std::vector<Way>& ways) {
  const size_t streams = inner.session.streams.size();
  auto transport =
      tls::ImportInner(std::move(carrier), std::move(inner.tls), &worker_.handshakes().verifier);
  if (!transport) {  // it was in use a moment ago: cannot be
    LOG_ERROR("takeover", "an inner tunnel is lost: {}", transport.error().message);
    ways.resize(ways.size() + streams);
    return;
  }
  const tls::VerifiedPeerPtr proven = (*transport)->verified_peer();
  const auto own = model::Identity::Parse(inner.key.source_identity);
  const uint64_t cookie = inner.key.source_netns;
  if (own && !Believed(proven, *own)) inner.leaving = true;
  std::vector<net::TransportPtr> handles;
  worker_.inner_pool().Adopt(
      {std::move(inner.key), inner.leaving, std::move(inner.session), std::move(*transport)},
      handles);
  if (worker_.PodByCookie(cookie) == nullptr) {  // went away meanwhile
    worker_.inner_pool().Close(
        [&](const hbone::PoolKey& key) { return key.source_netns == cookie; },
        "the pod was removed");
  }
  for (net::TransportPtr& handle : handles) ways.push_back({std::move(handle), proven});
}

}  // namespace qanat::ztunnel
