// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/kube_pod.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/kube/sidecar.h"

namespace qanat::agent {
namespace {

using Json = nlohmann::json;

// The object at `key`, or an empty one: what is absent and what is null read the same in this API.
const Json& Object(const Json& json, const char* key) {
  static const Json kEmpty = Json::object();
  auto it = json.find(key);
  return it != json.end() && it->is_object() ? *it : kEmpty;
}

std::string String(const Json& json, const char* key) {
  auto it = json.find(key);
  return it != json.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::map<std::string, std::string> Strings(const Json& json, const char* key) {
  std::map<std::string, std::string> out;
  for (const auto& [name, value] : Object(json, key).items())
    if (value.is_string()) out[name] = value.get<std::string>();
  return out;
}

Result<Json> ParseObject(std::string_view text, const char* kind) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object())
    return Fail(Code::kInvalidArgument,
                std::string(kind) + " of the API server: not a JSON object");
  return json;
}

}  // namespace

void SortIps(std::vector<net::IpAddress>* ips) {
  std::vector<net::IpAddress> out;
  for (const bool v4 : {true, false})
    for (const auto& ip : *ips)
      if (ip.is_v4() == v4) {
        out.push_back(ip);
        break;
      }
  *ips = std::move(out);
}

Result<Pod> ParseKubePod(std::string_view text) {
  QANAT_ASSIGN_OR_RETURN(const Json json, ParseObject(text, "Pod"));
  const Json& metadata = Object(json, "metadata");
  const Json& spec = Object(json, "spec");
  const Json& status = Object(json, "status");
  Pod pod;
  pod.uid = String(metadata, "uid");
  pod.name = String(metadata, "name");
  pod.ns = String(metadata, "namespace");
  if (!IsSafeUid(pod.uid) || pod.name.empty() || pod.ns.empty())
    return Fail(Code::kInvalidArgument, "Pod " + pod.ns + "/" + pod.name +
                                            " of the API server: no usable metadata.uid, "
                                            "name or namespace");
  pod.labels = Strings(metadata, "labels");
  pod.annotations = Strings(metadata, "annotations");
  if (auto of = pod.annotations.find("kubernetes.io/config.mirror");
      of != pod.annotations.end() && IsSafeUid(of->second))
    pod.static_uid = of->second;
  pod.service_account = String(spec, "serviceAccountName");
  if (pod.service_account.empty()) pod.service_account = "default";
  auto host = spec.find("hostNetwork");
  pod.host_network = host != spec.end() && host->is_boolean() && host->get<bool>();
  pod.sidecar = kube::SidecarOf(json);
  pod.dns = kube::ReadPodDns(spec);
  pod.phase = String(status, "phase");
  auto add = [&](const std::string& address) {
    auto ip = net::IpAddress::Parse(address);
    if (!ip || ip->is_loopback() || ip->is_unspecified() || ip->is_multicast() ||
        ip->is_link_local())
      return;
    pod.ips.push_back(*ip);
  };
  auto ips = status.find("podIPs");
  if (ips != status.end() && ips->is_array())
    for (const Json& ip : *ips)
      if (ip.is_object()) add(String(ip, "ip"));
  if (pod.ips.empty()) add(String(status, "podIP"));
  SortIps(&pod.ips);
  return pod;
}

Result<KubeNamespace> ParseKubeNamespace(std::string_view text) {
  QANAT_ASSIGN_OR_RETURN(const Json json, ParseObject(text, "Namespace"));
  const Json& metadata = Object(json, "metadata");
  KubeNamespace ns{String(metadata, "name"), Strings(metadata, "labels")};
  if (ns.name.empty())
    return Fail(Code::kInvalidArgument, "Namespace of the API server: no metadata.name");
  return ns;
}

}  // namespace qanat::agent
