// SPDX-License-Identifier: Apache-2.0
// gateway.networking.k8s.io: Gateway and HTTPRoute.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "controlplane/model/core.h"
#include "controlplane/model/meta.h"

namespace qanat::controlplane {

using Millis = std::chrono::milliseconds;
using HeaderList = std::vector<std::pair<std::string, std::string>>;  // in the order written

// set / add / remove, of Istio's `headers` and of the Gateway API's header modifiers.
struct HeaderOps {
  HeaderList set;
  HeaderList add;
  std::vector<std::string> remove;
  bool empty() const { return set.empty() && add.empty() && remove.empty(); }
};

struct Gateway {
  enum class From { kSame, kAll, kSelector, kNone };
  struct Listener {
    std::string name;
    uint16_t port = 0;
    std::string protocol;  // HBONE for waypoints, HTTP, HTTPS, TLS, TCP
    std::string hostname;
    From from = From::kSame;
    LabelSelector from_selector;
    std::vector<std::string> certificate_refs;
  };
  ObjectMeta meta;
  std::string class_name;
  std::vector<Listener> listeners;
  Labels infrastructure_labels;  // for what is made for the Gateway
  Labels infrastructure_annotations;
  bool has_parameters = false;  // spec.infrastructure.parametersRef, which we do not serve
  std::vector<std::string> spec_addresses;
  std::vector<std::string> status_addresses;  // IPs or host names; empty: not ready
};

struct GatewayClass {
  ObjectMeta meta;
  std::string controller;
  bool has_parameters = false;  // spec.parametersRef, which we do not serve
};

struct BackendRef {
  std::string group;
  std::string kind = "Service";
  std::string ns;  // filled in: the route's own when the YAML names none
  std::string name;
  uint16_t port = 0;
  uint32_t weight = 1;
};

struct HttpPathModifier {
  bool replace_prefix = false;  // ReplacePrefixMatch, else ReplaceFullPath
  std::string value;
};

struct HttpRouteFilter {
  enum class Type {
    kRequestHeaders,
    kResponseHeaders,
    kRedirect,
    kRewrite,
    kMirror,
    kUnsupported,  // the route answers 500, as the Gateway API asks for; `name` is the type
  };
  struct Redirect {
    std::string scheme;
    std::string hostname;
    std::optional<HttpPathModifier> path;
    uint16_t port = 0;
    int status = 302;
  };
  struct Rewrite {
    std::string hostname;
    std::optional<HttpPathModifier> path;
  };
  struct Mirror {
    BackendRef backend;
    double percent = 100;
  };
  Type type = Type::kUnsupported;
  std::string name;
  HeaderOps headers;  // for the two header types
  Redirect redirect;
  Rewrite rewrite;
  Mirror mirror;
};

struct HttpRouteMatch {
  enum class Kind { kExact, kPrefix, kRegex };
  struct Named {
    std::string name;
    Kind kind = Kind::kExact;
    std::string value;
  };
  Kind path_kind = Kind::kPrefix;
  std::string path = "/";
  std::vector<Named> headers;
  std::vector<Named> query_params;
  std::string method;  // "" is any
};

struct HttpRouteRule {
  struct Backend {
    BackendRef ref;
    std::vector<HttpRouteFilter> filters;
  };
  struct Retry {
    std::vector<uint32_t> codes;
    std::optional<uint32_t> attempts;
    std::optional<Millis> backoff;
  };
  std::string name;
  std::vector<HttpRouteMatch> matches;  // empty: every request
  std::vector<HttpRouteFilter> filters;
  std::vector<Backend> backends;
  std::optional<Millis> request_timeout;          // 0: none
  std::optional<Millis> backend_request_timeout;  // per try
  std::optional<Retry> retry;
  int line = 0;
};

struct ParentRef {
  std::string group;  // "" for Service, gateway.networking.k8s.io for Gateway
  std::string kind = "Gateway";
  std::string ns;  // filled in: the route's own when the YAML names none
  std::string name;
  std::string section;
  uint16_t port = 0;  // 0 is every port
};

struct HttpRoute {
  ObjectMeta meta;
  std::vector<ParentRef> parents;
  std::vector<std::string> hostnames;
  std::vector<HttpRouteRule> rules;
};

}  // namespace qanat::controlplane
