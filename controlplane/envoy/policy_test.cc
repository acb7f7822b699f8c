// SPDX-License-Identifier: Apache-2.0
// What compiled policies mean, by evaluating them on requests: each field, each kind of value, and
// above all that a part that is not understood never lets anybody through.
#include "controlplane/envoy/policy.h"

#include <gtest/gtest.h>
#include <re2/re2.h>

#include <cctype>
#include <map>
#include <random>
#include <string>

namespace qanat::controlplane {
namespace {

struct Request {
  std::string peer = "spiffe://cluster.local/ns/shop/sa/frontend";
  std::string remote_ip = "10.91.1.8";
  std::string destination_ip = "10.96.0.11";  // "" when called by name
  std::string method = "GET";
  std::string path = "/api/orders";
  std::string authority = "backend";
  std::map<std::string, std::string> headers;
};

std::string Lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool Matches(const TextMatch& match, std::string value) {
  std::string text = match.text;
  if (match.ignore_case) {
    value = Lower(value);
    text = Lower(text);
  }
  switch (match.kind) {
    case TextMatch::Kind::kExact: return value == text;
    case TextMatch::Kind::kPrefix: return value.starts_with(text);
    case TextMatch::Kind::kSuffix: return value.ends_with(text);
    case TextMatch::Kind::kRegex: return re2::RE2::FullMatch(value, text);
    case TextMatch::Kind::kPresent: return true;
  }
  return false;
}

bool Holds(const Condition& condition, const Request& request) {
  using Kind = Condition::Kind;
  switch (condition.kind) {
    case Kind::kAny: return true;
    case Kind::kNever: return false;
    case Kind::kAnd:
      for (const auto& part : condition.parts) {
        if (!Holds(part, request)) return false;
      }
      return true;
    case Kind::kOr:
      for (const auto& part : condition.parts) {
        if (Holds(part, request)) return true;
      }
      return false;
    case Kind::kNot: return !Holds(condition.parts.front(), request);
    case Kind::kPeer: return Matches(condition.match, request.peer);
    case Kind::kHeader: {
      if (condition.name == ":method") return Matches(condition.match, request.method);
      if (condition.name == ":authority") return Matches(condition.match, request.authority);
      if (condition.name == ":path") return Matches(condition.match, request.path);
      const auto found = request.headers.find(condition.name);
      return found != request.headers.end() && Matches(condition.match, found->second);
    }
    case Kind::kPath:
      return Matches(condition.match, request.path.substr(0, request.path.find('?')));
    case Kind::kRemoteIp:
      return condition.block.Contains(*net::IpAddress::Parse(request.remote_ip));
    case Kind::kDestinationIp: {
      const auto ip = net::IpAddress::Parse(request.destination_ip);
      return ip && condition.block.Contains(*ip);
    }
  }
  return false;
}

bool AnyRule(const std::vector<CompiledRule>& rules, const Request& request) {
  const auto any = [&](const std::vector<Condition>& conditions) {
    for (const auto& condition : conditions) {
      if (Holds(condition, request)) return true;
    }
    return false;
  };
  for (const CompiledRule& rule : rules) {
    if (any(rule.permissions) && any(rule.principals)) return true;
  }
  return false;
}

using Policy = AuthorizationPolicy;

class PolicyTest : public ::testing::Test {
 protected:
  PolicyTest() {
    context_.http = true;
    context_.port = 80;
    context_.trust_domain = "cluster.local";
    context_.addresses = {*net::IpAddress::Parse("10.96.0.11")};
    policy_.meta.ns = "shop";
    policy_.meta.name = "p";
    policy_.rules.resize(1);
  }

  Policy::Source& source() {
    auto& from = policy_.rules[0].from;
    if (from.empty()) from.emplace_back();
    return from[0];
  }
  Policy::Operation& operation() {
    auto& to = policy_.rules[0].to;
    if (to.empty()) to.emplace_back();
    return to[0];
  }
  Policy::Condition& When(const std::string& key) {
    auto& when = policy_.rules[0].when;
    if (when.empty()) when.emplace_back();
    when[0].key = key;
    return when[0];
  }

  // Whether the rules match. In ALLOW, then the same as DENY, in which understood parts mean the
  // same.
  bool Matches(const Request& request = {}) {
    const bool allow = MatchesAs(Policy::Action::kAllow, request);
    const bool deny = MatchesAs(Policy::Action::kDeny, request);
    EXPECT_EQ(allow, deny) << "the two actions read an understood rule differently";
    return allow;
  }
  bool MatchesAs(Policy::Action action, const Request& request = {}) {
    policy_.action = action;
    CompiledPolicies compiled;
    CompilePolicy(nullptr, policy_, context_, compiled);
    const bool deny = action == Policy::Action::kDeny || action == Policy::Action::kCustom;
    const CompiledGroup& group = deny ? compiled.deny : compiled.allow;
    EXPECT_TRUE(group.present);
    return AnyRule(group.rules, request);
  }
  void ExpectNotUnderstood(const Request& request = {}) {
    EXPECT_FALSE(MatchesAs(Policy::Action::kAllow, request));
    EXPECT_TRUE(MatchesAs(Policy::Action::kDeny, request));
  }

