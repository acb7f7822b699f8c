// SPDX-License-Identifier: Apache-2.0
#include "controlplane/translate/authorization.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "common/proto/authorization.pb.h"
#include "controlplane/translate/peer_authentication.h"

namespace qanat::controlplane {
namespace {

namespace pb = istio::security;
using Policy = AuthorizationPolicy;

// One clause in the making. In DENY "sure to match" is said by leaving a field out; in ALLOW "never
// matches" is said by leaving the whole match out.
enum class Fate { kKeep, kNever };

std::optional<pb::StringMatch> ParseString(const std::string& text) {
  pb::StringMatch out;
  if (text == "*") {
    out.mutable_presence();
    return out;
  }
  const size_t star = text.find('*');
  if (star == std::string::npos) {
    out.set_exact(text);
  } else if (star == 0 && text.find('*', 1) == std::string::npos) {
    out.set_suffix(text.substr(1));
  } else if (star == text.size() - 1) {
    out.set_prefix(text.substr(0, star));
  } else {
    return std::nullopt;  // a star in the middle is no pattern that anyone evaluates
  }
  return out;
}

std::optional<pb::ServiceAccountMatch> ParseAccount(const std::string& text,
                                                    const std::string& policy_namespace) {
  pb::ServiceAccountMatch out;
  if (text.find('*') != std::string::npos) return std::nullopt;
  const size_t slash = text.find('/');
  if (slash == std::string::npos) {
    out.set_namespace_(policy_namespace);
    out.set_serviceaccount(text);
  } else {
    out.set_namespace_(text.substr(0, slash));
    out.set_serviceaccount(text.substr(slash + 1));
  }
  if (out.namespace_().empty() || out.serviceaccount().empty() ||
      out.serviceaccount().find('/') != std::string::npos) {
    return std::nullopt;
  }
  return out;
}

std::optional<pb::Address> ParseBlock(const std::string& text) {
  const Result<net::Cidr> cidr = net::Cidr::Parse(text);
  if (!cidr) return std::nullopt;
  pb::Address out;
  out.set_address(reinterpret_cast<const char*>(cidr->ip().bytes().data()),
                  cidr->ip().bytes().size());
  out.set_length(cidr->length());
  return out;
}

std::optional<uint32_t> ParsePort(const std::string& text) {
  uint32_t port = 0;
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, port);
  if (error != std::errc() || at != end || port == 0 || port > 65535) return std::nullopt;
  return port;
}

// Converts the rules of one policy; remembers what it met on the way.
class Converter {
 public:
  Converter(const Policy& policy, bool deny, PolicyOutcome& outcome)
      : policy_(policy), deny_(deny), outcome_(outcome) {}

  void Rule(const Policy::Rule& rule, pb::Authorization& out) {
    bool http = false;
    pb::Rule converted;
    bool never = NotUnderstood(rule.unknown);
    if (!rule.from.empty()) {
      never = Clause(rule.from, converted,
                     [&](const Policy::Source& s, pb::Match& m) { return Source(s, m, http); }) ==
                  Fate::kNever ||
              never;
    }
    if (!rule.to.empty()) {
      never = Clause(rule.to, converted,
                     [&](const Policy::Operation& o, pb::Match& m) {
                       return Operation(o, m, http);
                     }) == Fate::kNever ||
              never;
    }
    for (const Policy::Condition& condition : rule.when) {
      const std::vector<Policy::Condition> one = {condition};
      never = Clause(one, converted,
                     [&](const Policy::Condition& c, pb::Match& m) { return When(c, m, http); }) ==
                  Fate::kNever ||
              never;
    }
    if (!deny_ && (never || http)) {
      ++outcome_.rules_dropped;
      return;
    }
    *out.add_rules() = std::move(converted);
  }

