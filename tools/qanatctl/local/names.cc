// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/local/names.h"

#include <fmt/format.h>

#include <algorithm>

namespace qanat::local {

Status CheckMeshName(std::string_view mesh) {
  const bool fine =
      !mesh.empty() && mesh.size() <= 12 && std::all_of(mesh.begin(), mesh.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
      });
  if (fine) return {};
  return Fail(Code::kInvalidArgument,
              fmt::format("mesh name '{}': use 1 to 12 lower-case letters and digits", mesh));
}

std::string PodVethName(std::string_view uid) { return "v" + std::string(uid.substr(0, 8)); }

}  // namespace qanat::local
