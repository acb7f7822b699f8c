// SPDX-License-Identifier: Apache-2.0
// envoy.config.route.v3.RouteConfiguration -> RouteTable.
#include <envoy/extensions/filters/http/cors/v3/cors.pb.h>
#include <envoy/extensions/filters/http/fault/v3/fault.pb.h>
#include <envoy/extensions/filters/http/rbac/v3/rbac.pb.h>
#include <envoy/extensions/path/match/uri_template/v3/uri_template_match.pb.h>

#include <algorithm>

#include "waypoint/config/decode.h"
#include "waypoint/config/decode_common.h"

namespace qanat::waypoint {
namespace {

namespace route = envoy::config::route::v3;
namespace core = envoy::config::core::v3;
using HttpRbacPerRoute = envoy::extensions::filters::http::rbac::v3::RBACPerRoute;
using HttpFault = envoy::extensions::filters::http::fault::v3::HTTPFault;
using HttpCors = envoy::extensions::filters::http::cors::v3::CorsPolicy;

bool ValidHeaderName(std::string_view name) {
  if (name.empty() || name == "host") return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

Result<std::vector<HeaderOp>> DecodeAdds(
    const google::protobuf::RepeatedPtrField<core::HeaderValueOption>& in) {
  using Action = core::HeaderValueOption;
  std::vector<HeaderOp> out;
  for (const auto& option : in) {
    HeaderOp op;
    op.name = AsciiLower(option.header().key());
    if (!ValidHeaderName(op.name)) {
      return Invalid(fmt::format("header \"{}\" cannot be added", option.header().key()));
    }
    const std::string& value =
        option.header().value().empty() ? option.header().raw_value() : option.header().value();
    QANAT_ASSIGN_OR_RETURN(op.value, HeaderValue::Parse(value));
    op.keep_empty = option.keep_empty_value();
    if (option.has_append()) {
      op.kind = option.append().value() ? HeaderOp::Kind::kAppend : HeaderOp::Kind::kOverwrite;
    } else {
      switch (static_cast<int>(option.append_action())) {
        case Action::APPEND_IF_EXISTS_OR_ADD: op.kind = HeaderOp::Kind::kAppend; break;
        case Action::ADD_IF_ABSENT: op.kind = HeaderOp::Kind::kAddIfAbsent; break;
        case Action::OVERWRITE_IF_EXISTS_OR_ADD: op.kind = HeaderOp::Kind::kOverwrite; break;
        case Action::OVERWRITE_IF_EXISTS: op.kind = HeaderOp::Kind::kOverwriteIfExists; break;
        default: return Unsupported(fmt::format("append_action {}", int(option.append_action())));
      }
    }
    out.push_back(std::move(op));
  }
  return out;
}

std::vector<std::string> DecodeRemoves(const google::protobuf::RepeatedPtrField<std::string>& in) {
  std::vector<std::string> out;
  for (const std::string& name : in) out.push_back(AsciiLower(name));
  return out;
}

template <typename T>
Result<HeaderOps> DecodeOps(const T& in) {
  HeaderOps out;
  QANAT_ASSIGN_OR_RETURN(out.request_add, DecodeAdds(in.request_headers_to_add()));
  QANAT_ASSIGN_OR_RETURN(out.response_add, DecodeAdds(in.response_headers_to_add()));
  out.request_remove = DecodeRemoves(in.request_headers_to_remove());
  out.response_remove = DecodeRemoves(in.response_headers_to_remove());
  return out;
}

Result<RegexRewrite> DecodeRewrite(const envoy::type::matcher::v3::RegexMatchAndSubstitute& in) {
  RegexRewrite out;
  QANAT_ASSIGN_OR_RETURN(out.regex, DecodeRegex(in.pattern()));
  out.substitution = in.substitution();
  return out;
}

Result<RetryPolicy> DecodeRetry(const route::RetryPolicy& in) {
  RetryPolicy out;
  std::vector<std::string> unknown;  // ignored, as Envoy ignores them
  out.on = ParseRetryOn(in.retry_on(), out.status_codes, unknown);
  if (in.has_num_retries()) out.num_retries = std::min<uint32_t>(in.num_retries().value(), 100);
  if (in.has_per_try_timeout()) out.per_try_timeout = ToMs(in.per_try_timeout());
  for (uint32_t code : in.retriable_status_codes()) out.status_codes.push_back(code);
  for (const auto& h : in.retriable_headers()) {
    QANAT_ASSIGN_OR_RETURN(HeaderMatch match, DecodeHeader(h));
    out.response_headers.push_back(std::move(match));
  }
  for (const auto& h : in.retriable_request_headers()) {
    QANAT_ASSIGN_OR_RETURN(HeaderMatch match, DecodeHeader(h));
    out.request_headers.push_back(std::move(match));
  }
  if (in.has_retry_back_off()) {
    auto base = ToMs(in.retry_back_off().base_interval());
    if (base.count() <= 0) return Invalid("retry_back_off.base_interval must be positive");
    out.base_interval = base;
    out.max_interval = in.retry_back_off().has_max_interval()
                           ? ToMs(in.retry_back_off().max_interval())
                           : base * 10;
    if (out.max_interval < base) return Invalid("retry_back_off.max_interval < base_interval");
  }
  for (const auto& predicate : in.retry_host_predicate()) {
    if (predicate.name().find("previous_hosts") != std::string::npos)
      out.avoid_previous_hosts = true;
  }
  out.host_selection_attempts =
      static_cast<uint32_t>(std::clamp<int64_t>(in.host_selection_retry_max_attempts(), 1, 100));
  return out;
}

Result<RouteMatch> DecodeMatch(const route::RouteMatch& in) {
  using In = route::RouteMatch;
  using Kind = PathMatch::Kind;
  RouteMatch out;
  out.path.case_sensitive = !in.has_case_sensitive() || in.case_sensitive().value();
  auto path = [&](Kind kind, const std::string& value) {
    out.path.kind = kind;
    out.path.value = out.path.case_sensitive ? value : AsciiLower(value);
  };
  switch (in.path_specifier_case()) {
    case In::kPrefix: path(Kind::kPrefix, in.prefix()); break;
    case In::kPath: path(Kind::kExact, in.path()); break;
    case In::kPathSeparatedPrefix: {
      path(Kind::kSeparatedPrefix, in.path_separated_prefix());
      // "/api/" matches what "/api" does; Envoy requires it without the slash.
      while (out.path.value.size() > 1 && out.path.value.ends_with('/')) out.path.value.pop_back();
      if (out.path.value == "/") out.path.kind = Kind::kPrefix;
      break;
    }
    case In::kSafeRegex: {
      out.path.kind = Kind::kRegex;
      QANAT_ASSIGN_OR_RETURN(out.path.regex, DecodeRegex(in.safe_regex()));
      break;
    }
    case In::kConnectMatcher: out.path.kind = Kind::kConnect; break;
    case In::kPathMatchPolicy: {
      using Template = envoy::extensions::path::match::uri_template::v3::UriTemplateMatchConfig;
      QANAT_ASSIGN_OR_RETURN(Template t, Unpack<Template>(in.path_match_policy().typed_config()));
      path(Kind::kTemplate, t.path_template());
      break;
    }
    case In::PATH_SPECIFIER_NOT_SET:
      return Unsupported("match without a path specifier known to us");
  }
  for (const auto& h : in.headers()) {
    QANAT_ASSIGN_OR_RETURN(HeaderMatch match, DecodeHeader(h));
    out.headers.push_back(std::move(match));
  }
  for (const auto& q : in.query_parameters()) {
    QueryMatch match;
    match.name = q.name();
    if (q.has_string_match()) {
      match.by_value = true;
      QANAT_ASSIGN_OR_RETURN(match.text, DecodeString(q.string_match()));
    } else if (q.query_parameter_match_specifier_case() ==
               route::QueryParameterMatcher::kPresentMatch) {
      match.present = q.present_match();
    }
    out.query.push_back(std::move(match));
  }
  out.grpc = in.has_grpc();
  if (in.has_runtime_fraction()) {
    out.fraction = DecodeFraction(in.runtime_fraction().default_value());
  }
  if (in.has_tls_context()) return Unsupported("match.tls_context");
  if (in.dynamic_metadata_size() > 0) return Unsupported("match.dynamic_metadata");
  return out;
}

Status DecodeClusters(const route::RouteAction& in, ForwardAction& out) {
  using In = route::RouteAction;
  switch (in.cluster_specifier_case()) {
    case In::kCluster: out.clusters.push_back({in.cluster(), 1, {}, {}}); break;
    case In::kClusterHeader: out.cluster_header = AsciiLower(in.cluster_header()); break;
    case In::kWeightedClusters:
      for (const auto& c : in.weighted_clusters().clusters()) {
        ClusterWeight weight;
        weight.cluster = c.name();
        if (c.name().empty()) return Unsupported("weighted cluster without a name");
        weight.weight = c.weight().value();
        weight.host_rewrite = c.host_rewrite_literal();
        QANAT_ASSIGN_OR_RETURN(weight.ops, DecodeOps(c));
        out.clusters.push_back(std::move(weight));
      }
      break;
    case In::kClusterSpecifierPlugin:
    case In::kInlineClusterSpecifierPlugin: return Unsupported("route.cluster_specifier_plugin");
    case In::CLUSTER_SPECIFIER_NOT_SET: return Invalid("route without a cluster");
  }
  for (const ClusterWeight& c : out.clusters) out.total_weight += c.weight;
  if (out.cluster_header.empty() && out.total_weight == 0) {
    return Invalid("the weights of the clusters add up to 0");
  }
  return {};
}

Result<ForwardAction> DecodeForward(const route::RouteAction& in) {
  using In = route::RouteAction;
  ForwardAction out;
  QANAT_RETURN_IF_ERROR(DecodeClusters(in, out));
  switch (static_cast<int>(in.cluster_not_found_response_code())) {
    case In::NOT_FOUND: out.cluster_not_found_status = 404; break;
    case In::INTERNAL_SERVER_ERROR: out.cluster_not_found_status = 500; break;
    default: out.cluster_not_found_status = 503; break;
  }
  out.prefix_rewrite = in.prefix_rewrite();
  if (in.has_regex_rewrite()) {
    QANAT_ASSIGN_OR_RETURN(out.regex_rewrite, DecodeRewrite(in.regex_rewrite()));
  }
  if (in.has_path_rewrite_policy()) return Unsupported("route.path_rewrite_policy");
  switch (in.host_rewrite_specifier_case()) {
    case In::kHostRewriteLiteral: out.host_rewrite = in.host_rewrite_literal(); break;
    case In::kAutoHostRewrite: out.auto_host_rewrite = in.auto_host_rewrite().value(); break;
    case In::kHostRewriteHeader:
      out.host_rewrite_header = AsciiLower(in.host_rewrite_header());
      break;
    case In::kHostRewritePathRegex: return Unsupported("route.host_rewrite_path_regex");
    case In::HOST_REWRITE_SPECIFIER_NOT_SET: break;
  }
  out.append_x_forwarded_host = in.append_x_forwarded_host();
  if (in.has_timeout()) out.timeout = ToMs(in.timeout());
  if (in.has_max_stream_duration() && in.max_stream_duration().has_max_stream_duration()) {
    auto most = ToMs(in.max_stream_duration().max_stream_duration());
    if (most.count() > 0 && (out.timeout.count() == 0 || most < out.timeout)) out.timeout = most;
  }
  if (in.has_idle_timeout()) out.idle_timeout = ToMs(in.idle_timeout());
  if (in.has_retry_policy()) {
    QANAT_ASSIGN_OR_RETURN(out.retry, DecodeRetry(in.retry_policy()));
  }
  if (in.has_retry_policy_typed_config()) return Unsupported("route.retry_policy_typed_config");
  for (const auto& m : in.request_mirror_policies()) {
    if (m.cluster().empty()) return Unsupported("request_mirror_policies without a cluster name");
    Mirror mirror;
    mirror.cluster = m.cluster();
    if (m.has_runtime_fraction()) {
      mirror.fraction = DecodeFraction(m.runtime_fraction().default_value());
    }
    out.mirrors.push_back(std::move(mirror));
  }
  if (!out.mirrors.empty()) return Unsupported("route.request_mirror_policies");
  if (in.rate_limits_size() > 0) return Unsupported("route.rate_limits");
  if (in.has_internal_redirect_policy()) return Unsupported("route.internal_redirect_policy");
  return out;
}

Result<RedirectAction> DecodeRedirect(const route::RedirectAction& in) {
  using In = route::RedirectAction;
  RedirectAction out;
  switch (static_cast<int>(in.response_code())) {
    case In::MOVED_PERMANENTLY: out.status = 301; break;
    case In::FOUND: out.status = 302; break;
    case In::SEE_OTHER: out.status = 303; break;
    case In::TEMPORARY_REDIRECT: out.status = 307; break;
    case In::PERMANENT_REDIRECT: out.status = 308; break;
    default: return Unsupported(fmt::format("redirect code {}", int(in.response_code())));
  }
  if (in.scheme_rewrite_specifier_case() == In::kHttpsRedirect && in.https_redirect()) {
    out.scheme = "https";
  }
  if (in.scheme_rewrite_specifier_case() == In::kSchemeRedirect) {
    out.scheme = AsciiLower(in.scheme_redirect());
  }
  out.host = in.host_redirect();
  if (in.port_redirect() > 65535) return Invalid("redirect.port_redirect over 65535");
  out.port = in.port_redirect();
  switch (in.path_rewrite_specifier_case()) {
    case In::kPathRedirect: out.path = in.path_redirect(); break;
    case In::kPrefixRewrite:
      out.has_prefix_rewrite = true;
      out.prefix_rewrite = in.prefix_rewrite();
      break;
    case In::kRegexRewrite: {
      QANAT_ASSIGN_OR_RETURN(out.regex_rewrite, DecodeRewrite(in.regex_rewrite()));
      break;
    }
    case In::PATH_REWRITE_SPECIFIER_NOT_SET: break;
  }
  // The location goes into a header: it must not be able to end one.
  for (const std::string& text : {out.scheme, out.host, out.path, out.prefix_rewrite}) {
    if (text.find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) {
      return Invalid("redirect with a line break");
    }
  }
  out.strip_query = in.strip_query();
  return out;
}

std::shared_ptr<const CorsPolicy> MakeCors(CorsPolicy policy) {
  return std::make_shared<const CorsPolicy>(std::move(policy));
}

Result<CorsPolicy> DecodeCors(const HttpCors& in) {
  CorsPolicy out;
  for (const auto& origin : in.allow_origin_string_match()) {
    QANAT_ASSIGN_OR_RETURN(StringMatch match, DecodeString(origin));
    out.allow_origins.push_back(std::move(match));
  }
  out.allow_methods = in.allow_methods();
  out.allow_headers = in.allow_headers();
  out.expose_headers = in.expose_headers();
  out.max_age = in.max_age();
  out.allow_credentials = in.allow_credentials().value();
  out.forward_unmatched_preflights =
      !in.has_forward_not_matching_preflights() || in.forward_not_matching_preflights().value();
  return out;
}

template <typename Map>
Result<FilterOverrides> DecodeOverrides(const Map& configs, const std::string& where,
                                        Restricted& restricted) {
  FilterOverrides out;
  std::vector<std::string> names;
  for (const auto& [name, any] : configs) names.push_back(name);
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    google::protobuf::Any any = configs.at(name);
    bool optional = false, disabled = false;
    if (Is<route::FilterConfig>(any)) {
      QANAT_ASSIGN_OR_RETURN(route::FilterConfig wrapped, Unpack<route::FilterConfig>(any));
      any = wrapped.config();
      optional = wrapped.is_optional();
      disabled = wrapped.disabled();
    }
    if (Is<HttpRbacPerRoute>(any)) {
      // Not parsing must not mean not refusing: the resource as a whole is rejected then.
      QANAT_ASSIGN_OR_RETURN(HttpRbacPerRoute rbac, Unpack<HttpRbacPerRoute>(any));
      auto rules = std::make_shared<RbacRules>();
      if (rbac.has_rbac()) *rules = DecodeHttpRbac(rbac.rbac(), where + " " + name, restricted);
      out.rbac.emplace_back(name, std::move(rules));
    } else if (Is<HttpFault>(any)) {
      QANAT_ASSIGN_OR_RETURN(HttpFault fault, Unpack<HttpFault>(any));
      QANAT_ASSIGN_OR_RETURN(out.fault, DecodeFault(fault));
    } else if (Is<HttpCors>(any)) {
      QANAT_ASSIGN_OR_RETURN(HttpCors cors, Unpack<HttpCors>(any));
      QANAT_ASSIGN_OR_RETURN(CorsPolicy policy, DecodeCors(cors));
      out.cors = MakeCors(std::move(policy));
    } else if (disabled && any.type_url().empty()) {
      if (name.find("rbac") != std::string::npos) {
        out.rbac.emplace_back(name, std::make_shared<RbacRules>());
      }
    } else if (!optional) {
      return Unsupported(fmt::format("{}: filter {} of type {}", where, name, any.type_url()));
    }
  }
  return out;
}

Result<Route> DecodeRoute(const route::Route& in, const std::string& where,
                          Restricted& restricted) {
  Route out;
  out.name = in.name();
  out.origin = MetadataString(in.metadata(), "istio", "config");
  QANAT_ASSIGN_OR_RETURN(out.match, DecodeMatch(in.match()));
  QANAT_ASSIGN_OR_RETURN(out.ops, DecodeOps(in));
  QANAT_ASSIGN_OR_RETURN(out.overrides,
                         DecodeOverrides(in.typed_per_filter_config(), where, restricted));
  switch (in.action_case()) {
    case route::Route::kRoute: {
      QANAT_ASSIGN_OR_RETURN(out.action, DecodeForward(in.route()));
      break;
    }
    case route::Route::kRedirect: {
      QANAT_ASSIGN_OR_RETURN(out.action, DecodeRedirect(in.redirect()));
      break;
    }
    case route::Route::kDirectResponse: {
      const auto& d = in.direct_response();
      if (d.status() < 200 || d.status() > 599) {
        return Invalid(fmt::format("direct_response.status {}", d.status()));
      }
      DirectResponse direct{d.status(), d.body().inline_string()};
      if (!d.body().inline_bytes().empty()) direct.body = d.body().inline_bytes();
      if (d.body().has_filename() || d.body().has_environment_variable()) {
        return Unsupported("direct_response.body from a file or the environment");
      }
      out.action = std::move(direct);
      break;
    }
    case route::Route::kFilterAction:
    case route::Route::kNonForwardingAction:
    case route::Route::ACTION_NOT_SET: return Unsupported("route without an action known to us");
  }
  return out;
}

// In the place of a route that cannot be served. What it would have matched is not passed on to the
// routes after it; if that cannot be told either, nothing is.
Route Refused(const route::Route& in) {
  Route out;
  out.name = in.name();
  out.origin = MetadataString(in.metadata(), "istio", "config");
  if (auto match = DecodeMatch(in.match())) {
    out.match = std::move(*match);
  } else {
    out.match.path.value = "";  // a prefix: everything
  }
  out.action = DirectResponse{503, ""};
  return out;
}

}  // namespace

Result<std::shared_ptr<const Fault>> DecodeFault(const HttpFault& in) {
  Fault out;
  if (in.has_delay()) {
    if (in.delay().has_header_delay()) return Unsupported("fault.delay.header_delay");
    out.delay = ToMs(in.delay().fixed_delay());
    out.delay_fraction = DecodeFraction(in.delay().percentage());
  }
  if (in.has_abort()) {
    if (in.abort().has_header_abort()) return Unsupported("fault.abort.header_abort");
    if (in.abort().has_grpc_status()) {
      out.abort_status = 200;
      out.abort_grpc_status = in.abort().grpc_status();
    } else {
      out.abort_status = in.abort().http_status();
      if (out.abort_status < 200 || out.abort_status > 599) {
        return Invalid(fmt::format("fault.abort.http_status {}", out.abort_status));
      }
    }
    out.abort_fraction = DecodeFraction(in.abort().percentage());
  }
  for (const auto& h : in.headers()) {
    QANAT_ASSIGN_OR_RETURN(HeaderMatch match, DecodeHeader(h));
    out.headers.push_back(std::move(match));
  }
  if (in.has_response_rate_limit()) return Unsupported("fault.response_rate_limit");
  if (in.downstream_nodes_size() > 0) return Unsupported("fault.downstream_nodes");
  return std::make_shared<const Fault>(std::move(out));
}

Result<std::shared_ptr<const RouteTable>> DecodeRouteTable(const route::RouteConfiguration& in,
                                                           Restricted& restricted) {
  auto out = std::make_shared<RouteTable>();
  out->name = in.name();
  out->ignore_port_in_host = in.ignore_port_in_host_matching();
  out->most_specific_ops_win = in.most_specific_header_mutations_wins();
  if (in.has_vhds()) return Unsupported("vhds");
  QANAT_ASSIGN_OR_RETURN(out->ops, DecodeOps(in));
  QANAT_ASSIGN_OR_RETURN(out->overrides, DecodeOverrides(in.typed_per_filter_config(),
                                                         "route " + in.name(), restricted));
  for (const auto& vh : in.virtual_hosts()) {
    VirtualHost host;
    host.name = vh.name();
    const std::string where = "virtual host " + vh.name();
    auto fail = [&](const Error& e) { return Fail(e.Annotate(where)); };
    host.domains.assign(vh.domains().begin(), vh.domains().end());
    auto ops = DecodeOps(vh);
    if (!ops) return fail(ops.error());
    host.ops = std::move(*ops);
    auto overrides = DecodeOverrides(vh.typed_per_filter_config(), where, restricted);
    if (!overrides) return fail(overrides.error());
    host.overrides = std::move(*overrides);
    host.include_request_attempt_count = vh.include_request_attempt_count();
    host.include_response_attempt_count = vh.include_attempt_count_in_response();
    if (vh.has_matcher()) return fail({Code::kUnimplemented, "matcher tree of routes"});
    if (vh.require_tls() != route::VirtualHost::NONE) {
      return fail({Code::kUnimplemented, "require_tls"});
    }
    if (vh.has_retry_policy()) {
      auto retry = DecodeRetry(vh.retry_policy());
      if (!retry) return fail(retry.error());
      host.retry = std::move(*retry);
    }
    for (const auto& r : vh.routes()) {
      auto decoded = DecodeRoute(r, where + " route " + r.name(), restricted);
      if (!decoded) {
        // Policies travel in this resource, too: one route that we cannot serve must not keep them
        // from taking effect. It alone is answered with 503, and told.
        restricted.push_back(decoded.error().Annotate(where + ": route " + r.name()).message);
        decoded = Refused(r);
      }
      host.routes.push_back(std::move(*decoded));
    }
    out->hosts.push_back(std::move(host));
  }
  QANAT_RETURN_IF_ERROR(out->Index());
  return out;
}

Result<Decoded<RouteTable>> DecodeRoutes(std::string_view bytes) {
  route::RouteConfiguration in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
    return Invalid("RouteConfiguration does not parse");
  }
  Decoded<RouteTable> out;
  QANAT_ASSIGN_OR_RETURN(out.value, DecodeRouteTable(in, out.restricted));
  return out;
}

}  // namespace qanat::waypoint
