// SPDX-License-Identifier: Apache-2.0
// One user connection as telemetry sees it: both ends, what was asked for, how it ended. Filled in
// by the connection objects; turned into metric labels and an access log line.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "common/base/log.h"
#include "common/metrics/registry.h"
#include "common/model/identity.h"
#include "common/model/reason.h"
#include "common/model/shared_value.h"
#include "common/model/workload.h"

namespace qanat::telemetry {

enum class Reporter : uint8_t { kSource, kDestination };

// Thousands of live connections have the same.
using SharedIdentity = model::SharedValue<model::Identity>;
inline std::optional<model::Identity> Copy(const SharedIdentity& from) {
  return from ? std::optional(*from) : std::nullopt;
}
inline SharedIdentity Share(std::optional<model::Identity> from) {
  return from ? SharedIdentity(std::move(*from)) : SharedIdentity();
}

struct Flow {
  Reporter reporter = Reporter::kSource;
  net::SocketAddress source;       // the client as we see it
  net::SocketAddress tunnel;       // where the tunnel comes from, if that is not the client
  net::SocketAddress destination;  // what was dialled (inbound: the pod's address, port 15008)
  net::SocketAddress target;       // inside the tunnel: the application's address
  bool tunnelled = false;          // dst.hbone_addr is meaningful
  model::WorkloadPtr source_workload;
  model::WorkloadPtr destination_workload;
  model::ServicePtr service;
  // Proven identities: by certificate, or (one pass) by network namespace.
  SharedIdentity source_identity;
  SharedIdentity destination_identity;
  bool mutual_tls = false;
  unsigned tries = 1;  // endpoints that were tried, the last one included
};

struct FlowEnd {
  model::Reason reason = model::Reason::kNone;
  std::string error;        // text for the log; "" when it ended in order
  uint64_t bytes_up = 0;    // client -> server
  uint64_t bytes_down = 0;  // server -> client
  std::chrono::milliseconds duration{0};
  bool opened = true;  // false: refused before it was relayed
  // ... and before it was known who calls whom ("connection failed"; stock: early denials).
  bool early = false;
};

// Whether a connection that was refused for this was refused early.
bool IsEarly(model::Reason reason);

// The order and the names of stock ztunnel's labels: those of all traffic, then localities.
const metrics::LabelNames& FlowLabelNames();
metrics::LabelValues FlowLabels(const Flow& flow, model::Reason reason);

// A stream that its sender makes again over another tunnel is nobody's failure.
log::Level LevelOf(const FlowEnd& end);

// At the beginning, for level debug.
std::string OpenedLine(const Flow& flow, log::Format format, const std::string& timestamp);
// One line of the access log, without newline: fields and order of stock ztunnel, then `reason`,
// `tries` where more than one endpoint was tried, and `src.tunnel` where the client's stream came
// over a tunnel from another address.
std::string AccessLine(const Flow& flow, const FlowEnd& end, log::Format format,
                       const std::string& timestamp);

}  // namespace qanat::telemetry
