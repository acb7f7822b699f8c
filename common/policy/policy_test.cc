// SPDX-License-Identifier: Apache-2.0
#include "common/policy/policy.h"

#include <gtest/gtest.h>

#include <random>

namespace qanat::policy {
namespace {

using model::Clause;
using model::IpMatch;
using model::Match;
using model::Policy;
using model::PolicyAction;
using model::PortMatch;
using model::Reason;
using model::Rule;
using model::ServiceAccountMatch;
using model::StringMatch;
using Kind = StringMatch::Kind;

net::IpAddress Ip(const char* text) { return *net::IpAddress::Parse(text); }
IpMatch Block(const char* text) { return {*net::Cidr::Parse(text), true}; }
PortMatch Port(uint16_t port) { return {port, true}; }

model::PolicyPtr Make(PolicyAction action, std::vector<Rule> rules, const char* name = "p") {
  auto policy = std::make_shared<Policy>();
  policy->name = name;
  policy->ns = "shop";
  policy->action = action;
  policy->rules = std::move(rules);
  return policy;
}
model::PolicyPtr MakeOne(PolicyAction action, Match match, const char* name = "p") {
  return Make(action, {Rule{{Clause{{std::move(match)}}}}}, name);
}

Request Frontend() {
  return {model::Identity{"cluster.local", "shop", "frontend"}, Ip("10.91.1.5"), Ip("10.91.2.7"),
          8080};
}
Request Plain() {
  Request request = Frontend();
  request.source.reset();
  return request;
}

bool Allows(const Match& match, const Request& request) {
  return Evaluate({{MakeOne(PolicyAction::kAllow, match)}, {}}, request).allowed;
}
bool Denies(const Match& match, const Request& request) {
  return !Evaluate({{MakeOne(PolicyAction::kDeny, match)}, {}}, request).allowed;
}

struct FieldCase {
  const char* name;
  Match match;
  bool frontend;  // matches the request with identity
  bool plain;     // matches the one without
};

TEST(Policy, EveryField) {
  const std::vector<FieldCase> cases = {
      {"namespace exact", {.namespaces = {{Kind::kExact, "shop"}}}, true, false},
      {"namespace other", {.namespaces = {{Kind::kExact, "other"}}}, false, false},
      {"namespace prefix", {.namespaces = {{Kind::kPrefix, "sh"}}}, true, false},
      {"namespace suffix", {.namespaces = {{Kind::kSuffix, "op"}}}, true, false},
      {"namespace presence", {.namespaces = {{Kind::kPresence, ""}}}, true, false},
      {"namespace or", {.namespaces = {{Kind::kExact, "x"}, {Kind::kExact, "shop"}}}, true, false},
      {"namespace empty string", {.namespaces = {{Kind::kExact, ""}}}, false, true},
      {"not namespace", {.not_namespaces = {{Kind::kExact, "shop"}}}, false, true},
      {"not other namespace", {.not_namespaces = {{Kind::kExact, "other"}}}, true, true},
      {"principal exact",
       {.principals = {{Kind::kExact, "cluster.local/ns/shop/sa/frontend"}}},
       true,
       false},
      {"principal with scheme",
       {.principals = {{Kind::kExact, "spiffe://cluster.local/ns/shop/sa/frontend"}}},
       false,
       false},
      {"principal prefix",
       {.principals = {{Kind::kPrefix, "cluster.local/ns/shop/"}}},
       true,
       false},
      {"principal suffix", {.principals = {{Kind::kSuffix, "/sa/frontend"}}}, true, false},
      {"principal presence", {.principals = {{Kind::kPresence, ""}}}, true, false},
      {"principal prefix empty", {.principals = {{Kind::kPrefix, ""}}}, true, false},
      {"not principal presence", {.not_principals = {{Kind::kPresence, ""}}}, false, true},
      {"not principal", {.not_principals = {{Kind::kSuffix, "frontend"}}}, false, true},
      {"account", {.service_accounts = {{"shop", "frontend", true}}}, true, false},
      {"account other ns", {.service_accounts = {{"x", "frontend", true}}}, false, false},
      {"not account", {.not_service_accounts = {{"shop", "frontend", true}}}, false, true},
      {"source block", {.source_ips = {Block("10.91.1.0/24")}}, true, true},
      {"source v6 block", {.source_ips = {Block("::/0")}}, false, false},
      {"source other", {.source_ips = {Block("10.91.9.0/24")}}, false, false},
      {"not source", {.not_source_ips = {Block("10.91.1.5/32")}}, false, false},
      {"destination", {.destination_ips = {Block("10.91.2.7/32")}}, true, true},
      {"not destination", {.not_destination_ips = {Block("10.0.0.0/8")}}, false, false},
      {"port", {.destination_ports = {Port(80), Port(8080)}}, true, true},
      {"port other", {.destination_ports = {Port(80)}}, false, false},
      {"not port", {.not_destination_ports = {Port(8080)}}, false, false},
      {"not other port", {.not_destination_ports = {Port(1)}}, true, true},
      {"and within a match",
       {.namespaces = {{Kind::kExact, "shop"}}, .destination_ports = {Port(80)}},
       false,
       false},
      {"and within a match, both",
       {.namespaces = {{Kind::kExact, "shop"}}, .destination_ports = {Port(8080)}},
       true,
       false},
  };
  for (const FieldCase& c : cases) {
    EXPECT_EQ(Allows(c.match, Frontend()), c.frontend) << c.name;
    EXPECT_EQ(Denies(c.match, Frontend()), c.frontend) << c.name;
    EXPECT_EQ(Allows(c.match, Plain()), c.plain) << c.name;
    EXPECT_EQ(Denies(c.match, Plain()), c.plain) << c.name;
  }
}

TEST(Policy, Structure) {
  const Match yes{.destination_ports = {Port(8080)}};
  const Match no{.destination_ports = {Port(1)}};
  auto allowed = [](std::vector<Rule> rules) {
    return Evaluate({{Make(PolicyAction::kAllow, std::move(rules))}, {}}, Frontend()).allowed;
  };
  EXPECT_FALSE(allowed({}));                                            // no rules: matches nothing
  EXPECT_TRUE(allowed({Rule{}}));                                       // no clauses: everything
  EXPECT_TRUE(allowed({Rule{{Clause{}}}}));                             // no matches: true
  EXPECT_FALSE(allowed({Rule{{Clause{{Match{}}}}}}));                   // an empty match is skipped
  EXPECT_TRUE(allowed({Rule{{Clause{{Match{}, yes}}}}}));               // matches are ORed
  EXPECT_FALSE(allowed({Rule{{Clause{{yes}}, Clause{{no}}}}}));         // clauses are ANDed
  EXPECT_TRUE(allowed({Rule{{Clause{{no}}}}, Rule{{Clause{{yes}}}}}));  // rules are ORed
}

TEST(Policy, OrderOfVerdicts) {
  const Match yes{.destination_ports = {Port(8080)}};
  const Match no{.destination_ports = {Port(1)}};
  const auto deny = MakeOne(PolicyAction::kDeny, yes, "deny");
  const auto allow = MakeOne(PolicyAction::kAllow, yes, "allow");
  const auto other = MakeOne(PolicyAction::kAllow, no, "other");

  EXPECT_TRUE(Evaluate({}, Frontend()).allowed);
  Decision decision = Evaluate({{allow, deny}, {}}, Frontend());
  EXPECT_FALSE(decision.allowed);
  EXPECT_EQ(decision.reason, Reason::kPolicyDenied);
  EXPECT_EQ(decision.policy, "shop/deny");
  decision = Evaluate({{other, allow}, {}}, Frontend());
  EXPECT_TRUE(decision.allowed);
  EXPECT_EQ(decision.policy, "shop/allow");
  decision = Evaluate({{other}, {}}, Frontend());
  EXPECT_EQ(decision.reason, Reason::kPolicyNoAllow);
  EXPECT_EQ(decision.policy, "");
  decision = Evaluate({{allow}, {"shop/late"}}, Frontend());
  EXPECT_FALSE(decision.allowed);
  EXPECT_EQ(decision.reason, Reason::kPolicyUnknown);
  EXPECT_EQ(decision.policy, "shop/late");
}

TEST(Policy, DryRunOnlyNotes) {
  const Match yes{.destination_ports = {Port(8080)}};
  Policy deny = *MakeOne(PolicyAction::kDeny, yes, "deny");
  deny.dry_run = true;
  Policy allow = *Make(PolicyAction::kAllow, {}, "none");
  allow.dry_run = true;
  const Decision decision =
      Evaluate({{std::make_shared<Policy>(deny), std::make_shared<Policy>(allow)}, {}}, Frontend());
  EXPECT_TRUE(decision.allowed);
  EXPECT_EQ(decision.dry_run, "shop/deny");
}

TEST(Policy, StrictFromPeerAuthenticationHasItsOwnReason) {
  const Match no_principal{.not_principals = {{Kind::kPresence, ""}}};
  const auto strict = MakeOne(PolicyAction::kDeny, no_principal, "istio_converted_static_strict");
  EXPECT_TRUE(Evaluate({{strict}, {}}, Frontend()).allowed);
  EXPECT_EQ(Evaluate({{strict}, {}}, Plain()).reason, Reason::kMtlsRequired);
}

// A part that is not understood never matches in ALLOW and always in DENY, under negation too.
TEST(Policy, NotUnderstoodFailsClosed) {
  const std::vector<std::pair<const char*, Match>> cases = {
      {"port", {.destination_ports = {PortMatch{}}}},
      {"not port", {.not_destination_ports = {PortMatch{}}}},
      {"ip", {.source_ips = {IpMatch{}}}},
      {"not ip", {.not_source_ips = {IpMatch{}}}},
      {"destination ip", {.destination_ips = {IpMatch{}}}},
      {"not destination ip", {.not_destination_ips = {IpMatch{}}}},
      {"string", {.principals = {StringMatch{}}}},
      {"not string", {.not_principals = {StringMatch{}}}},
      {"namespace", {.namespaces = {StringMatch{}}}},
      {"not namespace", {.not_namespaces = {StringMatch{}}}},
      {"account", {.service_accounts = {ServiceAccountMatch{}}}},
      {"not account", {.not_service_accounts = {ServiceAccountMatch{}}}},
      {"field", {.not_understood = true}},
  };
  for (const auto& [name, match] : cases) {
    for (const Request& request : {Frontend(), Plain()}) {
      EXPECT_FALSE(Allows(match, request)) << name;
      EXPECT_TRUE(Denies(match, request)) << name;
    }
  }
  EXPECT_EQ(Evaluate({{MakeOne(PolicyAction::kDeny, cases[0].second)}, {}}, Frontend()).reason,
            Reason::kPolicyNotUnderstood);
}

TEST(Policy, GoodPartsAroundABadOneKeepTheirMeaning) {
  // The other condition is known to be false: the DENY does not fire, the ALLOW does not match.
  const Match false_and_bad{.source_ips = {IpMatch{}}, .destination_ports = {Port(1)}};
  EXPECT_FALSE(Denies(false_and_bad, Frontend()));
  EXPECT_FALSE(Allows(false_and_bad, Frontend()));
  // A good value beside the bad one in a list still allows.
  const Match bad_or_good{.destination_ports = {PortMatch{}, Port(8080)}};
  EXPECT_TRUE(Allows(bad_or_good, Frontend()));
  // In a negated list a bad value must not exempt from a DENY, a good one does.
  const Match not_bad{.not_destination_ports = {PortMatch{}, Port(1)}};
  EXPECT_TRUE(Denies(not_bad, Frontend()));
  const Match not_good{.not_destination_ports = {PortMatch{}, Port(8080)}};
  EXPECT_FALSE(Denies(not_good, Frontend()));
}

TEST(Policy, WholePolicyNotUnderstood) {
  for (const PolicyAction action : {PolicyAction::kAllow, PolicyAction::kDeny}) {
    Policy policy = *Make(action, {Rule{}});
    policy.not_understood = true;
    EXPECT_FALSE(Evaluate({{std::make_shared<Policy>(policy)}, {}}, Frontend()).allowed);
    policy.rules.clear();
    EXPECT_FALSE(Evaluate({{std::make_shared<Policy>(policy)}, {}}, Frontend()).allowed);
  }
  Policy clause = *Make(PolicyAction::kDeny, {Rule{{Clause{{}, true}}}});
  EXPECT_FALSE(Evaluate({{std::make_shared<Policy>(clause)}, {}}, Frontend()).allowed);
  Policy rule = *Make(PolicyAction::kAllow, {Rule{{}, true}});
  EXPECT_FALSE(Evaluate({{std::make_shared<Policy>(rule)}, {}}, Frontend()).allowed);
}

// How an unknown field of a clause or rule combines with the parts around it is not known either:
// it may widen a DENY whose known parts do not match.
TEST(Policy, AnUnknownFieldOfAClauseOrRuleMayWidenADeny) {
  const Match elsewhere{.destination_ports = {Port(1)}};
  for (const PolicyAction action : {PolicyAction::kAllow, PolicyAction::kDeny}) {
    const Policy clause = *Make(action, {Rule{{Clause{{elsewhere}, true}}}});
    EXPECT_FALSE(Evaluate({{std::make_shared<Policy>(clause)}, {}}, Frontend()).allowed);
    const Policy rule = *Make(action, {Rule{{Clause{{elsewhere}}}, true}});
    EXPECT_FALSE(Evaluate({{std::make_shared<Policy>(rule)}, {}}, Frontend()).allowed);
  }
}

// Of what is too old: only what no DENY and no missing ALLOW could forbid.
TEST(Policy, ExpiredPoliciesSpareNobody) {
  const Match everybody{.namespaces = {{Kind::kPresence, ""}}};
  const Match others{.namespaces = {{Kind::kExact, "other"}}};
  const auto decide = [](std::vector<model::PolicyPtr> policies, std::vector<std::string> unknown) {
    const PolicySet set{std::move(policies), std::move(unknown), true};
    const Decision decision = Evaluate(set, Frontend());
    const Decision explained = Explain(set, Frontend()).decision;
    EXPECT_EQ(decision.allowed, explained.allowed);
    EXPECT_EQ(decision.reason, explained.reason);
    return decision;
  };
  EXPECT_TRUE(decide({}, {}).allowed);
  EXPECT_TRUE(decide({MakeOne(PolicyAction::kAllow, everybody)}, {}).allowed);
  EXPECT_EQ(decide({MakeOne(PolicyAction::kAllow, others)}, {}).reason, Reason::kPolicyNoAllow);
  EXPECT_EQ(decide({}, {"shop/x"}).reason, Reason::kPolicyUnknown);
  const Decision denied = decide(
      {MakeOne(PolicyAction::kAllow, everybody), MakeOne(PolicyAction::kDeny, others, "no")}, {});
  EXPECT_EQ(denied.reason, Reason::kStaleState);
  EXPECT_EQ(denied.policy, "shop/no");
  EXPECT_TRUE(IsPolicy(denied.reason));
  EXPECT_FALSE(decide({Make(PolicyAction::kDeny, {})}, {}).allowed);
  Policy dry = *MakeOne(PolicyAction::kDeny, everybody);
  dry.dry_run = true;
  EXPECT_TRUE(decide({std::make_shared<Policy>(dry)}, {}).allowed);
}

TEST(Policy, ExplainNamesTheNearestAllow) {
  const Match far{.source_ips = {Block("10.1.0.0/16")}, .destination_ports = {Port(1)}};
  const Match near{.namespaces = {{Kind::kExact, "shop"}}, .destination_ports = {Port(9090)}};
  const Explanation explanation = Explain(
      {{MakeOne(PolicyAction::kAllow, far, "far"), MakeOne(PolicyAction::kAllow, near, "near")},
       {}},
      Frontend());
  EXPECT_FALSE(explanation.decision.allowed);
  ASSERT_TRUE(explanation.nearest_allow.has_value());
  EXPECT_EQ(explanation.nearest_allow->policy, "shop/near");
  ASSERT_EQ(explanation.nearest_allow->missing.size(), 1u);
  EXPECT_EQ(explanation.nearest_allow->missing[0].field, "destination_ports");
  EXPECT_EQ(explanation.nearest_allow->missing[0].wanted, std::vector<std::string>{"9090"});
  EXPECT_EQ(explanation.nearest_allow->missing[0].seen, "8080");
}

// ---- random policies against an oracle that works by another way: it tries both readings of
// every part that is not understood and takes the one that allows less.

class Generator {
 public:
  explicit Generator(uint32_t seed) : random_(seed) {}
  bool Chance(int percent) { return static_cast<int>(random_() % 100) < percent; }
  size_t Below(size_t n) { return random_() % n; }

