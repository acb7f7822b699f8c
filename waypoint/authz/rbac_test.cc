// SPDX-License-Identifier: Apache-2.0
#include "waypoint/authz/rbac.h"

#include <gtest/gtest.h>

#include <random>

namespace qanat::waypoint {
namespace {

using Kind = Condition::Kind;

Condition Leaf(Kind kind) {
  Condition c;
  c.kind = kind;
  return c;
}
Condition Any() { return Leaf(Kind::kAny); }
Condition Unknown() { return Leaf(Kind::kUnknown); }
Condition Of(Kind kind, std::vector<Condition> children) {
  Condition c = Leaf(kind);
  c.children = std::move(children);
  return c;
}
Condition Not(Condition child) { return Of(Kind::kNot, {std::move(child)}); }
Condition Principal(std::string uri) {
  Condition c = Leaf(Kind::kIdentity);
  c.text.value = std::move(uri);
  return c;
}
Condition Namespace(const std::string& ns) {
  Condition c = Leaf(Kind::kIdentity);
  c.text.kind = StringMatch::Kind::kRegex;
  c.text.regex = *Regex::Compile(".*/ns/" + ns + "/.*");
  return c;
}
Condition Method(std::string method) {
  Condition c = Leaf(Kind::kHeader);
  c.header.name = ":method";
  c.header.kind = HeaderMatch::Kind::kString;
  c.header.text.value = std::move(method);
  return c;
}
Condition PathPrefix(std::string prefix) {
  Condition c = Leaf(Kind::kUrlPath);
  c.text.kind = StringMatch::Kind::kPrefix;
  c.text.value = std::move(prefix);
  return c;
}
Condition Port(uint32_t port) {
  Condition c = Leaf(Kind::kDestinationPort);
  c.port_low = port;
  c.port_high = port + 1;
  return c;
}
Condition SourceIp(const char* cidr, Kind kind = Kind::kDirectSourceIp) {
  Condition c = Leaf(kind);
  c.cidr = *net::Cidr::Parse(cidr);
  return c;
}
RbacPolicy Policy(std::string name, std::vector<Condition> to, std::vector<Condition> from) {
  return {std::move(name), std::move(to), std::move(from)};
}
Rbac Filter(Rbac::Action action, std::vector<RbacPolicy> policies, bool dry_run = false) {
  Rbac r;
  r.action = action;
  r.policies = std::move(policies);
  r.dry_run = dry_run;
  return r;
}

AuthzDecision EvaluateAll(const std::vector<Rbac>& filters, const AuthzInput& input) {
  RbacRules rules{filters};
  return waypoint::Evaluate({&rules}, input);
}
AuthzExplanation ExplainAll(const std::vector<Rbac>& filters, const AuthzInput& input) {
  // One filter each, as listeners have them: the grouping must not matter.
  std::vector<RbacRules> each;
  for (const Rbac& r : filters) each.push_back({{r}});
  RbacList list;
  for (const RbacRules& r : each) list.push_back(&r);
  return waypoint::Explain(list, input);
}

constexpr auto kAllow = Rbac::Action::kAllow;
constexpr auto kDeny = Rbac::Action::kDeny;

struct Call {
  http::RequestHead request;
  HeadView head;
  AuthzInput input;
  Call(const Call&) = delete;
  explicit Call(std::string identity = "spiffe://cluster.local/ns/shop/sa/frontend",
                std::string method = "GET", std::string path = "/api/items?q=1") {
    request.method = std::move(method);
    request.path = std::move(path);
    request.authority = "backend.shop";
    identity_ = std::move(identity);
    head = HeadView(request);
    input.identity = identity_;
    input.source_ip = *net::IpAddress::Parse("10.1.2.3");
    input.destination = *net::SocketAddress::Parse("10.96.0.7:80");
    input.head = &head;
  }

