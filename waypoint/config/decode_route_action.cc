// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "waypoint/config/decode_route_parts.h"

namespace qanat::waypoint {

namespace route = envoy::config::route::v3;
namespace core = envoy::config::core::v3;

namespace {

bool ValidHeaderName(std::string_view name) {
  if (name.empty() || name == "host") return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

Result<RegexRewrite> DecodeRewrite(const envoy::type::matcher::v3::RegexMatchAndSubstitute& in) {
  RegexRewrite out;
  QANAT_ASSIGN_OR_RETURN(out.regex, DecodeRegex(in.pattern()));
  out.substitution = in.substitution();
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

}  // namespace

Result<std::vector<HeaderOp>> DecodeHeaderAdds(
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

std::vector<std::string> DecodeHeaderRemoves(
    const google::protobuf::RepeatedPtrField<std::string>& in) {
  std::vector<std::string> out;
  for (const std::string& name : in) out.push_back(AsciiLower(name));
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

Result<DirectResponse> DecodeDirectResponse(const route::DirectResponseAction& in) {
  if (in.status() < 200 || in.status() > 599) {
    return Invalid(fmt::format("direct_response.status {}", in.status()));
  }
  DirectResponse out{in.status(), in.body().inline_string()};
  if (!in.body().inline_bytes().empty()) out.body = in.body().inline_bytes();
  if (in.body().has_filename() || in.body().has_environment_variable()) {
    return Unsupported("direct_response.body from a file or the environment");
  }
  return out;
}

}  // namespace qanat::waypoint
