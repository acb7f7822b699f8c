// SPDX-License-Identifier: Apache-2.0
// Names of resources and the versions that are held of them, in little memory: a large mesh has
// hundreds of thousands. One thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string_view>
#include <unordered_set>

namespace qanat::xds {

class HeldVersions {
 public:
  void Set(std::string_view name, std::string_view version);
  void Erase(std::string_view name);
  template <typename Predicate>
  void EraseIf(const Predicate& of_name) {
    std::erase_if(all_, [&](const Item& item) { return of_name(item.name()); });
  }
  // Of name and version; order unspecified.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    for (const Item& item : all_) visit(item.name(), item.version());
  }
  size_t size() const { return all_.size(); }

 private:
  // Two lengths, then both texts: one piece of memory.
  class Item {
   public:
    Item(std::string_view name, std::string_view version);
    std::string_view name() const { return {bytes_.get() + sizeof(Sizes), sizes().name}; }
    std::string_view version() const { return {name().data() + sizes().name, sizes().version}; }

   private:
    struct Sizes {
      uint32_t name, version;
    };
    Sizes sizes() const {
      Sizes out;
      std::memcpy(&out, bytes_.get(), sizeof out);
      return out;
    }
    std::unique_ptr<char[]> bytes_;
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view name) const { return std::hash<std::string_view>()(name); }
    size_t operator()(const Item& item) const { return (*this)(item.name()); }
  };
  struct Equal {
    using is_transparent = void;
    static std::string_view Of(std::string_view name) { return name; }
    static std::string_view Of(const Item& item) { return item.name(); }
    bool operator()(const auto& a, const auto& b) const { return Of(a) == Of(b); }
  };
  std::unordered_set<Item, Hash, Equal> all_;
};

}  // namespace qanat::xds