 private:
  // Any of `parts` must match. In DENY one part that is sure to match makes the clause true, and a
  // true clause is left out of the AND.
  template <typename Part, typename Convert>
  Fate Clause(const std::vector<Part>& parts, pb::Rule& rule, Convert convert) {
    pb::Clause clause;
    bool always = false;
    for (const Part& part : parts) {
      pb::Match match;
      const Fate fate = convert(part, match);
      if (fate == Fate::kNever) continue;
      if (match.ByteSizeLong() == 0) {
        // DENY: only HTTP attributes, or nothing understood. ALLOW: a part that says nothing lets
        // nobody in.
        always = always || deny_;
        continue;
      }
      *clause.add_matches() = std::move(match);
    }
    if (always) return Fate::kKeep;
    if (clause.matches_size() == 0) return Fate::kNever;
    *rule.add_clauses() = std::move(clause);
    return Fate::kKeep;
  }

  bool NotUnderstood(const std::vector<std::string>& unknown) {
    for (const std::string& name : unknown) outcome_.not_understood.push_back(name);
    return !unknown.empty() && !deny_;
  }

  void Http(const std::vector<std::string>& a, const char* name, bool& http) {
    if (a.empty()) return;
    http = true;
    std::vector<std::string>& found = outcome_.http_attributes;
    if (std::find(found.begin(), found.end(), name) == found.end()) found.emplace_back(name);
  }

  // `positive`: any value must match, else none may. Returns kNever when an ALLOW cannot match.
  template <typename Field, typename Parse>
  Fate Values(const std::vector<std::string>& values, bool positive, const char* name, Field* field,
              Parse parse) {
    bool bad = false;
    for (const std::string& value : values) {
      if (auto parsed = parse(value)) {
        field->Add(std::move(*parsed));
      } else {
        bad = true;
        outcome_.not_understood.push_back(std::string(name) + " \"" + value + "\"");
      }
    }
    if (!bad) return Fate::kKeep;
    if (deny_) {
      // A value that may stand for anything makes the list true; one that may not match says
      // nothing, and the others still exclude.
      if (positive) field->Clear();
      return Fate::kKeep;
    }
    if (positive && !field->empty()) return Fate::kKeep;
    return Fate::kNever;
  }

  Fate Source(const Policy::Source& s, pb::Match& m, bool& http) {
    bool never = NotUnderstood(s.unknown);
    const auto account = [&](const std::string& t) { return ParseAccount(t, policy_.meta.ns); };
    const auto add = [&](Fate fate) { never = never || fate == Fate::kNever; };
    add(Values(s.principals, true, "principals", m.mutable_principals(), ParseString));
    add(Values(s.not_principals, false, "notPrincipals", m.mutable_not_principals(), ParseString));
    add(Values(s.namespaces, true, "namespaces", m.mutable_namespaces(), ParseString));
    add(Values(s.not_namespaces, false, "notNamespaces", m.mutable_not_namespaces(), ParseString));
    add(Values(s.service_accounts, true, "serviceAccounts", m.mutable_service_accounts(), account));
    add(Values(s.not_service_accounts, false, "notServiceAccounts",
               m.mutable_not_service_accounts(), account));
    add(Values(s.ip_blocks, true, "ipBlocks", m.mutable_source_ips(), ParseBlock));
    add(Values(s.not_ip_blocks, false, "notIpBlocks", m.mutable_not_source_ips(), ParseBlock));
    Http(s.request_principals, "requestPrincipals", http);
    Http(s.not_request_principals, "notRequestPrincipals", http);
    Http(s.remote_ip_blocks, "remoteIpBlocks", http);
    Http(s.not_remote_ip_blocks, "notRemoteIpBlocks", http);
    return never ? Fate::kNever : Fate::kKeep;
  }

  Fate Operation(const Policy::Operation& o, pb::Match& m, bool& http) {
    bool never = NotUnderstood(o.unknown);
    const auto add = [&](Fate fate) { never = never || fate == Fate::kNever; };
    add(Values(o.ports, true, "ports", m.mutable_destination_ports(), ParsePort));
    add(Values(o.not_ports, false, "notPorts", m.mutable_not_destination_ports(), ParsePort));
    Http(o.hosts, "hosts", http);
    Http(o.not_hosts, "notHosts", http);
    Http(o.methods, "methods", http);
    Http(o.not_methods, "notMethods", http);
    Http(o.paths, "paths", http);
    Http(o.not_paths, "notPaths", http);
    return never ? Fate::kNever : Fate::kKeep;
  }

