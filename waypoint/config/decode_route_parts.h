// SPDX-License-Identifier: Apache-2.0
// The parts of a route configuration, each decoded in a file of its own. Pure; for decode_route.cc.
#pragma once

#include <envoy/config/route/v3/route.pb.h>
#include <google/protobuf/map.h>

#include <string>
#include <vector>

#include "waypoint/config/decode_common.h"

namespace qanat::waypoint {

// decode_route_match.cc: which requests a route is for.
Result<RouteMatch> DecodeMatch(const envoy::config::route::v3::RouteMatch& in);

// decode_route_action.cc: what becomes of a request.
Result<RetryPolicy> DecodeRetry(const envoy::config::route::v3::RetryPolicy& in);
Result<ForwardAction> DecodeForward(const envoy::config::route::v3::RouteAction& in);
Result<RedirectAction> DecodeRedirect(const envoy::config::route::v3::RedirectAction& in);
Result<DirectResponse> DecodeDirectResponse(
    const envoy::config::route::v3::DirectResponseAction& in);

// Headers to add and remove; In is any of Envoy's messages with these four fields.
Result<std::vector<HeaderOp>> DecodeHeaderAdds(
    const google::protobuf::RepeatedPtrField<envoy::config::core::v3::HeaderValueOption>& in);
std::vector<std::string> DecodeHeaderRemoves(
    const google::protobuf::RepeatedPtrField<std::string>& in);
template <typename In>
Result<HeaderOps> DecodeOps(const In& in) {
  HeaderOps out;
  QANAT_ASSIGN_OR_RETURN(out.request_add, DecodeHeaderAdds(in.request_headers_to_add()));
  QANAT_ASSIGN_OR_RETURN(out.response_add, DecodeHeaderAdds(in.response_headers_to_add()));
  out.request_remove = DecodeHeaderRemoves(in.request_headers_to_remove());
  out.response_remove = DecodeHeaderRemoves(in.response_headers_to_remove());
  return out;
}

// decode_route_filters.cc: what a table, a host or a route changes of the listener's filters.
// `where` names it in `restricted`.
Result<FilterOverrides> DecodeOverrides(
    const google::protobuf::Map<std::string, google::protobuf::Any>& configs,
    const std::string& where, Restricted& restricted);

}  // namespace qanat::waypoint
