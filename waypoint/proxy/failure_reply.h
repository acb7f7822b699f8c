// SPDX-License-Identifier: Apache-2.0
// What the client is told when an attempt got no answer. Pure.
#pragma once

#include <string>
#include <string_view>

#include "common/model/reason.h"
#include "waypoint/proxy/record.h"
#include "waypoint/route/retry.h"

namespace qanat::waypoint {

// The body and flags that Envoy answers with where the upstream gave no answer.
struct FailureReply {
  int status;
  std::string body;
  std::string details;
  Flag flag;
  model::Reason reason;
};
FailureReply ReplyFor(UpstreamFailure failure, std::string_view detail);

}  // namespace qanat::waypoint
