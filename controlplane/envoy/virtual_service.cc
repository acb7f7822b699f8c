// SPDX-License-Identifier: Apache-2.0
// VirtualService -> Envoy routes.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "controlplane/envoy/names.h"
#include "controlplane/envoy/proto_util.h"
#include "controlplane/envoy/route_parts.h"
#include "envoy/extensions/filters/http/cors/v3/cors.pb.h"
#include "envoy/extensions/filters/http/fault/v3/fault.pb.h"

namespace qanat::controlplane {
namespace {

using Fault = envoy::extensions::filters::http::fault::v3::HTTPFault;
using Cors = envoy::extensions::filters::http::cors::v3::CorsPolicy;

std::string Join(const std::vector<std::string>& words) {
  std::string joined;
  for (const std::string& word : words) joined += (joined.empty() ? "" : ",") + word;
  return joined;
}

class VirtualServiceRoutes {
 public:
  VirtualServiceRoutes(Scope& scope, const ServedPort& served, const VirtualService& object)
      : scope_(scope), served_(served), object_(object) {}

  void AddTo(route_v3::VirtualHost* host) {
    for (size_t i = 0; i < object_.http.size(); ++i) {
      const VirtualHttpRoute& http = object_.http[i];
      line_ = http.line;
      route_v3::Route route;
      Fill(http, &route);
      const std::string name = http.name.empty() ? "http[" + std::to_string(i) + "]" : http.name;
      if (http.matches.empty()) {
        route.set_name(name);
        route.mutable_match()->set_prefix("/");
        *host->add_routes() = std::move(route);
        continue;
      }
      for (const HttpMatch& match : http.matches) {
        route_v3::Route one = route;
        one.set_name(match.name.empty() ? name : name + "." + match.name);
        if (!Fill(match, one.mutable_match())) continue;
        Rewrite(http, match, &one);
        *host->add_routes() = std::move(one);
      }
    }
  }

 private:
  void Tell(std::string message) {
    scope_.Tell(object_.meta, line_, "UnsupportedValue", std::move(message));
  }

  // A regular expression that cannot be read never matches, and is told.
  bool Fill(const std::string& field, const StringMatch& match,
            envoy::type::matcher::v3::StringMatcher* out) {
    switch (match.kind) {
      case StringMatch::Kind::kExact: out->set_exact(match.value); return true;
      case StringMatch::Kind::kPrefix:
        out->set_prefix(match.value);
        return !match.value.empty() || NoMatch(field, match.value);
      case StringMatch::Kind::kRegex:
        out->mutable_safe_regex()->set_regex(match.value);
        return IsRegex(match.value) || NoMatch(field, match.value);
      case StringMatch::Kind::kPresent: break;  // the caller says it without a value
    }
    return true;
  }

  bool NoMatch(const std::string& field, const std::string& value) {
    Tell(field + ": \"" + value + "\" is not a pattern that can be read: the match never matches");
    return false;
  }

  bool Header(const std::string& name, const StringMatch& match, route_v3::RouteMatch* out,
              bool without = false) {
    if (name.empty()) return NoMatch("header name", name);
    auto* header = out->add_headers();
    header->set_name(name);
    if (without) {
      header->set_invert_match(true);
      // An absent header must count as "not this value"; without this Envoy ignores the rule.
      if (match.kind != StringMatch::Kind::kPresent) {
        header->set_treat_missing_header_as_empty(true);
      }
    }
    if (match.kind == StringMatch::Kind::kPresent) {
      header->set_present_match(true);
      return true;
    }
    return Fill("header " + name, match, header->mutable_string_match());
  }

  // False: this match is for others, or can never match.
  bool Fill(const HttpMatch& match, route_v3::RouteMatch* out) {
    if (match.port != 0 && match.port != served_.port->port) return false;
    if (!match.gateways.empty() &&
        std::find(match.gateways.begin(), match.gateways.end(), "mesh") == match.gateways.end()) {
      return false;
    }
    if (!match.source_labels.empty() || !match.source_namespace.empty()) {
      Tell(
          "sourceLabels and sourceNamespace: a waypoint does not know the caller's labels: the "
          "match never matches; use an AuthorizationPolicy, or match a header");
      return false;
    }
    if (!FillPath(match, out)) return false;
    if (match.ignore_uri_case) out->mutable_case_sensitive()->set_value(false);
    if (match.method && !Header(":method", *match.method, out)) return false;
    if (match.authority && !Header(":authority", *match.authority, out)) return false;
    if (match.scheme && !Header(":scheme", *match.scheme, out)) return false;
    for (const auto& [name, value] : match.headers) {
      if (!Header(name, value, out)) return false;
    }
    for (const auto& [name, value] : match.without_headers) {
      if (!Header(name, value, out, true)) return false;
    }
    for (const auto& [name, value] : match.query_params) {
      if (name.empty()) return NoMatch("query parameter name", name);
      auto* parameter = out->add_query_parameters();
      parameter->set_name(name);
      if (value.kind == StringMatch::Kind::kPresent) {
        parameter->set_present_match(true);
      } else if (!Fill("query parameter " + name, value, parameter->mutable_string_match())) {
        return false;
      }
    }
    return true;
  }

