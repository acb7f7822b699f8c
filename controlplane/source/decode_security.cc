// SPDX-License-Identifier: Apache-2.0
// security.istio.io. What is not understood is kept in `unknown` of the innermost part, so that the
// translators can fail closed there. Stricter than a plain YAML reader on purpose: a field without
// a value, an empty list or an empty string is most likely half an edit, and taking it as "not
// said" would widen an ALLOW.
#include <fmt/format.h>

#include <charconv>

#include "controlplane/source/decode.h"

namespace qanat::controlplane {
namespace {

// Reports keys that are written without a value.
void CheckEmptyKeys(const YamlNode* node, MapReader& reader) {
  if (node == nullptr || !node->is_map()) return;
  for (const YamlEntry& entry : node->entries) {
    if (entry.value.is_null() && !entry.value.quoted) {
      reader.Ignore({entry.key});
      reader.Bad(entry.line, entry.key, "has no value", "give it a value, or remove it");
    }
  }
}

std::vector<std::string> Values(const YamlNode* node, MapReader& reader, std::string_view key) {
  std::vector<std::string> values = reader.Strings(key);
  const YamlNode* list = node == nullptr ? nullptr : node->Find(key);
  if (list == nullptr || !list->is_sequence()) return values;
  if (list->items.empty()) {
    reader.Bad(list->line, key, "is an empty list", "list at least one value, or remove it");
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].empty()) {
      reader.Bad(list->line, key, "holds an empty string", "remove it");
      values.erase(values.begin() + static_cast<ptrdiff_t>(i--));
    }
  }
  return values;
}

AuthorizationPolicy::Source ReadSource(const YamlNode* wrapper, const std::string& path,
                                       ReadContext& context) {
  AuthorizationPolicy::Source out;
  out.line = wrapper->line;
  MapReader outer(wrapper, path, context, &out.unknown);
  const YamlNode* node = outer.Take("source");
  outer.Finish();
  if (node == nullptr || (node->is_map() && node->entries.empty())) {
    if (out.unknown.empty()) {
      outer.Bad(wrapper->line, "source", "says nothing", "give it at least one field");
    }
    return out;
  }
  MapReader reader(node, path + ".source", context, &out.unknown);
  CheckEmptyKeys(node, reader);
  out.principals = Values(node, reader, "principals");
  out.not_principals = Values(node, reader, "notPrincipals");
  out.request_principals = Values(node, reader, "requestPrincipals");
  out.not_request_principals = Values(node, reader, "notRequestPrincipals");
  out.namespaces = Values(node, reader, "namespaces");
  out.not_namespaces = Values(node, reader, "notNamespaces");
  out.service_accounts = Values(node, reader, "serviceAccounts");
  out.not_service_accounts = Values(node, reader, "notServiceAccounts");
  out.ip_blocks = Values(node, reader, "ipBlocks");
  out.not_ip_blocks = Values(node, reader, "notIpBlocks");
  out.remote_ip_blocks = Values(node, reader, "remoteIpBlocks");
  out.not_remote_ip_blocks = Values(node, reader, "notRemoteIpBlocks");
  reader.Finish();
  return out;
}

AuthorizationPolicy::Operation ReadOperation(const YamlNode* wrapper, const std::string& path,
                                             ReadContext& context) {
  AuthorizationPolicy::Operation out;
  out.line = wrapper->line;
  MapReader outer(wrapper, path, context, &out.unknown);
  const YamlNode* node = outer.Take("operation");
  outer.Finish();
  if (node == nullptr || (node->is_map() && node->entries.empty())) {
    if (out.unknown.empty()) {
      outer.Bad(wrapper->line, "operation", "says nothing", "give it at least one field");
    }
    return out;
  }
  MapReader reader(node, path + ".operation", context, &out.unknown);
  CheckEmptyKeys(node, reader);
  out.hosts = Values(node, reader, "hosts");
  out.not_hosts = Values(node, reader, "notHosts");
  out.ports = Values(node, reader, "ports");
  out.not_ports = Values(node, reader, "notPorts");
  out.methods = Values(node, reader, "methods");
  out.not_methods = Values(node, reader, "notMethods");
  out.paths = Values(node, reader, "paths");
  out.not_paths = Values(node, reader, "notPaths");
  reader.Finish();
  return out;
}