  PolicyContext context_;
  Policy policy_;
};

TEST_F(PolicyTest, RuleWithoutAnythingMatchesEverything) { EXPECT_TRUE(Matches()); }

TEST_F(PolicyTest, PolicyWithoutRulesAllowsNobody) {
  policy_.rules.clear();
  EXPECT_FALSE(Matches());
}

TEST_F(PolicyTest, Principals) {
  source().principals = {"cluster.local/ns/shop/sa/frontend"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.peer = "spiffe://cluster.local/ns/shop/sa/frontend2"}));
  source().principals = {"cluster.local/ns/shop/*"};
  EXPECT_TRUE(Matches());
  source().principals = {"*/sa/frontend"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.peer = "spiffe://cluster.local/ns/shop/sa/loadgen"}));
  source().principals = {"*"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.peer = ""}));
  source().principals = {};
  source().not_principals = {"cluster.local/ns/shop/sa/frontend"};
  EXPECT_FALSE(Matches());
  EXPECT_TRUE(Matches({.peer = "spiffe://cluster.local/ns/shop/sa/loadgen"}));
}

TEST_F(PolicyTest, Namespaces) {
  source().namespaces = {"shop"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.peer = "spiffe://cluster.local/ns/shop2/sa/frontend"}));
  EXPECT_FALSE(Matches({.peer = "spiffe://cluster.local/ns/x/sa/shop"}));
  source().namespaces = {"sh*"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.peer = "spiffe://cluster.local/ns/x/sa/shop"}));
  source().namespaces = {"*op"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.peer = "spiffe://cluster.local/ns/shops/sa/shop"}));
  source().namespaces = {"*"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.peer = ""}));
}

TEST_F(PolicyTest, ServiceAccounts) {
  source().service_accounts = {"frontend"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.peer = "spiffe://cluster.local/ns/other/sa/frontend"}));
  source().service_accounts = {"other/frontend"};
  EXPECT_TRUE(Matches({.peer = "spiffe://cluster.local/ns/other/sa/frontend"}));
  for (const char* bad : {"a/b/c", "/x", "x/", "*", "a/*"}) {
    source().service_accounts = {bad};
    ExpectNotUnderstood();
  }
}

TEST_F(PolicyTest, Addresses) {
  source().ip_blocks = {"10.91.0.0/16"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.remote_ip = "10.92.0.1"}));
  source().ip_blocks = {"10.91.1.8"};
  EXPECT_TRUE(Matches());
  source().ip_blocks.clear();
  source().not_ip_blocks = {"fd91::/16"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.remote_ip = "fd91::8"}));
  When("destination.ip").values = {"10.96.0.0/16"};
  EXPECT_TRUE(Matches());
  When("destination.ip").values = {"10.97.0.0/16"};
  EXPECT_FALSE(Matches());
}

TEST_F(PolicyTest, DestinationOfTwoFamiliesIsDecidedByTheRequest) {
  context_.addresses.push_back(*net::IpAddress::Parse("fd96::11"));
  When("destination.ip").values = {"10.96.0.11"};
  EXPECT_TRUE(Matches());
  EXPECT_FALSE(Matches({.destination_ip = "fd96::11"}));
  // Called by name no address is known: no permission, but a denial.
  EXPECT_FALSE(MatchesAs(Policy::Action::kAllow, {.destination_ip = ""}));
  EXPECT_TRUE(MatchesAs(Policy::Action::kDeny, {.destination_ip = ""}));
  When("destination.ip").values = {};
  When("destination.ip").not_values = {"10.96.0.11"};
  EXPECT_FALSE(Matches());
  EXPECT_TRUE(Matches({.destination_ip = "fd96::11"}));
  EXPECT_FALSE(MatchesAs(Policy::Action::kAllow, {.destination_ip = ""}));
  EXPECT_TRUE(MatchesAs(Policy::Action::kDeny, {.destination_ip = ""}));
}

