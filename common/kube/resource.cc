// SPDX-License-Identifier: Apache-2.0
#include "common/kube/resource.h"

namespace qanat::kube {
namespace {

CallRequest Request(std::string method, std::string path) {
  CallRequest out;
  out.method = std::move(method);
  out.path = std::move(path);
  return out;
}

std::vector<std::string_view> Split(std::string_view path) {
  std::vector<std::string_view> out;
  while (!path.empty()) {
    const size_t end = path.find('/');
    if (end != 0) out.push_back(path.substr(0, end));
    if (end == std::string_view::npos) break;
    path.remove_prefix(end + 1);
  }
  return out;
}

}  // namespace

std::string Resource::ApiVersion() const { return group.empty() ? version : group + "/" + version; }
std::string Resource::Name() const { return group.empty() ? plural : plural + "." + group; }

std::string Resource::Path(std::string_view ns, std::string_view name,
                           std::string_view subresource) const {
  std::string out = group.empty() ? "/api/" + version : "/apis/" + group + "/" + version;
  if (namespaced && !ns.empty()) out.append("/namespaces/").append(PercentEncode(ns));
  out.append("/").append(plural);
  if (!name.empty()) out.append("/").append(PercentEncode(name));
  if (!subresource.empty()) out.append("/").append(subresource);
  return out;
}

CallRequest Get(const Resource& resource, std::string_view ns, std::string_view name) {
  return Request("GET", resource.Path(ns, name));
}

CallRequest List(const Resource& resource, std::string_view ns, std::string_view label_selector,
                 std::string_view field_selector) {
  CallRequest out = Request("GET", resource.Path(ns));
  if (!label_selector.empty()) out.query.emplace_back("labelSelector", label_selector);
  if (!field_selector.empty()) out.query.emplace_back("fieldSelector", field_selector);
  return out;
}

CallRequest Create(const Resource& resource, std::string_view ns, std::string json) {
  CallRequest out = Request("POST", resource.Path(ns));
  out.body = std::move(json);
  return out;
}

CallRequest Replace(const Resource& resource, std::string_view ns, std::string_view name,
                    std::string json, std::string_view subresource) {
  CallRequest out = Request("PUT", resource.Path(ns, name, subresource));
  out.body = std::move(json);
  return out;
}

CallRequest Delete(const Resource& resource, std::string_view ns, std::string_view name,
                   std::string_view propagation) {
  CallRequest out = Request("DELETE", resource.Path(ns, name));
  if (!propagation.empty()) out.query.emplace_back("propagationPolicy", propagation);
  return out;
}

CallRequest MergePatch(const Resource& resource, std::string_view ns, std::string_view name,
                       std::string json, std::string_view subresource) {
  CallRequest out = Request("PATCH", resource.Path(ns, name, subresource));
  out.body = std::move(json);
  out.content_type = "application/merge-patch+json";
  return out;
}

CallRequest Apply(const Resource& resource, std::string_view ns, std::string_view name,
                  std::string json, std::string_view field_manager, bool force,
                  std::string_view subresource) {
  CallRequest out = Request("PATCH", resource.Path(ns, name, subresource));
  out.query.emplace_back("fieldManager", field_manager);
  if (force) out.query.emplace_back("force", "true");
  out.body = std::move(json);
  out.content_type = "application/apply-patch+yaml";
  return out;
}

std::string PercentEncode(std::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
        c == '.' || c == '_' || c == '~') {
      out.push_back(c);
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out.push_back('%');
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    }
  }
  return out;
}

std::string EncodeQuery(const Query& query) {
  std::string out;
  for (const auto& [name, value] : query) {
    if (!out.empty()) out.push_back('&');
    out.append(PercentEncode(name)).append("=").append(PercentEncode(value));
  }
  return out;
}

RequestInfo Describe(std::string_view method, std::string_view path, bool watch) {
  RequestInfo out;
  const std::vector<std::string_view> parts = Split(path);
  size_t at = 0;
  if (parts.size() >= 3 && parts[0] == "api") {
    at = 2;
  } else if (parts.size() >= 4 && parts[0] == "apis") {
    out.group = parts[1];
    at = 3;
  } else {
    out.verb = method == "GET" ? "get" : std::string(method);
    return out;
  }
  out.is_resource = true;
  // "/namespaces/NS" is the namespace itself, and so are its subresources.
  if (parts[at] == "namespaces" && parts.size() > at + 2 && parts[at + 2] != "status" &&
      parts[at + 2] != "finalize") {
    out.ns = parts[at + 1];
    at += 2;
  }
  out.resource = parts[at];
  if (parts.size() > at + 1) out.name = parts[at + 1];
  if (parts.size() > at + 2) out.subresource = parts[at + 2];
  if (method == "GET" || method == "HEAD") {
    out.verb = watch ? "watch" : out.name.empty() ? "list" : "get";
  } else if (method == "POST") {
    out.verb = "create";
  } else if (method == "PUT") {
    out.verb = "update";
  } else if (method == "PATCH") {
    out.verb = "patch";
  } else if (method == "DELETE") {
    out.verb = out.name.empty() ? "deletecollection" : "delete";
  }
  return out;
}

}  // namespace qanat::kube
