// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kube/fake_store.h"

#include <algorithm>
#include <cstdlib>

namespace qanat::kube::testing {
namespace {

std::string At(const std::map<std::string, std::string>& map, const std::string& key) {
  const auto it = map.find(key);
  return it == map.end() ? std::string() : it->second;
}

std::vector<std::string> SplitComma(const std::string& text) {
  std::vector<std::string> out;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find(',', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

std::string AtPath(const Json& object, std::string path) {
  const Json* node = &object;
  while (!path.empty()) {
    const size_t dot = path.find('.');
    const std::string key = path.substr(0, dot);
    path = dot == std::string::npos ? "" : path.substr(dot + 1);
    if (!node->is_object() || !node->contains(key)) return {};
    node = &(*node)[key];
  }
  return node->is_string() ? node->get<std::string>() : node->dump();
}

}  // namespace

StoreResponse StatusResponse(int code, const std::string& reason, const std::string& message,
                             const std::string& name) {
  Json status = {{"kind", "Status"},    {"apiVersion", "v1"}, {"metadata", Json::object()},
                 {"status", "Failure"}, {"message", message}, {"reason", reason},
                 {"code", code}};
  if (code < 400) status["status"] = "Success";
  if (!name.empty()) status["details"] = {{"name", name}};
  return {code, status.dump()};
}

bool Selection::Matches(const Json& object) const {
  if (object.is_null()) return false;
  const Json& metadata = object["metadata"];
  if (!ns.empty() && metadata.value("namespace", "") != ns) return false;
  for (const std::string& term : SplitComma(fields)) {
    const size_t equals = term.find('=');
    const bool negated = equals > 0 && term[equals - 1] == '!';
    const std::string have = AtPath(object, term.substr(0, negated ? equals - 1 : equals));
    if ((have == term.substr(equals + 1)) == negated) return false;
  }
  const Json set = metadata.value("labels", Json::object());
  for (const std::string& term : SplitComma(labels)) {
    const size_t equals = term.find('=');
    const std::string key = term.substr(0, equals);
    if (!set.contains(key)) return false;
    if (equals != std::string::npos && set.value(key, "") != term.substr(equals + 1)) return false;
  }
  return true;
}

std::string Selection::TypeOf(const StoreEvent& event) const {
  if (event.collection != collection) return {};
  const bool before = Matches(event.before);
  const bool after = Matches(event.after);
  if (before && after) return "MODIFIED";
  if (after) return "ADDED";
  return before ? "DELETED" : "";
}

FakeStore::Place FakeStore::PlaceOf(const std::string& path) {
  const RequestInfo info = Describe("GET", path);
  Place out;
  out.plural = info.resource;
  out.ns = info.ns;
  out.name = info.name;
  out.subresource = info.subresource;
  // "/api/v1" or "/apis/GROUP/VERSION"
  size_t end = 0;
  for (int slashes = info.group.empty() ? 2 : 3; slashes > 0; --slashes) {
    end = path.find('/', end + 1);
  }
  out.prefix = path.substr(0, end);
  out.collection = out.prefix + "|" + out.plural;
  return out;
}

Selection FakeStore::Select(const std::string& path,
                            const std::map<std::string, std::string>& query) {
  const Place place = PlaceOf(path);
  Selection out{place.collection, place.ns, At(query, "fieldSelector"), At(query, "labelSelector")};
  if (!place.name.empty()) out.fields = "metadata.name=" + place.name;
  return out;
}

void FakeStore::Write(const Place& place, Json object) {
  const std::string key = place.Key();
  StoreEvent event{++version_, place.collection, nullptr, nullptr};
  if (const auto it = objects_.find(key); it != objects_.end()) event.before = it->second;
  if (object.is_null()) {
    objects_.erase(key);
    // A deletion has a version of its own, which the last state carries.
    event.before["metadata"]["resourceVersion"] = std::to_string(version_);
  } else {
    Json& metadata = object["metadata"];
    metadata["resourceVersion"] = std::to_string(version_);
    metadata["name"] = place.name;
    if (!place.ns.empty()) metadata["namespace"] = place.ns;
    if (!metadata.contains("uid")) {
      metadata["uid"] = event.before.is_null() ? Json("uid-" + std::to_string(next_uid_++))
                                               : event.before["metadata"]["uid"];
    }
    event.after = object;
    objects_[key] = std::move(object);
  }
  events_.push_back(event);
  on_event_(event);
}

void FakeStore::Put(const std::string& path, Json object) {
  Write(PlaceOf(path), std::move(object));
}

bool FakeStore::Remove(const std::string& path) {
  const Place place = PlaceOf(path);
  if (!objects_.contains(place.Key())) return false;
  Write(place, nullptr);
  return true;
}

Json FakeStore::Find(const std::string& path) const {
  const auto it = objects_.find(PlaceOf(path).Key());
  return it == objects_.end() ? Json() : it->second;
}

std::vector<Json> FakeStore::All(const Selection& selection) const {
  std::vector<Json> out;
  for (const auto& [key, object] : objects_) {
    if (key.starts_with(selection.collection + "|") && selection.Matches(object)) {
      out.push_back(object);
    }
  }
  return out;
}

std::vector<StoreEvent> FakeStore::Since(uint64_t version) const {
  std::vector<StoreEvent> out;
  for (const StoreEvent& event : events_) {
    if (event.version > version) out.push_back(event);
  }
  return out;
}

// A continue token is "VERSION:FIRST-KEY-OF-THE-NEXT-PAGE".
StoreResponse FakeStore::List(const std::string& path,
                              const std::map<std::string, std::string>& query) {
  const Selection selection = Select(path, query);
  const size_t limit = std::strtoul(At(query, "limit").c_str(), nullptr, 10);
  const std::string token = At(query, "continue");
  uint64_t version = version_;
  std::string from;
  if (!token.empty()) {
    version = std::strtoull(token.c_str(), nullptr, 10);
    from = token.substr(token.find(':') + 1);
    if (Expired(version)) {
      return StatusResponse(410, "Expired", "The provided continue parameter is too old");
    }
  }
  Json metadata = {{"resourceVersion", std::to_string(version)}};
  Json items = Json::array();
  for (const auto& [key, object] : objects_) {
    if (key < from || !key.starts_with(selection.collection + "|")) continue;
    if (!selection.Matches(object)) continue;
    if (limit > 0 && items.size() == limit) {
      metadata["continue"] = std::to_string(version) + ":" + key;
      break;
    }
    Json item = object;
    item.erase("kind");  // as the real one does for its own types
    item.erase("apiVersion");
    items.push_back(std::move(item));
  }
  return {200,
          Json{{"kind", "List"}, {"apiVersion", "v1"}, {"metadata", metadata}, {"items", items}}
              .dump()};
}

StoreResponse FakeStore::Create(const Place& in, Json object) {
  Place place = in;
  Json& metadata = object["metadata"];
  if (!metadata.is_object()) metadata = Json::object();
  place.name = metadata.value("name", "");
  if (place.name.empty() && metadata.contains("generateName")) {
    place.name = metadata["generateName"].get<std::string>() + std::to_string(version_);
  }
  if (place.name.empty()) return StatusResponse(422, "Invalid", "name or generateName is required");
  if (objects_.contains(place.Key())) {
    return StatusResponse(409, "AlreadyExists",
                          place.plural + " \"" + place.name + "\" already exists", place.name);
  }
  metadata.erase("uid");
  Write(place, std::move(object));
  return {201, objects_[place.Key()].dump()};
}

StoreResponse FakeStore::Change(const std::string& method, const Place& place, const Json& patch,
                                const std::string& content_type, const std::string& manager) {
  const bool apply = content_type.find("apply-patch") != std::string::npos;
  const auto it = objects_.find(place.Key());
  const bool exists = it != objects_.end();
  if (!exists && (!apply || !place.subresource.empty())) {
    return StatusResponse(404, "NotFound", place.plural + " \"" + place.name + "\" not found",
                          place.name);
  }
  Json object = exists ? it->second : Json::object();
  const Json metadata = patch.value("metadata", Json::object());
  const std::string wanted = metadata.is_object() ? metadata.value("resourceVersion", "") : "";
  if (exists && !wanted.empty() && wanted != AtPath(object, "metadata.resourceVersion")) {
    return StatusResponse(409, "Conflict",
                          "the object has been modified; please apply your changes "
                          "to the latest version and try again",
                          place.name);
  }
  if (method == "PUT") {
    const Json uid = object["metadata"]["uid"];
    if (place.subresource.empty()) {
      object = patch;
    } else {
      object[place.subresource] = patch.value(place.subresource, Json());
    }
    object["metadata"]["uid"] = uid;
  } else if (place.subresource == "status") {
    object.merge_patch({{"status", patch.value("status", Json())}});
    if (metadata.is_object() && metadata.contains("annotations")) {
      object["metadata"].merge_patch({{"annotations", metadata["annotations"]}});
    }
  } else {
    object.merge_patch(patch);
  }
  if (apply) {
    Json& fields = object["metadata"]["managedFields"];
    if (!fields.is_array()) fields = Json::array();
    const Json entry = {{"manager", manager}, {"operation", "Apply"}};
    if (std::find(fields.begin(), fields.end(), entry) == fields.end()) fields.push_back(entry);
  }
  Write(place, std::move(object));
  return {exists ? 200 : 201, objects_[place.Key()].dump()};
}

StoreResponse FakeStore::ReviewToken(Json review) const {
  Json status = {{"authenticated", false}};
  const auto it = tokens.find(review["spec"].value("token", ""));
  if (it == tokens.end()) {
    status["error"] = "[invalid bearer token, token lookup failed]";
  } else {
    const User& user = it->second;
    status["authenticated"] = true;
    status["user"] = {{"username", user.username},
                      {"uid", "uid-of-" + user.username},
                      {"groups", {"system:authenticated"}},
                      {"extra", user.extra}};
    status["audiences"] = user.audiences;
    for (const std::string& audience :
         review["spec"].value("audiences", std::vector<std::string>())) {
      if (std::find(user.audiences.begin(), user.audiences.end(), audience) !=
          user.audiences.end()) {
        continue;
      }
      status = {{"authenticated", false}, {"error", "token audiences do not match"}};
      break;
    }
  }
  review["status"] = status;
  return {201, review.dump()};
}

bool FakeStore::Absent(const std::string& path) const {
  const Place place = PlaceOf(path);
  return absent.contains(place.plural) || absent.contains(place.prefix + "/" + place.plural);
}

StoreResponse FakeStore::Handle(const std::string& method, const std::string& path,
                                const std::map<std::string, std::string>& query,
                                const std::string& body, const std::string& content_type) {
  if (const auto document = documents.find(path); document != documents.end()) {
    return {200, document->second};
  }
  if (!Describe(method, path).is_resource || Absent(path)) return {404, "404 page not found\n"};
  const Place place = PlaceOf(path);
  const Json input = body.empty() ? Json::object() : Json::parse(body, nullptr, false);
  if (!input.is_object()) return StatusResponse(400, "BadRequest", "the body is not JSON");
  if (method == "GET" && place.name.empty()) return List(path, query);
  if (method == "POST") {
    if (place.plural == "tokenreviews") return ReviewToken(input);
    if (place.subresource == "token") {
      Json out = input;
      out["status"] = {{"token", "token-of-" + place.ns + "-" + place.name},
                       {"expirationTimestamp", "2099-01-01T00:00:00Z"}};
      return {201, out.dump()};
    }
    return Create(place, input);
  }
  if (method == "PUT" || method == "PATCH") {
    return Change(method, place, input, content_type, At(query, "fieldManager"));
  }
  const auto it = objects_.find(place.Key());
  if (it == objects_.end()) {
    return StatusResponse(404, "NotFound", place.plural + " \"" + place.name + "\" not found",
                          place.name);
  }
  if (method == "GET") return {200, it->second.dump()};
  if (method != "DELETE") return StatusResponse(405, "MethodNotAllowed", method);
  Write(place, nullptr);
  return StatusResponse(200, "", "", place.name);
}

}  // namespace qanat::kube::testing
