// SPDX-License-Identifier: Apache-2.0
// Decisions as JSON: the shapes that `qanatctl why` prints.
#include <nlohmann/json.hpp>

#include "ztunnel/admin/json.h"

namespace qanat::ztunnel {
namespace {

using nlohmann::ordered_json;

ordered_json Condition(const policy::ConditionTrace& condition) {
  ordered_json out = {{"field", condition.field},
                      {"negated", condition.negated},
                      {"wanted", condition.wanted},
                      {"seen", condition.seen},
                      {"matched", condition.truth == policy::Truth::kTrue}};
  if (condition.truth == policy::Truth::kUnknown) out["not_understood"] = true;
  return out;
}

ordered_json Clause(const policy::ClauseTrace& clause) {
  ordered_json conditions = ordered_json::array();
  size_t index = 0;
  for (const policy::MatchTrace& match : clause.matches) {
    for (const policy::ConditionTrace& condition : match.conditions) {
      ordered_json one = Condition(condition);
      one["match"] = index;  // conditions of one match are ANDed, matches are ORed
      conditions.push_back(std::move(one));
    }
    ++index;
  }
  return {{"matched", clause.truth == policy::Truth::kTrue}, {"conditions", conditions}};
}

ordered_json Policy(const policy::PolicyTrace& trace) {
  ordered_json rules = ordered_json::array();
  for (size_t i = 0; i < trace.rules.size(); ++i) {
    ordered_json clauses = ordered_json::array();
    for (const auto& clause : trace.rules[i].clauses) clauses.push_back(Clause(clause));
    rules.push_back({{"index", i}, {"matched", trace.rules[i].matched}, {"clauses", clauses}});
  }
  ordered_json out = {{"name", trace.policy->Key()},
                      {"action", ToString(trace.policy->action)},
                      {"scope", ToString(trace.policy->scope)},
                      {"dry_run", trace.policy->dry_run},
                      {"matched", trace.matched},
                      {"rules", rules}};
  if (!trace.policy->problems.empty()) out["problems"] = trace.policy->problems;
  return out;
}

}  // namespace

std::string WhyInboundJson(const policy::Explanation& explanation, model::Reason reason,
                           const std::string& detail) {
  const bool refused_before = reason != model::Reason::kNone;
  const model::Reason verdict = refused_before ? reason : explanation.decision.reason;
  ordered_json out;
  out["verdict"] = verdict == model::Reason::kNone ? "allow" : "deny";
  out["reason"] = ToString(verdict);
  out["detail"] = detail.empty() ? std::string(Explanation(verdict)) : detail;
  out["remedy"] = Remedy(verdict);
  out["policy"] = explanation.decision.policy;
  out["policies"] = ordered_json::array();
  for (const auto& trace : explanation.policies) out["policies"].push_back(Policy(trace));
  if (!explanation.unknown.empty()) out["unknown_policies"] = explanation.unknown;
  if (explanation.nearest_allow) {
    ordered_json missing = ordered_json::array();
    for (const auto& condition : explanation.nearest_allow->missing) {
      ordered_json one = {
          {"field", condition.field}, {"wanted", condition.wanted}, {"seen", condition.seen}};
      if (condition.negated) one["negated"] = true;
      missing.push_back(std::move(one));
    }
    out["nearest_allow"] = {{"policy", explanation.nearest_allow->policy},
                            {"rule", explanation.nearest_allow->rule},
                            {"missing", missing}};
  }
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string WhyOutboundJson(const WhyOutbound& why) {
  const route::Route& route = why.route;
  const bool refused = route.kind == route::Route::Kind::kRefuse;
  std::string path(ToString(route.kind));
  if (route.via_waypoint) path = "waypoint";
  if (why.one_pass_pod) path = "one-pass";
  ordered_json out;
  out["verdict"] = refused ? "deny" : "allow";
  out["reason"] = ToString(route.reason);
  out["detail"] =
      refused && route.detail.empty() ? std::string(Explanation(route.reason)) : route.detail;
  out["remedy"] = Remedy(route.reason);
  out["source"] = why.source;
  out["route"] = path;
  out["to"] = route.to.is_set() ? route.to.ToString() : "";
  if (!route.host.empty()) out["host"] = route.host;  // resolved when somebody connects
  out["target"] = route.target.is_set() ? route.target.ToString() : "";
  out["authority"] = route.authority;
  out["identities"] = route.identities;
  if (!route.inner_identities.empty()) out["inner_identities"] = route.inner_identities;
  out["service"] = route.service ? route.service->Key() : "";
  out["destination"] = route.destination ? route.destination->uid : "";
  out["destination_node"] = route.destination ? route.destination->node : "";
  if (!why.one_pass_why_not.empty()) out["not_one_pass"] = why.one_pass_why_not;
  return out.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace qanat::ztunnel
