// SPDX-License-Identifier: Apache-2.0
// envoy.config.route.v3.RouteConfiguration -> RouteTable.
// The parts: decode_route_match.cc, decode_route_action.cc, decode_route_filters.cc.
#include "waypoint/config/decode.h"
#include "waypoint/config/decode_route_parts.h"

namespace qanat::waypoint {
namespace {

namespace route = envoy::config::route::v3;

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
      QANAT_ASSIGN_OR_RETURN(out.action, DecodeDirectResponse(in.direct_response()));
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
