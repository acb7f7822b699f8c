// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/failure_reply.h"

#include <fmt/format.h>

namespace qanat::waypoint {

FailureReply ReplyFor(UpstreamFailure failure, std::string_view detail) {
  // Envoy's words: people grep for them.
  constexpr std::string_view kPrefix =
      "upstream connect error or disconnect/reset before headers. reset reason: ";
  switch (failure) {
    case UpstreamFailure::kConnectFailure:
      return {
          503,
          fmt::format("{}remote connection failure, transport failure reason: {}", kPrefix, detail),
          fmt::format("upstream_reset_before_response_started{{remote_connection_failure|{}}}",
                      detail),
          Flag::kUpstreamConnectionFailure, model::Reason::kConnectFailed};
    case UpstreamFailure::kRefusedStream:
      return {503, std::string(kPrefix) + "remote refused stream reset",
              "upstream_reset_before_response_started{remote_refused_stream_reset}",
              Flag::kUpstreamReset, model::Reason::kReset};
    case UpstreamFailure::kReset:
      return {503, std::string(kPrefix) + "connection termination",
              "upstream_reset_before_response_started{connection_termination}",
              Flag::kUpstreamTermination, model::Reason::kReset};
    case UpstreamFailure::kPerTryTimeout:
      return {504, "upstream request timeout", "upstream_per_try_timeout", Flag::kUpstreamTimeout,
              model::Reason::kTimeout};
  }
  return {503, "", "", Flag::kUpstreamReset, model::Reason::kInternal};
}

}  // namespace qanat::waypoint
