// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/proxy_config.h"

#include <fmt/format.h>

#include <charconv>

#include "common/yaml/yaml.h"

namespace qanat::ztunnel {
namespace {

constexpr std::string_view kMetaPrefix = "ISTIO_META_";

auto Bad(std::string_view source, int line, std::string_view what) {
  return Fail(Code::kInvalidArgument, fmt::format("{}, line {}: {}", source, line, what));
}

Result<YamlNode> ParseMap(std::string_view source, std::string_view text) {
  YamlFile file = ParseYaml(text);
  if (!file.errors.empty()) {
    return Bad(source, file.errors.front().line, file.errors.front().message);
  }
  if (file.documents.empty()) return YamlNode();
  if (!file.documents.front().is_map()) {
    return Bad(source, file.documents.front().line,
               fmt::format("expected a map, found {}", file.documents.front().KindName()));
  }
  return std::move(file.documents.front());
}

Status ReadNumber(std::string_view source, const YamlNode& at, const char* key,
                  std::optional<uint16_t>& out, uint16_t least) {
  const YamlNode* node = at.Find(key);
  if (node == nullptr || node->is_null()) return {};
  uint16_t value = 0;
  const char* end = node->text.data() + node->text.size();
  const auto [stop, error] = std::from_chars(node->text.data(), end, value);
  if (!node->is_scalar() || error != std::errc() || stop != end || value < least) {
    return Bad(source, node->line,
               fmt::format("{}: expected a number from {} to 65535", key, least));
  }
  out = value;
  return {};
}

Status Merge(std::string_view source, const YamlNode& from, ProxyConfig& into) {
  if (const YamlNode* node = from.Find("discoveryAddress"); node != nullptr && !node->is_null()) {
    if (!node->is_scalar()) return Bad(source, node->line, "discoveryAddress: expected an address");
    into.discovery_address = node->text;
  }
  QANAT_RETURN_IF_ERROR(ReadNumber(source, from, "proxyAdminPort", into.admin_port, 1));
  QANAT_RETURN_IF_ERROR(ReadNumber(source, from, "statsPort", into.stats_port, 1));
  QANAT_RETURN_IF_ERROR(ReadNumber(source, from, "concurrency", into.concurrency, 0));
  const YamlNode* metadata = from.Find("proxyMetadata");
  if (metadata == nullptr || metadata->is_null()) return {};
  if (!metadata->is_map()) return Bad(source, metadata->line, "proxyMetadata: expected a map");
  for (const YamlEntry& entry : metadata->entries) {
    if (!entry.value.is_scalar() && !entry.value.is_null()) {
      return Bad(source, entry.line,
                 fmt::format("proxyMetadata.{}: expected a single value", entry.key));
    }
    std::string_view name = entry.key;
    if (name.starts_with(kMetaPrefix)) name.remove_prefix(kMetaPrefix.size());
    into.metadata.insert_or_assign(std::string(name), entry.value.text);
  }
  return {};
}

}  // namespace

Result<ProxyConfig> ParseProxyConfig(std::string_view mesh_file, std::string_view variable) {
  ProxyConfig out;
  QANAT_ASSIGN_OR_RETURN(const YamlNode mesh, ParseMap("the mesh file", mesh_file));
  if (const YamlNode* node = mesh.Find("defaultConfig"); node != nullptr && !node->is_null()) {
    if (!node->is_map()) return Bad("the mesh file", node->line, "defaultConfig: expected a map");
    QANAT_RETURN_IF_ERROR(Merge("the mesh file", *node, out));
  }
  QANAT_ASSIGN_OR_RETURN(const YamlNode own, ParseMap("PROXY_CONFIG", variable));
  QANAT_RETURN_IF_ERROR(Merge("PROXY_CONFIG", own, out));
  return out;
}

}  // namespace qanat::ztunnel
