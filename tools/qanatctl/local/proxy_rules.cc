// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/proxy_rules.h"

#include <fmt/format.h>

namespace qanat::local {
namespace {

std::string RenderFamily(bool v6, const std::vector<ServiceRoute>& routes,
                         const std::vector<net::IpAddress>& local_pods) {
  const char* family = v6 ? "ip6" : "ip";
  std::string chains;
  std::string dispatch;
  std::string dead;
  int index = 0;
  for (const ServiceRoute& route : routes) {
    if (route.ip.is_v6() != v6 || !route.ip.is_set()) continue;
    const std::string key =
        fmt::format("{} . {} . {}", route.ip.ToString(), route.udp ? "udp" : "tcp", route.port);
    if (route.endpoints.empty()) {
      dead += (dead.empty() ? "" : ", ") + key;
      continue;
    }
    const std::string chain = fmt::format("svc_{}", index++);
    dispatch += (dispatch.empty() ? "" : ", ") + key + " : goto " + chain;
    // The comment is only for people; characters that nft would not take never reach it.
    chains += fmt::format("  chain {} {{\n", chain);
    std::string map;
    for (size_t i = 0; i < route.endpoints.size(); ++i) {
      const net::SocketAddress& to = route.endpoints[i];
      map += fmt::format("{}{} : {} . {}", i == 0 ? "" : ", ", i, to.ip().ToString(), to.port());
    }
    chains += fmt::format("    meta l4proto {} dnat to numgen random mod {} map {{ {} }}\n  }}\n",
                          route.udp ? "udp" : "tcp", route.endpoints.size(), map);
  }
  std::string out = fmt::format("table {0} {1} {{}}\ndelete table {0} {1}\ntable {0} {1} {{\n",
                                family, kProxyTable);
  out += chains;
  const std::string match = fmt::format("{} daddr . meta l4proto . th dport", family);
  const std::string services =
      dispatch.empty() ? "" : fmt::format("    {} vmap {{ {} }}\n", match, dispatch);
  const std::string refuse = dead.empty()
                                 ? ""
                                 : fmt::format(
                                       "    {0} {{ {1} }} meta l4proto tcp reject with tcp reset\n"
                                       "    {0} {{ {1} }} reject\n",
                                       match, dead);
  out +=
      "  chain prerouting {\n    type nat hook prerouting priority dstnat\n" + services + "  }\n";
  out += "  chain output {\n    type nat hook output priority -100\n" + services + "  }\n";
  std::string self;
  for (const net::IpAddress& pod : local_pods) {
    if (pod.is_v6() != v6) continue;
    self += fmt::format("{}{} . {}", self.empty() ? "" : ", ", pod.ToString(), pod.ToString());
  }
  out += "  chain postrouting {\n    type nat hook postrouting priority srcnat\n";
  if (!self.empty()) {
    out += fmt::format("    ct status dnat {0} saddr . {0} daddr {{ {1} }} masquerade\n", family,
                       self);
  }
  out += "  }\n";
  out += "  chain forward {\n    type filter hook forward priority filter\n" + refuse + "  }\n";
  out += "  chain local {\n    type filter hook output priority filter\n" + refuse + "  }\n";
  return out + "}\n";
}

}  // namespace

std::string RenderProxyRules(const std::vector<ServiceRoute>& routes,
                             const std::vector<net::IpAddress>& local_pods) {
  return RenderFamily(false, routes, local_pods) + RenderFamily(true, routes, local_pods);
}

}  // namespace qanat::local
