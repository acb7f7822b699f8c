// SPDX-License-Identifier: Apache-2.0
// Bytes of an istio.workload.Address into a mesh state: decode, index, look everything up again,
// take it out. Whatever comes, the state stays consistent.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/route/outbound.h"
#include "common/state/decode.h"
#include "common/state/mesh_state.h"
#include "ztunnel/route/inbound.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qanat;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  state::MeshState mesh;
  if (!mesh.UpsertAddress("fuzz", bytes)) return 0;
  const auto snapshot = mesh.Publish();
  std::string name;
  model::WorkloadPtr source;
  snapshot->ForEachWorkload([&](const model::WorkloadPtr& workload) {
    name = workload->uid;
    source = workload;
    if (snapshot->WorkloadByUid(workload->uid) != workload) std::abort();
    snapshot->PoliciesFor(*workload);
    for (const auto& ip : workload->addresses) {
      const auto route = route::DecideOutbound(*snapshot, *workload, {ip, 80}, [] { return 7; });
      if (route.kind == route::Route::Kind::kHbone && route.identities.empty()) std::abort();
      ztunnel::DecideInbound(*snapshot, *workload, {ip, 15008}, "x.svc:80", "");
    }
  });
  snapshot->ForEachService([&](const model::ServicePtr& service) {
    name = service->Key();
    if (snapshot->ServiceByKey(name) != service) std::abort();
    model::Workload client;
    for (const auto& address : service->addresses) {
      client.network = address.network;
      route::DecideOutbound(*snapshot, client, {address.cidr.ip(), 80}, [] { return 7; });
    }
  });
  mesh.RemoveAddress(name);
  const auto after = mesh.Publish();
  if (after->workload_count() + after->service_count() != 0) std::abort();
  if (source != nullptr && after->WorkloadByUid(source->uid) != nullptr) std::abort();
  return 0;
}