  bool FillPath(const HttpMatch& match, route_v3::RouteMatch* out) {
    if (!match.uri || match.uri->kind == StringMatch::Kind::kPresent) {
      out->set_prefix("/");
      return true;
    }
    switch (match.uri->kind) {
      case StringMatch::Kind::kExact: out->set_path(match.uri->value); return true;
      case StringMatch::Kind::kPrefix: out->set_prefix(match.uri->value); return true;
      case StringMatch::Kind::kRegex:
        out->mutable_safe_regex()->set_regex(match.uri->value);
        return IsRegex(match.uri->value) || NoMatch("uri", match.uri->value);
      case StringMatch::Kind::kPresent: break;
    }
    return true;
  }

  // All but the match. The rewrite of the path depends on the match and comes in Rewrite().
  void Fill(const VirtualHttpRoute& http, route_v3::Route* route) {
    SetOrigin(object_.meta, "networking.istio.io", "virtual-service", route);
    if (http.redirect) {
      Redirect(*http.redirect, route->mutable_redirect());
    } else if (http.direct_response) {
      SetDirectResponse(http.direct_response->status, http.direct_response->body, route);
    } else {
      Forward(http, route);
    }
    std::string host;
    const HeaderOps request = CheckedOps(scope_, object_.meta, line_, http.headers.request, &host);
    const HeaderOps response =
        CheckedOps(scope_, object_.meta, line_, http.headers.response, nullptr);
    SetHeaderOps(request, response, route);
    if (!host.empty() && route->has_route()) route->mutable_route()->set_host_rewrite_literal(host);
    if (http.rewrite && !http.rewrite->authority.empty() && route->has_route()) {
      route->mutable_route()->set_host_rewrite_literal(http.rewrite->authority);
    }
    if (http.matches.empty()) Rewrite(http, HttpMatch{}, route);
    if (http.fault) SetFault(*http.fault, route);
    if (http.cors) SetCors(*http.cors, route);
  }

  void Forward(const VirtualHttpRoute& http, route_v3::Route* route) {
    std::vector<RouteTarget> targets = Targets(http);
    SetTargets(targets, route);
    route_v3::RouteAction* action = route->mutable_route();
    SetHashPolicy(scope_, targets, served_.port->port, action);
    // 0 switches Envoy's own default of 15 s off.
    SetDuration(action->mutable_timeout(), http.timeout.value_or(Millis(0)));
    if (!http.retries) {
      SetRetry({}, action);
    } else if (http.retries->attempts > 0) {
      RetryParts parts;
      parts.retry_on = http.retries->retry_on;
      parts.attempts = http.retries->attempts;
      parts.per_try_timeout = http.retries->per_try_timeout;
      parts.backoff = http.retries->backoff;
      parts.ignore_previous_hosts = http.retries->ignore_previous_hosts.value_or(true);
      SetRetry(parts, action);
    }
    for (const HttpMirror& mirror : http.mirrors) {
      const RouteTarget target = Target(mirror.destination);
      AddMirror(target.cluster, mirror.percent, action);
    }
  }

  std::vector<RouteTarget> Targets(const VirtualHttpRoute& http) {
    std::vector<RouteTarget> targets;
    for (const HttpRouteDestination& destination : http.route) {
      if (destination.weight == 0 && http.route.size() > 1) continue;
      RouteTarget target = Target(destination.destination);
      target.weight = destination.weight;
      target.request =
          CheckedOps(scope_, object_.meta, line_, destination.headers.request, nullptr);
      target.response =
          CheckedOps(scope_, object_.meta, line_, destination.headers.response, nullptr);
      targets.push_back(std::move(target));
    }
    if (targets.empty()) {
      // A route that only sets a timeout or a fault keeps the service's own destination; so does
      // one whose weights are all zero, which says nothing.
      Destination self;
      self.host = served_.service->hostname;
      targets.push_back(Target(self));
    }
    return targets;
  }

  RouteTarget Target(const Destination& destination) {
    RouteTarget target;
    const World& world = scope_.world();
    const std::string host = world.ResolveHost(destination.host, object_.meta.ns);
    target.service = world.FindServiceByHostname(host);
    target.subset = destination.subset;
    uint16_t port = destination.port;
    if (port == 0) {
      const bool only_one = target.service && target.service->ports.size() == 1;
      port = only_one ? target.service->ports.front().port : served_.port->port;
    }
    std::string problem;
    target.cluster = scope_.ClusterFor(host, port, destination.subset, true, &problem);
    if (!problem.empty()) {
      scope_.Tell(object_.meta, line_, "BackendNotFound",
                  problem + ": requests that are routed there are answered with 503");
    }
    return target;
  }

