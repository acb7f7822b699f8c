// SPDX-License-Identifier: Apache-2.0
// What the kernel draws among for a connection to a service, as one pod sees it: the endpoints that
// the node proxy would pick from, with the proxy's own functions and weights, and which of them may
// be reached straight. Everything out of the ordinary is the proxy's: it gets such connections as
// ever. Like verdicts, only what was asked for is kept, and all of it is made anew when something
// changes. Whether one connection may go straight is for its verdict to say, not for this table:
// an entry that is a moment old costs no more than a connection through the proxy. Pure; the main
// thread's.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "agent/direct/verdict.h"

namespace qanat::agent::direct {

struct VipKey {
  uint32_t source = 0;  // serial of the pod
  net::SocketAddress asked;
  auto operator<=>(const VipKey&) const = default;
};

struct VipEndpoint {
  uint32_t until = 0;         // the sum of the weights up to this one and with it
  uint32_t destination = 0;   // serial; 0: not to be reached straight
  uint32_t code = 0;          // for the proxy (common/lb/draw.h); 0: it would not read it
  net::SocketAddress target;  // of those with a destination
  bool operator==(const VipEndpoint&) const = default;
};

struct VipEntry {
  std::vector<VipEndpoint> endpoints;  // none: the proxy picks
  std::string why_not;                 // then
  bool operator==(const VipEntry&) const = default;
};

// An enrolled pod of this node.
struct PodHere {
  uint32_t serial = 0;
  const Member* member = nullptr;
};
using FindPod = std::function<PodHere(std::string_view ns, std::string_view name)>;

// `source.proxy_reads_draws`: draws may fall on endpoints that only the proxy reaches, as it will
// hear of them. Without that all must be reached straight: the proxy would pick again among all.
VipEntry CompileVip(const state::MeshSnapshot& snapshot, const route::Mesh& mesh,
                    const Member& source, const net::SocketAddress& asked, const FindPod& find);

struct VipChanges {
  std::vector<std::pair<VipKey, VipEntry>> put;
  std::vector<VipKey> removed;
  // Something that was drawn is the proxy's now (a waypoint stands before the service, say).
  bool tightened = false;
};

class VipTable {
 public:
  // What is true of a key now; nullopt: its pod is not there any more.
  using Compiling = std::function<std::optional<VipEntry>(const VipKey&)>;

  // As VerdictTable: some room stays with the hooks' questions.
  explicit VipTable(size_t capacity) : capacity_(capacity - capacity / 8) {}

  // The hooks asked. When it is full, what the proxy picks for anyway is forgotten first.
  VipChanges Answer(const VipKey& key, const Compiling& compiling);
  VipChanges Recompile(const Compiling& compiling);

  const VipEntry* Find(const VipKey& key) const;
  size_t size() const { return entries_.size(); }
  size_t drawn_count() const { return drawn_; }  // those with endpoints

 private:
  void Set(const VipKey& key, VipEntry entry);
  void Erase(std::map<VipKey, VipEntry>::iterator at);

  size_t capacity_;
  std::map<VipKey, VipEntry> entries_;
  size_t drawn_ = 0;
};

}  // namespace qanat::agent::direct
