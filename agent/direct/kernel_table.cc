// SPDX-License-Identifier: Apache-2.0
#include "agent/direct/kernel_table.h"

#include <ctime>

namespace qanat::agent::direct {
namespace {

uint64_t BootTimeNs() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000ull + static_cast<uint64_t>(now.tv_nsec);
}

}  // namespace

VerdictKey FromKernel(const qanat_verdict_key& key) {
  return {key.src_serial, key.dst_serial, key.port, key.family == 6};
}

qanat_verdict_key ToKernel(const VerdictKey& key) {
  qanat_verdict_key out{};
  out.src_serial = key.source;
  out.dst_serial = key.destination;
  out.port = key.port;
  out.family = key.v6 ? 6 : 4;
  return out;
}

std::optional<VipKey> VipOf(const qanat_miss& miss) {
  if (miss.key.dst_serial != 0) return std::nullopt;
  return VipKey{miss.key.src_serial, net::SocketAddress(bpf::FromKernel(miss.dst), miss.key.port)};
}

qanat_vip_key ToKernel(const VipKey& key) {
  qanat_vip_key out{};
  out.ip = bpf::ToKernel(key.asked.ip());
  out.src_serial = key.source;
  out.port = key.asked.port();
  return out;
}

qanat_vip ToKernel(const VipEntry& entry) {
  qanat_vip out{};
  for (size_t i = 0; i < QANAT_VIP_ENDPOINTS; ++i) {
    qanat_vip_endpoint& to = out.endpoints[i];
    to.until = out.total;
    if (i >= entry.endpoints.size()) continue;
    const VipEndpoint& from = entry.endpoints[i];
    out.count = static_cast<__u32>(i + 1);
    out.total = to.until = from.until;
    to.code = from.code;
    if (from.destination == 0) continue;
    to.dst_serial = from.destination;
    to.ip = bpf::ToKernel(from.target.ip());
    to.port = from.target.port();
  }
  return out;
}

VerdictKey Flow::Key() const {
  return {value.src_serial, value.dst_serial, tuple.dport, bpf::FromKernel(tuple.dst).is_v6()};
}

Result<KernelTable> KernelTable::Open(bpf::NodeMaps& maps) {
  QANAT_ASSIGN_OR_RETURN(auto fence, bpf::Fence::Make());
  return KernelTable(maps, std::move(fence));
}

Result<uint32_t> KernelTable::Clear() {
  QANAT_RETURN_IF_ERROR(EndLease());
  QANAT_ASSIGN_OR_RETURN(auto direct, Direct());
  direct.generation = ++direct.last_generation;  // older grants and verdicts are void
  QANAT_RETURN_IF_ERROR(maps_->direct.Update(0, direct));
  for (const qanat_verdict_key& key : maps_->verdicts.Keys()) {
    QANAT_RETURN_IF_ERROR(Remove(FromKernel(key)));
  }
  for (const qanat_vip_key& key : maps_->vips.Keys()) {
    if (auto erased = maps_->vips.Erase(key); !erased) return tl::unexpected(erased.error());
  }
  for (uint32_t id = 0; id < QANAT_MAX_PODS; ++id) {
    QANAT_RETURN_IF_ERROR(Answered(id));
  }
  return direct.generation;
}

Result<qanat_direct> KernelTable::Direct() const {
  QANAT_ASSIGN_OR_RETURN(auto value, maps_->direct.Lookup(0));
  return value.value_or(qanat_direct{});
}

Status KernelTable::Put(const VerdictKey& key, const TableEntry& entry) {
  qanat_verdict verdict{};
  verdict.generation = entry.generation;
  verdict.policy = entry.policy;
  verdict.what = entry.direct ? QANAT_VERDICT_DIRECT : QANAT_VERDICT_NO;
  return maps_->verdicts.Update(ToKernel(key), verdict);
}

Status KernelTable::Remove(const VerdictKey& key) {
  if (auto erased = maps_->verdicts.Erase(ToKernel(key)); !erased) {
    return tl::unexpected(erased.error());
  }
  return {};
}

Status KernelTable::Put(const VipKey& key, const VipEntry& entry) {
  return maps_->vips.Update(ToKernel(key), ToKernel(entry));
}

Status KernelTable::Remove(const VipKey& key) {
  if (auto erased = maps_->vips.Erase(ToKernel(key)); !erased) {
    return tl::unexpected(erased.error());
  }
  return {};
}

Status KernelTable::RemoveGrants(const std::function<bool(const qanat_grant&)>& is_void) {
  for (const qanat_tuple& tuple : maps_->grants.Keys()) {
    QANAT_ASSIGN_OR_RETURN(auto grant, maps_->grants.Lookup(tuple));
    if (!grant || grant->kind != QANAT_GRANT_DIRECT || !is_void(*grant)) continue;
    QANAT_ASSIGN_OR_RETURN(const bool erased, maps_->grants.Erase(tuple));
    if (!erased) continue;
    // Whoever removes an entry gives its place back; a race with the kernel is put right by the
    // budgets' own correction.
    QANAT_ASSIGN_OR_RETURN(auto budget, maps_->budgets.Lookup(grant->source));
    if (!budget || budget->in_flight == 0) continue;
    --budget->in_flight;
    QANAT_RETURN_IF_ERROR(maps_->budgets.Update(grant->source, *budget));
  }
  return {};
}

std::vector<Flow> KernelTable::Flows() const {
  std::vector<Flow> flows;
  for (const qanat_tuple& tuple : maps_->flows.Keys()) {
    auto value = maps_->flows.Lookup(tuple);
    if (value && *value) flows.push_back({tuple, **value});
  }
  return flows;
}

Status KernelTable::RemoveFlow(const Flow& flow) {
  QANAT_ASSIGN_OR_RETURN(const auto present, maps_->flows.Lookup(flow.tuple));
  if (!present || present->client != flow.value.client) return {};
  if (auto erased = maps_->flows.Erase(flow.tuple); !erased) return tl::unexpected(erased.error());
  return {};
}

Status KernelTable::Lease(std::chrono::nanoseconds time) {
  QANAT_ASSIGN_OR_RETURN(auto direct, Direct());
  direct.lease_until = BootTimeNs() + static_cast<uint64_t>(time.count());
  direct.on = 1;
  return maps_->direct.Update(0, direct);
}

Status KernelTable::KeepGeneration(uint32_t generation) {
  QANAT_ASSIGN_OR_RETURN(auto direct, Direct());
  if (direct.last_generation >= generation) return {};
  direct.last_generation = generation;
  return maps_->direct.Update(0, direct);
}

}  // namespace qanat::agent::direct
