// SPDX-License-Identifier: Apache-2.0
#include "waypoint/route/route_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "waypoint/route/path_template.h"

namespace qanat::waypoint {
namespace {

std::string_view WithoutPort(std::string_view authority) {
  size_t colon = authority.rfind(':');
  if (colon == std::string_view::npos) return authority;
  if (authority.find(']', colon) != std::string_view::npos) return authority;  // "[fd00::1]"
  if (authority[0] != '[' && authority.find(':') != colon) return authority;   // bare IPv6
  return authority.substr(0, colon);
}

void LongestFirst(std::vector<std::pair<std::string, size_t>>& list) {
  std::sort(list.begin(), list.end(), [](const auto& a, const auto& b) {
    if (a.first.size() != b.first.size()) return a.first.size() > b.first.size();
    return a.first < b.first;
  });
}

}  // namespace

bool PathMatch::Matches(std::string_view method, std::string_view path) const {
  if (kind == Kind::kConnect) return method == "CONNECT";
  if (kind == Kind::kRegex) return regex.FullMatch(path);
  std::string lower;
  if (!case_sensitive) {
    lower = AsciiLower(path);
    path = lower;
  }
  switch (kind) {
    case Kind::kPrefix: return path.starts_with(value);
    case Kind::kExact: return path == value;
    case Kind::kSeparatedPrefix:
      return path.starts_with(value) && (path.size() == value.size() || path[value.size()] == '/');
    case Kind::kTemplate: return MatchesPathTemplate(value, path);
    case Kind::kRegex:
    case Kind::kConnect: break;
  }
  return false;
}

std::string PathMatch::Describe() const {
  switch (kind) {
    case Kind::kPrefix: return value + "*";
    case Kind::kExact: return value;
    case Kind::kSeparatedPrefix: return value + "[/*]";
    case Kind::kRegex: return "~" + std::string(regex.pattern());
    case Kind::kTemplate: return value;
    case Kind::kConnect: return "CONNECT";
  }
  return {};
}

bool Matches(const RouteMatch& match, const HeadView& head, uint64_t random, std::string* why) {
  if (!match.path.Matches(head.method, head.path_only())) {
    if (why) *why = fmt::format("path {} is not {}", head.path_only(), match.path.Describe());
    return false;
  }
  if (match.grpc) {
    std::string scratch;
    auto type = head.Find("content-type", scratch);
    bool is_grpc = type && type->starts_with("application/grpc") &&
                   (type->size() == 16 || (*type)[16] == '+' || (*type)[16] == ';');
    if (!is_grpc) {
      if (why) *why = "not a gRPC request";
      return false;
    }
  }
  for (const HeaderMatch& h : match.headers) {
    if (h.Matches(head)) continue;
    if (why) {
      std::string scratch;
      auto seen = h.name.empty() ? std::nullopt : head.Find(h.name, scratch);
      *why = fmt::format("header {} wanted, seen {}", h.Describe(),
                         seen ? std::string(*seen) : std::string("nothing"));
    }
    return false;
  }
  for (const QueryMatch& q : match.query) {
    if (q.Matches(head.query())) continue;
    if (why) *why = fmt::format("query parameter {} wanted", q.Describe());
    return false;
  }
  if (match.fraction && !match.fraction->Hit(random)) {
    if (why) {
      *why = fmt::format("outside the route's share of {}/{}", match.fraction->numerator,
                         match.fraction->denominator);
    }
    return false;
  }
  return true;
}

Status RouteTable::Index() {
  exact_.clear();
  suffixes_.clear();
  prefixes_.clear();
  any_.reset();
  for (size_t i = 0; i < hosts.size(); ++i) {
    for (const std::string& raw : hosts[i].domains) {
      std::string domain = AsciiLower(raw);
      auto twice = [&] {
        return Fail(Code::kInvalidArgument,
                    fmt::format("route {}: domain {} of virtual host {} is claimed twice", name,
                                domain, hosts[i].name));
      };
      if (domain.empty()) {
        return Fail(
            Code::kInvalidArgument,
            fmt::format("route {}: virtual host {} has an empty domain", name, hosts[i].name));
      }
      if (domain == "*") {
        if (any_) return twice();
        any_ = i;
      } else if (domain.front() == '*') {
        for (auto& [text, host] : suffixes_) {
          if (text == domain.substr(1)) return twice();
        }
        suffixes_.emplace_back(domain.substr(1), i);
      } else if (domain.back() == '*') {
        std::string prefix = domain.substr(0, domain.size() - 1);
        for (auto& [text, host] : prefixes_) {
          if (text == prefix) return twice();
        }
        prefixes_.emplace_back(std::move(prefix), i);
      } else if (!exact_.emplace(std::move(domain), i).second) {
        return twice();
      }
    }
  }
  LongestFirst(suffixes_);
  LongestFirst(prefixes_);
  return {};
}

const VirtualHost* RouteTable::FindHost(std::string_view authority) const {
  // Envoy's order: exact, longest suffix, longest prefix, "*".
  if (!exact_.empty() || !suffixes_.empty() || !prefixes_.empty()) {
    std::string host = AsciiLower(ignore_port_in_host ? WithoutPort(authority) : authority);
    if (auto it = exact_.find(host); it != exact_.end()) return &hosts[it->second];
    for (const auto& [suffix, index] : suffixes_) {
      if (host.size() > suffix.size() && host.ends_with(suffix)) return &hosts[index];
    }
    for (const auto& [prefix, index] : prefixes_) {
      if (host.size() > prefix.size() && host.starts_with(prefix)) return &hosts[index];
    }
  }
  return any_ ? &hosts[*any_] : nullptr;
}

RouteChoice RouteTable::Find(const HeadView& head, uint64_t random,
                             std::vector<RouteMiss>* misses) const {
  RouteChoice choice;
  choice.host = FindHost(head.authority);
  if (choice.host == nullptr) {
    if (misses) {
      misses->push_back({"", fmt::format("no virtual host for authority {}", head.authority)});
    }
    return choice;
  }
  for (const Route& route : choice.host->routes) {
    std::string why;
    if (Matches(route.match, head, random, misses ? &why : nullptr)) {
      choice.route = &route;
      return choice;
    }
    if (misses) misses->push_back({route.name, std::move(why)});
  }
  return choice;
}

const ClusterWeight* PickCluster(const ForwardAction& action, uint64_t random) {
  if (action.clusters.empty() || action.total_weight == 0) return nullptr;
  uint64_t point = random % action.total_weight;
  for (const ClusterWeight& c : action.clusters) {
    if (point < c.weight) return &c;
    point -= c.weight;
  }
  return nullptr;
}

namespace {

// Replaces what the match consumed of the path by `replacement`; the query stays.
std::string ReplaceMatchedPrefix(const PathMatch& match, std::string_view path,
                                 std::string_view replacement) {
  size_t mark = path.find('?');
  std::string_view query = mark == std::string_view::npos ? std::string_view() : path.substr(mark);
  std::string_view only = path.substr(0, mark);
  size_t consumed = 0;
  switch (match.kind) {
    case PathMatch::Kind::kPrefix:
    case PathMatch::Kind::kSeparatedPrefix:
      consumed = std::min(match.value.size(), only.size());
      break;
    case PathMatch::Kind::kExact:
    case PathMatch::Kind::kRegex:
    case PathMatch::Kind::kTemplate:
    case PathMatch::Kind::kConnect: consumed = only.size(); break;
  }
  std::string out(replacement);
  std::string_view rest = only.substr(consumed);
  // Gateway API, ReplacePrefixMatch: whole segments are replaced, so "/" + "/x" is "/x".
  if (match.kind == PathMatch::Kind::kSeparatedPrefix && out.ends_with('/') &&
      rest.starts_with('/')) {
    out.pop_back();
  }
  out.append(rest);
  if (out.empty() || out[0] != '/') out.insert(0, "/");
  return out.append(query);
}

std::string RewriteByRegex(const RegexRewrite& rewrite, std::string_view path) {
  size_t mark = path.find('?');
  std::string_view query = mark == std::string_view::npos ? std::string_view() : path.substr(mark);
  return rewrite.regex.ReplaceAll(path.substr(0, mark), rewrite.substitution).append(query);
}

}  // namespace

std::string RewritePath(const ForwardAction& action, const PathMatch& match,
                        std::string_view path) {
  if (!action.prefix_rewrite.empty()) {
    return ReplaceMatchedPrefix(match, path, action.prefix_rewrite);
  }
  if (action.regex_rewrite) return RewriteByRegex(*action.regex_rewrite, path);
  return std::string(path);
}

std::string RedirectLocation(const RedirectAction& action, const PathMatch& match,
                             const HeadView& head) {
  std::string_view old_scheme = head.scheme.empty() ? std::string_view("http") : head.scheme;
  std::string scheme = action.scheme.empty() ? std::string(old_scheme) : action.scheme;
  std::string_view authority = head.authority;
  std::string_view host = WithoutPort(authority);
  std::string_view port =
      authority.size() > host.size() ? authority.substr(host.size() + 1) : std::string_view();
  std::string out = scheme + "://";
  out.append(action.host.empty() ? host : std::string_view(action.host));
  if (action.port != 0) {
    // Gateway API: the well-known port of the scheme is left out.
    if (!((scheme == "http" && action.port == 80) || (scheme == "https" && action.port == 443))) {
      out.append(":").append(std::to_string(action.port));
    }
  } else if (!port.empty() && action.host.empty()) {
    // Envoy: a change of scheme drops a port that was the old scheme's default.
    bool default_of_old =
        (old_scheme == "http" && port == "80") || (old_scheme == "https" && port == "443");
    if (scheme == old_scheme || !default_of_old) out.append(":").append(port);
  }
  std::string path;
  if (!action.path.empty()) {
    path = action.path;
    size_t mark = head.path.find('?');
    if (path.find('?') == std::string::npos && mark != std::string_view::npos) {
      path.append(head.path.substr(mark));
    }
  } else if (action.has_prefix_rewrite) {
    path = ReplaceMatchedPrefix(match, head.path, action.prefix_rewrite);
  } else if (action.regex_rewrite) {
    path = RewriteByRegex(*action.regex_rewrite, head.path);
  } else {
    path = std::string(head.path);
  }
  if (action.strip_query) path.erase(std::min(path.find('?'), path.size()));
  return out.append(path);
}

}  // namespace qanat::waypoint
