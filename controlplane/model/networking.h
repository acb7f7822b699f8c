// SPDX-License-Identifier: Apache-2.0
// networking.istio.io: VirtualService, DestinationRule, ServiceEntry. Defaults of the API are left
// unset (std::nullopt, kUnset), so that a translator can tell "not said" from "said".
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "controlplane/model/core.h"
#include "controlplane/model/gateway_api.h"
#include "controlplane/model/meta.h"

namespace qanat::controlplane {

// Istio's StringMatch. Regular expressions are RE2 and match the whole string.
struct StringMatch {
  enum class Kind { kExact, kPrefix, kRegex, kPresent };  // kPresent: `{}`, the key exists
  Kind kind = Kind::kExact;
  std::string value;
};

struct Destination {
  std::string host;  // as written; World::ResolveHost makes it fully qualified
  std::string subset;
  uint16_t port = 0;  // 0: the port of the request (or the service's only one)
};

struct HeaderRules {
  HeaderOps request;
  HeaderOps response;
};

struct HttpMatch {
  std::string name;
  std::optional<StringMatch> uri;
  std::optional<StringMatch> scheme;
  std::optional<StringMatch> method;
  std::optional<StringMatch> authority;
  std::vector<std::pair<std::string, StringMatch>> headers;
  std::vector<std::pair<std::string, StringMatch>> without_headers;
  std::vector<std::pair<std::string, StringMatch>> query_params;
  uint16_t port = 0;
  bool ignore_uri_case = false;
  std::vector<std::string> gateways;
  Labels source_labels;          // without effect at a waypoint (reported)
  std::string source_namespace;  // without effect at a waypoint (reported)
};

struct HttpRouteDestination {
  Destination destination;
  uint32_t weight = 0;  // relative; a lone destination without weight gets everything
  HeaderRules headers;
};

struct HttpRedirect {
  std::string uri;
  bool prefix_rewrite = false;  // uri replaces the matched prefix
  std::string authority;
  std::optional<uint16_t> port;
  bool port_from_request = false;  // derivePort: FROM_REQUEST_PORT
  std::string scheme;
  uint32_t code = 301;
};

struct HttpDirectResponse {
  uint32_t status = 0;
  std::string body;
};

struct HttpRewrite {
  std::string uri;
  std::string authority;
  std::string regex_match;    // uriRegexRewrite
  std::string regex_rewrite;  // with \1 groups
};

struct HttpRetry {
  uint32_t attempts = 0;  // 0 disables retries
  std::optional<Millis> per_try_timeout;
  std::string retry_on;  // as written, "" is the default set
  std::optional<Millis> backoff;
  std::optional<bool> retry_remote_localities;
  std::optional<bool> ignore_previous_hosts;  // default true
};

struct HttpMirror {
  Destination destination;
  double percent = 100;
};

struct HttpFault {
  struct Delay {
    Millis fixed{0};
    double percent = 100;
  };
  struct Abort {
    std::optional<uint32_t> http_status;
    std::optional<uint32_t> grpc_status;  // numeric
    double percent = 100;
  };
  std::optional<Delay> delay;
  std::optional<Abort> abort;
};

struct CorsPolicy {
  std::vector<StringMatch> allow_origins;
  std::vector<std::string> allow_methods;
  std::vector<std::string> allow_headers;
  std::vector<std::string> expose_headers;
  std::optional<Millis> max_age;
  std::optional<bool> allow_credentials;
  bool ignore_unmatched_preflights = false;  // unmatchedPreflights: IGNORE
};

struct VirtualHttpRoute {
  std::string name;
  std::vector<HttpMatch> matches;  // any; empty: every request
  std::vector<HttpRouteDestination> route;
  std::optional<HttpRedirect> redirect;
  std::optional<HttpDirectResponse> direct_response;
  std::optional<HttpRewrite> rewrite;
  std::optional<Millis> timeout;  // 0 or unset: none
  std::optional<HttpRetry> retries;
  std::optional<HttpFault> fault;
  std::vector<HttpMirror> mirrors;
  std::optional<CorsPolicy> cors;
  HeaderRules headers;
  int line = 0;
};

struct L4Match {
  std::vector<std::string> sni_hosts;  // tls only
  std::vector<std::string> destination_subnets;
  uint16_t port = 0;
  std::vector<std::string> gateways;
};

struct L4Route {  // tcp[] and tls[]
  std::vector<L4Match> matches;
  std::vector<HttpRouteDestination> route;
  int line = 0;
};

struct VirtualService {
  ObjectMeta meta;
  std::vector<std::string> hosts;     // as written; a fragment without: its routes' destinations
  std::vector<std::string> gateways;  // empty: {"mesh"}
  std::vector<std::string> export_to;
  std::vector<VirtualHttpRoute> http;
  std::vector<L4Route> tls;
  std::vector<L4Route> tcp;
  bool applies_to_mesh() const;
};

struct LoadBalancerPolicy {
  enum class Simple { kUnset, kLeastRequest, kRoundRobin, kRandom, kPassthrough };
  enum class HashKey { kNone, kHeader, kCookie, kSourceIp, kQueryParameter };
  struct Cookie {
    std::string name;
    std::string path;
    std::optional<Millis> ttl;  // said (0 too): the proxy makes the cookie
  };
  Simple simple = Simple::kUnset;
  HashKey hash = HashKey::kNone;
  std::string hash_name;  // header or query parameter
  Cookie cookie;
  std::optional<uint64_t> minimum_ring_size;
  std::optional<uint64_t> maglev_table_size;
  std::optional<Millis> warmup;
};

struct ConnectionPool {
  std::optional<uint32_t> max_connections;
  std::optional<Millis> connect_timeout;
  std::optional<Millis> max_connection_duration;
  std::optional<Millis> tcp_idle_timeout;
  std::optional<uint32_t> http1_max_pending_requests;
  std::optional<uint32_t> http2_max_requests;
  std::optional<uint32_t> max_requests_per_connection;
  std::optional<uint32_t> max_retries;
  std::optional<uint32_t> max_concurrent_streams;
  std::optional<Millis> http_idle_timeout;
  std::optional<bool> h2_upgrade;  // UPGRADE / DO_NOT_UPGRADE
  std::optional<bool> use_client_protocol;
};

struct OutlierDetection {
  // The deprecated consecutiveErrors is taken as consecutive_gateway_errors (with a status).
  std::optional<uint32_t> consecutive_5xx;
  std::optional<uint32_t> consecutive_gateway_errors;
  std::optional<uint32_t> consecutive_local_origin_failures;
  std::optional<bool> split_external_local_origin_errors;
  std::optional<Millis> interval;
  std::optional<Millis> base_ejection_time;
  std::optional<uint32_t> max_ejection_percent;
  std::optional<uint32_t> min_health_percent;
};

struct ClientTls {
  enum class Mode { kDisable, kSimple, kMutual, kIstioMutual };
  Mode mode = Mode::kDisable;
  std::string sni;
  std::vector<std::string> subject_alt_names;
  std::string credential_name;
  std::string ca_certificates;
  std::string client_certificate;
  std::string private_key;
  bool insecure_skip_verify = false;
};

struct TrafficSettings {
  std::optional<LoadBalancerPolicy> load_balancer;
  std::optional<ConnectionPool> connection_pool;
  std::optional<OutlierDetection> outlier_detection;
  std::optional<ClientTls> tls;
};

struct TrafficPolicy {
  TrafficSettings settings;
  std::vector<std::pair<uint16_t, TrafficSettings>> ports;  // portLevelSettings
};

struct Subset {
  std::string name;
  Labels labels;
  std::optional<TrafficPolicy> policy;
  int line = 0;
};

struct DestinationRule {
  ObjectMeta meta;
  std::string host;  // as written
  std::optional<TrafficPolicy> policy;
  std::vector<Subset> subsets;
  std::vector<std::string> export_to;
};

struct ServiceEntry {
  enum class Resolution { kNone, kStatic, kDns, kDnsRoundRobin, kDynamicDns };
  struct Endpoint {
    std::string address;
    std::vector<std::pair<std::string, uint16_t>> ports;  // port name -> number
    Labels labels;
    std::string locality;
    uint32_t weight = 0;
    std::string service_account;
    std::string network;
  };
  ObjectMeta meta;
  std::vector<std::string> hosts;
  std::vector<std::string> addresses;
  std::vector<std::string> status_addresses;
  std::vector<ServicePort> ports;
  bool mesh_internal = false;
  Resolution resolution = Resolution::kNone;
  std::vector<Endpoint> endpoints;
  std::optional<LabelSelector> workload_selector;
  std::vector<std::string> export_to;
  std::vector<std::string> subject_alt_names;
};

}  // namespace qanat::controlplane
