// SPDX-License-Identifier: Apache-2.0
// What a worker remembers for the choice of endpoints: which of them keep failing, and what the
// picks of large services may fall on.
#include "common/base/log.h"
#include "ztunnel/proxy/worker.h"

namespace qanat::ztunnel {

route::OutboundOptions Worker::outbound_options(const Pod& client) {
  route::OutboundOptions options;
  options.picks = &picks_;
  options.waypoints_of_endpoints = environment_.config.enforce_waypoint;
  options.socks = environment_.config.socks5;
  if (outliers_.empty()) return options;
  ejected_ = outliers_.AllEjected(client.uid, event::Clock::now());
  if (ejected_.empty()) return options;
  options.avoid.all_ejected = &ejected_;
  options.avoid.ejected = [this, &client](const model::Workload& workload, uint16_t port) {
    return outliers_.Ejected(lb::Outliers::Key(client.uid, workload.uid, port),
                             event::Clock::now());
  };
  return options;
}

void Worker::EndpointFailed(const Pod& client, const route::Route& route) {
  if (route.picked_port == 0) return;
  const std::string key = lb::Outliers::Key(client.uid, route.destination->uid, route.picked_port);
  if (!outliers_.Failed(key, event::Clock::now())) return;
  metrics_.ejections.Get().Add();
  LOG_INFO("outbound", "{} keeps failing and is left out for a while", key);
}

void Worker::EndpointGood(const Pod& client, const route::Route& route) {
  if (route.picked_port == 0 || outliers_.empty()) return;
  outliers_.Good(lb::Outliers::Key(client.uid, route.destination->uid, route.picked_port));
}

// What is of another service or another list than the present ones.
void Worker::SweepPicks() {
  picks_.Sweep([this](const model::ServicePtr& service) -> lb::EndpointListPtr {
    return snapshot_->ServiceByKey(service->Key()) == service ? snapshot_->EndpointListOf(*service)
                                                              : nullptr;
  });
}

}  // namespace qanat::ztunnel