  StringMatch String(bool principal) {
    if (Chance(8)) return {};
    static const char* const kNs[] = {"shop", "bank", ""};
    static const char* const kPrincipal[] = {"cluster.local/ns/shop/sa/frontend",
                                             "cluster.local/ns/bank/sa/teller", "cluster.local/"};
    return {static_cast<Kind>(Below(4)), principal ? kPrincipal[Below(3)] : kNs[Below(3)]};
  }
  IpMatch Address() {
    static const char* const kBlocks[] = {"10.91.1.0/24", "10.91.2.7/32", "0.0.0.0/0", "fd91::/16"};
    return Chance(8) ? IpMatch{} : Block(kBlocks[Below(4)]);
  }
  PortMatch APort() { return Chance(8) ? PortMatch{} : Port(Chance(50) ? 8080 : 9090); }
  ServiceAccountMatch Account() {
    return Chance(8) ? ServiceAccountMatch{}
                     : ServiceAccountMatch{Chance(50) ? "shop" : "bank",
                                           Chance(50) ? "frontend" : "teller", true};
  }
  template <typename T, typename F>
  void Maybe(std::vector<T>& list, F make) {
    if (!Chance(15)) return;
    for (size_t n = 1 + Below(2); n > 0; --n) list.push_back(make());
  }
  Match AMatch() {
    Match m;
    Maybe(m.namespaces, [&] { return String(false); });
    Maybe(m.not_namespaces, [&] { return String(false); });
    Maybe(m.principals, [&] { return String(true); });
    Maybe(m.not_principals, [&] { return String(true); });
    Maybe(m.service_accounts, [&] { return Account(); });
    Maybe(m.not_service_accounts, [&] { return Account(); });
    Maybe(m.source_ips, [&] { return Address(); });
    Maybe(m.not_source_ips, [&] { return Address(); });
    Maybe(m.destination_ips, [&] { return Address(); });
    Maybe(m.not_destination_ips, [&] { return Address(); });
    Maybe(m.destination_ports, [&] { return APort(); });
    Maybe(m.not_destination_ports, [&] { return APort(); });
    m.not_understood = Chance(4);
    return m;
  }
  model::PolicyPtr APolicy(int index) {
    auto policy = std::make_shared<Policy>();
    policy->name = "p" + std::to_string(index);
    policy->ns = "shop";
    policy->action = Chance(50) ? PolicyAction::kAllow : PolicyAction::kDeny;
    policy->dry_run = Chance(10);
    policy->not_understood = Chance(3);
    for (size_t r = Below(3); r > 0; --r) {
      Rule rule;
      rule.not_understood = Chance(3);
      for (size_t c = Below(3); c > 0; --c) {
        Clause clause;
        clause.not_understood = Chance(3);
        for (size_t m = Below(3); m > 0; --m) clause.matches.push_back(AMatch());
        rule.clauses.push_back(std::move(clause));
      }
      policy->rules.push_back(std::move(rule));
    }
    return policy;
  }
  Request ARequest() {
    Request request = Frontend();
    if (Chance(30)) request.source.reset();
    if (request.source && Chance(40)) request.source = {"cluster.local", "bank", "teller"};
    if (Chance(30)) request.source_ip = Ip("10.91.2.7");
    if (Chance(30)) request.destination_port = 9090;
    return request;
  }

