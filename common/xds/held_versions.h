// SPDX-License-Identifier: Apache-2.0
// Names of resources and the versions that are held of them, in little memory: a large mesh has
// hundreds of thousands. The names are shared with who keeps the resources. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "common/base/hash_index.h"
#include "common/base/kept_text.h"

namespace qanat::xds {

class HeldVersions {
 public:
  // The name as it is kept, or, of what is not held, a new text.
  KeptText NameOf(std::string_view name) const;
  void Set(const KeptText& name, std::string_view version);
  void Erase(std::string_view name);
  template <typename Predicate>
  void EraseIf(const Predicate& of_name) {
    std::vector<KeptText> gone;
    all_.ForEach([&](const Item& item) {
      if (of_name(item.name.view())) gone.push_back(item.name);
    });
    for (const KeptText& name : gone) Erase(name);
  }
  // Of name and version; order unspecified.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    all_.ForEach([&](const Item& item) { visit(item.name.view(), item.version.view()); });
  }
  size_t size() const { return all_.size(); }

 private:
  struct Item {
    KeptText name, version;
  };
  HashIndex<Item> all_;
  KeptText last_version_;  // often that of the next one too
};

}  // namespace qanat::xds
