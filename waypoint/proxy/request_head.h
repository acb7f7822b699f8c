// SPDX-License-Identifier: Apache-2.0
// Work on message heads that needs no state: what a request must carry before filters see it, CORS,
// the order of header operations, dates. Pure.
#pragma once

#include <chrono>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "common/http/message.h"
#include "waypoint/config/config.h"
#include "waypoint/proxy/peer.h"

namespace qanat::waypoint {

enum class HeadStatus : uint8_t { kOk, kBadPath, kNoAuthority };
std::string_view HeadStatusName(HeadStatus status);

// Normalises the path; takes out what a client may not say about itself (x-forwarded-client-cert,
// Envoy's internal headers); adds x-request-id, x-forwarded-proto and, unless told otherwise,
// x-forwarded-for.
HeadStatus PrepareRequest(const HttpChain& chain, const Peer& peer, std::mt19937_64& random,
                          http::RequestHead& head);

bool IsGrpc(const http::HeaderList& headers);
std::string HttpDate(std::chrono::system_clock::time_point time);

struct CorsAnswer {
  bool preflight = false;  // answer with this and go no further
  int status = 200;
  std::vector<std::pair<std::string, std::string>> headers;
};
CorsAnswer AnswerCors(const CorsPolicy& policy, const http::RequestHead& head);
void AddCorsHeaders(const CorsPolicy& policy, const http::RequestHead& request,
                    http::HeaderList& response);

// Envoy's order: weighted cluster, route, virtual host, table; turned round where the table says
// that the most specific wins (the last one to overwrite does).
template <typename Apply>
void ForEachOps(const RouteTable& table, const VirtualHost& host, const Route* route,
                const ClusterWeight* weight, Apply apply) {
  const HeaderOps* list[4] = {weight ? &weight->ops : nullptr, route ? &route->ops : nullptr,
                              &host.ops, &table.ops};
  for (int i = 0; i < 4; ++i) {
    const HeaderOps* ops = list[table.most_specific_ops_win ? 3 - i : i];
    if (ops && !ops->empty()) apply(*ops);
  }
}

}  // namespace qanat::waypoint
