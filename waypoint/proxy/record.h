// SPDX-License-Identifier: Apache-2.0
// What is known about one request or TCP connection when it is over: one line in the access log,
// one bump of the metrics.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/event/event_loop.h"
#include "common/model/reason.h"
#include "waypoint/config/config.h"
#include "waypoint/proxy/peer.h"

namespace qanat::waypoint {

// Envoy's response flags, as in its access log.
enum class Flag : uint16_t {
  kNoHealthyUpstream = 1u << 0,          // UH
  kUpstreamConnectionFailure = 1u << 1,  // UF
  kUpstreamOverflow = 1u << 2,           // UO
  kNoRoute = 1u << 3,                    // NR
  kRetryLimitExceeded = 1u << 4,         // URX
  kNoCluster = 1u << 5,                  // NC
  kUpstreamTimeout = 1u << 6,            // UT
  kUpstreamTermination = 1u << 7,        // UC
  kUpstreamReset = 1u << 8,              // UR
  kDownstreamTermination = 1u << 9,      // DC
  kDownstreamProtocolError = 1u << 10,   // DPE
  kUpstreamProtocolError = 1u << 11,     // UPE
  kStreamIdleTimeout = 1u << 12,         // SI
  kFaultInjected = 1u << 13,             // FI
  kDelayInjected = 1u << 14,             // DI
  kDurationTimeout = 1u << 15,           // DT
};
std::string FlagsText(uint16_t flags);  // "-" for none, "UF,URX"

struct Record {
  std::chrono::system_clock::time_point start;
  event::TimePoint started;
  PeerPtr peer;
  std::string chain;  // name of the filter chain

  // Request, HTTP only.
  bool http = true;
  bool grpc = false;
  std::string method, path, protocol, authority, user_agent, request_id, xff;
  int status = 0;
  std::string grpc_status;
  uint16_t flags = 0;
  model::Reason reason = model::Reason::kNone;
  std::string details;           // RESPONSE_CODE_DETAILS
  std::string upstream_failure;  // UPSTREAM_TRANSPORT_FAILURE_REASON
  uint64_t bytes_received = 0, bytes_sent = 0;
  int64_t upstream_service_ms = -1;
  std::string route_name;
  uint32_t attempts = 0;

  // Where it went; null when nowhere.
  std::shared_ptr<const ClusterConfig> cluster;
  std::shared_ptr<const EndpointSet> endpoint_owner;
  const Endpoint* endpoint = nullptr;
  net::SocketAddress destination;  // what the client asked for

  void Set(Flag flag) { flags |= static_cast<uint16_t>(flag); }
  bool Has(Flag flag) const { return (flags & static_cast<uint16_t>(flag)) != 0; }
};

// Istio's text format, or one JSON object; without the line end.
std::string FormatText(const Record& record, std::chrono::milliseconds duration);
std::string FormatJson(const Record& record, std::chrono::milliseconds duration);

}  // namespace qanat::waypoint
