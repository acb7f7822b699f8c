// SPDX-License-Identifier: Apache-2.0
// The direct path's maps as the agent writes and reads them. No decisions here. Every call is a few
// system calls; only AwaitPrograms() blocks (bpf/user/fence.h). The main thread's.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "agent/direct/table.h"
#include "agent/direct/vips.h"
#include "bpf/user/fence.h"
#include "bpf/user/node_maps.h"

namespace qanat::agent::direct {

struct Flow {
  qanat_tuple tuple{};
  qanat_flow value{};
  VerdictKey Key() const;
};

class KernelTable {
 public:
  static Result<KernelTable> Open(bpf::NodeMaps& maps);  // `maps` outlives it

  // To begin (again): the path is off and without a verdict, whoever wrote what is there. Returns
  // the first generation that counts; live connections stay and are in Flows().
  Result<uint32_t> Clear();

  Status Put(const VerdictKey& key, const TableEntry& entry);
  Status Remove(const VerdictKey& key);  // also where there is none
  Status Put(const VipKey& key, const VipEntry& entry);
  Status Remove(const VipKey& key);
  // From here on every program sees what was written before.
  Status AwaitPrograms() { return fence_.Wait(); }

  // Grants that an application's connection has and that `is_void` says must go.
  Status RemoveGrants(const std::function<bool(const qanat_grant&)>& is_void);

  std::vector<Flow> Flows() const;
  // Unless the tuple is another connection's by now.
  Status RemoveFlow(const Flow& flow);

  // Connections may go direct for that long, unless it is written again. Of CLOCK_BOOTTIME, which
  // goes on while a machine sleeps.
  Status Lease(std::chrono::nanoseconds time);
  Status EndLease() { return maps_->EndLease(); }
  Status KeepGeneration(uint32_t generation);

  // What hooks asked of that pod's connections has been answered.
  Status Answered(uint32_t pod_id) { return maps_->asked.Update(pod_id, 0); }

 private:
  KernelTable(bpf::NodeMaps& maps, bpf::Fence fence) : maps_(&maps), fence_(std::move(fence)) {}
  Result<qanat_direct> Direct() const;

  bpf::NodeMaps* maps_;
  bpf::Fence fence_;
};

VerdictKey FromKernel(const qanat_verdict_key& key);
qanat_verdict_key ToKernel(const VerdictKey& key);
// Of a question about a service, with destination 0; else nullopt.
std::optional<VipKey> VipOf(const qanat_miss& miss);
qanat_vip_key ToKernel(const VipKey& key);
qanat_vip ToKernel(const VipEntry& entry);

}  // namespace qanat::agent::direct
