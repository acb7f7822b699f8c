// SPDX-License-Identifier: Apache-2.0
// HTTPRoutes with a Service as parent -> Envoy routes. All routes of a service are merged and put
// into the order that the Gateway API asks for.
#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "controlplane/envoy/proto_util.h"
#include "controlplane/envoy/route_parts.h"

namespace qanat::controlplane {
namespace {

using Kind = HttpRouteMatch::Kind;

// What decides between two matches, the bigger one first; then the one that came first: of the
// older route, or earlier in it.
struct Rank {
  int path_kind = 0;  // exact, regular expression (the API leaves its place open), prefix
  size_t path_length = 0;
  bool method = false;
  size_t headers = 0;
  size_t query_params = 0;
  auto operator<=>(const Rank&) const = default;
};

Rank RankOf(const HttpRouteMatch& match) {
  const int kind = match.path_kind == Kind::kExact ? 2 : match.path_kind == Kind::kRegex ? 1 : 0;
  return {kind, match.path.size(), !match.method.empty(), match.headers.size(),
          match.query_params.size()};
}

struct RankedRoute {
  Rank rank;
  size_t order = 0;
  route_v3::Route route;
};

class HttpRouteRoutes {
 public:
  HttpRouteRoutes(Scope& scope, const ServedPort& served, const HttpRoute& object)
      : scope_(scope), served_(served), object_(object) {}

  void AddTo(std::vector<RankedRoute>& routes) {
    for (size_t i = 0; i < object_.rules.size(); ++i) {
      const HttpRouteRule& rule = object_.rules[i];
      line_ = rule.line;
      const std::string name =
          object_.meta.name + "." + (rule.name.empty() ? std::to_string(i) : rule.name);
      const std::vector<HttpRouteMatch> every(1);
      const auto& matches = rule.matches.empty() ? every : rule.matches;
      for (size_t j = 0; j < matches.size(); ++j) {
        route_v3::Route route;
        route.set_name(matches.size() == 1 ? name : name + "." + std::to_string(j));
        if (!Fill(matches[j], route.mutable_match())) continue;
        Fill(rule, matches[j], &route);
        routes.push_back({RankOf(matches[j]), routes.size(), std::move(route)});
      }
    }
  }

 private:
  void Tell(std::string reason, std::string message) {
    scope_.Tell(object_.meta, line_, std::move(reason), std::move(message));
  }

  bool NoMatch(const std::string& what) {
    Tell("UnsupportedValue", what + " cannot be read: the match never matches");
    return false;
  }

  bool Fill(const HttpRouteMatch::Named& match, envoy::type::matcher::v3::StringMatcher* out) {
    switch (match.kind) {
      case Kind::kExact: out->set_exact(match.value); return true;
      case Kind::kPrefix:
        out->set_prefix(match.value);
        return !match.value.empty() || NoMatch("an empty prefix");
      case Kind::kRegex:
        out->mutable_safe_regex()->set_regex(match.value);
        return IsRegex(match.value) || NoMatch("regular expression \"" + match.value + "\"");
    }
    return false;
  }

  static std::string WithoutSlash(std::string path) {
    while (path.size() > 1 && path.ends_with("/")) path.pop_back();
    return path;
  }

  bool Fill(const HttpRouteMatch& match, route_v3::RouteMatch* out) {
    switch (match.path_kind) {
      case Kind::kExact: out->set_path(match.path); break;
      case Kind::kPrefix: {
        // A prefix of whole segments: /a matches /a and /a/b, not /ab.
        const std::string prefix = WithoutSlash(match.path);
        if (prefix.empty() || prefix == "/") {
          out->set_prefix("/");
        } else {
          out->set_path_separated_prefix(prefix);
        }
        break;
      }
      case Kind::kRegex:
        if (!IsRegex(match.path)) return NoMatch("path \"" + match.path + "\"");
        out->mutable_safe_regex()->set_regex(match.path);
        break;
    }
    if (!match.method.empty()) {
      auto* header = out->add_headers();
      header->set_name(":method");
      header->mutable_string_match()->set_exact(match.method);
    }
    for (const auto& named : match.headers) {
      if (named.name.empty()) return NoMatch("a header without name");
      auto* header = out->add_headers();
      header->set_name(named.name);
      if (!Fill(named, header->mutable_string_match())) return false;
    }
    for (const auto& named : match.query_params) {
      if (named.name.empty()) return NoMatch("a query parameter without name");
      auto* parameter = out->add_query_parameters();
      parameter->set_name(named.name);
      if (!Fill(named, parameter->mutable_string_match())) return false;
    }
    return true;
  }

