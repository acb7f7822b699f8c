// SPDX-License-Identifier: Apache-2.0
// A kind of object as the API server knows it, the paths it has, and requests as values: build one
// here, give it to Client::Call or CallBlocking. Pure. Thread: any.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qanat::kube {

struct Resource {
  std::string group;  // "" = core
  std::string version;
  std::string plural;
  std::string kind;
  bool namespaced = true;

  std::string ApiVersion() const;  // "v1", "apps/v1"
  std::string Name() const;        // "pods", "gateways.gateway.networking.k8s.io", for messages
  // "/apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME/SUBRESOURCE"; empty parts are left out. A
  // namespaced resource without a namespace is the path of all namespaces.
  std::string Path(std::string_view ns = {}, std::string_view name = {},
                   std::string_view subresource = {}) const;
};

using Query = std::vector<std::pair<std::string, std::string>>;  // not yet percent-encoded

struct CallRequest {
  std::string method = "GET";
  std::string path;  // without query
  Query query;
  std::string body;
  std::string content_type = "application/json";
  std::chrono::milliseconds timeout{30000};  // for everything, connecting and repeats included
  size_t max_response_bytes = 64 << 20;
  // Any HTTP status is a success of the call; otherwise one of 400 and over is an Error.
  bool raw = false;
};

struct CallResponse {
  int status = 0;
  std::string body;
};

CallRequest Get(const Resource& resource, std::string_view ns, std::string_view name);
// One page at most: callers that want all pages use a Reflector, or pass on metadata.continue.
CallRequest List(const Resource& resource, std::string_view ns,
                 std::string_view label_selector = {}, std::string_view field_selector = {});
CallRequest Create(const Resource& resource, std::string_view ns, std::string json);
// PUT: fails with kFailedPrecondition when the object's resourceVersion is no longer the newest.
CallRequest Replace(const Resource& resource, std::string_view ns, std::string_view name,
                    std::string json, std::string_view subresource = {});
CallRequest Delete(const Resource& resource, std::string_view ns, std::string_view name,
                   std::string_view propagation = "Background");
CallRequest MergePatch(const Resource& resource, std::string_view ns, std::string_view name,
                       std::string json, std::string_view subresource = {});
// Server-side apply; JSON is YAML enough. `json` must carry apiVersion, kind and metadata.name.
CallRequest Apply(const Resource& resource, std::string_view ns, std::string_view name,
                  std::string json, std::string_view field_manager, bool force = true,
                  std::string_view subresource = {});

std::string PercentEncode(std::string_view text);
std::string EncodeQuery(const Query& query);  // "a=b&c=d"

// What RBAC calls a request: verb, group, resource, namespace, name; parsed from method and path.
struct RequestInfo {
  std::string verb;  // get, list, watch, create, update, patch, delete, deletecollection
  std::string group, resource, subresource, ns, name;
  bool is_resource = false;  // false: a path such as /version
};
RequestInfo Describe(std::string_view method, std::string_view path, bool watch = false);

}  // namespace qanat::kube
