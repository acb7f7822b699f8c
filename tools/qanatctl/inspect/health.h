// SPDX-License-Identifier: Apache-2.0
// Is it the network, the mesh or the application? From what the agents' kernels recorded at both
// ends of a pair's connections, and what the node proxies spent on setting connections up. Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "common/metrics/log_histogram.h"

namespace qanat::ctl {

using Json = nlohmann::json;

// Whom the figures are of. A pod stands for its identity: that is what series are kept by.
struct HealthPair {
  std::string from;        // "ns/shop/sa/frontend"
  std::string to;          // the same, or "" when `to_service` says it
  std::string to_service;  // hostname
};

// What one kind of end has told, of all nodes together.
struct HealthEnd {
  uint64_t connections = 0, established = 0, failed = 0;
  uint64_t segments = 0, retransmits = 0, out_of_order = 0;
  uint64_t connect_us = 0, response_us = 0, busy_us = 0, window_us = 0, buffer_us = 0;
  metrics::LogHistogram connect, srtt, response;
};

struct HealthReport {
  HealthEnd client, server;
  uint64_t direct = 0, proxied = 0;  // connections, as the clients' ends told
  uint64_t lost = 0;                 // records that no figure knows of
  double proxy_us = 0;               // what the proxies spend on a connection before it is relayed
  // Of one connection on average, in microseconds.
  double network_us = 0, mesh_us = 0, application_us = 0;
  std::string verdict;  // network, mesh, application, or "not enough"
};
inline constexpr uint64_t kEnoughSamples = 20;

// `agents`: answers of /debug/health. `proxy_us` is given.
HealthReport JudgeHealth(const HealthPair& pair, const std::vector<Json>& agents, double proxy_us);

// From the text of a proxy's metrics: what it spends on average on a connection as this reporter
// ("source", "destination"), without connecting to others: that is the network's.
double SetupMicroseconds(const std::string& metrics, const std::string& reporter);

std::string HealthText(const HealthPair& pair, const HealthReport& report);
Json HealthJson(const HealthPair& pair, const HealthReport& report);

}  // namespace qanat::ctl
