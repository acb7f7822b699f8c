// SPDX-License-Identifier: Apache-2.0
// MeshState: takes workload-xDS resources as they arrive and publishes immutable snapshots. Lives
// on the main thread. An update costs what it touches (copy on write of map shards), not the mesh.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/kept_text.h"
#include "common/base/result.h"
#include "common/state/snapshot.h"

namespace qanat::state {

inline constexpr std::string_view kAddressType = "type.googleapis.com/istio.workload.Address";
inline constexpr std::string_view kAuthorizationType =
    "type.googleapis.com/istio.security.Authorization";

class MeshState {
 public:
  MeshState();
  ~MeshState();
  MeshState(MeshState&&) noexcept;
  MeshState& operator=(MeshState&&) noexcept;

  // One resource of kAddressType: `bytes` is the Address message (the Any's value). An error means
  // the resource was not applied (the earlier version stays) and is to be refused in the NACK. A
  // workload's uid, which is its name, is kept in that piece of memory.
  Status UpsertAddress(const KeptText& name, std::string_view bytes);
  void RemoveAddress(std::string_view name);

  // On demand only: nobody has this name; it is not asked for any more.
  void MarkAbsent(const std::string& name);
  void ForgetAbsent(const std::string& name);

  // One resource of kAuthorizationType. A policy with parts that are not understood is applied,
  // failing closed on them, *and* reported as an error, so that the server hears of it; `applied`
  // tells the two apart.
  Status UpsertAuthorization(std::string_view name, std::string_view bytes,
                             bool* applied = nullptr);
  void RemoveAuthorization(std::string_view name);

  // What the next snapshots say of themselves; `current_at` of what is not live.
  void SetFreshness(Freshness freshness, std::chrono::system_clock::time_point current_at = {});

  // The snapshot with everything up to now; the same pointer when nothing changed.
  SnapshotPtr Publish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qanat::state
