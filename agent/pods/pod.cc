// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/pod.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/kube/sidecar.h"

namespace qanat::agent {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kModeLabel = "istio.io/dataplane-mode";
constexpr std::string_view kRedirectionAnnotation = "ambient.istio.io/redirection";

Result<std::string> String(const Json& object, const char* key, bool required) {
  auto it = object.find(key);
  if (it == object.end() || it->is_null()) {
    if (!required) return std::string();
    return Fail(Code::kInvalidArgument, fmt::format("pod: \"{}\" is missing", key));
  }
  if (!it->is_string())
    return Fail(Code::kInvalidArgument, fmt::format("pod: \"{}\" is no string", key));
  std::string value = it->get<std::string>();
  if (required && value.empty())
    return Fail(Code::kInvalidArgument, fmt::format("pod: \"{}\" is empty", key));
  return value;
}

Result<std::map<std::string, std::string>> Strings(const Json& object, const char* key) {
  std::map<std::string, std::string> out;
  auto it = object.find(key);
  if (it == object.end() || it->is_null()) return out;
  if (!it->is_object())
    return Fail(Code::kInvalidArgument, fmt::format("pod: \"{}\" is no object", key));
  for (const auto& [name, value] : it->items()) {
    if (!value.is_string())
      return Fail(Code::kInvalidArgument, fmt::format("pod: {}[\"{}\"] is no string", key, name));
    out[name] = value.get<std::string>();
  }
  return out;
}

Result<std::vector<net::IpAddress>> Ips(const Json& object) {
  std::vector<net::IpAddress> out;
  auto it = object.find("ips");
  if (it == object.end() || it->is_null()) return out;
  if (!it->is_array()) return Fail(Code::kInvalidArgument, "pod: \"ips\" is no array");
  for (const Json& value : *it) {
    if (!value.is_string())
      return Fail(Code::kInvalidArgument, "pod: an entry of \"ips\" is no string");
    QANAT_ASSIGN_OR_RETURN(net::IpAddress ip, net::IpAddress::Parse(value.get<std::string>()));
    if (ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || ip.is_link_local())
      return Fail(Code::kInvalidArgument, "pod: " + ip.ToString() + " cannot be a pod's address");
    for (const net::IpAddress& other : out)
      if (other.is_v4() == ip.is_v4())
        return Fail(Code::kInvalidArgument, "pod: more than one address of one family in \"ips\"");
    out.push_back(ip);
  }
  return out;
}

}  // namespace

net::IpAddress Pod::Ip4() const {
  for (const auto& ip : ips)
    if (ip.is_v4()) return ip;
  return {};
}

net::IpAddress Pod::Ip6() const {
  for (const auto& ip : ips)
    if (ip.is_v6()) return ip;
  return {};
}

std::string PublishedOf(const Pod& pod) {
  auto it = pod.annotations.find(std::string(kRedirectionAnnotation));
  return it == pod.annotations.end() ? "" : it->second;
}

bool IsSafeUid(std::string_view uid) {
  if (uid.empty() || uid.size() > 128 || uid.front() == '.') return false;
  return std::all_of(uid.begin(), uid.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
}

Result<Pod> ParsePod(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Fail(Code::kInvalidArgument, "pod: not JSON (cut off?)");
  if (!json.is_object()) return Fail(Code::kInvalidArgument, "pod: not a JSON object");
  Pod pod;
  QANAT_ASSIGN_OR_RETURN(pod.uid, String(json, "uid", true));
  if (!IsSafeUid(pod.uid))
    return Fail(Code::kInvalidArgument, "pod: \"uid\" has characters that no uid has");
  QANAT_ASSIGN_OR_RETURN(pod.name, String(json, "name", true));
  QANAT_ASSIGN_OR_RETURN(pod.ns, String(json, "namespace", true));
  QANAT_ASSIGN_OR_RETURN(pod.service_account, String(json, "serviceAccount", false));
  if (pod.service_account.empty()) pod.service_account = "default";
  QANAT_ASSIGN_OR_RETURN(pod.netns, String(json, "netns", false));
  QANAT_ASSIGN_OR_RETURN(pod.phase, String(json, "phase", false));
  QANAT_ASSIGN_OR_RETURN(pod.labels, Strings(json, "labels"));
  QANAT_ASSIGN_OR_RETURN(pod.annotations, Strings(json, "annotations"));
  pod.sidecar = kube::SidecarOf({{"metadata", {{"annotations", pod.annotations}}}});
  QANAT_ASSIGN_OR_RETURN(pod.namespace_labels, Strings(json, "namespaceLabels"));
  QANAT_ASSIGN_OR_RETURN(pod.ips, Ips(json));
  auto host = json.find("hostNetwork");
  if (host != json.end()) {
    if (!host->is_boolean())
      return Fail(Code::kInvalidArgument, "pod: \"hostNetwork\" is no boolean");
    pod.host_network = host->get<bool>();
  }
  // As in a pod's spec.
  QANAT_RETURN_IF_ERROR(String(json, "dnsPolicy", false));
  if (auto config = json.find("dnsConfig");
      config != json.end() && !config->is_null() && !config->is_object())
    return Fail(Code::kInvalidArgument, "pod: \"dnsConfig\" is no object");
  pod.dns = kube::ReadPodDns(json);
  return pod;
}

Membership DecideMembership(const Pod& pod) {
  auto value = [](const std::map<std::string, std::string>& map, std::string_view key) {
    auto it = map.find(std::string(key));
    return it == map.end() ? std::string_view() : std::string_view(it->second);
  };
  if (pod.host_network)
    return {false, "hostNetwork pods have no namespace of their own to capture"};
  if (pod.excluded)
    return {false, "its namespace is excluded: pods of it start before anything of the mesh does"};
  if (pod.phase == "Succeeded" || pod.phase == "Failed") return {false, "the pod has finished"};
  const std::string_view mode = value(pod.labels, kModeLabel);
  if (mode == "none") return {false, "opted out by its label istio.io/dataplane-mode=none"};
  if (mode != "ambient" && value(pod.namespace_labels, kModeLabel) != "ambient")
    return {false, "neither pod nor namespace has the label istio.io/dataplane-mode=ambient"};
  if (!pod.sidecar.empty()) return {false, kube::SidecarProblem(pod.sidecar), /*refused=*/true};
  return {true, {}};
}

}  // namespace qanat::agent
