// SPDX-License-Identifier: Apache-2.0
#include "common/lb/draw.h"

#include "common/lb/judge.h"

namespace qanat::lb {
namespace {
constexpr uint32_t kDrawnMark = 0x53d, kMarkMask = 0xfff;
constexpr unsigned kCodeShift = 12;
}  // namespace

uint32_t DrawCode(std::string_view uid) {
  uint32_t hash = 2166136261u;  // FNV-1a
  for (const char c : uid) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  const uint32_t code = (hash ^ hash >> kDrawCodeBits) & ((1u << kDrawCodeBits) - 1);
  return code == 0 ? 1 : code;
}

uint32_t DrawCodeOfMark(uint32_t mark) {
  return (mark & kMarkMask) == kDrawnMark ? mark >> kCodeShift : 0;
}

std::optional<Pick> PickDrawn(const model::Service& service,
                              std::span<const model::Endpoint> endpoints,
                              const model::Workload& source, uint16_t service_port,
                              const net::IpAddress& asked, uint32_t code, const Avoid& avoid) {
  int best = -1;
  const model::Endpoint* drawn = nullptr;
  Candidate found;
  for (const model::Endpoint& endpoint : endpoints) {
    const model::Workload& workload = *endpoint.workload;
    const Candidate candidate = Judge(service, endpoint, source, service_port, avoid);
    if (candidate.fit != Fit::kUsable || candidate.rank < best || workload.capacity == 0) continue;
    if (candidate.rank > best) drawn = nullptr;
    best = candidate.rank;
    if (DrawCode(workload.uid) != code) continue;
    if (drawn != nullptr) return std::nullopt;  // two of them
    drawn = &endpoint;
    found = candidate;
  }
  if (drawn == nullptr) return std::nullopt;
  if (avoid.ejected && avoid.ejected(*drawn->workload, found.port)) return std::nullopt;
  Pick pick;
  pick.target.workload = drawn->workload;
  pick.target.target_port = found.port;
  pick.target.ip = ChooseAddress(*drawn->workload, asked, service.ip_families);
  return pick;
}

}  // namespace qanat::lb