TEST_F(PolicyTest, Operations) {
  operation().methods = {"GET", "HEAD"};
  operation().paths = {"/api/*"};
  EXPECT_TRUE(Matches());
  EXPECT_TRUE(Matches({.path = "/api/x?y=/admin"}));
  EXPECT_FALSE(Matches({.path = "/apix"}));
  EXPECT_FALSE(Matches({.path = "/?/api/"}));
  EXPECT_FALSE(Matches({.method = "POST"}));
  EXPECT_FALSE(Matches({.method = "get"}));
  operation().not_paths = {"/api/secret"};
  EXPECT_FALSE(Matches({.path = "/api/secret?x"}));
  EXPECT_TRUE(Matches());
}

TEST_F(PolicyTest, PathTemplates) {
  operation().paths = {"/u/{*}/files/{**}"};
  EXPECT_TRUE(Matches({.path = "/u/7/files/a/b"}));
  EXPECT_FALSE(Matches({.path = "/u/7/8/files/a"}));
  EXPECT_FALSE(Matches({.path = "/u//files/a"}));
  for (const char* bad : {"/u/{id}", "/u/{*", "/{*}*", "/a*b", "/**"}) {
    operation().paths = {bad};
    ExpectNotUnderstood();
  }
}

TEST_F(PolicyTest, HostsIgnoreCaseAndPort) {
  operation().hosts = {"Backend"};
  EXPECT_TRUE(Matches());
  EXPECT_TRUE(Matches({.authority = "BACKEND:80"}));
  EXPECT_FALSE(Matches({.authority = "backend.evil"}));
  operation().hosts = {"*.example.com"};
  EXPECT_TRUE(Matches({.authority = "a.Example.com"}));
  EXPECT_TRUE(Matches({.authority = "a.Example.com:8080"}));
  EXPECT_FALSE(Matches({.authority = "a.example.com.evil:80"}));
}

TEST_F(PolicyTest, PortsAreThoseOfTheService) {
  operation().ports = {"80", "443"};
  EXPECT_TRUE(Matches());
  operation().ports = {"8080"};
  EXPECT_FALSE(Matches());
  operation().ports.clear();
  operation().not_ports = {"80"};
  EXPECT_FALSE(Matches());
  for (const char* bad : {"http", "0", "65536", "80x", "-1", " 80", ""}) {
    operation().not_ports.clear();
    operation().ports = {bad};
    ExpectNotUnderstood();
    operation().ports.clear();
    operation().not_ports = {bad};
    ExpectNotUnderstood();
  }
}

TEST_F(PolicyTest, Headers) {
  When("request.headers[X-Tenant]").values = {"gold", "silver-*"};
  EXPECT_FALSE(Matches());
  EXPECT_TRUE(Matches({.headers = {{"x-tenant", "gold"}}}));
  EXPECT_TRUE(Matches({.headers = {{"x-tenant", "silver-1"}}}));
  EXPECT_FALSE(Matches({.headers = {{"x-tenant", "golden"}}}));
  When("request.headers[x-tenant]").values = {"*"};
  EXPECT_TRUE(Matches({.headers = {{"x-tenant", "whatever"}}}));
  EXPECT_FALSE(Matches());
  for (const char* bad : {"request.headers[]", "request.headers[a b]", "request.headers[x",
                          "request.header[x]", "", "source.port"}) {
    When(bad).values = {"x"};
    ExpectNotUnderstood();
  }
}

TEST_F(PolicyTest, NobodyHasAVerifiedToken) {
  source().request_principals = {"*"};
  EXPECT_FALSE(Matches());
  source().request_principals.clear();
  source().not_request_principals = {"*"};
  EXPECT_TRUE(Matches());
}

TEST_F(PolicyTest, ValuesThatCannotBeReadCountOneByOne) {
  source().ip_blocks = {"10.91.0.0/16", "rubbish"};
  EXPECT_TRUE(MatchesAs(Policy::Action::kAllow));
  EXPECT_FALSE(MatchesAs(Policy::Action::kAllow, {.remote_ip = "1.1.1.1"}));
  EXPECT_TRUE(MatchesAs(Policy::Action::kDeny, {.remote_ip = "1.1.1.1"}));
  source().ip_blocks.clear();
  source().not_ip_blocks = {"10.91.0.0/16", "rubbish"};
  EXPECT_FALSE(MatchesAs(Policy::Action::kAllow, {.remote_ip = "1.1.1.1"}));
  EXPECT_TRUE(MatchesAs(Policy::Action::kDeny, {.remote_ip = "1.1.1.1"}));
  EXPECT_FALSE(MatchesAs(Policy::Action::kDeny));  // surely excepted
}

