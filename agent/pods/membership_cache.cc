// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/membership_cache.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "agent/files/files.h"

namespace qanat::agent {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kHead = "qanat-pods-cache 1 ";

// FNV-1a: against accidents only. Who can write the file is root on the node.
std::string Checksum(std::string_view text) {
  uint64_t hash = 14695981039346656037ull;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  return fmt::format("{:016x}", hash);
}

}  // namespace

std::optional<bool> MembershipCache::InMesh(const std::string& ns, const std::string& name,
                                            const std::string& uid) const {
  auto pod = pods.find(ns + "/" + name);
  if (pod == pods.end() || (!uid.empty() && pod->second.uid != uid)) return std::nullopt;
  return pod->second.in_mesh;
}

std::string FormatMembershipCache(const MembershipCache& cache) {
  Json json = {{"namespaces", cache.namespaces}, {"pods", Json::object()}};
  for (const auto& [name, pod] : cache.pods)
    json["pods"][name] = {{"uid", pod.uid}, {"inMesh", pod.in_mesh}};
  const std::string body = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  return std::string(kHead) + Checksum(body) + "\n" + body;
}

Result<MembershipCache> ParseMembershipCache(std::string_view text) {
  const size_t end = text.find('\n');
  if (text.substr(0, kHead.size()) != kHead || end == std::string_view::npos)
    return Fail(Code::kInvalidArgument, "not a cache of this version");
  const std::string_view body = text.substr(end + 1);
  if (text.substr(kHead.size(), end - kHead.size()) != Checksum(body))
    return Fail(Code::kInvalidArgument, "its checksum is wrong (cut off, or edited)");
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded() || !json.is_object())
    return Fail(Code::kInvalidArgument, "not a JSON object");
  MembershipCache cache;
  auto namespaces = json.find("namespaces");
  auto pods = json.find("pods");
  if (namespaces == json.end() || !namespaces->is_object() || pods == json.end() ||
      !pods->is_object())
    return Fail(Code::kInvalidArgument, "\"namespaces\" or \"pods\" is missing");
  for (const auto& [name, mode] : namespaces->items())
    if (mode.is_string()) cache.namespaces[name] = mode.get<std::string>();
  for (const auto& [name, pod] : pods->items()) {
    if (!pod.is_object() || !pod.contains("uid") || !pod["uid"].is_string() ||
        !pod.contains("inMesh") || !pod["inMesh"].is_boolean())
      return Fail(Code::kInvalidArgument, "the entry of pod " + name + " is incomplete");
    cache.pods[name] = {pod["uid"].get<std::string>(), pod["inMesh"].get<bool>()};
  }
  return cache;
}

Result<MembershipCache> LoadMembershipCache(const std::string& path) {
  auto text = ReadFile(path);
  if (!text) return tl::unexpected(text.error());
  auto cache = ParseMembershipCache(*text);
  if (!cache) return Fail(cache.error().Annotate(path));
  return cache;
}

Status SaveMembershipCache(const std::string& path, const MembershipCache& cache) {
  return WriteFileAtomically(path, FormatMembershipCache(cache),
                             WriteOptions{.mode = 0600, .durable = true});
}

}  // namespace qanat::agent
