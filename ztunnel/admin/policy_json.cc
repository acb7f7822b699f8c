// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/admin/policy_json.h"

#include <fmt/format.h>

#include <optional>

namespace qanat::ztunnel {
namespace {

using nlohmann::ordered_json;

// Each in the form that serde gives the original's types; nothing where it is not understood.
std::optional<ordered_json> Value(const model::StringMatch& match) {
  switch (match.kind) {
    case model::StringMatch::Kind::kExact: return ordered_json{{"Exact", match.value}};
    case model::StringMatch::Kind::kPrefix: return ordered_json{{"Prefix", match.value}};
    case model::StringMatch::Kind::kSuffix: return ordered_json{{"Suffix", match.value}};
    case model::StringMatch::Kind::kPresence:
      return ordered_json{{"Presence", ordered_json::array()}};
    case model::StringMatch::Kind::kNotUnderstood: break;
  }
  return std::nullopt;
}
std::optional<ordered_json> Value(const model::IpMatch& match) {
  if (!match.understood) return std::nullopt;
  return match.block.ToString();
}
std::optional<ordered_json> Value(const model::PortMatch& match) {
  if (!match.understood) return std::nullopt;
  return match.port;
}
std::optional<ordered_json> Value(const model::ServiceAccountMatch& match) {
  if (!match.understood) return std::nullopt;
  return ordered_json{{"namespace", match.ns}, {"serviceAccount", match.sa}};
}

struct MatchPrinter {
  ordered_json out = ordered_json::object();
  ordered_json problems = ordered_json::array();

  template <typename Values>
  void Add(const char* key, const Values& values) {
    if (values.empty()) return;
    size_t unknown = 0;
    ordered_json list = ordered_json::array();
    for (const auto& value : values) {
      if (auto shown = Value(value)) {
        list.push_back(std::move(*shown));
      } else {
        ++unknown;
      }
    }
    if (!list.empty()) out[key] = std::move(list);
    if (unknown > 0) {
      problems.push_back(
          fmt::format("{}: {} of {} values not understood", key, unknown, values.size()));
    }
  }
};

ordered_json MatchJson(const model::Match& match) {
  MatchPrinter printer;
  printer.Add("namespaces", match.namespaces);
  printer.Add("notNamespaces", match.not_namespaces);
  printer.Add("serviceAccounts", match.service_accounts);
  printer.Add("notServiceAccounts", match.not_service_accounts);
  printer.Add("principals", match.principals);
  printer.Add("notPrincipals", match.not_principals);
  printer.Add("sourceIps", match.source_ips);
  printer.Add("notSourceIps", match.not_source_ips);
  printer.Add("destinationIps", match.destination_ips);
  printer.Add("notDestinationIps", match.not_destination_ips);
  printer.Add("destinationPorts", match.destination_ports);
  printer.Add("notDestinationPorts", match.not_destination_ports);
  if (match.not_understood) {
    printer.problems.push_back("one more condition that is not understood");
  }
  if (!printer.problems.empty()) printer.out["problems"] = std::move(printer.problems);
  return std::move(printer.out);
}

const char* ScopeName(model::PolicyScope scope) {
  switch (scope) {
    case model::PolicyScope::kGlobal: return "Global";
    case model::PolicyScope::kNamespace: return "Namespace";
    case model::PolicyScope::kSelector: return "WorkloadSelector";
  }
  return "";
}

}  // namespace

ordered_json PolicyJson(const model::Policy& policy) {
  ordered_json rules = ordered_json::array();
  for (const model::Rule& rule : policy.rules) {
    ordered_json clauses = ordered_json::array();
    for (const model::Clause& clause : rule.clauses) {
      ordered_json matches = ordered_json::array();
      for (const model::Match& match : clause.matches) matches.push_back(MatchJson(match));
      clauses.push_back(std::move(matches));
    }
    rules.push_back(std::move(clauses));
  }
  ordered_json out = {{"name", policy.name},
                      {"namespace", policy.ns},
                      {"scope", ScopeName(policy.scope)},
                      {"action", policy.action == model::PolicyAction::kAllow ? "Allow" : "Deny"},
                      {"rules", std::move(rules)},
                      {"dryRun", policy.dry_run}};
  if (!policy.problems.empty()) out["problems"] = policy.problems;
  return out;
}

}  // namespace qanat::ztunnel
