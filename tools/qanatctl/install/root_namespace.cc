// SPDX-License-Identifier: Apache-2.0
#include "tools/qanatctl/install/root_namespace.h"

#include <fmt/format.h>

#include <optional>

#include "tools/qanatctl/install/manifest.h"
#include "tools/qanatctl/json_util.h"

namespace qanat::ctl {
namespace {

constexpr char kMadeBy[] = "qanat.io/made-by";

kube::CallRequest Read(std::string path) {
  kube::CallRequest out;
  out.path = std::move(path);
  return out;
}

// Every kind of object that a namespace can hold, as the API server has them.
Result<std::vector<kube::Resource>> NamespacedKinds(const Api& api) {
  std::vector<std::string> paths = {"/api/v1"};
  QANAT_ASSIGN_OR_RETURN(const Json groups, api.Call(Read("/apis")));
  for (const Json& group : Items(groups, "groups")) {
    paths.push_back("/apis/" + Str(Get(group, "preferredVersion"), "groupVersion"));
  }
  std::vector<kube::Resource> out;
  for (const std::string& path : paths) {
    QANAT_ASSIGN_OR_RETURN(const Json listed, api.Call(Read(path)));
    const std::string version = path.substr(path.rfind('/') + 1);
    const std::string group = path == "/api/v1" ? "" : path.substr(6, path.rfind('/') - 6);
    for (const Json& kind : Items(listed, "resources")) {
      const std::string plural = Str(kind, "name");
      bool lists = false;
      for (const std::string& verb : Strings(kind, "verbs")) lists = lists || verb == "list";
      if (!lists || !Bool(kind, "namespaced") || plural.find('/') != std::string::npos) continue;
      out.push_back({group, version, plural, Str(kind, "kind"), true});
    }
  }
  return out;
}

bool InEveryNamespace(const kube::Resource& kind, const std::string& name) {
  return (kind.kind == "ConfigMap" && name == "kube-root-ca.crt") ||
         (kind.kind == "ServiceAccount" && name == "default");
}

// Something in it that is somebody's: "ConfigMap team-a".
Result<std::optional<std::string>> FindOthers(const Api& api,
                                              const std::vector<kube::Resource>& resources,
                                              const std::string& ns) {
  for (const kube::Resource& resource : resources) {
    if (resource.kind == "Event") continue;
    QANAT_ASSIGN_OR_RETURN(const std::vector<Json> objects, api.List(resource, ns));
    for (const Json& object : objects) {
      const std::string name = Str(Get(object, "metadata"), "name");
      if (IsOurs(object) || InEveryNamespace(resource, name)) continue;
      return std::optional<std::string>(resource.kind + " " + name);
    }
  }
  return std::optional<std::string>();
}

// It is theirs now: neither our annotation nor our name among those who keep its fields.
Status Disown(const Api& api, const Json& meta) {
  Json managers = Json::array();
  for (const Json& entry : Items(meta, "managedFields")) {
    if (!Str(entry, "manager").starts_with(kOurs)) managers.push_back(entry);
  }
  if (managers.empty()) managers.push_back(Json::object());  // the API server's word for "none"
  const Json patch = {{"metadata",
                       {{"annotations", {{kMadeBy, nullptr}}},
                        {"managedFields", managers},
                        {"resourceVersion", Str(meta, "resourceVersion")}}}};
  QANAT_RETURN_IF_ERROR(
      api.Call(kube::MergePatch(kinds::Namespaces(), "", Str(meta, "name"), patch.dump())));
  return {};
}

Goal Gone(const Api& api, const std::string& name) {
  return {"Namespace " + name + " is gone", [&api, name]() -> Result<Step> {
            QANAT_ASSIGN_OR_RETURN(const std::optional<Json> found,
                                   api.Find(kinds::Namespaces(), "", name));
            return Step{!found, found ? "still ending" : ""};
          }};
}

}  // namespace

Status EnsureRootNamespace(const Api& api, const std::string& name, const Pace& pace) {
  QANAT_ASSIGN_OR_RETURN(const std::optional<Json> found, api.Find(kinds::Namespaces(), "", name));
  if (found) return {};
  const Json object = {{"apiVersion", "v1"},
                       {"kind", "Namespace"},
                       {"metadata", {{"name", name}, {"annotations", {{kMadeBy, "qanatctl"}}}}}};
  QANAT_RETURN_IF_ERROR(api.Call(kube::Create(kinds::Namespaces(), "", object.dump())));
  pace.say(fmt::format("  ok   Namespace {} made, for policies of the whole mesh", name));
  return {};
}

Result<std::vector<Goal>> RemoveRootNamespaces(const Api& api, const Pace& pace) {
  std::vector<Goal> goals;
  QANAT_ASSIGN_OR_RETURN(const std::vector<Json> all, api.List(kinds::Namespaces(), ""));
  for (const Json& each : all) {
    const Json& meta = Get(each, "metadata");
    const std::string name = Str(meta, "name");
    if (Str(Get(meta, "annotations"), kMadeBy).empty()) continue;
    // Who cannot be asked what there is leaves it: deleting a namespace deletes all that is in it.
    std::string kept;
    const Result<std::vector<kube::Resource>> resources = NamespacedKinds(api);
    const Result<std::optional<std::string>> others =
        resources ? FindOthers(api, *resources, name) : Fail(resources.error());
    if (!others) {
      kept = "what is in it could not be read: " + others.error().message;
    } else if (*others) {
      kept = **others + " is in it";
    }
    if (kept.empty()) {
      QANAT_RETURN_IF_ERROR(api.Delete(kinds::Namespaces(), "", name));
      goals.push_back(Gone(api, name));
      continue;
    }
    QANAT_RETURN_IF_ERROR(Disown(api, meta));
    pace.say(fmt::format("  note Namespace {} stays, it is yours: {}", name, kept));
  }
  return goals;
}

}  // namespace qanat::ctl
