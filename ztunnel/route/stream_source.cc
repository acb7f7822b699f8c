// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/route/stream_source.h"

#include <fmt/format.h>

#include <vector>

namespace qanat::ztunnel {
namespace {

using model::Workload;

StreamSource Refuse(std::string detail) {
  return {model::Reason::kSourceUnproven, std::move(detail), {}};
}

// A workload that somebody wrote down (WorkloadEntry, ServiceEntry) is where he says; of a pod the
// cluster says it. In the node's own namespace an address is everybody's.
bool IsPodOfItsOwn(const Workload& workload) {
  return workload.uid.view().find("//Pod/") != std::string_view::npos &&
         workload.network_mode == model::NetworkMode::kStandard && !workload.node.empty();
}

// Why `pod` cannot be whom a node proxy speaks for in the name of `identity`; "": it can.
std::string NotAsSource(const Workload& pod, const model::Identity& identity) {
  if (pod.identity() != identity) {
    // An address that was given away, as long as not everybody knows.
    return fmt::format("{} is of {}, the tunnel of {}", pod.uid, pod.identity().ToString(),
                       identity.ToString());
  }
  if (!IsPodOfItsOwn(pod)) return fmt::format("{} is no pod on a node", pod.uid);
  // Whoever makes tunnels itself has the key, and could speak for its neighbours; and of a gateway
  // the place counts as much as the identity.
  if (pod.protocol != model::TunnelProtocol::kHbone || pod.native_tunnel || pod.gateway) {
    return fmt::format("{} makes its own tunnels", pod.uid);
  }
  return {};
}

// Why `end`, where the tunnel comes from, is not the proxy of the node that `pod` is on; "": it can
// be. A pod may ask the authority for its account's certificate by itself, and would then speak for
// all others of the account.
std::string NotAsProxy(const Workload& end, const Workload& pod, const NodeProxies& proxies) {
  if (!IsPodOfItsOwn(end)) return fmt::format("{} is no pod on a node", end.uid);
  if ((!proxies.ns.empty() && end.ns != proxies.ns) ||
      (!proxies.service_account.empty() && end.service_account != proxies.service_account)) {
    return fmt::format("{} is not of a node proxy's account", end.uid);
  }
  if (end.ns == pod.ns && end.service_account == pod.service_account) {
    return fmt::format("{} is of the tunnel's identity itself, and no proxy", end.uid);
  }
  if (end.protocol != model::TunnelProtocol::kNone || end.native_tunnel || end.gateway ||
      end.application_tunnel) {
    return fmt::format("{} is a workload of the mesh, and no proxy", end.uid);
  }
  if (end.node != pod.node || end.cluster_id != pod.cluster_id) {
    return fmt::format("{} is on node \"{}\" of \"{}\", {} on \"{}\" of \"{}\"", pod.uid, pod.node,
                       pod.cluster_id, end.uid, end.node, end.cluster_id);
  }
  return {};
}

}  // namespace

StreamSource CheckStreamSource(const state::MeshSnapshot& snapshot, std::string_view network,
                               const route::Sender& tunnel, std::string_view said,
                               const NodeProxies& proxies) {
  const auto source = net::SocketAddress::Parse(said);
  if (!source || source->port() == 0) {
    return Refuse(fmt::format("the source \"{}\" is not IP:port", said.substr(0, 64)));
  }
  if (!tunnel.identity) return Refuse("the tunnel has no identity");
  if (source->ip() == tunnel.ip) return {model::Reason::kNone, {}, *source};

  const std::vector<model::WorkloadPtr> pods = snapshot.WorkloadsByAddress(network, source->ip());
  const std::vector<model::WorkloadPtr> ends = snapshot.WorkloadsByAddress(network, tunnel.ip);
  for (const auto& [known, ip] : {std::pair{&pods, source->ip()}, std::pair{&ends, tunnel.ip}}) {
    if (known->empty()) return Refuse(fmt::format("nobody is known to have {}", ip.ToString()));
    if (snapshot.HasServiceAt(network, ip)) {
      return Refuse(fmt::format("{} is a service's", ip.ToString()));
    }
  }
  for (const auto& pod : pods) {
    if (std::string why = NotAsSource(*pod, *tunnel.identity); !why.empty()) {
      return Refuse(std::move(why));
    }
    for (const auto& end : ends) {
      if (std::string why = NotAsProxy(*end, *pod, proxies); !why.empty())
        return Refuse(std::move(why));
    }
  }
  return {model::Reason::kNone, {}, *source};
}

}  // namespace qanat::ztunnel
