// SPDX-License-Identifier: Apache-2.0
// The admin endpoints' JSON, as text, from plain values. Main thread; no sockets.
#pragma once

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "common/identity/secret_manager.h"
#include "common/policy/policy.h"
#include "common/route/outbound.h"
#include "common/state/snapshot.h"
#include "ztunnel/config.h"
#include "ztunnel/dns/pod_dns.h"
#include "ztunnel/pods.h"
#include "ztunnel/proxy/connection.h"
#include "ztunnel/route/inbound.h"

namespace qanat::ztunnel {

struct DumpInput {
  const state::MeshSnapshot& snapshot;
  const Config& config;
  const std::map<std::string, Pods::Entry>& pods;
  std::vector<identity::SecretManager::Entry> certificates;
  std::vector<ConnectionInfo> connections;
  std::chrono::system_clock::time_point now = std::chrono::system_clock::now();
};
// The shape of stock ztunnel's /config_dump, which istioctl ztunnel-config reads.
std::string ConfigDumpJson(const DumpInput& input);
// /debug/connections: what goes on, with both identities and the path taken.
std::string ConnectionsJson(const std::vector<ConnectionInfo>& connections);

// /debug/dns: whom the DNS proxy asks for each pod, and with which search list it looks for names.
std::string DnsJson(const std::vector<std::pair<PodPtr, dns::PodDns>>& pods);

struct WhyOutbound {
  std::string source;  // uid of the workload
  route::Route route;
  PodPtr one_pass_pod;  // set when it would go in one pass
  std::string one_pass_why_not;
};
std::string WhyOutboundJson(const WhyOutbound& why);
std::string WhyInboundJson(const policy::Explanation& explanation, model::Reason reason,
                           const std::string& detail);

}  // namespace qanat::ztunnel
