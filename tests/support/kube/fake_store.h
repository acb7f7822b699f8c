// SPDX-License-Identifier: Apache-2.0
// The objects of a fake API server and what requests do to them: resourceVersions, conflicts,
// pages, selectors, patches. Near enough to the real one for unit tests: no validation, no
// finalizers, no defaulting, no RBAC; server-side apply merges like a merge patch and notes its
// manager. Pure. Owned by FakeApiServer; on its thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "common/kube/resource.h"

namespace qanat::kube::testing {

using Json = nlohmann::json;

struct StoreResponse {
  int status = 200;
  std::string body;
};
StoreResponse StatusResponse(int code, const std::string& reason, const std::string& message,
                             const std::string& name = {});

struct StoreEvent {
  uint64_t version = 0;
  std::string collection;  // "/api/v1|pods"
  Json before, after;      // null: did not exist, exists no more
};

// What a list or watch selects.
struct Selection {
  std::string collection;
  std::string ns;      // "" = all
  std::string fields;  // "spec.nodeName=a,metadata.name=b"
  std::string labels;  // "app=web,tier"
  bool Matches(const Json& object) const;
  // ADDED, MODIFIED, DELETED or "" as this selection sees the event.
  std::string TypeOf(const StoreEvent& event) const;
};

class FakeStore {
 public:
  explicit FakeStore(std::function<void(const StoreEvent&)> on_event)
      : on_event_(std::move(on_event)) {}

  StoreResponse Handle(const std::string& method, const std::string& path,
                       const std::map<std::string, std::string>& query, const std::string& body,
                       const std::string& content_type);
  static Selection Select(const std::string& path, const std::map<std::string, std::string>& query);

  void Put(const std::string& path, Json object);  // creates or replaces
  bool Remove(const std::string& path);
  Json Find(const std::string& path) const;  // null when absent
  std::vector<Json> All(const Selection& selection) const;
  uint64_t version() const { return version_; }
  // What happened after `version`, oldest first.
  std::vector<StoreEvent> Since(uint64_t version) const;
  // Forgets all events: older resourceVersions and continue tokens are answered with 410.
  void Expire() { floor_ = ++version_; }
  bool Expired(uint64_t version) const { return version < floor_; }

  // Plurals that no API group serves, or paths of collections that are not served.
  std::set<std::string> absent;
  bool Absent(const std::string& path) const;
  std::map<std::string, std::string> documents;  // discovery, by path
  struct User {
    std::string username;
    std::map<std::string, std::vector<std::string>> extra;
    std::vector<std::string> audiences;
  };
  std::map<std::string, User> tokens;  // what TokenReview knows

 private:
  struct Place {
    std::string collection, prefix, plural, ns, name, subresource;
    std::string Key() const { return collection + "|" + ns + "|" + name; }
  };
  static Place PlaceOf(const std::string& path);
  StoreResponse List(const std::string& path, const std::map<std::string, std::string>& query);
  StoreResponse Create(const Place& place, Json object);
  StoreResponse Change(const std::string& method, const Place& place, const Json& patch,
                       const std::string& content_type, const std::string& manager);
  StoreResponse ReviewToken(Json review) const;
  void Write(const Place& place, Json object);  // sets resourceVersion, tells on_event_

  std::function<void(const StoreEvent&)> on_event_;
  std::map<std::string, Json> objects_;
  std::vector<StoreEvent> events_;
  uint64_t version_ = 1000;
  uint64_t floor_ = 0;
  uint64_t next_uid_ = 1;
};

}  // namespace qanat::kube::testing
