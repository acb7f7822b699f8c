// SPDX-License-Identifier: Apache-2.0
#include "agent/plugin/invocation.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

namespace qanat::plugin {
namespace {

using Json = nlohmann::json;

// Chained plugins get prevResult since 0.3.0.
constexpr std::array<std::string_view, 5> kVersions = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
constexpr std::string_view kNewest = kVersions.back();

tl::unexpected<CniError> Refuse(int code, std::string message, std::string details = "") {
  return tl::unexpected<CniError>(CniError{code, std::move(message), std::move(details)});
}

std::string String(const Json& object, const char* key) {
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;..."
std::string Argument(std::string_view arguments, std::string_view name) {
  while (!arguments.empty()) {
    const size_t end = arguments.find(';');
    const std::string_view one = arguments.substr(0, end);
    arguments.remove_prefix(end == std::string_view::npos ? arguments.size() : end + 1);
    const size_t equals = one.find('=');
    if (equals != std::string_view::npos && one.substr(0, equals) == name)
      return std::string(one.substr(equals + 1));
  }
  return "";
}

tl::expected<Command, CniError> CommandOf(const std::string& name) {
  if (name == "ADD") return Command::kAdd;
  if (name == "DEL") return Command::kDel;
  if (name == "CHECK") return Command::kCheck;
  if (name == "VERSION") return Command::kVersion;
  if (name == "GC") return Command::kGc;
  if (name == "STATUS") return Command::kStatus;
  return Refuse(kInvalidEnvironment, "CNI_COMMAND is \"" + name + "\"",
                "expected ADD, DEL, CHECK, GC, STATUS or VERSION; qanat-cni is started by a "
                "container runtime, not by hand");
}

// "10.244.1.5/24" of every entry of prevResult.ips.
std::vector<net::IpAddress> Addresses(const Json& result) {
  std::vector<net::IpAddress> out;
  auto ips = result.find("ips");
  if (ips == result.end() || !ips->is_array()) return out;
  for (const Json& entry : *ips) {
    if (!entry.is_object()) continue;
    const std::string address = String(entry, "address");
    if (auto ip = net::IpAddress::Parse(address.substr(0, address.find('/')))) out.push_back(*ip);
  }
  return out;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace

bool SupportsCniVersion(std::string_view version) {
  return version.empty() ||
         std::find(kVersions.begin(), kVersions.end(), version) != kVersions.end();
}

tl::expected<Invocation, CniError> ParseInvocation(const Environment& environment,
                                                   std::string_view stdin_text,
                                                   std::string* version) {
  *version = std::string(kNewest);
  auto command = CommandOf(environment("CNI_COMMAND"));
  if (!command) return tl::unexpected(command.error());
  Invocation call;
  call.command = *command;
  const Json json = Json::parse(stdin_text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object()) {
    if (call.command == Command::kVersion) {
      call.cni_version = *version;
      return call;
    }
    return Refuse(kDecodingFailure, "the network configuration on stdin is not a JSON object");
  }
  call.cni_version = String(json, "cniVersion");
  if (call.cni_version.empty()) call.cni_version = "0.3.1";
  if (call.command == Command::kVersion) return call;
  if (!SupportsCniVersion(call.cni_version))
    return Refuse(kIncompatibleVersion, "cniVersion " + call.cni_version + " is not supported",
                  "qanat-cni knows 0.3.0 to 1.1.0: raise cniVersion of the network configuration");
  *version = call.cni_version;

  call.container_id = environment("CNI_CONTAINERID");
  call.netns = environment("CNI_NETNS");
  const std::string arguments = environment("CNI_ARGS");
  call.pod_namespace = Argument(arguments, "K8S_POD_NAMESPACE");
  call.pod_name = Argument(arguments, "K8S_POD_NAME");
  call.pod_uid = Argument(arguments, "K8S_POD_UID");
  call.agent_socket = String(json, "agentSocket");
  call.kubeconfig = String(json, "kubeconfig");
  call.cache = String(json, "cache");
  call.log_file = String(json, "logFile");
  call.own_list = String(json, "ownList");
  if (auto names = json.find("excludeNamespaces"); names != json.end() && names->is_array())
    for (const Json& name : *names)
      if (name.is_string()) call.exclude_namespaces.push_back(name.get<std::string>());
  if (auto prev = json.find("prevResult"); prev != json.end() && prev->is_object()) {
    call.prev_result = Dump(*prev);
    call.ips = Addresses(*prev);
  }
  const bool needs_result = call.command == Command::kAdd || call.command == Command::kCheck;
  if (needs_result && call.netns.empty())
    return Refuse(kInvalidEnvironment, "CNI_NETNS is missing");
  if (needs_result && call.prev_result.empty())
    return Refuse(kInvalidConfig,
                  "qanat-cni must be chained after the plugin that makes the network",
                  "prevResult is missing: put it last into \"plugins\" of a *.conflist; the node "
                  "agent does so by itself");
  if (needs_result && call.agent_socket.empty())
    return Refuse(kInvalidConfig, "\"agentSocket\" is missing in the entry of qanat-cni",
                  "take the entry out; the node agent puts a whole one in");
  return call;
}

std::string FormatError(const std::string& cni_version, const CniError& error) {
  Json json = {{"cniVersion", cni_version}, {"code", error.code}, {"msg", error.message}};
  if (!error.details.empty()) json["details"] = error.details;
  return Dump(json);
}

std::string FormatVersions(const std::string& cni_version) {
  return Dump({{"cniVersion", cni_version}, {"supportedVersions", kVersions}});
}

}  // namespace qanat::plugin