 private:
  std::mt19937 random_;
};

// Two-valued, plain recursion; `bad` is what a part that is not understood counts as. `bad` is
// given for the condition, so under negation it is not flipped.
struct Oracle {
  const Request& request;
  bool bad;

  template <typename T, typename F>
  bool Positive(const std::vector<T>& list, F test) const {
    if (list.empty()) return true;
    for (const T& value : list) {
      if (Understood(value) ? test(value) : bad) return true;
    }
    return false;
  }
  template <typename T, typename F>
  bool Negative(const std::vector<T>& list, F test) const {
    for (const T& value : list) {
      if (Understood(value) ? test(value) : !bad) return false;
    }
    return true;
  }
  static bool Understood(const StringMatch& m) { return m.kind != Kind::kNotUnderstood; }
  static bool Understood(const IpMatch& m) { return m.understood; }
  static bool Understood(const PortMatch& m) { return m.understood; }
  static bool Understood(const ServiceAccountMatch& m) { return m.understood; }

  static bool Text(const StringMatch& m, const std::string& s) {
    const std::string& v = m.value;
    switch (m.kind) {
      case Kind::kExact: return s == v;
      case Kind::kPrefix: return s.compare(0, v.size(), v) == 0;
      case Kind::kSuffix: return s.size() >= v.size() && s.substr(s.size() - v.size()) == v;
      case Kind::kPresence: return !s.empty();
      case Kind::kNotUnderstood: break;
    }
    return false;
  }

