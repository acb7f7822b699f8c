// SPDX-License-Identifier: Apache-2.0
// What a workload takes of a node proxy's memory: in the mesh state, with its share of its service
// and of all indexes, and in the xDS client, which knows names and versions.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "common/proto/workload.pb.h"
#include "common/state/mesh_state.h"
#include "common/xds/held_versions.h"
#include "tests/integration/idle/counted_memory.h"

namespace qanat::test {
namespace {

namespace wire = istio::workload;

// What is measured is in DECISIONS.md; a field here and there fits below this.
constexpr int64_t kMost = 440;
constexpr int kWorkloads = 20'000, kInAService = 10;  // as in tests/bench/workloads.py

std::string Ip(int first, int number) {
  return {static_cast<char>(10), static_cast<char>(first + (number >> 16)),
          static_cast<char>(number >> 8), static_cast<char>(number)};
}

std::string Host(int number) { return fmt::format("app-{}.shop.svc.cluster.local", number); }

wire::Address Pod(int number) {
  const std::string app = fmt::format("app-{}", number / kInAService);
  wire::Address out;
  wire::Workload& pod = *out.mutable_workload();
  pod.set_name(fmt::format("{}-5c8f7d9b4d-{:06x}", app, number));
  pod.set_uid("Kubernetes//Pod/shop/" + pod.name());
  pod.set_namespace_("shop");
  pod.add_addresses(Ip(128, number));
  pod.set_tunnel_protocol(wire::HBONE);
  pod.set_trust_domain("cluster.local");
  pod.set_service_account(app);
  pod.set_node(fmt::format("node-{}", number % 100));
  pod.set_canonical_name(app);
  pod.set_canonical_revision("v1");
  pod.set_workload_name(app);
  pod.set_cluster_id("Kubernetes");
  auto* port = (*pod.mutable_services())["shop/" + Host(number / kInAService)].add_ports();
  port->set_service_port(80);
  port->set_target_port(8080);
  return out;
}

wire::Address Service(int number) {
  wire::Address out;
  wire::Service& service = *out.mutable_service();
  service.set_name(fmt::format("app-{}", number));
  service.set_namespace_("shop");
  service.set_hostname(Host(number));
  service.add_addresses()->set_address(Ip(96, number));
  auto* port = service.add_ports();
  port->set_service_port(80);
  port->set_target_port(8080);
  return out;
}

TEST(MeshMemory, OfEachWorkload) {
  const LiveMemory before = LiveMemory::Now();
  state::MeshState mesh;
  xds::HeldVersions versions;
  const auto put = [&](const std::string& text, const wire::Address& address) {
    const KeptText name = versions.NameOf(text);
    ASSERT_TRUE(mesh.UpsertAddress(name, address.SerializeAsString()));
    versions.Set(name, "1");
  };
  for (int i = 0; i < kWorkloads; ++i) {
    const wire::Address pod = Pod(i);
    put(pod.workload().uid(), pod);
    if (i % kInAService == 0) put("shop/" + Host(i / kInAService), Service(i / kInAService));
  }
  state::SnapshotPtr snapshot = mesh.Publish();
  ASSERT_EQ(snapshot->workload_count(), static_cast<size_t>(kWorkloads));
  const LiveMemory known = LiveMemory::Now() - before;
  RecordProperty("bytes_each", static_cast<int>(known.bytes / kWorkloads));
  EXPECT_LE(known.bytes / kWorkloads, kMost) << known.Table(kWorkloads);

  // All of them once more, in one answer, is nothing more to keep.
  for (int i = 0; i < kWorkloads; ++i) {
    wire::Address pod = Pod(i);
    pod.mutable_workload()->set_canonical_revision("v2");
    put(pod.workload().uid(), pod);
  }
  const state::SnapshotPtr next = mesh.Publish();
  snapshot.reset();
  const LiveMemory after = LiveMemory::Now() - before;
  EXPECT_LE(after.bytes, known.bytes + known.bytes / 20) << after.Table(kWorkloads);
}

}  // namespace
}  // namespace qanat::test
