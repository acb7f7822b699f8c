// SPDX-License-Identifier: Apache-2.0
#include "common/xds/held_versions.h"

namespace qanat::xds {

HeldVersions::Item::Item(std::string_view name, std::string_view version)
    : bytes_(new char[sizeof(Sizes) + name.size() + version.size()]) {
  const Sizes sizes{static_cast<uint32_t>(name.size()), static_cast<uint32_t>(version.size())};
  char* at = bytes_.get();
  std::memcpy(at, &sizes, sizeof sizes);
  name.copy(at + sizeof sizes, name.size());
  version.copy(at + sizeof sizes + name.size(), version.size());
}

void HeldVersions::Set(std::string_view name, std::string_view version) {
  if (const auto it = all_.find(name); it != all_.end()) {
    if (it->version() == version) return;
    all_.erase(it);
  }
  all_.emplace(name, version);
}

void HeldVersions::Erase(std::string_view name) {
  if (const auto it = all_.find(name); it != all_.end()) all_.erase(it);
}

}  // namespace qanat::xds
