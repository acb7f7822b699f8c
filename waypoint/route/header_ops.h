// SPDX-License-Identifier: Apache-2.0
// Header additions and removals of routes, virtual hosts and weighted clusters, decoded from
// envoy.config.core.v3.HeaderValueOption. Values may hold the few %COMMAND% operators that we know.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/result.h"

namespace qanat::waypoint {

// What the operators of a header value may ask for.
struct HeaderFormatContext {
  std::string_view protocol;            // %PROTOCOL%
  std::string_view downstream_address;  // %DOWNSTREAM_REMOTE_ADDRESS%, with port
  std::string_view downstream_ip;       // ..._WITHOUT_PORT%
  std::string_view downstream_peer;     // %DOWNSTREAM_PEER_URI_SAN%
  std::string_view upstream_address;    // %UPSTREAM_HOST%
  std::string_view upstream_cluster;    // %UPSTREAM_CLUSTER%
  std::string_view start_time;          // %START_TIME%
};

struct HeaderValue {
  enum class Piece : uint8_t {
    kText,
    kProtocol,
    kDownstreamAddress,
    kDownstreamIp,
    kDownstreamPeer,
    kUpstreamHost,
    kUpstreamCluster,
    kStartTime,
  };
  std::vector<std::pair<Piece, std::string>> pieces;
  // "100%%" is "100%"; an operator that we do not know is an error.
  static Result<HeaderValue> Parse(std::string_view format);
  std::string Format(const HeaderFormatContext& context) const;
};

struct HeaderOp {
  enum class Kind : uint8_t { kAppend, kAddIfAbsent, kOverwrite, kOverwriteIfExists };
  Kind kind = Kind::kAppend;
  std::string name;  // lower case
  HeaderValue value;
  bool keep_empty = false;
};

struct HeaderOps {
  std::vector<HeaderOp> request_add;
  std::vector<std::string> request_remove;  // lower case
  std::vector<HeaderOp> response_add;
  std::vector<std::string> response_remove;
  bool empty() const {
    return request_add.empty() && request_remove.empty() && response_add.empty() &&
           response_remove.empty();
  }
};

// `Headers` is anything with Has(name), Set(name, value), Add(name, value), Remove(name).
template <typename Headers>
void ApplyHeaderOps(const std::vector<HeaderOp>& add, const std::vector<std::string>& remove,
                    const HeaderFormatContext& context, Headers& headers) {
  // Envoy: removals first, so that a header can be removed and set afresh by one route.
  for (const std::string& name : remove) headers.Remove(name);
  for (const HeaderOp& op : add) {
    std::string value = op.value.Format(context);
    if (value.empty() && !op.keep_empty) continue;
    switch (op.kind) {
      case HeaderOp::Kind::kAppend: headers.Add(op.name, value); break;
      case HeaderOp::Kind::kAddIfAbsent:
        if (!headers.Has(op.name)) headers.Add(op.name, value);
        break;
      case HeaderOp::Kind::kOverwrite: headers.Set(op.name, value); break;
      case HeaderOp::Kind::kOverwriteIfExists:
        if (headers.Has(op.name)) headers.Set(op.name, value);
        break;
    }
  }
}

}  // namespace qanat::waypoint