AuthorizationPolicy::Condition ReadCondition(const YamlNode* node, const std::string& path,
                                             ReadContext& context) {
  AuthorizationPolicy::Condition out;
  out.line = node->line;
  MapReader reader(node, path, context, &out.unknown);
  CheckEmptyKeys(node, reader);
  out.key = reader.String("key");
  out.values = Values(node, reader, "values");
  out.not_values = Values(node, reader, "notValues");
  reader.Finish();
  if (out.unknown.empty() && out.key.empty()) {
    reader.Bad(node->line, "key", "is missing", "for example key: source.namespace");
  }
  if (out.unknown.empty() && out.values.empty() && out.not_values.empty()) {
    reader.Bad(node->line, "values", "is missing", "give values or notValues");
  }
  return out;
}

// A list that is there must not be empty: `from: []` is not "from anywhere".
std::vector<const YamlNode*> Parts(const YamlNode* rule, MapReader& reader, std::string_view key) {
  const std::vector<const YamlNode*> items = reader.Items(key);
  const YamlNode* list = rule->Find(key);
  if (list != nullptr && list->is_sequence() && list->items.empty()) {
    reader.Bad(list->line, key, "is an empty list", "remove it to mean anything");
  }
  return items;
}

AuthorizationPolicy::Rule ReadRule(const YamlNode* node, ReadContext& context) {
  const std::string path = "spec.rules";
  AuthorizationPolicy::Rule out;
  out.line = node->line;
  MapReader reader(node, path, context, &out.unknown);
  if (!node->is_map()) {
    if (out.unknown.empty()) {
      reader.Bad(node->line, "rule", "is empty", "write {} for a rule that matches everything");
    }
    return out;
  }
  CheckEmptyKeys(node, reader);
  for (const YamlNode* from : Parts(node, reader, "from")) {
    out.from.push_back(ReadSource(from, path + ".from", context));
  }
  for (const YamlNode* to : Parts(node, reader, "to")) {
    out.to.push_back(ReadOperation(to, path + ".to", context));
  }
  for (const YamlNode* when : Parts(node, reader, "when")) {
    out.when.push_back(ReadCondition(when, path + ".when", context));
  }
  reader.Finish();
  return out;
}

std::optional<Labels> ReadSelector(MapReader& spec, ReadContext& context,
                                   std::vector<std::string>* unknown) {
  const YamlNode* node = spec.Take("selector");
  if (node == nullptr) return std::nullopt;
  MapReader reader(node, spec.PathOf("selector"), context, unknown);
  Labels labels = reader.StringMap("matchLabels");
  reader.Finish();
  return labels;
}

MtlsMode ReadMode(MapReader& reader) {
  const std::string mode = reader.String("mode");
  if (mode.empty() || mode == "UNSET") return MtlsMode::kUnset;
  if (mode == "DISABLE") return MtlsMode::kDisable;
  if (mode == "PERMISSIVE") return MtlsMode::kPermissive;
  if (mode == "STRICT") return MtlsMode::kStrict;
  reader.Bad(reader.line(), "mode", fmt::format("\"{}\" is not a mode: STRICT is enforced", mode),
             "use STRICT, PERMISSIVE, DISABLE or UNSET");
  return MtlsMode::kStrict;
}

}  // namespace

AnyObject DecodePeerAuthentication(ObjectMeta meta, MapReader& root) {
  PeerAuthentication out;
  out.meta = std::move(meta);
  std::vector<std::string> unknown;
  MapReader spec(root.Take("spec"), "spec", root.context(), &unknown);
  out.selector = ReadSelector(spec, root.context(), &unknown);
  MapReader mtls = spec.Map("mtls");
  out.mode = ReadMode(mtls);
  mtls.Finish();
  if (const YamlNode* ports = spec.Take("portLevelMtls")) {
    MapReader reader(ports, "spec.portLevelMtls", root.context(), &unknown);
    for (const YamlEntry& entry : ports->entries) {
      unsigned number = 0;
      const char* end = entry.key.data() + entry.key.size();
      const auto [at, error] = std::from_chars(entry.key.data(), end, number);
      if (error != std::errc() || at != end || number == 0 || number > 65535) {
        reader.Bad(entry.line, entry.key, "is not a port", "use a number from 1 to 65535");
        continue;
      }
      MapReader mode(&entry.value, reader.PathOf(entry.key), root.context(), &unknown);
      out.port_modes[static_cast<uint16_t>(number)] = ReadMode(mode);
      mode.Finish();
    }
    if (!out.has_selector()) {
      reader.Bad(ports->line, "portLevelMtls", "counts only with a selector",
                 "add selector.matchLabels for the workloads that have these ports");
    }
  }
  spec.Finish();
  // Not understood in any part: the strictest reading of the whole.
  if (!unknown.empty()) {
    out.mode = MtlsMode::kStrict;
    out.port_modes.clear();
  }
  return out;
}