  void Fill(const HttpRouteRule& rule, const HttpRouteMatch& match, route_v3::Route* route) {
    SetOrigin(object_.meta, "gateway.networking.k8s.io", "http-route", route);
    const auto has = [&](HttpRouteFilter::Type type) {
      return std::any_of(rule.filters.begin(), rule.filters.end(),
                         [type](const HttpRouteFilter& filter) { return filter.type == type; });
    };
    // The Gateway API: what asks for something that is not supported must not be passed without it.
    if (has(HttpRouteFilter::Type::kUnsupported)) {
      Tell("UnsupportedValue",
           "a filter that is not supported: its requests are answered with 500");
      SetDirectResponse(500, "", route);
      return;
    }
    if (!has(HttpRouteFilter::Type::kRedirect) && !Forward(rule, route)) {
      SetDirectResponse(500, "", route);
      return;
    }
    HeaderOps request, response;
    for (const HttpRouteFilter& filter : rule.filters) {
      switch (filter.type) {
        case HttpRouteFilter::Type::kRequestHeaders:
          Append(filter.headers, true, route, &request);
          break;
        case HttpRouteFilter::Type::kResponseHeaders:
          Append(filter.headers, false, route, &response);
          break;
        case HttpRouteFilter::Type::kRedirect:
          Redirect(filter.redirect, match, route->mutable_redirect());
          break;
        case HttpRouteFilter::Type::kRewrite:
          if (route->has_route()) Rewrite(filter.rewrite, match, route->mutable_route());
          break;
        case HttpRouteFilter::Type::kMirror:
          if (route->has_route()) {
            AddMirror(Target(filter.mirror.backend).cluster, filter.mirror.percent,
                      route->mutable_route());
          }
          break;
        case HttpRouteFilter::Type::kUnsupported: break;
      }
    }
    SetHeaderOps(request, response, route);
  }

  void Append(const HeaderOps& from, bool request, route_v3::Route* route, HeaderOps* to) {
    std::string host;
    HeaderOps ops = CheckedOps(scope_, object_.meta, line_, from, request ? &host : nullptr);
    if (!host.empty() && route->has_route()) route->mutable_route()->set_host_rewrite_literal(host);
    to->set.insert(to->set.end(), ops.set.begin(), ops.set.end());
    to->add.insert(to->add.end(), ops.add.begin(), ops.add.end());
    to->remove.insert(to->remove.end(), ops.remove.begin(), ops.remove.end());
  }

  // False: there is nowhere to go to.
  bool Forward(const HttpRouteRule& rule, route_v3::Route* route) {
    std::vector<RouteTarget> targets;
    for (const HttpRouteRule::Backend& backend : rule.backends) {
      if (backend.ref.weight == 0) continue;
      RouteTarget target = Target(backend.ref);
      target.weight = backend.ref.weight;
      for (const HttpRouteFilter& filter : backend.filters) {
        if (filter.type == HttpRouteFilter::Type::kRequestHeaders) {
          Append(filter.headers, true, route, &target.request);
        } else if (filter.type == HttpRouteFilter::Type::kResponseHeaders) {
          Append(filter.headers, false, route, &target.response);
        } else {
          Tell("UnsupportedValue",
               "a filter of a backendRef that is not supported: the backend's requests are "
               "answered with 500");
          target.cluster = kNoCluster;
        }
      }
      targets.push_back(std::move(target));
    }
    if (targets.empty()) return false;
    SetTargets(targets, route);
    route_v3::RouteAction* action = route->mutable_route();
    SetHashPolicy(scope_, targets, served_.port->port, action);
    // The Gateway API: a backend that does not exist is answered with 500.
    action->set_cluster_not_found_response_code(route_v3::RouteAction::INTERNAL_SERVER_ERROR);
    SetDuration(action->mutable_timeout(), rule.request_timeout.value_or(Millis(0)));
    RetryParts retry;
    retry.per_try_timeout = rule.backend_request_timeout;
    if (rule.retry) {
      retry.codes = rule.retry->codes;
      retry.attempts = rule.retry->attempts.value_or(1);
      retry.backoff = rule.retry->backoff;
      // Connection errors are always worth another try.
      retry.retry_on = retry.codes.empty() ? "" : "connect-failure,refused-stream";
    }
    if (retry.attempts > 0) SetRetry(retry, action);
    return true;
  }

