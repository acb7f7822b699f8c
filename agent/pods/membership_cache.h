// SPDX-License-Identifier: Apache-2.0
// What the CNI plugin falls back on when the API server does not answer: the mode of every
// namespace and the membership of every pod of this node, as the agent last saw them. Written by
// the agent, read by the plugin; one JSON file with a checksum, so that a torn or edited file says
// nothing rather than something wrong. Pure but for Load and Save.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace qanat::agent {

struct MembershipCache {
  struct CachedPod {
    std::string uid;
    bool in_mesh = false;
    bool operator==(const CachedPod&) const = default;
  };
  std::map<std::string, std::string> namespaces;  // name -> value of istio.io/dataplane-mode, or ""
  std::map<std::string, CachedPod> pods;          // "namespace/name"

  bool operator==(const MembershipCache&) const = default;

  // Nothing when the cache cannot know: a pod that it has not seen (or seen with another UID) may
  // carry a label of its own, whatever its namespace says. `uid` empty: not compared.
  std::optional<bool> InMesh(const std::string& ns, const std::string& name,
                             const std::string& uid) const;
};

std::string FormatMembershipCache(const MembershipCache& cache);
Result<MembershipCache> ParseMembershipCache(std::string_view text);

Result<MembershipCache> LoadMembershipCache(const std::string& path);
Status SaveMembershipCache(const std::string& path, const MembershipCache& cache);

}  // namespace qanat::agent
