// SPDX-License-Identifier: Apache-2.0
// The L4 authorization engine: pure, any thread. Evaluate() is the verdict on the data path;
// Explain() returns the same verdict with the whole decision tree, for `why`.
//
// Every condition has three values. A part that cannot be understood is neither true nor false but
// unknown, unknown runs through AND, OR and NOT, and only the end decides: an ALLOW rule that comes
// out unknown does not match, a DENY rule that comes out unknown does. So a bad part can narrow
// what is allowed and never widen it, and the good parts around it keep their meaning.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/model/authorization.h"
#include "common/model/identity.h"
#include "common/model/reason.h"
#include "common/net/address.h"

namespace qanat::policy {

struct Request {
  std::optional<model::Identity> source;  // none: plaintext
  net::IpAddress source_ip;               // the TCP peer; behind a waypoint that is the waypoint
  net::IpAddress destination_ip;          // the pod's address
  uint16_t destination_port = 0;          // the target port, never 15008
};

// What applies to one workload: its namespace's policies, the global ones and those it names.
struct PolicySet {
  std::vector<model::PolicyPtr> policies;
  std::vector<std::string> unknown;  // names on the workload that were never received: deny
  // The policies are so old that their conditions are no longer trusted to spare anybody: an
  // enforced DENY counts as matching. ALLOW policies must match as ever.
  bool expired = false;
  bool operator==(const PolicySet&) const = default;  // the very same policies
};

struct Decision {
  bool allowed = false;
  model::Reason reason = model::Reason::kNone;
  std::string policy;   // "ns/name" that decided; empty when none did
  std::string dry_run;  // first dry-run DENY policy that would have matched; only for the log
};

Decision Evaluate(const PolicySet& policies, const Request& request);

enum class Truth : uint8_t { kFalse, kTrue, kUnknown };

struct ConditionTrace {
  std::string field;  // "principals"; with `negated` it is not_principals
  bool negated = false;
  std::vector<std::string> wanted;
  std::string seen;
  Truth truth = Truth::kFalse;  // of the condition, negation applied
};
struct MatchTrace {
  std::vector<ConditionTrace> conditions;  // ANDed
  bool skipped = false;                    // no condition at all
  Truth truth = Truth::kFalse;
};
struct ClauseTrace {
  std::vector<MatchTrace> matches;  // ORed
  Truth truth = Truth::kFalse;
};
struct RuleTrace {
  std::vector<ClauseTrace> clauses;  // ANDed
  Truth truth = Truth::kFalse;
  bool matched = false;  // after the fail-closed reading of kUnknown for the policy's action
};
struct PolicyTrace {
  model::PolicyPtr policy;
  std::vector<RuleTrace> rules;  // ORed
  bool matched = false;
};
// The ALLOW rule that came closest: what would have had to be different.
struct NearestAllow {
  std::string policy;
  size_t rule = 0;
  std::vector<ConditionTrace> missing;
};
struct Explanation {
  Decision decision;
  std::vector<PolicyTrace> policies;  // in the order in which they are considered
  std::vector<std::string> unknown;
  std::optional<NearestAllow> nearest_allow;  // only when refused for want of an ALLOW
};

Explanation Explain(const PolicySet& policies, const Request& request);

}  // namespace qanat::policy
