// SPDX-License-Identifier: Apache-2.0
// The same-node direct path as a part of the agent: pods come from the enroller, the mesh from its
// snapshots, questions from the kernel's hooks; each second the lease is renewed, as long as what
// is known of the mesh is fresh. What it decides: enforcer.h. Owned by the App; main loop.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/direct/enforcer.h"
#include "bpf/user/ring.h"
#include "common/event/event_loop.h"
#include "common/netns/netns.h"

namespace qanat::agent::direct {

// What the rest of the agent does for it.
struct World {
  // Writes a pod's flags (qanat_pod_flag) and floor where the hooks read them.
  std::function<Status(uint32_t serial, uint32_t flags, uint32_t floor)> set_pod;
  std::function<Result<netns::NetNs>(uint32_t serial)> namespace_of;
  // Why what is known of the mesh may be out of date; "" when it is not.
  std::function<std::string()> stale;
};

class Service {
 public:
  // `maps_dir` is where they are pinned; `maps` outlives it.
  static Result<std::unique_ptr<Service>> Open(event::EventLoop& loop, bpf::NodeMaps& maps,
                                               const std::string& maps_dir, route::Mesh mesh,
                                               World world);

  Enforcer& enforcer() { return enforcer_; }
  const Enforcer& enforcer() const { return enforcer_; }
  void Start() { Tick(); }
  // Called whenever something that waited to be in force is.
  void SetOnEnforced(std::function<void()> done) { on_enforced_ = std::move(done); }

 private:
  Service(event::EventLoop& loop, bpf::NodeMaps& maps, KernelTable kernel, route::Mesh mesh,
          World world);
  void Tick();
  void Read();
  Status Destroy(uint32_t serial, const Flow& flow, End end) const;

  bpf::NodeMaps& maps_;
  World world_;
  Enforcer enforcer_;
  std::vector<qanat_miss> misses_;
  std::unique_ptr<bpf::Ring> ring_;
  std::unique_ptr<event::IoWatch> watch_;
  event::Timer tick_;
  std::function<void()> on_enforced_;
};

}  // namespace qanat::agent::direct
