// SPDX-License-Identifier: Apache-2.0
#include <envoy/extensions/path/match/uri_template/v3/uri_template_match.pb.h>

#include "waypoint/config/decode_route_parts.h"

namespace qanat::waypoint {

namespace route = envoy::config::route::v3;

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

}  // namespace qanat::waypoint
