// SPDX-License-Identifier: Apache-2.0
#include "common/kube/status.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace qanat::kube {
namespace {

using nlohmann::json;

std::string StringOf(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::string Shorten(std::string_view text, size_t limit) {
  std::string out(text.substr(0, limit));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  if (text.size() > limit) out += "...";
  return out;
}

// The server's words are: User "system:serviceaccount:a:b" cannot ...
std::string SubjectIn(const std::string& message) {
  const size_t begin = message.find("User \"");
  if (begin == std::string::npos) return "the caller";
  const size_t end = message.find('"', begin + 6);
  return end == std::string::npos ? "the caller" : message.substr(begin + 6, end - begin - 6);
}

std::string RbacRemedy(const RequestInfo& info, const std::string& message) {
  if (!info.is_resource) {
    return fmt::format("{} needs a ClusterRole with nonResourceURLs for it", SubjectIn(message));
  }
  const std::string resource =
      info.subresource.empty() ? info.resource : info.resource + "/" + info.subresource;
  return fmt::format(
      "give {} a {} with the rule apiGroups [\"{}\"], resources [\"{}\"], verbs [\"{}\"]",
      SubjectIn(message),
      info.ns.empty() ? std::string("ClusterRole")
                      : "Role in namespace " + info.ns +
                            " (or a "
                            "ClusterRole)",
      info.group, resource, info.verb);
}

std::string Remedy(int code, const ApiStatus& status, const RequestInfo& info) {
  switch (code) {
    case 401: return "our credentials are not accepted (expired, revoked, or of another cluster)";
    case 403:
      // Admission says Forbidden too (a namespace that ends, pod security): its words are enough.
      return status.message.find("cannot") == std::string::npos ? ""
                                                                : RbacRemedy(info, status.message);
    case 404:
      if (status.resource_missing && info.is_resource) {
        return info.group.empty()
                   ? "this API server has no such resource"
                   : fmt::format("the server has no {}.{} in this version: install its CRD",
                                 info.resource, info.group);
      }
      return "";
    case 409: return status.reason == "AlreadyExists" ? "" : "read it again and repeat the change";
    case 410: return "list again";
    case 413: return "the object is too large for the API server (etcd takes about 1.5 MiB)";
    case 429: return "the API server limits us; it is tried again";
    default: return "";
  }
}

}  // namespace

ApiStatus ParseStatus(std::string_view text) {
  ApiStatus out;
  const json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object() || StringOf(value, "kind") != "Status") return out;
  if (const auto code = value.find("code"); code != value.end() && code->is_number_integer()) {
    out.code = code->get<int>();
  }
  out.reason = StringOf(value, "reason");
  out.message = StringOf(value, "message");
  const auto details = value.find("details");
  const bool has_details = details != value.end() && details->is_object();
  // A missing object is named in the details; a missing resource has none, or no name in them.
  out.resource_missing =
      out.reason == "NotFound" && (!has_details || StringOf(*details, "name").empty());
  if (has_details && details->contains("causes") && (*details)["causes"].is_array()) {
    for (const json& cause : (*details)["causes"]) {
      if (cause.is_object() && StringOf(cause, "reason") == "ResourceVersionTooLarge") {
        out.version_too_large = true;
      }
    }
  }
  if (out.message.starts_with("Too large resource version")) out.version_too_large = true;
  return out;
}

Code CodeOf(int http_status, std::string_view reason) {
  switch (http_status) {
    case 400:
    case 413:
    case 422: return Code::kInvalidArgument;
    case 401: return Code::kUnauthenticated;
    case 403: return Code::kPermissionDenied;
    case 404: return Code::kNotFound;
    case 405:
    case 406:
    case 415: return Code::kUnimplemented;
    case 409: return reason == "AlreadyExists" ? Code::kAlreadyExists : Code::kFailedPrecondition;
    case 410:
    case 412: return Code::kFailedPrecondition;
    case 504: return Code::kDeadlineExceeded;
    default: return http_status >= 500 || http_status == 429 ? Code::kUnavailable : Code::kInternal;
  }
}

Error ErrorOf(std::string_view method, std::string_view path, bool watch, int http_status,
              std::string_view body) {
  ApiStatus status = ParseStatus(body);
  const RequestInfo info = Describe(method, path, watch);
  const bool a_status = !status.reason.empty() || !status.message.empty();
  if (!a_status) {
    status.message = Shorten(body, 200);
    // A path that no API group serves is answered in plain text.
    status.resource_missing = http_status == 404 && info.is_resource;
  }
  std::string what = info.is_resource
                         ? fmt::format("{} {}{}{}", info.verb, info.resource,
                                       info.group.empty() ? "" : "." + info.group,
                                       info.subresource.empty() ? "" : "/" + info.subresource)
                         : fmt::format("{} {}", method, path);
  if (!info.name.empty()) {
    what += " " + (info.ns.empty() ? info.name : info.ns + "/" + info.name);
  } else if (!info.ns.empty()) {
    what += " in " + info.ns;
  }
  std::string text =
      fmt::format("{}: the API server answered {}{}: {}", what, http_status,
                  status.reason.empty() ? "" : " " + status.reason, Shorten(status.message, 2000));
  if (const std::string remedy = Remedy(http_status, status, info); !remedy.empty()) {
    text += "; " + remedy;
  }
  return Error{CodeOf(http_status, status.reason), std::move(text), 0};
}

}  // namespace qanat::kube
