// SPDX-License-Identifier: Apache-2.0
#include "controlplane/source/store.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>

namespace qanat::controlplane {
namespace {

using Key = std::tuple<std::string, std::string, std::string>;  // kind, namespace, name

Key KeyOf(const ObjectMeta& meta) { return {KindKey(meta), meta.ns, meta.name}; }

// The list of Objects that holds type T.
std::vector<Namespace>& List(Objects& o, const Namespace*) { return o.namespaces; }
std::vector<Node>& List(Objects& o, const Node*) { return o.nodes; }
std::vector<ServiceAccount>& List(Objects& o, const ServiceAccount*) { return o.service_accounts; }
std::vector<Pod>& List(Objects& o, const Pod*) { return o.pods; }
std::vector<Service>& List(Objects& o, const Service*) { return o.services; }
std::vector<EndpointSlice>& List(Objects& o, const EndpointSlice*) { return o.endpoint_slices; }
std::vector<GatewayClass>& List(Objects& o, const GatewayClass*) { return o.gateway_classes; }
std::vector<Gateway>& List(Objects& o, const Gateway*) { return o.gateways; }
std::vector<HttpRoute>& List(Objects& o, const HttpRoute*) { return o.http_routes; }
std::vector<VirtualService>& List(Objects& o, const VirtualService*) { return o.virtual_services; }
std::vector<DestinationRule>& List(Objects& o, const DestinationRule*) {
  return o.destination_rules;
}
std::vector<ServiceEntry>& List(Objects& o, const ServiceEntry*) { return o.service_entries; }
std::vector<PeerAuthentication>& List(Objects& o, const PeerAuthentication*) {
  return o.peer_authentications;
}
std::vector<AuthorizationPolicy>& List(Objects& o, const AuthorizationPolicy*) {
  return o.authorization_policies;
}
std::vector<RequestAuthentication>& List(Objects& o, const RequestAuthentication*) {
  return o.request_authentications;
}

class Assembler {
 public:
  explicit Assembler(SourceSnapshot& out) : out_(out) {}

  void Add(const AnyObject& object) {
    const ObjectMeta& meta = MetaOf(object);
    const auto [it, fresh] = places_.emplace(KeyOf(meta), meta.location);
    if (!fresh) {
      out_.issues.push_back(
          {Issue::Severity::kError, meta.location.file, meta.location.line, ObjectName(meta),
           fmt::format("duplicate of the object at {}: this one is ignored", it->second.ToString()),
           "keep one of the two, or give them different names"});
      return;
    }
    std::visit([this](const auto& o) { Append(o); }, object);
  }

  void AddOverlay(const AnyObject& object) {
    std::visit([this](const auto& o) { Overlay(o); }, object);
  }

 private:
  template <typename T>
  void Append(T object) {
    object.meta.read_order = ++order_;
    if constexpr (std::is_same_v<T, OtherObject>) {
      out_.others.push_back(std::move(object.meta));
    } else {
      List(out_.objects, &object).push_back(std::move(object));
    }
  }

  template <typename T>
  T* FindUser(const T& object) {
    if (!places_.contains(KeyOf(object.meta))) return nullptr;
    for (T& candidate : List(out_.objects, &object)) {
      if (candidate.meta.key() == object.meta.key()) return &candidate;
    }
    return nullptr;
  }

  // What the user wrote keeps its place in the file, so that messages point there.
  template <typename T>
  void Overlay(const T& object) {
    if constexpr (std::is_same_v<T, Pod> || std::is_same_v<T, Node>) {
      if (T* user = FindUser(object)) {
        const SourceLocation location = user->meta.location;
        const uint64_t order = user->meta.read_order;
        const Labels labels = user->meta.labels;
        *user = object;
        user->meta.location = location;
        user->meta.read_order = order;
        user->meta.labels.insert(labels.begin(), labels.end());
        return;
      }
      Add(object);
    } else if constexpr (std::is_same_v<T, Service>) {
      if (Service* user = FindUser(object)) {
        if (user->headless) return;
        user->cluster_ips = object.cluster_ips;
        user->headless = object.headless;
        if (user->ip_families.empty()) user->ip_families = object.ip_families;
        return;
      }
      Add(object);
    } else if constexpr (std::is_same_v<T, Gateway>) {
      if (Gateway* user = FindUser(object)) {
        user->status_addresses = object.status_addresses;
      } else if (!object.class_name.empty()) {
        Add(object);
      }
    } else if constexpr (!std::is_same_v<T, OtherObject>) {
      if (FindUser(object) == nullptr) Add(object);
    }
  }

  SourceSnapshot& out_;
  std::map<Key, SourceLocation> places_;
  uint64_t order_ = 0;
};

}  // namespace

void ObjectStore::Update(Layer layer, const std::string& file, DecodedFile decoded) {
  File& state = FilesOf(layer)[file];
  state.issues = std::move(decoded.issues);
  if (!decoded.parsed) return;
  std::map<Key, AnyObject> before;
  for (AnyObject& object : state.objects) before.emplace(KeyOf(MetaOf(object)), std::move(object));
  state.objects.clear();
  for (DecodedObject& object : decoded.objects) {
    const Key key = KeyOf(MetaOf(object.object));
    const auto last_good = before.find(key);
    if (!object.failed) {
      state.objects.push_back(std::move(object.object));
    } else if (last_good != before.end()) {
      state.objects.push_back(last_good->second);
    }
    if (last_good != before.end()) {
      for (Issue& issue : object.issues) {
        if (object.failed && issue.severity == Issue::Severity::kError) {
          issue.message += " (the last good version of the object stays in force)";
        }
      }
      before.erase(last_good);
    }
    std::move(object.issues.begin(), object.issues.end(), std::back_inserter(state.issues));
  }
  for (const NamespacedName& name : decoded.unplaced) {
    for (auto& [key, object] : before) {
      if (MetaOf(object).name == name.name &&
          (MetaOf(object).ns == name.ns || MetaOf(object).ns.empty())) {
        state.objects.push_back(object);
      }
    }
  }
}

void ObjectStore::Unreadable(Layer layer, const std::string& file, Issue issue) {
  FilesOf(layer)[file].issues = {std::move(issue)};
}

void ObjectStore::Remove(Layer layer, const std::string& file) { FilesOf(layer).erase(file); }

SourceSnapshot ObjectStore::Assemble() const {
  SourceSnapshot out;
  Assembler assembler(out);
  for (const auto& [name, file] : user_) {
    out.issues.insert(out.issues.end(), file.issues.begin(), file.issues.end());
    for (const AnyObject& object : file.objects) assembler.Add(object);
  }
  for (const auto& [name, file] : overlay_) {
    out.issues.insert(out.issues.end(), file.issues.begin(), file.issues.end());
    for (const AnyObject& object : file.objects) assembler.AddOverlay(object);
  }
  std::sort(out.issues.begin(), out.issues.end(), [](const Issue& a, const Issue& b) {
    return std::tie(a.file, a.line, a.object, a.message) <
           std::tie(b.file, b.line, b.object, b.message);
  });
  return out;
}

SourceSnapshot LoadText(std::string_view user, std::string_view overlay) {
  ObjectStore store;
  store.Update(ObjectStore::Layer::kUser, "user.yaml", DecodeFile("user.yaml", user));
  store.Update(ObjectStore::Layer::kOverlay, "overlay.yaml", DecodeFile("overlay.yaml", overlay));
  return store.Assemble();
}

}  // namespace qanat::controlplane