TEST_F(PolicyTest, UnknownFieldsFailClosed) {
  source().unknown = {"mood"};
  ExpectNotUnderstood();
  source().unknown.clear();
  operation().unknown = {"mood"};
  ExpectNotUnderstood();
  operation().unknown.clear();
  policy_.rules[0].unknown = {"mood"};
  ExpectNotUnderstood();
  policy_.rules[0].unknown.clear();
  EXPECT_TRUE(Matches());
  policy_.unknown = {"mood"};
  CompiledPolicies compiled;
  policy_.action = Policy::Action::kAllow;
  CompilePolicy(nullptr, policy_, context_, compiled);
  EXPECT_TRUE(AnyRule(compiled.deny.rules, {}));
}

TEST_F(PolicyTest, AnUnknownConditionLeavesTheOthersInADenial) {
  source().namespaces = {"evil"};
  source().unknown = {"mood"};
  EXPECT_FALSE(MatchesAs(Policy::Action::kDeny));
  EXPECT_TRUE(MatchesAs(Policy::Action::kDeny, {.peer = "spiffe://cluster.local/ns/evil/sa/x"}));
}

TEST_F(PolicyTest, HttpConditionsOnTcpPorts) {
  context_.http = false;
  operation().paths = {"/api/*"};
  ExpectNotUnderstood();
  operation().paths.clear();
  operation().not_methods = {"GET"};
  ExpectNotUnderstood();
  operation().not_methods.clear();
  operation().ports = {"80"};
  EXPECT_TRUE(Matches());
}

TEST_F(PolicyTest, CustomDeniesWhatItWouldHaveAskedAbout) {
  operation().paths = {"/admin*"};
  EXPECT_TRUE(MatchesAs(Policy::Action::kCustom, {.path = "/admin"}));
  EXPECT_FALSE(MatchesAs(Policy::Action::kCustom));
}

TEST_F(PolicyTest, DryRunIsNotEnforced) {
  policy_.dry_run = true;
  policy_.action = Policy::Action::kDeny;
  CompiledPolicies compiled;
  CompilePolicy(nullptr, policy_, context_, compiled);
  EXPECT_FALSE(compiled.deny.present);
  EXPECT_TRUE(compiled.deny.has_shadow);
  EXPECT_TRUE(AnyRule(compiled.deny.shadow_rules, {}));
}

// The law behind all of the above, on random policies: taking a value that cannot be read for any
// readable one must not make ALLOW narrower than "never" nor DENY wider than "always", that is:
// what an ALLOW with a broken value lets through, it lets through whatever the value was meant to
// be; what a DENY with a broken value lets through, likewise.
TEST_F(PolicyTest, ABrokenValueNeverLetsMoreThroughThanAnyMeaningOfIt) {
  std::mt19937 random(7);
  const auto pick = [&](const std::vector<std::string>& values) {
    return values[random() % values.size()];
  };
  const std::vector<std::string> ips = {"10.91.0.0/16", "10.91.1.8", "0.0.0.0/0", "192.168.0.0/16"};
  const std::vector<std::string> paths = {"/api/*", "/admin", "*", "*/orders"};
  const std::vector<std::string> namespaces = {"shop", "sh*", "other", "*"};
  const std::vector<Request> requests = {
      {},
      {.remote_ip = "192.168.1.1"},
      {.path = "/admin"},
      {.peer = "spiffe://cluster.local/ns/other/sa/x"},
      {.peer = "spiffe://cluster.local/ns/other/sa/x", .remote_ip = "1.2.3.4", .path = "/x"}};
  for (int round = 0; round < 2000; ++round) {
    policy_.rules.assign(1, {});
    std::vector<std::vector<std::string>*> lists = {&source().ip_blocks,  &source().not_ip_blocks,
                                                    &operation().paths,   &operation().not_paths,
                                                    &source().namespaces, &source().not_namespaces};
    const std::vector<const std::vector<std::string>*> vocabularies = {
        &ips, &ips, &paths, &paths, &namespaces, &namespaces};
    for (size_t i = 0; i < lists.size(); ++i) {
      for (unsigned n = random() % 3; n > 0; --n) lists[i]->push_back(pick(*vocabularies[i]));
    }
    const size_t broken_list = random() % lists.size();
    const auto action = random() % 2 == 0 ? Policy::Action::kAllow : Policy::Action::kDeny;
    lists[broken_list]->push_back("a*b*c/40");
    std::vector<bool> broken;
    for (const Request& request : requests) broken.push_back(MatchesAs(action, request));
    for (const std::string& meaning : *vocabularies[broken_list]) {
      lists[broken_list]->back() = meaning;
      for (size_t i = 0; i < requests.size(); ++i) {
        const bool meant = MatchesAs(action, requests[i]);
        if (action == Policy::Action::kAllow) {
          EXPECT_TRUE(meant || !broken[i]) << "round " << round << " request " << i;
        } else {
          EXPECT_TRUE(!meant || broken[i]) << "round " << round << " request " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace qanat::controlplane
