// SPDX-License-Identifier: Apache-2.0
#include <envoy/extensions/filters/http/cors/v3/cors.pb.h>
#include <envoy/extensions/filters/http/fault/v3/fault.pb.h>
#include <envoy/extensions/filters/http/rbac/v3/rbac.pb.h>

#include <algorithm>

#include "waypoint/config/decode_route_parts.h"

namespace qanat::waypoint {
namespace {

namespace route = envoy::config::route::v3;
using HttpRbacPerRoute = envoy::extensions::filters::http::rbac::v3::RBACPerRoute;
using HttpFault = envoy::extensions::filters::http::fault::v3::HTTPFault;
using HttpCors = envoy::extensions::filters::http::cors::v3::CorsPolicy;

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

Result<FilterOverrides> DecodeOverrides(
    const google::protobuf::Map<std::string, google::protobuf::Any>& configs,
    const std::string& where, Restricted& restricted) {
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
      out.cors = std::make_shared<const CorsPolicy>(std::move(policy));
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

}  // namespace qanat::waypoint