  Fate When(const Policy::Condition& c, pb::Match& m, bool& http) {
    if (NotUnderstood(c.unknown)) return Fate::kNever;
    bool never = false;
    const auto both = [&](auto* positive, auto* negative, auto parse) {
      const char* name = c.key.c_str();
      const Fate yes = Values(c.values, true, name, positive, parse);
      const Fate no = Values(c.not_values, false, name, negative, parse);
      never = yes == Fate::kNever || no == Fate::kNever;
    };
    if (c.key == "source.ip") {
      both(m.mutable_source_ips(), m.mutable_not_source_ips(), ParseBlock);
    } else if (c.key == "source.namespace") {
      both(m.mutable_namespaces(), m.mutable_not_namespaces(), ParseString);
    } else if (c.key == "source.principal") {
      both(m.mutable_principals(), m.mutable_not_principals(), ParseString);
    } else if (c.key == "source.serviceAccount") {
      both(m.mutable_service_accounts(), m.mutable_not_service_accounts(),
           [&](const std::string& t) { return ParseAccount(t, policy_.meta.ns); });
    } else if (c.key == "destination.ip") {
      both(m.mutable_destination_ips(), m.mutable_not_destination_ips(), ParseBlock);
    } else if (c.key == "destination.port") {
      both(m.mutable_destination_ports(), m.mutable_not_destination_ports(), ParsePort);
    } else {
      Http({c.key}, c.key.c_str(), http);
    }
    return never ? Fate::kNever : Fate::kKeep;
  }

  const Policy& policy_;
  const bool deny_;
  PolicyOutcome& outcome_;
};

}  // namespace

bool ConvertPolicy(const AuthorizationPolicy& policy, const MeshConfig& mesh,
                   istio::security::Authorization& out, PolicyOutcome& outcome) {
  outcome = {};
  if (!policy.targets.empty()) return false;  // for waypoints
  if (policy.action == Policy::Action::kAudit && policy.unknown.empty()) return false;
  out.set_name(policy.meta.name);
  out.set_namespace_(policy.meta.ns);
  out.set_dry_run(policy.dry_run);
  if (policy.has_selector()) {
    out.set_scope(pb::WORKLOAD_SELECTOR);
  } else {
    out.set_scope(policy.meta.ns == mesh.root_namespace ? pb::GLOBAL : pb::NAMESPACE);
  }
  outcome.sent = true;
  if (!policy.unknown.empty()) {
    outcome.not_understood = policy.unknown;
    outcome.denies_all = true;
    out.set_action(pb::DENY);
    out.add_rules();  // without clauses: matches everything
    return true;
  }
  // CUSTOM asks someone whom a node proxy cannot ask: what it would ask about is refused.
  const bool deny = policy.action != Policy::Action::kAllow;
  out.set_action(deny ? pb::DENY : pb::ALLOW);
  Converter converter(policy, deny, outcome);
  for (const Policy::Rule& rule : policy.rules) converter.Rule(rule, out);
  return true;
}

ResourcesByName TranslateAuthorizations(const World& world) {
  ResourcesByName out;
  for (const AuthorizationPolicy& policy : world.objects().authorization_policies) {
    pb::Authorization authorization;
    PolicyOutcome outcome;
    if (!ConvertPolicy(policy, world.mesh(), authorization, outcome)) continue;
    std::string name = policy.meta.key().ToString();
    out.insert_or_assign(name, MakeResource(kAuthorizationType, name, {}, authorization));
  }
  ConvertPeerAuthentications(world, out);
  return out;
}

std::vector<std::string> PoliciesOf(const World& world, const Pod& pod) {
  std::vector<std::string> out;
  for (const AuthorizationPolicy* policy : world.SelectorPolicies(pod)) {
    if (policy->action == Policy::Action::kAudit && policy->unknown.empty()) continue;
    out.push_back(policy->meta.key().ToString());
  }
  std::sort(out.begin(), out.end());
  for (std::string& name : PeerAuthenticationsOf(world, pod)) out.push_back(std::move(name));
  return out;
}

}  // namespace qanat::controlplane