 private:
  std::string identity_;
};

TEST(Rbac, NoFiltersAllow) { EXPECT_TRUE(EvaluateAll({}, Call().input).allowed); }

TEST(Rbac, AllowWithoutPoliciesDeniesAll) {
  AuthzDecision d = EvaluateAll({Filter(kAllow, {})}, Call().input);
  EXPECT_FALSE(d.allowed);
  EXPECT_EQ(d.reason, model::Reason::kPolicyNoAllow);
  EXPECT_EQ(d.policy, "");
  EXPECT_TRUE(EvaluateAll({Filter(kDeny, {})}, Call().input).allowed);
}

TEST(Rbac, MethodsAndPathsForAPrincipal) {
  std::vector<Rbac> filters = {Filter(
      kAllow,
      {Policy("ns[shop]-policy[viewer]-rule[0]",
              {Of(Kind::kAnd, {Of(Kind::kOr, {Method("GET"), Method("HEAD")}),
                               Of(Kind::kOr, {PathPrefix("/api/")})})},
              {Of(Kind::kAnd, {Principal("spiffe://cluster.local/ns/shop/sa/frontend")})})})};
  EXPECT_TRUE(EvaluateAll(filters, Call().input).allowed);
  EXPECT_EQ(EvaluateAll(filters, Call().input).policy, "ns[shop]-policy[viewer]-rule[0]");
  EXPECT_FALSE(
      EvaluateAll(filters, Call("spiffe://cluster.local/ns/shop/sa/frontend", "POST").input)
          .allowed);
  EXPECT_FALSE(
      EvaluateAll(filters,
                  Call("spiffe://cluster.local/ns/shop/sa/frontend", "GET", "/admin").input)
          .allowed);
  EXPECT_FALSE(EvaluateAll(filters, Call("spiffe://cluster.local/ns/x/sa/y").input).allowed);
  EXPECT_FALSE(EvaluateAll(filters, Call("").input).allowed);
}

TEST(Rbac, DenyGoesBeforeAllow) {
  std::vector<Rbac> filters = {
      Filter(kDeny, {Policy("ns[shop]-policy[no-admin]-rule[0]", {PathPrefix("/api")}, {Any()})}),
      Filter(kAllow, {Policy("ns[shop]-policy[all]-rule[0]", {Any()}, {Any()})})};
  AuthzDecision d = EvaluateAll(filters, Call().input);
  EXPECT_FALSE(d.allowed);
  EXPECT_EQ(d.reason, model::Reason::kPolicyDenied);
  EXPECT_EQ(d.policy, "ns[shop]-policy[no-admin]-rule[0]");
}

TEST(Rbac, NegativesNeedNoIdentity) {
  // notPrincipals of a DENY: whoever has no identity is "not" it.
  std::vector<Rbac> filters = {
      Filter(kDeny, {Policy("strict", {Any()}, {Not(Leaf(Kind::kAuthenticated))})})};
  EXPECT_TRUE(EvaluateAll(filters, Call().input).allowed);
  EXPECT_FALSE(EvaluateAll(filters, Call("").input).allowed);
}

TEST(Rbac, UnknownNeverWidens) {
  auto allowed = [](Rbac::Action action, Condition to) {
    return EvaluateAll({Filter(action, {Policy("p", {std::move(to)}, {Any()})})}, Call().input)
        .allowed;
  };
  EXPECT_FALSE(allowed(kAllow, Unknown()));
  EXPECT_FALSE(allowed(kAllow, Not(Unknown())));
  EXPECT_FALSE(allowed(kDeny, Unknown()));
  EXPECT_FALSE(allowed(kDeny, Not(Unknown())));
  // The good parts around it keep their meaning.
  EXPECT_TRUE(allowed(kDeny, Of(Kind::kAnd, {Unknown(), PathPrefix("/other")})));
  EXPECT_TRUE(allowed(kAllow, Of(Kind::kOr, {Unknown(), PathPrefix("/api")})));
  EXPECT_FALSE(allowed(kAllow, Of(Kind::kAnd, {Unknown(), PathPrefix("/api")})));
  AuthzDecision d = EvaluateAll({Filter(kDeny, {Policy("p", {Unknown()}, {Any()})})}, Call().input);
  EXPECT_EQ(d.reason, model::Reason::kPolicyNotUnderstood);
}

TEST(Rbac, HttpConditionsOnTcpFailClosed) {
  Call call;
  call.input.head = nullptr;
  EXPECT_FALSE(
      EvaluateAll({Filter(kDeny, {Policy("p", {Method("GET")}, {Any()})})}, call.input).allowed);
  EXPECT_FALSE(
      EvaluateAll({Filter(kAllow, {Policy("p", {Method("GET")}, {Any()})})}, call.input).allowed);
  EXPECT_TRUE(
      EvaluateAll({Filter(kAllow, {Policy("p", {Port(80)}, {Any()})})}, call.input).allowed);
}

TEST(Rbac, AddressesAndPorts) {
  auto allowed = [](Condition to, Condition from) {
    Call call;
    call.input.remote_ip = *net::IpAddress::Parse("192.0.2.1");
    return EvaluateAll({Filter(kAllow, {Policy("p", {std::move(to)}, {std::move(from)})})},
                       call.input)
        .allowed;
  };
  EXPECT_TRUE(allowed(Port(80), SourceIp("10.1.0.0/16")));
  EXPECT_FALSE(allowed(Port(81), SourceIp("10.1.0.0/16")));
  EXPECT_FALSE(allowed(Port(80), SourceIp("10.2.0.0/16")));
  EXPECT_FALSE(allowed(Port(80), SourceIp("::/0")));
  EXPECT_TRUE(allowed(Any(), SourceIp("192.0.2.0/24", Kind::kRemoteIp)));
  EXPECT_TRUE(allowed(SourceIp("10.96.0.0/12", Kind::kDestinationIp), Any()));
  EXPECT_TRUE(allowed(Any(), Namespace("shop")));
  EXPECT_FALSE(allowed(Any(), Namespace("shopx")));
}

TEST(Rbac, DestinationByNameHasNoAddress) {
  Call call;
  call.input.destination = net::SocketAddress({}, 80);
  for (auto action : {kAllow, kDeny}) {
    Condition any_v4 = SourceIp("0.0.0.0/0", Kind::kDestinationIp);
    EXPECT_FALSE(
        EvaluateAll({Filter(action, {Policy("p", {any_v4}, {Any()})})}, call.input).allowed);
  }
}

TEST(Rbac, DryRunOnlyTells) {
  std::vector<Rbac> filters = {Filter(kDeny, {Policy("d", {Any()}, {Any()})}, true),
                               Filter(kAllow, {}, true)};
  AuthzDecision d = EvaluateAll(filters, Call().input);
  EXPECT_TRUE(d.allowed);
  EXPECT_EQ(d.dry_run, "DENY d");
}

TEST(PolicyName, Forms) {
  EXPECT_EQ(ParsePolicyName("ns[foo]-policy[bar]-rule[12]").policy, "foo/bar");
  EXPECT_EQ(ParsePolicyName("ns[foo]-policy[bar]-rule[12]").rule, 12u);
  for (const char* odd : {"", "x", "ns[foo", "ns[a]-policy[b]", "ns[a]-policy[b]-rule[x]",
                          "ns[a]-policy[b]-rule[]"}) {
    EXPECT_EQ(ParsePolicyName(odd).policy, odd);
  }
}

TEST(Explain, NamesTheNearestAllow) {
  std::vector<Rbac> filters = {Filter(
      kAllow,
      {Policy("ns[shop]-policy[a]-rule[0]", {Any()},
              {Of(Kind::kAnd, {Of(Kind::kOr, {Namespace("other"), Namespace("more")}),
                               Not(Of(Kind::kOr, {SourceIp("10.0.0.0/8")}))})}),
       Policy("ns[shop]-policy[b]-rule[1]",
              {Of(Kind::kAnd, {Of(Kind::kOr, {Method("POST")}), PathPrefix("/api")})}, {Any()})})};
  AuthzExplanation e = ExplainAll(filters, Call().input);
  EXPECT_FALSE(e.decision.allowed);
  ASSERT_TRUE(e.nearest_allow.has_value());
  EXPECT_EQ(e.nearest_allow->policy, "shop/b");
  EXPECT_EQ(e.nearest_allow->rule, 1u);
  ASSERT_EQ(e.nearest_allow->missing.size(), 1u);
  EXPECT_EQ(e.nearest_allow->missing[0].field, "methods");
  EXPECT_EQ(e.nearest_allow->missing[0].wanted, std::vector<std::string>{"POST"});
  EXPECT_EQ(e.nearest_allow->missing[0].seen, "GET");
  ASSERT_EQ(e.policies.size(), 2u);
  const auto& from = e.policies[0].rules[0].clauses[1];
  ASSERT_EQ(from.conditions.size(), 2u);
  EXPECT_EQ(from.conditions[0].field, "namespaces");
  EXPECT_EQ(from.conditions[0].wanted, (std::vector<std::string>{"other", "more"}));
  EXPECT_EQ(from.conditions[0].seen, "shop");
  EXPECT_EQ(from.conditions[1].field, "ipBlocks");
  EXPECT_TRUE(from.conditions[1].negated);
}

// Random trees over a small world, so that every outcome is frequent.
class RandomTrees {
 public:
  explicit RandomTrees(uint64_t seed) : rng_(seed) {}
  size_t Below(size_t n) { return rng_() % n; }