AnyObject DecodeAuthorizationPolicy(ObjectMeta meta, MapReader& root) {
  AuthorizationPolicy out;
  const std::string* dry_run = meta.Annotation("istio.io/dry-run");
  out.dry_run = dry_run != nullptr && *dry_run == "true";
  out.meta = std::move(meta);
  ReadContext& context = root.context();
  root.Ignore({"status"});
  MapReader spec(root.Take("spec"), "spec", context, &out.unknown);
  out.selector = ReadSelector(spec, context, &out.unknown);
  const size_t issues = context.issues.size();
  const bool failed = context.failed;
  out.targets = ReadTargetRefs(spec);
  context.failed = failed;
  if (context.issues.size() != issues) out.unknown.push_back("spec.targetRefs");
  const std::string action = spec.String("action");
  using Action = AuthorizationPolicy::Action;
  if (action == "DENY") {
    out.action = Action::kDeny;
  } else if (action == "AUDIT") {
    out.action = Action::kAudit;
  } else if (action == "CUSTOM") {
    out.action = Action::kCustom;
  } else if (!action.empty() && action != "ALLOW") {
    spec.Bad(spec.line(), "action",
             fmt::format("\"{}\" is not an action: everything that the policy selects is denied",
                         action),
             "use ALLOW, DENY or AUDIT");
  }
  out.provider = spec.Map("provider").String("name");
  for (const YamlNode* rule : spec.Items("rules")) out.rules.push_back(ReadRule(rule, context));
  spec.Finish();
  if (out.has_selector() && !out.targets.empty()) {
    spec.Bad(spec.line(), "targetRefs", "cannot be given together with selector",
             "use targetRefs for a waypoint or service, selector for pods");
  }
  return out;
}

AnyObject DecodeRequestAuthentication(ObjectMeta meta, MapReader& root) {
  RequestAuthentication out;
  out.meta = std::move(meta);
  ReadContext& context = root.context();
  MapReader spec(root.Take("spec"), "spec", context, &out.unknown);
  out.selector = ReadSelector(spec, context, &out.unknown);
  const bool failed = context.failed;
  out.targets = ReadTargetRefs(spec);
  context.failed = failed;
  for (const YamlNode* node : spec.Items("jwtRules")) {
    MapReader reader(node, "spec.jwtRules", context, &out.unknown);
    RequestAuthentication::JwtRule rule;
    rule.line = node->line;
    rule.issuer = reader.String("issuer");
    rule.audiences = reader.Strings("audiences");
    rule.jwks_uri = reader.String("jwksUri");
    if (rule.jwks_uri.empty()) rule.jwks_uri = reader.String("jwks_uri");
    rule.jwks = reader.String("jwks");
    for (const YamlNode* header_node : reader.Items("fromHeaders")) {
      MapReader header(header_node, reader.PathOf("fromHeaders"), context, &out.unknown);
      rule.from_headers.push_back({header.String("name"), header.String("prefix")});
      header.Finish();
    }
    rule.from_params = reader.Strings("fromParams");
    rule.from_cookies = reader.Strings("fromCookies");
    rule.output_payload_to_header = reader.String("outputPayloadToHeader");
    for (const YamlNode* claim_node : reader.Items("outputClaimToHeaders")) {
      MapReader claim(claim_node, reader.PathOf("outputClaimToHeaders"), context, &out.unknown);
      const std::string header = claim.String("header");
      rule.output_claims.emplace_back(header, claim.String("claim"));
      claim.Finish();
    }
    rule.forward_original_token = reader.Bool("forwardOriginalToken");
    rule.timeout = reader.Duration("timeout");
    reader.Ignore({"spaceDelimitedClaims"});
    reader.Finish();
    if (rule.issuer.empty()) reader.Bad(node->line, "issuer", "is missing");
    out.rules.push_back(std::move(rule));
  }
  spec.Finish();
  return out;
}

}  // namespace qanat::controlplane
