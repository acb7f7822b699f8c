// SPDX-License-Identifier: Apache-2.0
// App's part that says whether it is ready and alive, and what it has of the node agent. Main
// thread; the answers are given on worker 0's.
#include <fmt/format.h>

#include <future>

#include "ztunnel/app.h"

namespace qanat::ztunnel {

void App::UpdateReadiness() {
  Standing standing;
  standing.draining = draining_;
  if (xds_ && !xds_->synced()) {
    standing.mesh = snapshot_->freshness() == state::Freshness::kLive
                        ? "xds"
                        : fmt::format("xds ({} state of {})", ToString(snapshot_->freshness()),
                                      TimeText(snapshot_->current_at()));
  }
  standing.agent = zds_ ? zds_->agent() : zds::Agent::kHere;  // who has none misses none
  standing.pod_awaited = !zds_ && !pods_served_;
  standing.pods_pending = pods_ && pods_->HasPending();
  standing.taking_over = predecessor_ && !taken_over_;
  Readiness readiness = Judge(standing);
  if (readiness.ready() && keeper_) keeper_->Ready();
  workers_.front()->loop().Post([this, readiness] { readiness_ = readiness; });
}

Status App::StartReadiness() {
  QANAT_ASSIGN_OR_RETURN(const auto address,
                         net::SocketAddress::Parse(environment_.config.readiness_address));
  // On a data-plane thread on purpose: one that is stuck is not ready.
  std::promise<Result<net::SocketAddress>> bound;
  workers_.front()->loop().Post([this, address, &bound] {
    readiness_server_ = std::make_unique<admin::Server>(workers_.front()->loop());
    readiness_server_->Route("GET", "/healthz/ready", [this](const admin::Request&) {
      return admin::Text(readiness_.ready() ? 200 : 500, readiness_.Text());
    });
    // A worker that answers this may still have neighbours that do not turn.
    readiness_server_->Route("GET", "/healthz/live", [this](const admin::Request&) {
      const std::string stuck = watchdog_->Stuck();
      if (stuck.empty()) return admin::Text(200, "live\n");
      return admin::Text(500, fmt::format("stuck: {}\n", stuck));
    });
    net::ListenOptions options;
    options.address = address;
    options.dual_stack = address.ip().is_v6() && address.ip().is_unspecified();
    bound.set_value(readiness_server_->Listen(options));
  });
  QANAT_ASSIGN_OR_RETURN(readiness_address_, bound.get_future().get());
  return {};
}

void App::AddZdsMetrics() {
  registry_.AddCallback(metrics::Kind::kCounter, "qanat_zds_protocol_errors",
                        "Messages of the node agent that were not understood", [this] {
                          const double errors =
                              zds_ ? static_cast<double>(zds_->counters().protocol_errors) : 0;
                          return std::vector<metrics::Sample>{{{}, errors}};
                        });
  registry_.AddCallback(metrics::Kind::kGauge, "qanat_zds_connected",
                        "1 while the node agent is connected and has told all its pods",
                        [this]() -> std::vector<metrics::Sample> {
                          if (!zds_) return {};
                          return {{{}, zds_->agent() == zds::Agent::kHere ? 1.0 : 0.0}};
                        });
}

}  // namespace qanat::ztunnel