  Condition Tree(int depth) {
    size_t pick = Below(depth <= 0 ? 9 : 14);
    switch (pick) {
      case 0: return Any();
      case 1: return Principal(kIdentities[1 + Below(2)]);
      case 2: return Namespace(Below(2) ? "shop" : "bank");
      case 3: return Method(kMethods[Below(3)]);
      case 4: return PathPrefix(kPaths[Below(3)]);
      case 5: return Port(Below(2) ? 80 : 81);
      case 6: return SourceIp(Below(2) ? "10.1.0.0/16" : "10.2.0.0/16");
      case 7: return Leaf(Kind::kAuthenticated);
      case 8: return Unknown();
      case 9: return Not(Tree(depth - 1));
      default: break;
    }
    std::vector<Condition> children;
    for (size_t n = Below(4); n > 0; --n) children.push_back(Tree(depth - 1));
    return Of(pick % 2 ? Kind::kAnd : Kind::kOr, std::move(children));
  }
  std::vector<Condition> List(int depth) {
    std::vector<Condition> out;
    for (size_t n = Below(4); n > 0; --n) out.push_back(Tree(depth));
    return out;
  }
  std::vector<Rbac> Filters() {
    std::vector<Rbac> out;
    for (size_t n = Below(4); n > 0; --n) {
      std::vector<RbacPolicy> policies;
      for (size_t k = Below(4); k > 0; --k) {
        policies.push_back(Policy(
            "ns[n]-policy[p" + std::to_string(k) + "]-rule[" + std::to_string(Below(2)) + "]",
            List(2), List(2)));
      }
      size_t action = Below(5);
      out.push_back(Filter(action == 4  ? Rbac::Action::kLog
                           : action % 2 ? kAllow
                                        : kDeny,
                           std::move(policies), Below(6) == 0));
    }
    return out;
  }
  Call RandomCall() { return Call(kIdentities[Below(3)], kMethods[Below(3)], kPaths[Below(3)]); }

