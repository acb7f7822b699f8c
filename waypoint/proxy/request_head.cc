// SPDX-License-Identifier: Apache-2.0
#include "waypoint/proxy/request_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>

namespace qanat::waypoint {
namespace {

std::string Uuid(std::mt19937_64& random) {
  uint64_t a = random(), b = random();
  a = (a & ~0xf000ull) | 0x4000ull;              // version 4
  b = (b & ~(0xc0ull << 56)) | (0x80ull << 56);  // variant
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", a >> 32, (a >> 16) & 0xffff, a & 0xffff,
                     b >> 48, b & 0xffffffffffffull);
}

bool OriginAllowed(const CorsPolicy& policy, std::string_view origin) {
  return std::any_of(policy.allow_origins.begin(), policy.allow_origins.end(),
                     [&](const StringMatch& m) { return m.Matches(origin); });
}

}  // namespace

std::string_view HeadStatusName(HeadStatus status) {
  switch (status) {
    case HeadStatus::kOk: return "ok";
    case HeadStatus::kBadPath: return "path_normalization_failed";
    case HeadStatus::kNoAuthority: return "missing_host_header";
  }
  return "";
}

HeadStatus PrepareRequest(const HttpChain& chain, const Peer& peer, std::mt19937_64& random,
                          http::RequestHead& head) {
  if (head.authority.empty()) return HeadStatus::kNoAuthority;
  auto path = NormalizePath(chain.path, head.path);
  if (!path && head.method != "CONNECT") return HeadStatus::kBadPath;
  if (path) head.path = std::move(*path);
  head.headers.Remove("x-forwarded-client-cert");
  head.headers.Remove("x-envoy-original-path");
  head.headers.Remove("x-envoy-attempt-count");
  head.headers.Remove("x-envoy-internal");
  if (chain.use_remote_address && !chain.skip_xff_append) {
    std::string xff = head.headers.GetJoined("x-forwarded-for").value_or("");
    if (!xff.empty()) xff.append(", ");
    head.headers.Set("x-forwarded-for", xff + peer.address.ip().ToString());
  }
  if (!head.headers.Has("x-forwarded-proto")) {
    head.headers.Add("x-forwarded-proto", head.scheme == "https" ? "https" : "http");
  }
  if (chain.generate_request_id && !head.headers.Has("x-request-id")) {
    head.headers.Add("x-request-id", Uuid(random));
  }
  return HeadStatus::kOk;
}

bool IsGrpc(const http::HeaderList& headers) {
  auto type = headers.Get("content-type");
  if (!type || !type->starts_with("application/grpc")) return false;
  return type->size() == 16 || (*type)[16] == '+' || (*type)[16] == ';';
}

std::string HttpDate(std::chrono::system_clock::time_point time) {
  static constexpr const char* kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr const char* kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                            "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  std::tm tm{};
  gmtime_r(&seconds, &tm);
  return fmt::format("{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT", kDays[tm.tm_wday], tm.tm_mday,
                     kMonths[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
}

CorsAnswer AnswerCors(const CorsPolicy& policy, const http::RequestHead& head) {
  CorsAnswer out;
  auto origin = head.headers.Get("origin");
  if (!origin || head.method != "OPTIONS" || !head.headers.Has("access-control-request-method")) {
    return out;
  }
  if (!OriginAllowed(policy, *origin)) {
    // Not allowed: either the application decides, or it ends here without permission.
    out.preflight = !policy.forward_unmatched_preflights;
    return out;
  }
  out.preflight = true;
  if (!policy.allow_methods.empty()) {
    out.headers.emplace_back("access-control-allow-methods", policy.allow_methods);
  }
  if (!policy.allow_headers.empty()) {
    out.headers.emplace_back("access-control-allow-headers", policy.allow_headers);
  }
  if (!policy.max_age.empty()) {
    out.headers.emplace_back("access-control-max-age", policy.max_age);
  }
  return out;
}

void AddCorsHeaders(const CorsPolicy& policy, const http::RequestHead& request,
                    http::HeaderList& response) {
  auto origin = request.headers.Get("origin");
  if (!origin || !OriginAllowed(policy, *origin)) return;
  response.Set("access-control-allow-origin", *origin);
  if (policy.allow_credentials) response.Set("access-control-allow-credentials", "true");
  if (!policy.expose_headers.empty()) {
    response.Set("access-control-expose-headers", policy.expose_headers);
  }
}

}  // namespace qanat::waypoint
