// SPDX-License-Identifier: Apache-2.0
// Envoy RBAC -> Condition trees. Nothing here fails: what is not understood becomes kUnknown.
#include <envoy/extensions/filters/http/rbac/v3/rbac.pb.h>
#include <envoy/extensions/path/match/uri_template/v3/uri_template_match.pb.h>

#include <algorithm>

#include "waypoint/config/decode.h"
#include "waypoint/config/decode_common.h"

namespace qanat::waypoint {
namespace {

namespace rbac = envoy::config::rbac::v3;
using Kind = Condition::Kind;

// A hostile or broken tree must not exhaust the stack.
constexpr int kMaxDepth = 32;
constexpr std::string_view kPeerPrincipal = "io.istio.peer_principal";

struct Context {
  std::string where;
  Restricted* restricted;
};

Condition Unknown(const Context& context, std::string what) {
  context.restricted->push_back(context.where + ": " + what);
  Condition c;
  c.kind = Kind::kUnknown;
  c.unknown_text = std::move(what);
  return c;
}

Condition Simple(Kind kind) {
  Condition c;
  c.kind = kind;
  return c;
}

Condition WithText(const Context& context, Kind kind,
                   const envoy::type::matcher::v3::StringMatcher& in) {
  auto text = DecodeString(in);
  if (!text) return Unknown(context, text.error().message);
  Condition c = Simple(kind);
  c.text = std::move(*text);
  return c;
}

Condition WithCidr(const Context& context, Kind kind,
                   const envoy::config::core::v3::CidrRange& in) {
  auto cidr = DecodeCidr(in);
  if (!cidr) return Unknown(context, cidr.error().message);
  Condition c = Simple(kind);
  c.cidr = *cidr;
  return c;
}

Condition WithHeader(const Context& context, const envoy::config::route::v3::HeaderMatcher& in) {
  auto header = DecodeHeader(in);
  if (!header) return Unknown(context, header.error().message);
  Condition c = Simple(Kind::kHeader);
  c.header = std::move(*header);
  return c;
}

Condition WithPath(const Context& context, const envoy::type::matcher::v3::PathMatcher& in) {
  if (in.rule_case() != envoy::type::matcher::v3::PathMatcher::kPath) {
    return Unknown(context, "a path matcher of a kind unknown to us");
  }
  return WithText(context, Kind::kUrlPath, in.path());
}

Condition WithPorts(const Context& context, int64_t low, int64_t high) {
  if (low < 0 || high > 65536 || low >= high) {
    return Unknown(context, fmt::format("port range [{}, {})", low, high));
  }
  Condition c = Simple(Kind::kDestinationPort);
  c.port_low = static_cast<uint32_t>(low);
  c.port_high = static_cast<uint32_t>(high);
  return c;
}

// Claims of a validated token. No filter of ours validates tokens (a listener that asks for one is
// refused), so there is never a value: positive matches are false, inverted ones true.
Condition WithMetadata(const Context& context,
                       const envoy::type::matcher::v3::MetadataMatcher& in) {
  std::string name;
  for (const auto& segment : in.path()) name += (name.empty() ? "" : ".") + segment.key();
  if (in.filter() == "envoy.filters.http.jwt_authn" && in.path_size() > 0) {
    Condition c = Simple(Kind::kNoToken);
    c.invert = in.invert();
    c.unknown_text = "request.auth." + name;
    return c;
  }
  return Unknown(context, fmt::format("metadata {} {}", in.filter(), name));
}

Condition Negated(Condition child) {
  Condition c = Simple(Kind::kNot);
  c.children.push_back(std::move(child));
  return c;
}

Condition DecodePermission(const rbac::Permission& in, const Context& context, int depth);
Condition DecodePrincipal(const rbac::Principal& in, const Context& context, int depth);

Condition Set(const rbac::Permission::Set& in, Kind kind, const Context& context, int depth) {
  Condition c = Simple(kind);
  for (const auto& rule : in.rules()) c.children.push_back(DecodePermission(rule, context, depth));
  return c;
}

Condition Set(const rbac::Principal::Set& in, Kind kind, const Context& context, int depth) {
  Condition c = Simple(kind);
  for (const auto& id : in.ids()) c.children.push_back(DecodePrincipal(id, context, depth));
  return c;
}

Condition WithTemplate(const Context& context, const google::protobuf::Any& any) {
  using Template = envoy::extensions::path::match::uri_template::v3::UriTemplateMatchConfig;
  auto in = Unpack<Template>(any);
  if (!in) return Unknown(context, in.error().message);
  Condition c = Simple(Kind::kPathTemplate);
  c.text.value = in->path_template();
  return c;
}

Condition DecodePermission(const rbac::Permission& in, const Context& context, int depth) {
  using In = rbac::Permission;
  if (depth > kMaxDepth) return Unknown(context, "a permission nested too deeply");
  switch (in.rule_case()) {
    case In::kAndRules: return Set(in.and_rules(), Kind::kAnd, context, depth + 1);
    case In::kOrRules: return Set(in.or_rules(), Kind::kOr, context, depth + 1);
    case In::kAny: return in.any() ? Simple(Kind::kAny) : Unknown(context, "permission any: false");
    case In::kHeader: return WithHeader(context, in.header());
    case In::kUrlPath: return WithPath(context, in.url_path());
    case In::kDestinationIp: return WithCidr(context, Kind::kDestinationIp, in.destination_ip());
    case In::kDestinationPort:
      return WithPorts(context, in.destination_port(), int64_t{in.destination_port()} + 1);
    case In::kDestinationPortRange:
      return WithPorts(context, in.destination_port_range().start(),
                       in.destination_port_range().end());
    case In::kMetadata: return WithMetadata(context, in.metadata());
    case In::kNotRule: return Negated(DecodePermission(in.not_rule(), context, depth + 1));
    case In::kRequestedServerName:
      return WithText(context, Kind::kServerName, in.requested_server_name());
    case In::kUriTemplate: return WithTemplate(context, in.uri_template().typed_config());
    case In::kMatcher:
      return Unknown(context, "permission matcher extension " + in.matcher().name());
    case In::RULE_NOT_SET: break;
  }
  return Unknown(context, "a permission of a kind unknown to us");
}

Condition DecodePrincipal(const rbac::Principal& in, const Context& context, int depth) {
  using In = rbac::Principal;
  if (depth > kMaxDepth) return Unknown(context, "a principal nested too deeply");
  switch (in.identifier_case()) {
    case In::kAndIds: return Set(in.and_ids(), Kind::kAnd, context, depth + 1);
    case In::kOrIds: return Set(in.or_ids(), Kind::kOr, context, depth + 1);
    case In::kAny: return in.any() ? Simple(Kind::kAny) : Unknown(context, "principal any: false");
    case In::kAuthenticated:
      return in.authenticated().has_principal_name()
                 ? WithText(context, Kind::kIdentity, in.authenticated().principal_name())
                 : Simple(Kind::kAuthenticated);
    // The remote address of an inbound chain is the client's, for all three; only remote_ip may
    // come from x-forwarded-for where the listener trusts it.
    case In::kSourceIp: return WithCidr(context, Kind::kDirectSourceIp, in.source_ip());
    case In::kDirectRemoteIp:
      return WithCidr(context, Kind::kDirectSourceIp, in.direct_remote_ip());
    case In::kRemoteIp: return WithCidr(context, Kind::kRemoteIp, in.remote_ip());
    case In::kHeader: return WithHeader(context, in.header());
    case In::kUrlPath: return WithPath(context, in.url_path());
    case In::kMetadata: return WithMetadata(context, in.metadata());
    case In::kFilterState:
      if (in.filter_state().key() != kPeerPrincipal ||
          in.filter_state().matcher_case() !=
              envoy::type::matcher::v3::FilterStateMatcher::kStringMatch) {
        return Unknown(context, "filter state " + in.filter_state().key());
      }
      return WithText(context, Kind::kIdentity, in.filter_state().string_match());
    case In::kNotId: return Negated(DecodePrincipal(in.not_id(), context, depth + 1));
    case In::IDENTIFIER_NOT_SET: break;
  }
  return Unknown(context, "a principal of a kind unknown to us");
}

RbacPolicy DecodePolicy(const std::string& name, const rbac::Policy& in, const Context& outer) {
  Context context{outer.where + " " + name, outer.restricted};
  RbacPolicy out;
  out.name = name;
  // A field that we do not know may narrow or widen the policy: all of it is unknown then.
  if (HasUnknownFields(in)) {
    out.permissions.push_back(Unknown(context, "fields unknown to this version"));
    out.principals.push_back(Simple(Kind::kAny));
    return out;
  }
  for (const auto& p : in.permissions()) out.permissions.push_back(DecodePermission(p, context, 0));
  for (const auto& p : in.principals()) out.principals.push_back(DecodePrincipal(p, context, 0));
  if (in.has_condition() || in.has_checked_condition()) {
    Condition both = Simple(Kind::kAnd);
    Condition any = Simple(Kind::kOr);
    any.children = std::move(out.permissions);
    both.children.push_back(std::move(any));
    both.children.push_back(Unknown(context, "a CEL condition"));
    out.permissions.clear();
    out.permissions.push_back(std::move(both));
  }
  return out;
}

Rbac RefuseAll(const Context& context, std::string what, bool dry_run) {
  Rbac out;
  out.action = Rbac::Action::kDeny;
  out.dry_run = dry_run;
  RbacPolicy policy;
  policy.name = context.where;
  policy.permissions.push_back(Unknown(context, std::move(what)));
  policy.principals.push_back(Simple(Kind::kAny));
  out.policies.push_back(std::move(policy));
  return out;
}

Rbac DecodeOne(const rbac::RBAC& in, bool dry_run, const Context& context) {
  Rbac out;
  out.dry_run = dry_run;
  switch (static_cast<int>(in.action())) {
    case rbac::RBAC::ALLOW: out.action = Rbac::Action::kAllow; break;
    case rbac::RBAC::DENY: out.action = Rbac::Action::kDeny; break;
    case rbac::RBAC::LOG: out.action = Rbac::Action::kLog; return out;
    default: return RefuseAll(context, fmt::format("RBAC action {}", int(in.action())), dry_run);
  }
  if (!in.GetReflection()->GetUnknownFields(in).empty()) {
    return RefuseAll(context, "RBAC fields unknown to this version", dry_run);
  }
  for (const auto& [name, policy] : in.policies()) {
    out.policies.push_back(DecodePolicy(name, policy, context));
  }
  std::sort(out.policies.begin(), out.policies.end(),
            [](const RbacPolicy& a, const RbacPolicy& b) { return a.name < b.name; });
  return out;
}

}  // namespace

RbacRules DecodeRbacRules(const rbac::RBAC* rules, const rbac::RBAC* shadow, bool has_matcher,
                          const std::string& where, Restricted& restricted) {
  Context context{where, &restricted};
  RbacRules out;
  if (shadow) out.rules.push_back(DecodeOne(*shadow, true, context));
  if (has_matcher) out.rules.push_back(RefuseAll(context, "RBAC by matcher tree", false));
  if (rules) out.rules.push_back(DecodeOne(*rules, false, context));
  return out;
}

RbacRules DecodeHttpRbac(const envoy::extensions::filters::http::rbac::v3::RBAC& in,
                         const std::string& where, Restricted& restricted) {
  return DecodeRbacRules(in.has_rules() ? &in.rules() : nullptr,
                         in.has_shadow_rules() ? &in.shadow_rules() : nullptr, in.has_matcher(),
                         where, restricted);
}

Result<Decoded<RbacRules>> DecodeRbacFilter(std::string_view bytes) {
  envoy::extensions::filters::http::rbac::v3::RBAC in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Invalid("RBAC does not parse");
  }
  Decoded<RbacRules> out;
  out.value = std::make_shared<const RbacRules>(DecodeHttpRbac(in, "filter", out.restricted));
  return out;
}

}  // namespace qanat::waypoint
