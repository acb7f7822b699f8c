// SPDX-License-Identifier: Apache-2.0
#include "waypoint/route/route_table.h"

#include <gtest/gtest.h>

#include "waypoint/route/path_template.h"

namespace qanat::waypoint {
namespace {

http::RequestHead Request(std::string method, std::string authority, std::string path,
                          std::vector<std::pair<std::string, std::string>> headers = {}) {
  http::RequestHead head;
  head.method = std::move(method);
  head.scheme = "http";
  head.authority = std::move(authority);
  head.path = std::move(path);
  for (auto& [n, v] : headers) head.headers.Add(n, v);
  return head;
}

StringMatch Text(StringMatch::Kind kind, std::string value, bool ignore_case = false) {
  StringMatch m;
  m.kind = kind;
  m.ignore_case = ignore_case;
  m.value = ignore_case ? AsciiLower(value) : value;
  if (kind == StringMatch::Kind::kRegex) m.regex = *Regex::Compile(value);
  return m;
}

PathMatch Path(PathMatch::Kind kind, std::string value, bool case_sensitive = true) {
  PathMatch m;
  m.kind = kind;
  m.value = case_sensitive ? value : AsciiLower(value);
  m.case_sensitive = case_sensitive;
  if (kind == PathMatch::Kind::kRegex) m.regex = *Regex::Compile(value);
  return m;
}

TEST(StringMatch, Table) {
  using K = StringMatch::Kind;
  struct {
    K kind;
    const char* pattern;
    bool ignore_case;
    const char* text;
    bool want;
  } cases[] = {
      {K::kExact, "a", false, "a", true},
      {K::kExact, "a", false, "A", false},
      {K::kExact, "Ab", true, "aB", true},
      {K::kExact, "", false, "", true},
      {K::kPrefix, "/api", false, "/apix", true},
      {K::kPrefix, "/api", false, "/ap", false},
      {K::kSuffix, ".com", false, "x.com", true},
      {K::kSuffix, ".COM", true, "x.Com", true},
      {K::kContains, "mid", false, "a-mid-b", true},
      {K::kRegex, "v[0-9]+", false, "v12", true},
      {K::kRegex, "v[0-9]+", false, "xv12", false},  // the whole text, as in Envoy
      {K::kRegex, "v[0-9]+", false, "v12x", false},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(Text(c.kind, c.pattern, c.ignore_case).Matches(c.text), c.want)
        << c.pattern << " on " << c.text;
  }
  EXPECT_FALSE(Regex::Compile("(").has_value());
  EXPECT_FALSE(Regex().FullMatch(""));
}

TEST(HeaderMatch, Table) {
  http::RequestHead with = Request("GET", "h", "/", {{"X-A", "1"}, {"x-a", "2"}, {"n", "5"}});
  HeaderMatch m;
  m.name = "x-a";
  EXPECT_TRUE(m.Matches(HeadView(with)));
  m.invert = true;
  EXPECT_FALSE(m.Matches(HeadView(with)));
  m.invert = false;
  m.present = false;
  EXPECT_FALSE(m.Matches(HeadView(with)));
  m.name = "none";
  EXPECT_TRUE(m.Matches(HeadView(with)));

  HeaderMatch text;
  text.kind = HeaderMatch::Kind::kString;
  text.name = "x-a";
  text.text = Text(StringMatch::Kind::kExact, "1,2");  // joined, as Envoy matches them
  EXPECT_TRUE(text.Matches(HeadView(with)));
  text.invert = true;
  EXPECT_FALSE(text.Matches(HeadView(with)));
  // A missing header matches neither way, unless missing counts as empty.
  text.name = "none";
  EXPECT_FALSE(text.Matches(HeadView(with)));
  text.missing_is_empty = true;
  EXPECT_TRUE(text.Matches(HeadView(with)));
  text.invert = false;
  EXPECT_FALSE(text.Matches(HeadView(with)));

  HeaderMatch range;
  range.kind = HeaderMatch::Kind::kRange;
  range.name = "n";
  range.range_start = 1;
  range.range_end = 5;
  EXPECT_FALSE(range.Matches(HeadView(with)));  // the end is not included
  range.range_end = 6;
  EXPECT_TRUE(range.Matches(HeadView(with)));
  range.name = "x-a";
  EXPECT_FALSE(range.Matches(HeadView(with)));  // not a number

  HeaderMatch method;
  method.kind = HeaderMatch::Kind::kString;
  method.name = ":method";
  method.text = Text(StringMatch::Kind::kExact, "GET");
  EXPECT_TRUE(method.Matches(HeadView(with)));
}

TEST(QueryMatch, FirstValueCounts) {
  QueryMatch m;
  m.name = "a";
  EXPECT_TRUE(m.Matches("a=1"));
  EXPECT_TRUE(m.Matches("b=2&a"));
  EXPECT_FALSE(m.Matches("aa=1"));
  EXPECT_FALSE(m.Matches(""));
  m.by_value = true;
  m.text = Text(StringMatch::Kind::kExact, "1");
  EXPECT_TRUE(m.Matches("x=&a=1&a=2"));
  EXPECT_FALSE(m.Matches("a=2&a=1"));
  EXPECT_FALSE(m.Matches("a"));
}

TEST(PathMatch, Table) {
  using K = PathMatch::Kind;
  struct {
    PathMatch match;
    const char* path;
    bool want;
  } cases[] = {
      {Path(K::kPrefix, "/"), "/anything", true},
      {Path(K::kPrefix, "/api"), "/apiary", true},
      {Path(K::kPrefix, "/API", false), "/api/x", true},
      {Path(K::kExact, "/api"), "/api", true},
      {Path(K::kExact, "/api"), "/api/", false},
      {Path(K::kSeparatedPrefix, "/api"), "/api", true},
      {Path(K::kSeparatedPrefix, "/api"), "/api/x", true},
      {Path(K::kSeparatedPrefix, "/api"), "/apiary", false},
      {Path(K::kRegex, "/v[12]/.*"), "/v1/x", true},
      {Path(K::kRegex, "/v[12]"), "/v1/x", false},
      {Path(K::kTemplate, "/a/{*}/c"), "/a/b/c", true},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(c.match.Matches("GET", c.path), c.want) << c.match.Describe() << " " << c.path;
  }
  EXPECT_TRUE(Path(K::kConnect, "").Matches("CONNECT", ""));
}

TEST(PathTemplate, Table) {
  struct {
    const char* pattern;
    const char* path;
    bool want;
  } cases[] = {
      {"/foo/{*}/bar", "/foo/x/bar", true},
      {"/foo/{*}/bar", "/foo/x/y/bar", false},
      {"/foo/{*}/bar", "/foo//bar", false},
      {"/foo/{**}", "/foo/", true},
      {"/foo/{**}", "/foo/a/b", true},
      {"/foo/{**}/end", "/foo/a/b/end", true},
      {"/foo/{**}/end", "/foo/a/b", false},
      {"/{**}", "/", true},
      {"/a/{name}/b", "/a/x/b", true},
      {"/a/{name=**}/b", "/a/x/y/b", true},
      {"/a", "/a/", false},
      {"/a/*", "/a/b", true},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(MatchesPathTemplate(c.pattern, c.path), c.want) << c.pattern << " " << c.path;
  }
}

TEST(NormalizePath, WhatARuleMustNotMiss) {
  PathNormalization base;
  base.dot_segments = true;
  struct {
    const char* in;
    const char* out;
  } cases[] = {
      {"/", "/"},
      {"/a/./b", "/a/b"},
      {"/a/../admin", "/admin"},
      {"/a/%2e%2e/admin", "/admin"},
      {"/a/%2E/b", "/a/b"},
      {"/../../x", "/x"},
      {"/a/b/..", "/a/"},
      {"/a/.", "/a/"},
      {"/..", "/"},
      {"\\a\\b", "/a/b"},
      {"/%61dmin", "/admin"},
      {"/a%2fb", "/a%2fb"},  // kept unless told otherwise
      {"/a//b", "/a//b"},
      {"/a?x=/../y", "/a?x=/../y"},  // the query is not a path
      {"/a#frag", "/a"},
      {"/%zz", "/%zz"},
  };
  for (const auto& c : cases) {
    auto got = NormalizePath(base, c.in);
    ASSERT_TRUE(got.has_value()) << c.in;
    EXPECT_EQ(*got, c.out) << c.in;
    EXPECT_EQ(NormalizePath(base, *got), *got) << "not stable: " << c.in;
  }
  EXPECT_FALSE(NormalizePath(base, "").has_value());
  EXPECT_FALSE(NormalizePath(base, "x").has_value());
  EXPECT_FALSE(NormalizePath(base, "/%00").has_value());

  PathNormalization merge = base;
  merge.merge_slashes = true;
  EXPECT_EQ(NormalizePath(merge, "//a///b"), "/a/b");
  PathNormalization reject = base;
  reject.escaped_slashes = PathNormalization::EscapedSlashes::kReject;
  EXPECT_FALSE(NormalizePath(reject, "/a%2Fb").has_value());
  EXPECT_FALSE(NormalizePath(reject, "/a%5cb").has_value());
  PathNormalization unescape = base;
  unescape.escaped_slashes = PathNormalization::EscapedSlashes::kUnescapeAndForward;
  EXPECT_EQ(NormalizePath(unescape, "/a%2F..%2Fadmin"), "/admin");
}

RouteTable Table() {
  RouteTable t;
  t.name = "t";
  auto host = [&](std::string name, std::vector<std::string> domains) {
    VirtualHost h;
    h.name = std::move(name);
    h.domains = std::move(domains);
    Route r;
    r.name = h.name;
    r.action = DirectResponse{200, ""};
    h.routes.push_back(std::move(r));
    t.hosts.push_back(std::move(h));
  };
  host("exact", {"a.example.com", "b.example.com:8080"});
  host("suffix", {"*.example.com"});
  host("longer", {"*.b.example.com"});
  host("prefix", {"a.*"});
  host("any", {"*"});
  return t;
}

TEST(RouteTable, DomainOrder) {
  RouteTable t = Table();
  ASSERT_TRUE(t.Index());
  struct {
    const char* authority;
    const char* want;
  } cases[] = {
      {"A.Example.com", "exact"},
      {"b.example.com:8080", "exact"},
      {"b.example.com", "suffix"},
      {"x.b.example.com", "longer"},
      {"a.org", "prefix"},
      {"else", "any"},
      {"", "any"},
      {"example.com", "any"},
  };
  for (const auto& c : cases) {
    const VirtualHost* h = t.FindHost(c.authority);
    ASSERT_NE(h, nullptr) << c.authority;
    EXPECT_EQ(h->name, c.want) << c.authority;
  }
  t.ignore_port_in_host = true;
  EXPECT_EQ(t.FindHost("a.example.com:99")->name, "exact");

  RouteTable twice = Table();
  twice.hosts[2].domains.push_back("A.example.com");
  EXPECT_FALSE(twice.Index());
}

TEST(RouteTable, FirstMatchWinsAndMissesSayWhy) {
  RouteTable t;
  VirtualHost h;
  h.domains = {"*"};
  Route header;
  header.name = "header";
  HeaderMatch hm;
  hm.kind = HeaderMatch::Kind::kString;
  hm.name = "x-user";
  hm.text = Text(StringMatch::Kind::kExact, "tester");
  header.match.headers.push_back(hm);
  header.action = DirectResponse{200, "header"};
  Route rest;
  rest.name = "rest";
  rest.match.path = Path(PathMatch::Kind::kPrefix, "/shop");
  rest.action = DirectResponse{200, "rest"};
  h.routes = {header, rest};
  t.hosts.push_back(h);
  ASSERT_TRUE(t.Index());

  auto yes = Request("GET", "x", "/shop/1", {{"x-user", "tester"}});
  EXPECT_EQ(t.Find(HeadView(yes), 0).route->name, "header");
  auto no = Request("GET", "x", "/shop/1?q=1");
  std::vector<RouteMiss> misses;
  EXPECT_EQ(t.Find(HeadView(no), 0, &misses).route->name, "rest");
  ASSERT_EQ(misses.size(), 1u);
  EXPECT_EQ(misses[0].why, "header x-user=tester wanted, seen nothing");
  auto none = Request("GET", "x", "/other");
  EXPECT_EQ(t.Find(HeadView(none), 0).route, nullptr);
}

TEST(PickCluster, FollowsTheWeights) {
  ForwardAction a;
  a.clusters = {{"v1", 90, {}, ""}, {"v2", 10, {}, ""}, {"v3", 0, {}, ""}};
  a.total_weight = 100;
  std::map<std::string, int> count;
  for (uint64_t i = 0; i < 1000; ++i) ++count[PickCluster(a, i)->cluster];
  EXPECT_EQ(count["v1"], 900);
  EXPECT_EQ(count["v2"], 100);
  EXPECT_EQ(count["v3"], 0);
  a.total_weight = 0;
  EXPECT_EQ(PickCluster(a, 7), nullptr);
}

TEST(RewritePath, Table) {
  using K = PathMatch::Kind;
  struct {
    PathMatch match;
    const char* rewrite;
    const char* path;
    const char* want;
  } cases[] = {
      {Path(K::kPrefix, "/old"), "/new", "/old/x?q=1", "/new/x?q=1"},
      {Path(K::kPrefix, "/old/"), "/", "/old/x", "/x"},
      {Path(K::kSeparatedPrefix, "/old"), "/", "/old/x", "/x"},
      {Path(K::kSeparatedPrefix, "/old"), "/new", "/old", "/new"},
      {Path(K::kExact, "/old"), "/new", "/old?q", "/new?q"},
      {Path(K::kRegex, "/o.*"), "/new", "/old", "/new"},
  };
  for (const auto& c : cases) {
    ForwardAction a;
    a.prefix_rewrite = c.rewrite;
    EXPECT_EQ(RewritePath(a, c.match, c.path), c.want);
  }
  ForwardAction a;
  a.regex_rewrite = RegexRewrite{*Regex::Compile("^/service/([^/]+)(/.*)$"), "\\2/instance/\\1"};
  EXPECT_EQ(RewritePath(a, PathMatch{}, "/service/foo/v1/api?x=1"), "/v1/api/instance/foo?x=1");
}

TEST(RedirectLocation, Table) {
  http::RequestHead head = Request("GET", "example.com:8080", "/a/b?q=1");
  RedirectAction r;
  PathMatch any;
  EXPECT_EQ(RedirectLocation(r, any, HeadView(head)), "http://example.com:8080/a/b?q=1");
  r.host = "other.org";
  EXPECT_EQ(RedirectLocation(r, any, HeadView(head)), "http://other.org/a/b?q=1");
  r.port = 80;
  EXPECT_EQ(RedirectLocation(r, any, HeadView(head)), "http://other.org/a/b?q=1");
  r.port = 8443;
  r.scheme = "https";
  r.strip_query = true;
  EXPECT_EQ(RedirectLocation(r, any, HeadView(head)), "https://other.org:8443/a/b");
  RedirectAction p;
  p.has_prefix_rewrite = true;
  p.prefix_rewrite = "/z";
  EXPECT_EQ(RedirectLocation(p, Path(PathMatch::Kind::kSeparatedPrefix, "/a"), HeadView(head)),
            "http://example.com:8080/z/b?q=1");
  RedirectAction whole;
  whole.path = "/new";
  EXPECT_EQ(RedirectLocation(whole, any, HeadView(head)), "http://example.com:8080/new?q=1");
}

TEST(HeaderOps, OrderAndOperators) {
  EXPECT_FALSE(HeaderValue::Parse("%NOT_KNOWN%").has_value());
  EXPECT_FALSE(HeaderValue::Parse("50%").has_value());
  EXPECT_FALSE(HeaderValue::Parse("a\r\nb: c").has_value());
  HeaderFormatContext context;
  context.protocol = "HTTP/2";
  EXPECT_EQ(HeaderValue::Parse("100%% %PROTOCOL%")->Format(context), "100% HTTP/2");

  auto op = [](HeaderOp::Kind kind, std::string name, const char* value) {
    HeaderOp o;
    o.kind = kind;
    o.name = std::move(name);
    o.value = *HeaderValue::Parse(value);
    return o;
  };
  http::HeaderList headers;
  headers.Add("a", "1");
  headers.Add("gone", "1");
  ApplyHeaderOps(
      {op(HeaderOp::Kind::kAppend, "a", "2"), op(HeaderOp::Kind::kAddIfAbsent, "a", "3"),
       op(HeaderOp::Kind::kOverwrite, "b", "4"), op(HeaderOp::Kind::kOverwriteIfExists, "c", "5"),
       op(HeaderOp::Kind::kOverwrite, "gone", "again")},
      {"gone"}, context, headers);
  EXPECT_EQ(headers.GetJoined("a"), "1,2");
  EXPECT_EQ(headers.GetJoined("b"), "4");
  EXPECT_FALSE(headers.Has("c"));
  EXPECT_EQ(headers.GetJoined("gone"), "again");
}

}  // namespace
}  // namespace qanat::waypoint
