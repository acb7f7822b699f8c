// SPDX-License-Identifier: Apache-2.0
#include "common/xds/held_versions.h"

namespace qanat::xds {
namespace {

uint32_t HashOf(std::string_view name) {
  return static_cast<uint32_t>(std::hash<std::string_view>()(name) >> 32);
}

}  // namespace

KeptText HeldVersions::NameOf(std::string_view name) const {
  const Item* item =
      all_.Find(HashOf(name), [name](const Item& held) { return held.name == name; });
  return item == nullptr ? KeptText(name) : item->name;
}

void HeldVersions::Set(const KeptText& name, std::string_view version) {
  if (last_version_ != version) last_version_ = version;
  const auto same = [&](const Item& item) { return item.name == name; };
  if (Item* item = all_.Find(HashOf(name), same)) {
    item->version = last_version_;
  } else {
    all_.Insert(HashOf(name), {name, last_version_});
  }
}

void HeldVersions::Erase(std::string_view name) {
  all_.Erase(HashOf(name), [name](const Item& item) { return item.name == name; });
}

}  // namespace qanat::xds
