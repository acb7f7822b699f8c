// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/peer.h"

#include <charconv>

#include "common/http/message.h"
#include "common/model/identity.h"

namespace qanat::waypoint {
namespace {

constexpr size_t kMaxValue = 256;  // of a baggage value: longer ones are cut, they become labels

}  // namespace

std::string Peer::principal() const {
  return identity.starts_with("spiffe://") ? identity.substr(9) : identity;
}

Peer MakePeer(std::string_view identity, net::SocketAddress address, net::SocketAddress local,
              std::string_view baggage) {
  Peer peer;
  peer.identity = std::string(identity);
  peer.address = address;
  peer.local = local;
  std::string claimed_ns;
  while (!baggage.empty()) {
    size_t comma = baggage.find(',');
    std::string_view entry = baggage.substr(0, comma);
    baggage = comma == std::string_view::npos ? std::string_view() : baggage.substr(comma + 1);
    while (entry.starts_with(' ')) entry.remove_prefix(1);
    size_t eq = entry.find('=');
    if (eq == std::string_view::npos) continue;
    std::string_view key = entry.substr(0, eq);
    std::string value = http::PercentDecode(entry.substr(eq + 1).substr(0, kMaxValue), false);
    if (key == "k8s.namespace.name") claimed_ns = value;
    if (key == "k8s.cluster.name") peer.cluster = value;
    if (key == "service.name") peer.canonical_name = value;
    if (key == "service.version") peer.canonical_revision = value;
    // k8s.deployment.name, k8s.pod.name, k8s.job.name, k8s.cronjob.name
    if (key.starts_with("k8s.") && key.ends_with(".name") && key != "k8s.namespace.name" &&
        key != "k8s.cluster.name") {
      peer.workload = value;
    }
  }
  auto id = model::Identity::Parse(identity);
  peer.ns = id ? id->ns : std::string();
  if (claimed_ns != peer.ns) {
    peer.workload.clear();
    peer.canonical_name.clear();
    peer.canonical_revision.clear();
  }
  return peer;
}

Authority ParseAuthority(std::string_view text) {
  Authority out;
  out.text = std::string(text);
  if (auto address = net::SocketAddress::Parse(text)) {
    out.address = *address;
    out.host = address->ip().ToString();
    out.port = address->port();
    out.valid = out.port != 0;
    return out;
  }
  size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return out;
  std::string_view host = text.substr(0, colon), port = text.substr(colon + 1);
  if (host.size() > 253 || host.find_first_of(":/@[] ") != std::string_view::npos) return out;
  unsigned number = 0;
  auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number == 0 || number > 65535) {
    return out;
  }
  out.host = std::string(host);
  out.port = static_cast<uint16_t>(number);
  out.valid = true;
  return out;
}

}  // namespace qanat::waypoint
