// SPDX-License-Identifier: Apache-2.0
#include "controlplane/envoy/route_parts.h"

#include <re2/re2.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "controlplane/envoy/names.h"
#include "controlplane/envoy/proto_util.h"
#include "controlplane/envoy/text.h"

namespace qanat::controlplane {
namespace {

using envoy::config::core::v3::HeaderValueOption;

constexpr std::string_view kDefaultRetryOn =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

// In Envoy a header's value is a format string; what users write is taken literally.
std::string Literal(std::string_view value) {
  std::string literal;
  for (const char c : value) literal.append(c == '%' ? "%%" : std::string(1, c));
  return literal;
}

template <typename Message>
void SetHeaderOpsOf(const HeaderOps& request, const HeaderOps& response, Message* out) {
  const auto add = [](const HeaderList& headers, auto action, const auto& make) {
    for (const auto& [name, value] : headers) {
      HeaderValueOption* option = make();
      option->mutable_header()->set_key(name);
      option->mutable_header()->set_value(Literal(value));
      option->set_append_action(action);
    }
  };
  const auto on_request = [out] { return out->add_request_headers_to_add(); };
  const auto on_response = [out] { return out->add_response_headers_to_add(); };
  add(request.set, HeaderValueOption::OVERWRITE_IF_EXISTS_OR_ADD, on_request);
  add(request.add, HeaderValueOption::APPEND_IF_EXISTS_OR_ADD, on_request);
  add(response.set, HeaderValueOption::OVERWRITE_IF_EXISTS_OR_ADD, on_response);
  add(response.add, HeaderValueOption::APPEND_IF_EXISTS_OR_ADD, on_response);
  for (const std::string& name : request.remove) out->add_request_headers_to_remove(name);
  for (const std::string& name : response.remove) out->add_response_headers_to_remove(name);
}

}  // namespace

bool IsRegex(const std::string& regex) {
  return !regex.empty() && re2::RE2(regex, re2::RE2::Quiet).ok();
}

std::string QuoteSubstitution(std::string_view text) {
  std::string quoted;
  for (const char c : text) {
    if (c == '\\') quoted.push_back('\\');
    quoted.push_back(c);
  }
  return quoted;
}

HeaderOps CheckedOps(Scope& scope, const ObjectMeta& meta, int line, const HeaderOps& ops,
                     std::string* host) {
  HeaderOps checked;
  const auto usable = [&](const std::string& name, const std::string& value) {
    const std::string lower = Lower(name);
    if (lower == "host" || lower == ":authority") {
      if (host && !value.empty()) *host = value;
      if (host && !value.empty()) return false;
    } else if (IsHeaderName(name) &&
               value.find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos) {
      return true;
    }
    scope.Tell(meta, line, "UnsupportedValue",
               "header \"" + name + "\" cannot be changed this way: left as it is");
    return false;
  };
  for (const auto& header : ops.set) {
    if (usable(header.first, header.second)) checked.set.push_back(header);
  }
  for (const auto& header : ops.add) {
    if (usable(header.first, header.second)) checked.add.push_back(header);
  }
  for (const std::string& name : ops.remove) {
    if (usable(name, "")) checked.remove.push_back(name);
  }
  return checked;
}

void SetHeaderOps(const HeaderOps& request, const HeaderOps& response, route_v3::Route* route) {
  SetHeaderOpsOf(request, response, route);
}

void SetTargets(const std::vector<RouteTarget>& targets, route_v3::Route* route) {
  route_v3::RouteAction* action = route->mutable_route();
  if (targets.size() == 1) {
    action->set_cluster(targets.front().cluster);
    SetHeaderOpsOf(targets.front().request, targets.front().response, route);
    return;
  }
  for (const RouteTarget& target : targets) {
    auto* cluster = action->mutable_weighted_clusters()->add_clusters();
    cluster->set_name(target.cluster);
    cluster->mutable_weight()->set_value(target.weight);
    SetHeaderOpsOf(target.request, target.response, cluster);
  }
}

void SetHashPolicy(const Scope& scope, const std::vector<RouteTarget>& targets, uint16_t port,
                   route_v3::RouteAction* action) {
  const Service* service = targets.front().service;
  if (!service) return;
  const ServicePort* service_port = service->FindPort(port);
  if (!service_port) service_port = service->ports.empty() ? nullptr : &service->ports.front();
  if (!service_port) return;
  const Subset* subset = nullptr;
  for (const Subset* candidate : scope.SubsetsOf(*service)) {
    if (candidate->name == targets.front().subset) subset = candidate;
  }
  const TrafficSettings settings = scope.SettingsOf({service, service_port, subset, true});
  if (!settings.load_balancer) return;
  const LoadBalancerPolicy& balancer = *settings.load_balancer;
  switch (balancer.hash) {
    case LoadBalancerPolicy::HashKey::kNone: return;
    case LoadBalancerPolicy::HashKey::kHeader:
      if (balancer.hash_name.empty()) return;
      action->add_hash_policy()->mutable_header()->set_header_name(balancer.hash_name);
      return;
    case LoadBalancerPolicy::HashKey::kQueryParameter:
      if (balancer.hash_name.empty()) return;
      action->add_hash_policy()->mutable_query_parameter()->set_name(balancer.hash_name);
      return;
    case LoadBalancerPolicy::HashKey::kSourceIp:
      action->add_hash_policy()->mutable_connection_properties()->set_source_ip(true);
      return;
    case LoadBalancerPolicy::HashKey::kCookie: {
      if (balancer.cookie.name.empty()) return;
      auto* cookie = action->add_hash_policy()->mutable_cookie();
      cookie->set_name(balancer.cookie.name);
      cookie->set_path(balancer.cookie.path);
      if (balancer.cookie.ttl) SetDuration(cookie->mutable_ttl(), *balancer.cookie.ttl);
      return;
    }
  }
}

void SetRetry(const RetryParts& parts, route_v3::RouteAction* action) {
  route_v3::RetryPolicy* policy = action->mutable_retry_policy();
  std::vector<std::string> conditions;
  std::set<uint32_t> codes(parts.codes.begin(), parts.codes.end());
  const std::string& retry_on = parts.retry_on;
  for (size_t at = 0; at < retry_on.size();) {
    const size_t comma = std::min(retry_on.find(',', at), retry_on.size());
    std::string word = retry_on.substr(at, comma - at);
    std::erase_if(word, [](unsigned char c) { return std::isspace(c); });
    at = comma + 1;
    // Istio: a bare number is a status code.
    if (word.size() == 3 && std::all_of(word.begin(), word.end(), ::isdigit)) {
      codes.insert(static_cast<uint32_t>(std::stoul(word)));
    } else if (!word.empty() &&
               std::find(conditions.begin(), conditions.end(), word) == conditions.end()) {
      conditions.push_back(std::move(word));
    }
  }
  std::string joined;
  for (const std::string& condition : conditions) {
    if (!joined.empty()) joined += ',';
    joined += condition;
  }
  constexpr std::string_view kByCode = "retriable-status-codes";
  if (joined.empty()) {
    joined =
        parts.codes.empty() && codes.empty() ? std::string(kDefaultRetryOn) : std::string(kByCode);
    if (codes.empty()) codes.insert(503);
  } else if (!codes.empty() && joined.find(kByCode) == std::string::npos) {
    joined.append(",").append(kByCode);
  }
  policy->set_retry_on(joined);
  policy->mutable_num_retries()->set_value(parts.attempts);
  for (const uint32_t code : codes) policy->add_retriable_status_codes(code);
  if (parts.per_try_timeout && parts.per_try_timeout->count() > 0) {
    SetDuration(policy->mutable_per_try_timeout(), *parts.per_try_timeout);
  }
  if (parts.backoff && parts.backoff->count() > 0) {
    SetDuration(policy->mutable_retry_back_off()->mutable_base_interval(), *parts.backoff);
    SetDuration(policy->mutable_retry_back_off()->mutable_max_interval(), *parts.backoff * 10);
  }
  if (!parts.ignore_previous_hosts) return;
  auto* predicate = policy->add_retry_host_predicate();
  predicate->set_name("envoy.retry_host_predicates.previous_hosts");
  // The message has no fields, so that its type is all that there is to say.
  predicate->mutable_typed_config()->set_type_url(
      "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate");
  policy->set_host_selection_retry_max_attempts(5);
}

void SetResponseCode(uint32_t status, route_v3::RedirectAction* redirect) {
  using Redirect = route_v3::RedirectAction;
  switch (status) {
    case 302: redirect->set_response_code(Redirect::FOUND); break;
    case 303: redirect->set_response_code(Redirect::SEE_OTHER); break;
    case 307: redirect->set_response_code(Redirect::TEMPORARY_REDIRECT); break;
    case 308: redirect->set_response_code(Redirect::PERMANENT_REDIRECT); break;
    default: redirect->set_response_code(Redirect::MOVED_PERMANENTLY); break;
  }
}

void SetDirectResponse(uint32_t status, const std::string& body, route_v3::Route* route) {
  const bool valid = status >= 200 && status < 600;
  route->mutable_direct_response()->set_status(valid ? status : 500);
  if (!body.empty()) route->mutable_direct_response()->mutable_body()->set_inline_string(body);
}

void AddMirror(const std::string& cluster, double percent, route_v3::RouteAction* action) {
  auto* mirror = action->add_request_mirror_policies();
  mirror->set_cluster(cluster);
  SetPercent(mirror->mutable_runtime_fraction()->mutable_default_value(), percent);
}

void SetPrefixRewrite(const std::string& prefix, const std::string& by,
                      route_v3::RouteAction* action) {
  if (by == "/" && !prefix.ends_with("/")) {
    auto* rewrite = action->mutable_regex_rewrite();
    rewrite->mutable_pattern()->set_regex("^" + re2::RE2::QuoteMeta(prefix) + "/?(.*)$");
    rewrite->set_substitution("/\\1");
    return;
  }
  action->set_prefix_rewrite(by);
}

void SetFullPathRewrite(const std::string& by, route_v3::RouteAction* action) {
  action->mutable_regex_rewrite()->mutable_pattern()->set_regex("^.*$");
  action->mutable_regex_rewrite()->set_substitution(QuoteSubstitution(by));
}

void SetOrigin(const ObjectMeta& meta, std::string_view group, std::string_view kind,
               route_v3::Route* route) {
  std::string origin = "/apis/";
  origin.append(group).append("/v1/namespaces/").append(meta.ns);
  origin.append("/").append(kind).append("/").append(meta.name);
  SetText(MetadataOf(route->mutable_metadata(), envoy_names::kIstioMetadata), "config", origin);
}

}  // namespace qanat::controlplane
