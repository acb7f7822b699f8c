// SPDX-License-Identifier: Apache-2.0
#include "agent/mesh/mesh_pages.h"

#include <nlohmann/json.hpp>

namespace qanat::agent {
namespace {

using Json = nlohmann::json;

double Seconds(event::Duration duration) {
  return std::chrono::duration_cast<std::chrono::duration<double>>(duration).count();
}

Json MeshJson(const MeshClient* client, const SnapshotHolder& holder) {
  Json json = {{"enabled", client != nullptr}, {"snapshot", nullptr}};
  if (const state::SnapshotPtr& snapshot = holder.snapshot()) {
    json["snapshot"] = {{"version", snapshot->version()},
                        {"policyVersion", snapshot->policy_version()},
                        {"workloads", snapshot->workload_count()},
                        {"services", snapshot->service_count()}};
  }
  if (client == nullptr) return json;
  const MeshClient::State state = client->state();
  json["address"] = state.address;
  json["connected"] = state.connected;
  json["current"] = state.current;
  json["ageSeconds"] = state.age ? Json(Seconds(*state.age)) : Json();
  json["pingSeconds"] = Seconds(state.ping);
  json["resources"] = {{"addresses", state.addresses}, {"policies", state.policies}};
  json["lastError"] = state.last_error;
  return json;
}

}  // namespace

std::string MeshPage(const MeshClient* client, const SnapshotHolder& holder) {
  return MeshJson(client, holder).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void AddMeshRoutes(admin::Server& server, const MeshClient* client, const SnapshotHolder& holder) {
  server.Route("GET", "/mesh", [client, &holder](const admin::Request&) {
    return admin::Json(200, MeshPage(client, holder));
  });
}

void AddMeshMetrics(metrics::Registry& registry, const MeshClient& client) {
  using metrics::Kind;
  using metrics::Sample;
  registry.AddCallback(
      Kind::kGauge, "qanat_xds_current",
      "1 while the control plane is connected and has told the whole mesh",
      [&client]() -> std::vector<Sample> { return {{{}, client.state().current ? 1.0 : 0.0}}; });
  registry.AddCallback(Kind::kGauge, "qanat_xds_age_seconds",
                       "How long ago the control plane was there for certain; none while it is not",
                       [&client]() -> std::vector<Sample> {
                         const auto age = client.age();
                         if (!age) return {};
                         return {{{}, Seconds(*age)}};
                       });
  registry.AddCallback(Kind::kGauge, "qanat_xds_resources", "Resources held, by type",
                       [&client]() -> std::vector<Sample> {
                         const MeshClient::State state = client.state();
                         return {
                             {{{"type", "address"}}, static_cast<double>(state.addresses)},
                             {{{"type", "authorization"}}, static_cast<double>(state.policies)}};
                       });
}

}  // namespace qanat::agent
