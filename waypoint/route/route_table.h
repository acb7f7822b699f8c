// SPDX-License-Identifier: Apache-2.0
// A decoded RouteConfiguration and the choice of a route for a request: virtual host by domain,
// then the first route whose match holds. Pure: the data path and /debug/why call the same code.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "waypoint/route/head_view.h"
#include "waypoint/route/header_ops.h"
#include "waypoint/route/retry.h"
#include "waypoint/route/text_match.h"

namespace qanat::waypoint {

struct RbacRules;  // waypoint/authz/rbac.h: routes carry overrides, authorization reads them

struct PathMatch {
  enum class Kind : uint8_t { kPrefix, kExact, kSeparatedPrefix, kRegex, kTemplate, kConnect };
  Kind kind = Kind::kPrefix;
  bool case_sensitive = true;  // does not apply to kRegex
  std::string value = "/";     // lower case when not case sensitive
  Regex regex;

  bool Matches(std::string_view method, std::string_view path) const;
  std::string Describe() const;
};

// A share out of `denominator`; Envoy's FractionalPercent.
struct Fraction {
  uint32_t numerator = 0;
  uint32_t denominator = 100;
  bool Hit(uint64_t random) const { return random % denominator < numerator; }
};

struct RouteMatch {
  PathMatch path;
  bool grpc = false;
  std::vector<HeaderMatch> headers;
  std::vector<QueryMatch> query;
  std::optional<Fraction> fraction;
};

struct ClusterWeight {
  std::string cluster;
  uint32_t weight = 1;
  HeaderOps ops;
  std::string host_rewrite;
};

struct RegexRewrite {
  Regex regex;
  std::string substitution;
};

struct Mirror {
  std::string cluster;
  std::optional<Fraction> fraction;  // none: all
};

struct ForwardAction {
  std::vector<ClusterWeight> clusters;  // at least one, weights not all zero; or cluster_header
  uint64_t total_weight = 0;
  std::string cluster_header;
  uint32_t cluster_not_found_status = 503;
  std::string prefix_rewrite;
  std::optional<RegexRewrite> regex_rewrite;
  std::string host_rewrite;         // literal
  bool auto_host_rewrite = false;   // the picked endpoint's hostname
  std::string host_rewrite_header;  // lower case
  bool append_x_forwarded_host = false;
  std::chrono::milliseconds timeout{15000};  // Envoy's default; 0 = none
  std::optional<std::chrono::milliseconds> idle_timeout;
  std::optional<RetryPolicy> retry;
  std::vector<Mirror> mirrors;
};

struct RedirectAction {
  uint32_t status = 301;
  std::string scheme;
  std::string host;
  uint32_t port = 0;
  std::string path;            // replaces the whole path
  std::string prefix_rewrite;  // replaces the matched prefix
  bool has_prefix_rewrite = false;
  std::optional<RegexRewrite> regex_rewrite;
  bool strip_query = false;
};

struct DirectResponse {
  uint32_t status = 200;
  std::string body;
};

struct Fault {
  std::chrono::milliseconds delay{0};
  Fraction delay_fraction{};
  uint32_t abort_status = 0;  // 0: none
  std::optional<uint32_t> abort_grpc_status;
  Fraction abort_fraction{};
  std::vector<HeaderMatch> headers;  // all must match
};

struct CorsPolicy {
  std::vector<StringMatch> allow_origins;
  std::string allow_methods, allow_headers, expose_headers, max_age;
  bool allow_credentials = false;
  bool forward_unmatched_preflights = true;
};

// What a route or virtual host says to the filters in front of the router
// (typed_per_filter_config). The most specific one that says something about a filter counts:
// route, virtual host, table, then the filter's own configuration.
struct FilterOverrides {
  // By filter name. Empty rules: the filter does nothing here.
  std::vector<std::pair<std::string, std::shared_ptr<const RbacRules>>> rbac;
  std::shared_ptr<const Fault> fault;
  std::shared_ptr<const CorsPolicy> cors;
};

struct Route {
  std::string name;
  std::string origin;  // the object it came from, as metadata "istio" says
  RouteMatch match;
  std::variant<ForwardAction, RedirectAction, DirectResponse> action;
  HeaderOps ops;
  FilterOverrides overrides;
};

struct VirtualHost {
  std::string name;
  std::vector<std::string> domains;
  std::vector<Route> routes;
  HeaderOps ops;
  FilterOverrides overrides;
  bool include_request_attempt_count = false;
  bool include_response_attempt_count = false;
  std::optional<RetryPolicy> retry;  // for routes that have none
};

// One step of the search, for /debug/why: why a route was passed over.
struct RouteMiss {
  std::string route;
  std::string why;
};

struct RouteChoice {
  const VirtualHost* host = nullptr;
  const Route* route = nullptr;  // nullptr: NR
};

class RouteTable {
 public:
  std::string name;
  std::vector<VirtualHost> hosts;
  HeaderOps ops;
  FilterOverrides overrides;
  bool ignore_port_in_host = false;
  bool most_specific_ops_win = false;

  // Call once after `hosts` is complete. Fails on a domain that two hosts claim, as Envoy does.
  Status Index();

  const VirtualHost* FindHost(std::string_view authority) const;
  // `random` feeds runtime fractions only. `misses` may be null.
  RouteChoice Find(const HeadView& head, uint64_t random,
                   std::vector<RouteMiss>* misses = nullptr) const;

 private:
  std::unordered_map<std::string, size_t> exact_;
  std::vector<std::pair<std::string, size_t>> suffixes_;  // ".example.com", longest first
  std::vector<std::pair<std::string, size_t>> prefixes_;  // "example.", longest first
  std::optional<size_t> any_;
};

// Whether the match holds; where not, `why` (may be null) says what failed.
bool Matches(const RouteMatch& match, const HeadView& head, uint64_t random, std::string* why);

// The weighted pick: `random` is uniform. Null only if every weight is zero.
const ClusterWeight* PickCluster(const ForwardAction& action, uint64_t random);

// The path to send upstream and the Location of a redirect.
std::string RewritePath(const ForwardAction& action, const PathMatch& match, std::string_view path);
std::string RedirectLocation(const RedirectAction& action, const PathMatch& match,
                             const HeadView& head);

}  // namespace qanat::waypoint