 private:
  static constexpr const char* kIdentities[] = {"", "spiffe://cluster.local/ns/shop/sa/frontend",
                                                "spiffe://cluster.local/ns/bank/sa/teller"};
  static constexpr const char* kMethods[] = {"GET", "POST", "HEAD"};
  static constexpr const char* kPaths[] = {"/api/items", "/admin", "/"};
  std::mt19937_64 rng_;
};

TEST(Explain, AgreesWithEvaluateOnRandomPolicies) {
  RandomTrees random(20261122);
  int allowed = 0, refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<Rbac> filters = random.Filters();
    Call call = random.RandomCall();
    if (random.Below(10) == 0)
      call.input.head = nullptr;
    else
      call.input.head = &call.head;
    AuthzDecision a = EvaluateAll(filters, call.input);
    AuthzExplanation e = ExplainAll(filters, call.input);
    ASSERT_EQ(a.allowed, e.decision.allowed) << i;
    ASSERT_EQ(a.reason, e.decision.reason) << i;
    ASSERT_EQ(a.policy, e.decision.policy) << i;
    ASSERT_EQ(a.dry_run, e.decision.dry_run) << i;
    ASSERT_EQ(e.nearest_allow.has_value() && a.reason != model::Reason::kPolicyNoAllow, false);
    for (const ExplainedPolicy& p : e.policies) {
      for (const ExplainedRule& r : p.rules) {
        for (const ExplainedClause& c : r.clauses) {
          bool all = c.alternatives > 0;
          for (const auto& cond : c.conditions) all = all && cond.truth == Truth::kTrue;
          ASSERT_EQ(all, c.truth == Truth::kTrue);
        }
      }
    }
    (a.allowed ? allowed : refused)++;
  }
  EXPECT_GT(allowed, 2000);
  EXPECT_GT(refused, 2000);
}

}  // namespace
}  // namespace qanat::waypoint
