// SPDX-License-Identifier: Apache-2.0
// The L7 authorization engine: Envoy's RBAC policies over a request, with fail-closed three-valued
// logic. A part that cannot be understood is neither true nor false but unknown; at the end an
// ALLOW policy that comes out unknown does not match and a DENY policy that comes out unknown does.
// Pure: the data path calls Evaluate(), /debug/why calls Explain(); both give the same verdict.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/reason.h"
#include "common/net/address.h"
#include "common/policy/policy.h"
#include "waypoint/route/head_view.h"
#include "waypoint/route/text_match.h"

namespace qanat::waypoint {

using policy::Truth;

// One node of a Permission or Principal tree.
struct Condition {
  enum class Kind : uint8_t {
    kAny,
    kAnd,
    kOr,
    kNot,  // one child
    kHeader,
    kUrlPath,          // text
    kPathTemplate,     // text.value
    kIdentity,         // text, against the peer's SPIFFE URI; no identity: false
    kAuthenticated,    // any identity
    kDestinationIp,    // cidr
    kDestinationPort,  // [port_low, port_high)
    kDirectSourceIp,   // cidr, against the client's address
    kRemoteIp,    // cidr, against the trusted end of x-forwarded-for, else the client's address
    kServerName,  // text
    kNoToken,     // a claim of a validated JWT; nothing validates here, so the value is absent
    kUnknown,     // unknown_text says what
  };
  Kind kind = Kind::kAny;
  std::vector<Condition> children;
  HeaderMatch header;
  StringMatch text;
  net::Cidr cidr;
  uint32_t port_low = 0;
  uint32_t port_high = 0;
  bool invert = false;  // kNoToken only
  std::string unknown_text;
};

// Matches when one of the permissions and one of the principals do.
struct RbacPolicy {
  std::string name;  // istiod's form: ns[foo]-policy[bar]-rule[0]
  std::vector<Condition> permissions;
  std::vector<Condition> principals;
};

struct Rbac {
  enum class Action : uint8_t { kAllow, kDeny, kLog };
  Action action = Action::kAllow;
  bool dry_run = false;              // shadow rules: never refuse
  std::vector<RbacPolicy> policies;  // in the order of their names, as Envoy tries them
};

// The rules of one RBAC filter: enforced ones and dry-run ones, in the order of evaluation.
struct RbacRules {
  std::vector<Rbac> rules;
};
// The filters that apply to one request, in their order.
using RbacList = std::vector<const RbacRules*>;

struct AuthzInput {
  std::string_view identity;  // spiffe://...; empty without mTLS
  net::IpAddress source_ip;
  net::IpAddress remote_ip;
  net::SocketAddress destination;
  std::string_view server_name;
  const HeadView* head = nullptr;  // null: TCP; then what needs a request is unknown
};

struct AuthzDecision {
  bool allowed = true;
  model::Reason reason = model::Reason::kNone;
  std::string policy;   // the policy (its name as configured) that decided; "" when none did
  std::string dry_run;  // "DENY name" / "ALLOW none": what dry-run rules would have refused
};

// The filters in their order; the first that refuses ends it.
AuthzDecision Evaluate(const RbacList& filters, const AuthzInput& input);

struct ExplainedCondition {
  std::string field;  // as AuthorizationPolicy writes it: principals, paths, request.headers[x]
  bool negated = false;
  std::vector<std::string> wanted;
  std::string seen;
  Truth truth = Truth::kFalse;  // negation applied
};
// One side ("to" = permissions, "from" = principals). Of several alternatives the first that
// matches is shown, else the one with the fewest failing conditions.
struct ExplainedClause {
  std::string part;
  size_t alternative = 0;
  size_t alternatives = 0;
  std::vector<ExplainedCondition> conditions;  // ANDed
  Truth truth = Truth::kFalse;
};
struct ExplainedRule {
  size_t index = 0;
  std::vector<ExplainedClause> clauses;  // ANDed
  Truth truth = Truth::kFalse;
  bool matched = false;  // after the fail-closed reading of kUnknown
};
struct ExplainedPolicy {
  std::string name;  // "ns/name"
  Rbac::Action action = Rbac::Action::kAllow;
  bool dry_run = false;
  bool matched = false;
  std::vector<ExplainedRule> rules;
};
struct NearestAllow {
  std::string policy;
  size_t rule = 0;
  std::vector<ExplainedCondition> missing;
};
struct AuthzExplanation {
  AuthzDecision decision;
  std::vector<ExplainedPolicy> policies;
  std::optional<NearestAllow> nearest_allow;  // only when refused for want of an ALLOW
};
AuthzExplanation Explain(const RbacList& filters, const AuthzInput& input);

// "ns[foo]-policy[bar]-rule[2]" -> "foo/bar", 2; any other name stays as it is, rule 0.
struct PolicyName {
  std::string policy;
  size_t rule = 0;
};
PolicyName ParsePolicyName(std::string_view name);

// Shared by evaluation and explanation.
Truth TruthOf(const Condition& condition, const AuthzInput& input);
Truth Negate(Truth truth);

}  // namespace qanat::waypoint