  RouteTarget Target(const BackendRef& ref) {
    RouteTarget target;
    target.cluster = kNoCluster;
    if (ref.kind != "Service" || !ref.group.empty()) {
      Tell("InvalidKind", "backendRef " + ref.kind + " " + ref.name +
                              ": only a Service can be one: its requests are answered with 500");
      return target;
    }
    if (ref.ns != object_.meta.ns) {
      Tell("RefNotPermitted", "backendRef " + ref.ns + "/" + ref.name +
                                  ": in another namespace, which has not granted it: its requests "
                                  "are answered with 500");
      return target;
    }
    const std::string host = scope_.world().ServiceHostname({ref.ns, ref.name});
    target.service = scope_.world().FindServiceByHostname(host);
    std::string problem;
    target.cluster = scope_.ClusterFor(host, ref.port, "", true, &problem);
    if (!problem.empty()) {
      Tell("BackendNotFound", problem + ": its requests are answered with 500");
    }
    return target;
  }

  void Redirect(const HttpRouteFilter::Redirect& from, const HttpRouteMatch& match,
                route_v3::RedirectAction* redirect) {
    if (!from.scheme.empty()) redirect->set_scheme_redirect(from.scheme);
    if (!from.hostname.empty()) redirect->set_host_redirect(from.hostname);
    if (from.port != 0) redirect->set_port_redirect(from.port);
    SetResponseCode(static_cast<uint32_t>(from.status), redirect);
    if (!from.path) return;
    if (!from.path->replace_prefix) {
      redirect->set_path_redirect(from.path->value);
    } else if (match.path_kind == Kind::kPrefix) {
      redirect->set_prefix_rewrite(from.path->value);
    }
  }

  void Rewrite(const HttpRouteFilter::Rewrite& from, const HttpRouteMatch& match,
               route_v3::RouteAction* action) {
    if (!from.hostname.empty()) action->set_host_rewrite_literal(from.hostname);
    if (!from.path) return;
    if (!from.path->replace_prefix) {
      SetFullPathRewrite(from.path->value, action);
    } else if (match.path_kind == Kind::kPrefix) {
      const std::string prefix = WithoutSlash(match.path);
      const std::string by = from.path->value.empty() ? "/" : WithoutSlash(from.path->value);
      if (prefix.empty() || prefix == "/") {
        // Envoy replaces the "/" itself.
        action->set_prefix_rewrite(by == "/" ? by : by + "/");
      } else {
        SetPrefixRewrite(prefix, by, action);
      }
    }
  }

  // Not the name of any cluster.
  static constexpr const char* kNoCluster = "no-such-backend";

  Scope& scope_;
  const ServedPort& served_;
  const HttpRoute& object_;
  int line_ = 0;
};

}  // namespace

bool AddHttpRoutes(Scope& scope, const ServedPort& served, route_v3::VirtualHost* host) {
  std::vector<RankedRoute> routes;
  bool any = false;
  for (const HttpRoute* object : scope.world().HttpRoutesFor(*served.service)) {
    const bool for_this_port =
        std::any_of(object->parents.begin(), object->parents.end(), [&](const ParentRef& parent) {
          return parent.kind == "Service" && (parent.group.empty() || parent.group == "core") &&
                 NamespacedName{parent.ns, parent.name} == served.service->meta.key() &&
                 (parent.port == 0 || parent.port == served.port->port);
        });
    if (!for_this_port) continue;
    any = true;
    HttpRouteRoutes(scope, served, *object).AddTo(routes);
  }
  std::sort(routes.begin(), routes.end(), [](const RankedRoute& a, const RankedRoute& b) {
    return std::tie(b.rank, a.order) < std::tie(a.rank, b.order);
  });
  for (RankedRoute& ranked : routes) *host->add_routes() = std::move(ranked.route);
  return any;
}

}  // namespace qanat::controlplane
