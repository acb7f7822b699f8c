// SPDX-License-Identifier: Apache-2.0
// The pure half of `qanatctl why`: what FROM and TO mean, how the proxies' answers become one
// verdict, and the text for people. The decisions themselves are the proxies' own: the same engines
// that decide on traffic answered these questions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/base/result.h"
#include "tools/qanatctl/mesh_view.h"
#include "tools/qanatctl/table.h"

namespace qanat::ctl {

struct WhyTarget {
  std::string text;  // as asked
  std::string host;  // "backend.shop.svc.cluster.local", an IP, or a pod's IP
  // The IP that a client's connect() goes to first. A name with both families: IPv6, as glibc
  // orders them; the other one is `fallback`.
  std::string address;
  std::string fallback;
  uint16_t port = 0;
  std::string service_ns;  // when it is a service
  std::string service;
  std::string pod_uid;  // when it is a pod
};

// `hosts`: the node's DNS records (lines "IP NAME"), for headless services.
Result<WhyTarget> ResolveTarget(const MeshView& view, const PodRef& from, const std::string& text,
                                const std::string& hosts);
// Fills address and fallback from what a name resolves to; pure.
void ChooseAddress(const std::vector<std::string>& ips, WhyTarget& target);
// The address of the same family as `like` (IPv4 when that says nothing); "" when there is none.
std::string SameFamily(const std::vector<std::string>& ips, const std::string& like);
// "host:port", "[v6]:port"; pure.
Status SplitHostPort(const std::string& text, std::string& host, uint16_t& port);

struct WhyStep {
  std::string where;  // "ztunnel-node1, outbound"
  Json answer;        // {"verdict", "reason", ...}
  bool allowed() const;
};

// The endpoints ("IP:PORT") that a waypoint's chosen route may pick: those with a weight, healthy.
std::vector<std::string> WaypointEndpoints(const Json& answer);

struct WhyReport {
  std::string from;           // "shop/loadgen-abc"
  std::string from_identity;  // "" outside the mesh
  std::string from_node;
  WhyTarget to;
  // Where both ends are pods of one node: "direct", by the kernel alone, or "proxy"; else "".
  std::string path;
  std::string path_why;  // why not direct
  std::vector<WhyStep> steps;
  std::vector<std::string> notes;
  bool allowed() const;
  Json ToJson() const;
  std::string ToText(const Colors& colors) const;
};

}  // namespace qanat::ctl