  void Redirect(const HttpRedirect& from, route_v3::RedirectAction* redirect) {
    if (!from.uri.empty()) {
      if (from.prefix_rewrite) {
        redirect->set_prefix_rewrite(from.uri);
      } else {
        redirect->set_path_redirect(from.uri);
      }
    }
    if (!from.authority.empty()) redirect->set_host_redirect(from.authority);
    if (!from.scheme.empty()) redirect->set_scheme_redirect(from.scheme);
    if (from.port) redirect->set_port_redirect(*from.port);
    if (from.port_from_request) redirect->set_port_redirect(served_.port->port);
    SetResponseCode(from.code, redirect);
  }

  void Rewrite(const VirtualHttpRoute& http, const HttpMatch& match, route_v3::Route* route) {
    if (!http.rewrite || !route->has_route()) return;
    route_v3::RouteAction* action = route->mutable_route();
    if (!http.rewrite->regex_match.empty()) {
      if (!IsRegex(http.rewrite->regex_match)) {
        Tell("rewrite.uriRegexRewrite: \"" + http.rewrite->regex_match +
             "\" is not a regular expression that RE2 reads: the path is not rewritten");
        return;
      }
      action->mutable_regex_rewrite()->mutable_pattern()->set_regex(http.rewrite->regex_match);
      action->mutable_regex_rewrite()->set_substitution(http.rewrite->regex_rewrite);
    } else if (!http.rewrite->uri.empty()) {
      const bool prefix = match.uri && match.uri->kind == StringMatch::Kind::kPrefix;
      if (prefix) {
        SetPrefixRewrite(match.uri->value, http.rewrite->uri, action);
      } else {
        // With an exact path or a regular expression Envoy replaces the whole path.
        action->set_prefix_rewrite(http.rewrite->uri);
      }
    }
  }

  void SetFault(const HttpFault& from, route_v3::Route* route) {
    Fault fault;
    if (from.delay && from.delay->fixed.count() > 0) {
      SetDuration(fault.mutable_delay()->mutable_fixed_delay(), from.delay->fixed);
      SetPercent(fault.mutable_delay()->mutable_percentage(), from.delay->percent);
    }
    if (from.abort && from.abort->http_status && *from.abort->http_status >= 200 &&
        *from.abort->http_status < 600) {
      fault.mutable_abort()->set_http_status(*from.abort->http_status);
    } else if (from.abort && from.abort->grpc_status) {
      fault.mutable_abort()->set_grpc_status(*from.abort->grpc_status);
    } else if (from.abort) {
      Tell("fault.abort: neither an HTTP status of 200 to 599 nor a gRPC status: no abort");
    }
    if (fault.has_abort()) {
      SetPercent(fault.mutable_abort()->mutable_percentage(), from.abort->percent);
    }
    if (!fault.has_abort() && !fault.has_delay()) return;
    PackInto(&(*route->mutable_typed_per_filter_config())[std::string(envoy_names::kFault)], fault);
  }

  void SetCors(const CorsPolicy& from, route_v3::Route* route) {
    Cors cors;
    for (const StringMatch& origin : from.allow_origins) {
      envoy::type::matcher::v3::StringMatcher matcher;
      if (Fill("corsPolicy.allowOrigins", origin, &matcher)) {
        *cors.add_allow_origin_string_match() = std::move(matcher);
      }
    }
    cors.set_allow_methods(Join(from.allow_methods));
    cors.set_allow_headers(Join(from.allow_headers));
    cors.set_expose_headers(Join(from.expose_headers));
    if (from.max_age) cors.set_max_age(std::to_string(from.max_age->count() / 1000));
    if (from.allow_credentials) {
      cors.mutable_allow_credentials()->set_value(*from.allow_credentials);
    }
    if (from.ignore_unmatched_preflights) {
      cors.mutable_forward_not_matching_preflights()->set_value(false);
    }
    PackInto(&(*route->mutable_typed_per_filter_config())[std::string(envoy_names::kCors)], cors);
  }

  Scope& scope_;
  const ServedPort& served_;
  const VirtualService& object_;
  int line_ = 0;
};

}  // namespace

bool AddVirtualServiceRoutes(Scope& scope, const ServedPort& served, route_v3::VirtualHost* host) {
  const VirtualService* object = scope.world().VirtualServiceFor(*served.service, scope.waypoint());
  if (!object || object->http.empty()) return false;
  VirtualServiceRoutes(scope, served, *object).AddTo(host);
  return true;
}

}  // namespace qanat::controlplane