  bool Holds(const Match& m) const {
    const bool known = request.source.has_value();
    auto ns = [&](const StringMatch& s) { return Text(s, known ? request.source->ns : ""); };
    auto who = [&](const StringMatch& s) { return known && Text(s, request.source->Principal()); };
    auto account = [&](const ServiceAccountMatch& s) {
      return known && request.source->ns == s.ns && request.source->sa == s.sa;
    };
    auto from = [&](const IpMatch& i) { return i.block.Contains(request.source_ip); };
    auto to = [&](const IpMatch& i) { return i.block.Contains(request.destination_ip); };
    auto port = [&](const PortMatch& p) { return p.port == request.destination_port; };
    return (!m.not_understood || bad) && Positive(m.namespaces, ns) &&
           Negative(m.not_namespaces, ns) && Positive(m.principals, who) &&
           Negative(m.not_principals, who) && Positive(m.service_accounts, account) &&
           Negative(m.not_service_accounts, account) && Positive(m.source_ips, from) &&
           Negative(m.not_source_ips, from) && Positive(m.destination_ips, to) &&
           Negative(m.not_destination_ips, to) && Positive(m.destination_ports, port) &&
           Negative(m.not_destination_ports, port);
  }
  bool Holds(const Policy& policy) const {
    if (policy.not_understood) return bad;
    for (const Rule& rule : policy.rules) {
      bool all = true;
      for (const Clause& clause : rule.clauses) {
        bool any = clause.matches.empty();
        for (const Match& match : clause.matches) any = any || (!match.empty() && Holds(match));
        all = all && (clause.not_understood ? bad : any);
      }
      if (rule.not_understood ? bad : all) return true;
    }
    return false;
  }
};

bool OracleAllows(const PolicySet& set, const Request& request) {
  bool any_allow = false;
  bool allowed = false;
  for (const auto& policy : set.policies) {
    if (policy->dry_run) continue;
    const bool deny = policy->action == PolicyAction::kDeny;
    const bool holds = Oracle{request, deny}.Holds(*policy);
    if (deny && holds) return false;
    if (!deny) any_allow = true;
    if (!deny && holds) allowed = true;
  }
  return set.unknown.empty() && (allowed || !any_allow);
}

TEST(Policy, RandomPoliciesAgreeWithOracleAndExplain) {
  int allowed = 0;
  constexpr int kRounds = 50000;
  for (int seed = 0; seed < kRounds; ++seed) {
    Generator generator(static_cast<uint32_t>(seed));
    PolicySet set;
    for (size_t n = generator.Below(4); n > 0; --n) {
      set.policies.push_back(generator.APolicy(static_cast<int>(n)));
    }
    if (generator.Chance(5)) set.unknown.push_back("shop/late");
    const Request request = generator.ARequest();
    const Decision decision = Evaluate(set, request);
    const Explanation explanation = Explain(set, request);
    ASSERT_EQ(decision.allowed, OracleAllows(set, request)) << "seed " << seed;
    ASSERT_EQ(decision.allowed, explanation.decision.allowed) << "seed " << seed;
    ASSERT_EQ(decision.reason, explanation.decision.reason) << "seed " << seed;
    ASSERT_EQ(decision.policy, explanation.decision.policy) << "seed " << seed;
    ASSERT_EQ(decision.dry_run, explanation.decision.dry_run) << "seed " << seed;
    ASSERT_EQ(decision.allowed, decision.reason == Reason::kNone);
    allowed += decision.allowed ? 1 : 0;
  }
  EXPECT_GT(allowed, kRounds / 5);  // both verdicts occur often enough to mean something
  EXPECT_LT(allowed, kRounds * 4 / 5);
}

}  // namespace
}  // namespace qanat::policy
