// SPDX-License-Identifier: Apache-2.0
#include "controlplane/envoy/rbac.h"

#include <utility>

#include "controlplane/envoy/names.h"
#include "controlplane/envoy/proto_util.h"
#include "envoy/config/listener/v3/listener_components.pb.h"
#include "envoy/config/rbac/v3/rbac.pb.h"
#include "envoy/config/route/v3/route_components.pb.h"
#include "envoy/extensions/filters/http/rbac/v3/rbac.pb.h"
#include "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.pb.h"
#include "envoy/extensions/filters/network/rbac/v3/rbac.pb.h"

namespace qanat::controlplane {
namespace {

namespace rbac = envoy::config::rbac::v3;
using HttpRbac = envoy::extensions::filters::http::rbac::v3::RBAC;
using HttpRbacPerRoute = envoy::extensions::filters::http::rbac::v3::RBACPerRoute;
using NetworkRbac = envoy::extensions::filters::network::rbac::v3::RBAC;

void Fill(const TextMatch& match, envoy::type::matcher::v3::StringMatcher* out) {
  switch (match.kind) {
    case TextMatch::Kind::kExact: out->set_exact(match.text); break;
    case TextMatch::Kind::kPrefix: out->set_prefix(match.text); break;
    case TextMatch::Kind::kSuffix: out->set_suffix(match.text); break;
    case TextMatch::Kind::kRegex: out->mutable_safe_regex()->set_regex(match.text); break;
    case TextMatch::Kind::kPresent: out->mutable_safe_regex()->set_regex(".+"); break;
  }
  if (match.ignore_case) out->set_ignore_case(true);
}

void Fill(const Condition& condition, envoy::config::route::v3::HeaderMatcher* out) {
  out->set_name(condition.name);
  if (condition.match.kind == TextMatch::Kind::kPresent) {
    out->set_present_match(true);
  } else {
    Fill(condition.match, out->mutable_string_match());
  }
}

void Fill(const net::Cidr& block, envoy::config::core::v3::CidrRange* out) {
  out->set_address_prefix(block.ip().ToString());
  out->mutable_prefix_len()->set_value(block.length());
}

// Only one of the two messages can say each leaf; the other one never gets it (policy.cc puts who
// into principals and what into permissions), and would refuse rather than let through.
void Encode(const Condition& condition, rbac::Permission* out) {
  using Kind = Condition::Kind;
  switch (condition.kind) {
    case Kind::kAny: out->set_any(true); return;
    case Kind::kAnd:
      for (const auto& part : condition.parts) Encode(part, out->mutable_and_rules()->add_rules());
      return;
    case Kind::kOr:
      for (const auto& part : condition.parts) Encode(part, out->mutable_or_rules()->add_rules());
      return;
    case Kind::kNot: Encode(condition.parts.front(), out->mutable_not_rule()); return;
    case Kind::kHeader: Fill(condition, out->mutable_header()); return;
    case Kind::kPath: Fill(condition.match, out->mutable_url_path()->mutable_path()); return;
    case Kind::kDestinationIp: Fill(condition.block, out->mutable_destination_ip()); return;
    case Kind::kPeer:
    case Kind::kRemoteIp:
    case Kind::kNever: out->mutable_not_rule()->set_any(true); return;
  }
}

void Encode(const Condition& condition, rbac::Principal* out) {
  using Kind = Condition::Kind;
  switch (condition.kind) {
    case Kind::kAny: out->set_any(true); return;
    case Kind::kAnd:
      for (const auto& part : condition.parts) Encode(part, out->mutable_and_ids()->add_ids());
      return;
    case Kind::kOr:
      for (const auto& part : condition.parts) Encode(part, out->mutable_or_ids()->add_ids());
      return;
    case Kind::kNot: Encode(condition.parts.front(), out->mutable_not_id()); return;
    case Kind::kHeader: Fill(condition, out->mutable_header()); return;
    case Kind::kPeer:
      out->mutable_filter_state()->set_key(std::string(envoy_names::kPeerPrincipal));
      Fill(condition.match, out->mutable_filter_state()->mutable_string_match());
      return;
    case Kind::kRemoteIp: Fill(condition.block, out->mutable_remote_ip()); return;
    case Kind::kPath:
    case Kind::kDestinationIp:
    case Kind::kNever: out->mutable_not_id()->set_any(true); return;
  }
}

void Fill(const std::vector<CompiledRule>& rules, rbac::RBAC::Action action, rbac::RBAC* out) {
  out->set_action(action);
  for (const CompiledRule& rule : rules) {
    rbac::Policy& policy = (*out->mutable_policies())[rule.name];
    for (const Condition& permission : rule.permissions) {
      Encode(permission, policy.add_permissions());
    }
    for (const Condition& principal : rule.principals) Encode(principal, policy.add_principals());
  }
}

template <typename Filter>
void Fill(const CompiledGroup& group, rbac::RBAC::Action action, Filter* filter) {
  if (group.present) Fill(group.rules, action, filter->mutable_rules());
  if (!group.has_shadow) return;
  Fill(group.shadow_rules, action, filter->mutable_shadow_rules());
  filter->set_shadow_rules_stat_prefix("istio_dry_run_");
}

struct Stage {
  std::string_view name;
  const CompiledGroup CompiledPolicies::* group;
  rbac::RBAC::Action action;
};

constexpr Stage kStages[] = {
    {envoy_names::kRbacAudit, &CompiledPolicies::audit, rbac::RBAC::LOG},
    {envoy_names::kRbacDeny, &CompiledPolicies::deny, rbac::RBAC::DENY},
    {envoy_names::kRbacAllow, &CompiledPolicies::allow, rbac::RBAC::ALLOW},
};

}  // namespace

void AddHttpRbacFilters(
    envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager* hcm) {
  for (const Stage& stage : kStages) {
    HttpRbac filter;
    // ALLOW without a policy: nobody passes. The virtual host says who does.
    if (stage.action == rbac::RBAC::ALLOW) filter.mutable_rules()->set_action(rbac::RBAC::ALLOW);
    auto* http_filter = hcm->add_http_filters();
    http_filter->set_name(std::string(stage.name));
    PackInto(http_filter->mutable_typed_config(), filter);
  }
}

void OverrideRbac(const CompiledPolicies& policies, envoy::config::route::v3::VirtualHost* host) {
  for (const Stage& stage : kStages) {
    const CompiledGroup& group = policies.*stage.group;
    const bool needed = stage.action == rbac::RBAC::ALLOW;
    if (!group.present && !group.has_shadow && !needed) continue;
    HttpRbacPerRoute override_rules;
    Fill(group, stage.action, override_rules.mutable_rbac());
    PackInto(&(*host->mutable_typed_per_filter_config())[std::string(stage.name)], override_rules);
  }
}

void AddNetworkRbacFilters(const CompiledPolicies& policies, const std::string& chain_name,
                           envoy::config::listener::v3::FilterChain* chain) {
  for (const Stage& stage : kStages) {
    const CompiledGroup& group = policies.*stage.group;
    if (!group.present && !group.has_shadow) continue;
    NetworkRbac filter;
    filter.set_stat_prefix(chain_name);
    Fill(group, stage.action, &filter);
    auto* network_filter = chain->add_filters();
    network_filter->set_name("envoy.filters.network.rbac");
    PackInto(network_filter->mutable_typed_config(), filter);
  }
}

}  // namespace qanat::controlplane
