// SPDX-License-Identifier: Apache-2.0
// /debug/why: the data path's own functions asked about a request that nobody sends.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/model/reason.h"
#include "waypoint/admin/pages.h"
#include "waypoint/config/effective.h"
#include "waypoint/proxy/peer.h"

namespace qanat::waypoint {
namespace {

using model::Reason;
using nlohmann::json;

std::string_view ActionName(Rbac::Action action) {
  switch (action) {
    case Rbac::Action::kAllow: return "ALLOW";
    case Rbac::Action::kDeny: return "DENY";
    case Rbac::Action::kLog: return "AUDIT";
  }
  return "";
}

json ConditionJson(const ExplainedCondition& c) {
  json out = {{"field", c.field},
              {"negated", c.negated},
              {"wanted", c.wanted},
              {"seen", c.seen},
              {"matched", c.truth == Truth::kTrue}};
  if (c.truth == Truth::kUnknown) out["not_understood"] = true;
  return out;
}

void AddPolicies(const AuthzExplanation& e, json& out) {
  out["policies"] = json::array();
  for (const ExplainedPolicy& p : e.policies) {
    json rules = json::array();
    for (const ExplainedRule& r : p.rules) {
      json clauses = json::array();
      for (const ExplainedClause& c : r.clauses) {
        json conditions = json::array();
        for (const auto& condition : c.conditions) conditions.push_back(ConditionJson(condition));
        clauses.push_back({{"part", c.part},
                           {"matched", c.truth == Truth::kTrue},
                           {"alternative", c.alternative},
                           {"alternatives", c.alternatives},
                           {"conditions", std::move(conditions)}});
      }
      rules.push_back(
          {{"index", r.index}, {"matched", r.matched}, {"clauses", std::move(clauses)}});
    }
    out["policies"].push_back({{"name", p.name},
                               {"action", ActionName(p.action)},
                               {"scope", "waypoint"},
                               {"dry_run", p.dry_run},
                               {"matched", p.matched},
                               {"rules", std::move(rules)}});
  }
  if (e.nearest_allow) {
    json missing = json::array();
    for (const auto& c : e.nearest_allow->missing) missing.push_back(ConditionJson(c));
    out["nearest_allow"] = {{"policy", e.nearest_allow->policy},
                            {"rule", e.nearest_allow->rule},
                            {"missing", std::move(missing)}};
  }
}

void SetVerdict(json& out, bool allowed, Reason reason, std::string detail) {
  out["verdict"] = allowed ? "allow" : "deny";
  out["reason"] = model::ToString(reason);
  if (detail.empty()) detail = std::string(model::Explanation(reason));
  out["detail"] = std::move(detail);
  if (!allowed) out["remedy"] = model::Remedy(reason);
}

size_t HealthyEndpoints(const ConfigSnapshot& snapshot, const std::string& cluster, json& list) {
  size_t healthy = 0;
  auto config = snapshot.FindCluster(cluster);
  auto endpoints = config ? snapshot.EndpointsOf(*config) : nullptr;
  if (!endpoints) return 0;
  for (const Endpoint& e : endpoints->endpoints) {
    if (e.healthy && e.weight > 0) ++healthy;
    list.push_back({{"address", e.address.ToString()},
                    {"hbone", e.hbone},
                    {"identity", e.identity},
                    {"workload", e.labels.workload},
                    {"healthy", e.healthy}});
  }
  return healthy;
}

// Users name services shortly or fully; tunnels name them by address. The chain's own name ends
// with the service's full name.
ChainPtr FindChain(const ConfigSnapshot& snapshot, const Authority& authority) {
  if (ChainPtr chain = snapshot.FindChain(authority.text)) return chain;
  const std::string port = fmt::format("|{}|", authority.port);
  auto named = [&](const ChainPtr& chain) {
    size_t bar = chain->name.rfind('|');
    if (bar == std::string::npos || chain->name.find(port) == std::string::npos) return false;
    std::string_view host = std::string_view(chain->name).substr(bar + 1);
    return host == authority.host || host.starts_with(authority.host + ".");
  };
  for (const auto& [name, listener] : snapshot.listeners) {
    for (const auto& [address, chain] : listener->chains.by_address) {
      if (named(chain)) return chain;
    }
    for (const auto& [text, chain] : listener->chains.by_authority) {
      if (named(chain)) return chain;
    }
  }
  return nullptr;
}

void ExplainTcp(const ConfigSnapshot& snapshot, const Chain& chain, AuthzInput input, json& out) {
  input.head = nullptr;
  AuthzExplanation e = Explain({&chain.tcp->rbac}, input);
  AddPolicies(e, out);
  if (!e.decision.allowed) return SetVerdict(out, false, e.decision.reason, "");
  size_t healthy = 0;
  json clusters = json::array();
  for (const auto& [name, weight] : chain.tcp->clusters) {
    json endpoints = json::array();
    healthy += HealthyEndpoints(snapshot, name, endpoints);
    clusters.push_back(
        {{"cluster", name}, {"weight", weight}, {"endpoints", std::move(endpoints)}});
  }
  out["route"] = {{"action", "tcp"}, {"clusters", std::move(clusters)}};
  if (healthy == 0) return SetVerdict(out, false, Reason::kNoHealthyUpstream, "");
  SetVerdict(out, true, Reason::kNone, "");
}

void ExplainRoute(const ConfigSnapshot& snapshot, const Effective& effective,
                  const std::vector<RouteMiss>& misses, const HeadView& head, json& out) {
  json route = json::object();
  route["passed_over"] = json::array();
  for (const RouteMiss& miss : misses) {
    route["passed_over"].push_back({{"route", miss.route}, {"why", miss.why}});
  }
  const Route* chosen = effective.choice.route;
  if (chosen == nullptr) {
    out["route"] = std::move(route);
    return SetVerdict(out, false, Reason::kNoRoute, "");
  }
  route["name"] = chosen->name;
  route["origin"] = chosen->origin;
  route["match"] = chosen->match.path.Describe();
  bool allowed = true;
  Reason reason = Reason::kNone;
  if (const auto* redirect = std::get_if<RedirectAction>(&chosen->action)) {
    route["action"] = "redirect";
    route["status"] = redirect->status;
    route["location"] = RedirectLocation(*redirect, chosen->match.path, head);
  } else if (const auto* direct = std::get_if<DirectResponse>(&chosen->action)) {
    route["action"] = "direct_response";
    route["status"] = direct->status;
    if (direct->status == 404) {
      allowed = false;
      reason = Reason::kNoRoute;
    }
  } else if (const auto* forward = std::get_if<ForwardAction>(&chosen->action)) {
    route["action"] = "forward";
    route["timeout_ms"] = forward->timeout.count();
    route["retries"] = forward->retry ? forward->retry->num_retries : 0;
    size_t healthy = 0;
    json clusters = json::array();
    for (const ClusterWeight& c : forward->clusters) {
      json endpoints = json::array();
      size_t n = HealthyEndpoints(snapshot, c.cluster, endpoints);
      if (c.weight > 0) healthy += n;
      clusters.push_back(
          {{"cluster", c.cluster}, {"weight", c.weight}, {"endpoints", std::move(endpoints)}});
    }
    route["clusters"] = std::move(clusters);
    if (healthy == 0 && forward->cluster_header.empty()) {
      allowed = false;
      reason = Reason::kNoHealthyUpstream;
    }
  }
  out["route"] = std::move(route);
  SetVerdict(out, allowed, reason, "");
}

}  // namespace

std::string WhyJson(const ConfigSnapshot& snapshot, const WhyRequest& request) {
  json out = {{"policies", json::array()}};
  std::string text = request.authority;
  Authority authority = ParseAuthority(text);
  if (!authority.valid && request.port != 0) {
    const bool bare_v6 = text.find(':') != std::string::npos && !text.starts_with('[');
    authority =
        ParseAuthority(fmt::format("{}:{}", bare_v6 ? "[" + text + "]" : text, request.port));
  }
  auto dump = [&out] { return out.dump(2, ' ', false, json::error_handler_t::replace); };
  if (!authority.valid) {
    SetVerdict(out, false, Reason::kBadRequest,
               "authority must be HOST:PORT or IP:PORT (or give &port=)");
    return dump();
  }
  out["authority"] = authority.text;
  ChainPtr chain = FindChain(snapshot, authority);
  if (!chain) {
    SetVerdict(out, false, Reason::kNoSuchPort,
               fmt::format("this waypoint serves nothing at {}", authority.text));
    return dump();
  }
  out["chain"] = chain->name;
  out["protocol"] = chain->http ? "http" : "tcp";

  AuthzInput input;
  input.identity = request.identity;
  if (auto ip = net::IpAddress::Parse(request.source_ip)) input.source_ip = *ip;
  input.destination =
      authority.address.is_set() ? authority.address : net::SocketAddress({}, authority.port);
  if (!chain->http) {
    ExplainTcp(snapshot, *chain, input, out);
    return dump();
  }
  http::RequestHead head;
  head.method = request.method;
  head.scheme = "http";
  head.authority = request.host.empty() ? authority.text : request.host;
  for (const auto& [name, value] : request.headers) head.headers.Add(name, value);
  auto path = NormalizePath(chain->http->path, request.path);
  if (!path) {
    SetVerdict(out, false, Reason::kBadRequest, "the path cannot be normalised (400)");
    return dump();
  }
  head.path = *path;
  HeadView view(head);
  auto table = snapshot.RoutesOf(*chain->http);
  std::vector<RouteMiss> misses;
  Effective effective = Resolve(*chain->http, table.get(), view, 0, &misses);
  input.head = &view;
  input.remote_ip = RemoteAddress(*chain->http, view, input.source_ip);
  AuthzExplanation e = Explain(effective.rbac, input);
  AddPolicies(e, out);
  ExplainRoute(snapshot, effective, misses, view, out);
  if (!e.decision.allowed) SetVerdict(out, false, e.decision.reason, "");
  if (!e.decision.dry_run.empty()) out["dry_run"] = e.decision.dry_run;
  return dump();
}

}  // namespace qanat::waypoint
