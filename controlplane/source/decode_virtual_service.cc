// SPDX-License-Identifier: Apache-2.0
// networking.istio.io: VirtualService.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "controlplane/source/decode.h"

namespace qanat::controlplane {
namespace {

HeaderList Sorted(const Labels& map) { return {map.begin(), map.end()}; }

HeaderOps ReadOps(MapReader reader) {
  HeaderOps ops;
  ops.set = Sorted(reader.StringMap("set"));
  ops.add = Sorted(reader.StringMap("add"));
  ops.remove = reader.Strings("remove");
  reader.Finish();
  return ops;
}

HeaderRules ReadHeaderRules(MapReader reader) {
  HeaderRules rules;
  rules.request = ReadOps(reader.Map("request"));
  rules.response = ReadOps(reader.Map("response"));
  reader.Finish();
  return rules;
}

Destination ReadDestination(MapReader reader) {
  Destination out;
  out.host = reader.String("host");
  out.subset = reader.String("subset");
  MapReader port = reader.Map("port");
  out.port = port.Port("number");
  port.Finish();
  if (out.host.empty()) {
    reader.Bad(reader.line(), "host", "is missing", "name the service that requests go to");
  }
  reader.Finish();
  return out;
}

// percentage: {value: 12.5}; `percent: 12` and `mirrorPercent` are the older spelling.
double ReadPercentage(MapReader& parent, std::string_view key, std::string_view old_key) {
  double percent = 100;
  if (!old_key.empty()) {
    if (const auto old = parent.Int(old_key, 0, 100)) {
      percent = static_cast<double>(*old);
      parent.context().Warn(parent.line(), fmt::format("{} is deprecated", parent.PathOf(old_key)),
                            fmt::format("write {}: {{value: {}}}", key, *old));
    }
  }
  MapReader reader = parent.Map(key);
  // A percentage without value is 0 in protobuf: nothing is hit.
  if (reader.present()) percent = reader.Number("value", 0, 100).value_or(0);
  reader.Finish();
  return percent;
}

std::vector<std::pair<std::string, StringMatch>> ReadMatches(MapReader& parent,
                                                             std::string_view key) {
  std::vector<std::pair<std::string, StringMatch>> out;
  const YamlNode* node = parent.Take(key);
  if (node == nullptr) return out;
  if (!node->is_map()) {
    parent.Bad(node->line, key, fmt::format("must be a map, not {}", node->KindName()));
    return out;
  }
  for (const YamlEntry& entry : node->entries) {
    out.emplace_back(
        entry.key,
        ReadStringMatchNode(&entry.value, parent.PathOf(key) + "." + entry.key, parent.context()));
  }
  return out;
}

std::optional<StringMatch> MaybeMatch(MapReader& parent, std::string_view key) {
  const YamlNode* node = parent.Take(key);
  if (node == nullptr) return std::nullopt;
  StringMatch match = ReadStringMatchNode(node, parent.PathOf(key), parent.context());
  if (match.kind == StringMatch::Kind::kPresent) return std::nullopt;  // `uri: {}` says nothing
  return match;
}

HttpMatch ReadHttpMatch(const YamlNode* node, ReadContext& context) {
  MapReader reader(node, "spec.http.match", context);
  HttpMatch match;
  match.name = reader.String("name");
  match.uri = MaybeMatch(reader, "uri");
  match.scheme = MaybeMatch(reader, "scheme");
  match.method = MaybeMatch(reader, "method");
  match.authority = MaybeMatch(reader, "authority");
  match.headers = ReadMatches(reader, "headers");
  match.without_headers = ReadMatches(reader, "withoutHeaders");
  match.query_params = ReadMatches(reader, "queryParams");
  match.port = reader.Port("port");
  match.ignore_uri_case = reader.Bool("ignoreUriCase");
  match.gateways = reader.Strings("gateways");
  match.source_labels = reader.StringMap("sourceLabels");
  match.source_namespace = reader.String("sourceNamespace");
  if (!match.source_labels.empty() || !match.source_namespace.empty()) {
    context.Warn(reader.line(),
                 "sourceLabels and sourceNamespace have no effect: a waypoint is configured for "
                 "every client, so this match never applies",
                 "match on a header, or use an AuthorizationPolicy for access");
  }
  reader.Ignore({"statPrefix"});
  reader.Finish();
  return match;
}

HttpRouteDestination ReadRouteDestination(const YamlNode* node, ReadContext& context) {
  MapReader reader(node, "spec.http.route", context);
  HttpRouteDestination out;
  out.destination = ReadDestination(reader.Map("destination"));
  out.weight = static_cast<uint32_t>(reader.Int("weight", 0, 1'000'000).value_or(0));
  out.headers = ReadHeaderRules(reader.Map("headers"));
  reader.Finish();
  return out;
}

HttpRedirect ReadRedirect(MapReader reader) {
  HttpRedirect out;
  out.uri = reader.String("uri");
  out.authority = reader.String("authority");
  out.scheme = reader.String("scheme");
  out.prefix_rewrite = reader.Bool("prefixRewrite");
  if (const uint16_t port = reader.Port("port"); port != 0) out.port = port;
  const std::string derive = reader.String("derivePort");
  out.port_from_request = derive == "FROM_REQUEST_PORT";
  out.code = static_cast<uint32_t>(reader.Int("redirectCode", 300, 399).value_or(301));
  reader.Finish();
  return out;
}

HttpFault ReadFault(MapReader reader) {
  HttpFault out;
  MapReader delay = reader.Map("delay");
  if (delay.present()) {
    HttpFault::Delay d;
    const std::optional<Millis> fixed = delay.Duration("fixedDelay");
    if (!fixed && !delay.context().failed) {
      delay.Bad(delay.line(), "fixedDelay", "is missing", "for example fixedDelay: 5s");
    }
    d.fixed = fixed.value_or(Millis(0));
    d.percent = ReadPercentage(delay, "percentage", "percent");
    delay.Finish();
    out.delay = d;
  }
  MapReader abort = reader.Map("abort");
  if (abort.present()) {
    HttpFault::Abort a;
    if (const auto status = abort.Int("httpStatus", 200, 599)) {
      a.http_status = static_cast<uint32_t>(*status);
    }
    const std::string grpc = abort.String("grpcStatus");
    if (!grpc.empty()) {
      static constexpr std::array<std::string_view, 17> kNames = {"OK",
                                                                  "CANCELLED",
                                                                  "UNKNOWN",
                                                                  "INVALID_ARGUMENT",
                                                                  "DEADLINE_EXCEEDED",
                                                                  "NOT_FOUND",
                                                                  "ALREADY_EXISTS",
                                                                  "PERMISSION_DENIED",
                                                                  "RESOURCE_EXHAUSTED",
                                                                  "FAILED_PRECONDITION",
                                                                  "ABORTED",
                                                                  "OUT_OF_RANGE",
                                                                  "UNIMPLEMENTED",
                                                                  "INTERNAL",
                                                                  "UNAVAILABLE",
                                                                  "DATA_LOSS",
                                                                  "UNAUTHENTICATED"};
      for (size_t i = 0; i < kNames.size(); ++i) {
        if (grpc == kNames[i]) a.grpc_status = static_cast<uint32_t>(i);
      }
      if (!a.grpc_status) {
        abort.Bad(abort.line(), "grpcStatus", fmt::format("\"{}\" is not a gRPC status", grpc),
                  "for example UNAVAILABLE");
      }
    }
    if (!a.http_status && !a.grpc_status && !abort.context().failed) {
      abort.Bad(abort.line(), "httpStatus", "is missing", "give httpStatus or grpcStatus");
    }
    a.percent = ReadPercentage(abort, "percentage", "percent");
    abort.Finish();
    out.abort = a;
  }
  reader.Finish();
  return out;
}

CorsPolicy ReadCors(MapReader reader) {
  CorsPolicy out;
  for (const YamlNode* node : reader.Items("allowOrigins")) {
    out.allow_origins.push_back(
        ReadStringMatchNode(node, reader.PathOf("allowOrigins"), reader.context()));
  }
  for (std::string& origin : reader.Strings("allowOrigin")) {  // the older spelling
    out.allow_origins.push_back({StringMatch::Kind::kExact, std::move(origin)});
  }
  out.allow_methods = reader.Strings("allowMethods");
  out.allow_headers = reader.Strings("allowHeaders");
  out.expose_headers = reader.Strings("exposeHeaders");
  out.max_age = reader.Duration("maxAge");
  out.allow_credentials = reader.MaybeBool("allowCredentials");
  out.ignore_unmatched_preflights = reader.String("unmatchedPreflights") == "IGNORE";
  reader.Finish();
  return out;
}

HttpRetry ReadRetries(MapReader reader) {
  HttpRetry out;
  out.attempts = static_cast<uint32_t>(reader.Int("attempts", 0, 1000).value_or(0));
  out.per_try_timeout = reader.Duration("perTryTimeout");
  out.retry_on = reader.String("retryOn");
  out.backoff = reader.Duration("backoff");
  out.retry_remote_localities = reader.MaybeBool("retryRemoteLocalities");
  out.ignore_previous_hosts = reader.MaybeBool("retryIgnorePreviousHosts");
  reader.Finish();
  return out;
}

HttpRewrite ReadRewrite(MapReader reader) {
  HttpRewrite out;
  out.uri = reader.String("uri");
  out.authority = reader.String("authority");
  MapReader regex = reader.Map("uriRegexRewrite");
  if (regex.present()) {
    out.regex_match = regex.String("match");
    out.regex_rewrite = regex.String("rewrite");
    CheckRegex(regex, regex.line(), "match", out.regex_match);
    regex.Finish();
  }
  reader.Finish();
  return out;
}

std::vector<HttpMirror> ReadMirrors(MapReader& reader, ReadContext& context) {
  std::vector<HttpMirror> out;
  MapReader single = reader.Map("mirror");
  if (single.present()) {
    HttpMirror mirror;
    mirror.destination = ReadDestination(std::move(single));
    mirror.percent = ReadPercentage(reader, "mirrorPercentage", "mirrorPercent");
    out.push_back(std::move(mirror));
  } else {
    reader.Ignore({"mirrorPercentage", "mirrorPercent", "mirror_percent"});
  }
  for (const YamlNode* node : reader.Items("mirrors")) {
    MapReader item(node, "spec.http.mirrors", context);
    HttpMirror mirror;
    mirror.destination = ReadDestination(item.Map("destination"));
    mirror.percent = ReadPercentage(item, "percentage", "");
    item.Finish();
    out.push_back(std::move(mirror));
  }
  return out;
}

VirtualHttpRoute ReadHttp(const YamlNode* node, ReadContext& context) {
  MapReader reader(node, "spec.http", context);
  VirtualHttpRoute out;
  out.line = reader.line();
  out.name = reader.String("name");
  for (const YamlNode* match : reader.Items("match")) {
    out.matches.push_back(ReadHttpMatch(match, context));
  }
  for (const YamlNode* route : reader.Items("route")) {
    out.route.push_back(ReadRouteDestination(route, context));
  }
  if (MapReader r = reader.Map("redirect"); r.present()) out.redirect = ReadRedirect(std::move(r));
  MapReader direct = reader.Map("directResponse");
  if (direct.present()) {
    HttpDirectResponse response;
    response.status = static_cast<uint32_t>(direct.Int("status", 200, 599).value_or(0));
    MapReader body = direct.Map("body");
    response.body = body.String("string");
    body.NotServed("bytes", "use body.string");
    body.Finish();
    direct.Finish();
    out.direct_response = std::move(response);
  }
  if (MapReader r = reader.Map("rewrite"); r.present()) out.rewrite = ReadRewrite(std::move(r));
  out.timeout = reader.Duration("timeout");
  if (MapReader r = reader.Map("retries"); r.present()) out.retries = ReadRetries(std::move(r));
  if (MapReader r = reader.Map("fault"); r.present()) out.fault = ReadFault(std::move(r));
  out.mirrors = ReadMirrors(reader, context);
  if (MapReader r = reader.Map("corsPolicy"); r.present()) out.cors = ReadCors(std::move(r));
  out.headers = ReadHeaderRules(reader.Map("headers"));
  reader.NotServed("delegate", "write the delegate's routes here");
  reader.Finish();
  if (out.route.empty() && !out.redirect && !out.direct_response) {
    reader.Bad(reader.line(), "route",
               "is missing: this entry says nothing about where requests go",
               "add route with a destination (or redirect, or directResponse)");
  }
  if (out.route.size() > 1) {
    uint32_t total = 0;
    for (const HttpRouteDestination& d : out.route) total += d.weight;
    if (total == 0) {
      reader.Bad(reader.line(), "route", "the weights of these destinations are all 0",
                 "give them weights, for example 90 and 10");
    }
  }
  return out;
}

L4Route ReadL4(const YamlNode* node, const std::string& path, ReadContext& context) {
  MapReader reader(node, path, context);
  L4Route out;
  out.line = reader.line();
  for (const YamlNode* match_node : reader.Items("match")) {
    MapReader match(match_node, path + ".match", context);
    L4Match m;
    m.sni_hosts = match.Strings("sniHosts");
    m.destination_subnets = match.Strings("destinationSubnets");
    m.port = match.Port("port");
    m.gateways = match.Strings("gateways");
    match.NotServed("sourceLabels", "use an AuthorizationPolicy for access");
    match.NotServed("sourceNamespace", "use an AuthorizationPolicy for access");
    match.NotServed("sourceSubnet", "use an AuthorizationPolicy for access");
    match.Finish();
    out.matches.push_back(std::move(m));
  }
  for (const YamlNode* route : reader.Items("route")) {
    out.route.push_back(ReadRouteDestination(route, context));
  }
  reader.Finish();
  return out;
}

}  // namespace

AnyObject DecodeVirtualService(ObjectMeta meta, MapReader& root) {
  VirtualService out;
  out.meta = std::move(meta);
  MapReader spec = root.Map("spec");
  out.hosts = spec.Strings("hosts");
  out.gateways = spec.Strings("gateways");
  out.export_to = spec.Strings("exportTo");
  for (const YamlNode* node : spec.Items("http")) {
    out.http.push_back(ReadHttp(node, root.context()));
  }
  for (const YamlNode* node : spec.Items("tls")) {
    out.tls.push_back(ReadL4(node, "spec.tls", root.context()));
  }
  for (const YamlNode* node : spec.Items("tcp")) {
    out.tcp.push_back(ReadL4(node, "spec.tcp", root.context()));
  }
  spec.Finish();
  if (!out.hosts.empty()) return out;
  for (const VirtualHttpRoute& route : out.http) {
    for (const HttpRouteDestination& d : route.route) {
      if (std::find(out.hosts.begin(), out.hosts.end(), d.destination.host) == out.hosts.end() &&
          !d.destination.host.empty()) {
        out.hosts.push_back(d.destination.host);
      }
    }
  }
  if (out.hosts.empty()) {
    spec.Bad(spec.line(), "hosts", "is missing, and no route names a destination to take it from",
             "add hosts: [SERVICE] and a route with destination: {host: SERVICE}");
  } else {
    root.context().Warn(
        out.meta.location.line,
        fmt::format("spec.hosts is missing: taken from the routes' destinations ({})",
                    fmt::join(out.hosts, ", ")),
        "write spec.hosts; a cluster refuses the object without it");
  }
  return out;
}

}  // namespace qanat::controlplane
