// SPDX-License-Identifier: Apache-2.0
// Parts of a channel that are pure or nearly so: endpoint texts, trust roots, status encoding.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/grpc/channel.h"

namespace qanat::grpc {

struct Endpoint {
  bool tls = true;
  std::string host;  // without brackets
  uint16_t port = 0;
  std::string authority;  // "host:port", brackets around IPv6
};
// "https://istiod.istio-system.svc:15012"; without a scheme https (stock ztunnel adds it), without
// a port 443 or 80.
Result<Endpoint> ParseEndpoint(std::string_view text);

// The PEM text of the roots: literal, "SYSTEM", or the file's present content.
Result<std::string> LoadRoots(std::string_view root_ca);

// "100m", "5S": at most eight digits (gRPC over HTTP/2).
std::string FormatTimeout(std::chrono::milliseconds timeout);
std::string DecodeStatusMessage(std::string_view text);
// What a response without grpc-status means, by its HTTP status.
StatusCode CodeOfHttpStatus(int status);
StatusCode ParseStatusCode(std::string_view text);

}  // namespace qanat::grpc
