// SPDX-License-Identifier: Apache-2.0
#include "common/http/message.h"

#include <gtest/gtest.h>

#include "common/http/http1_head.h"

namespace qanat::http {
namespace {

TEST(HeaderList, KeepsOrderAndIgnoresCase) {
  HeaderList h;
  h.Add("B", "1");
  h.Add("a", "2");
  h.Add("b", "3");
  EXPECT_EQ(h.Get("b"), "1");
  EXPECT_EQ(h.GetJoined("B"), "1,3");
  EXPECT_EQ(h.Count("B"), 2u);
  h.Set("B", "9");
  EXPECT_EQ(h.size(), 2u);
  EXPECT_EQ(h.begin()->name, "b");
  EXPECT_EQ(h.begin()->value, "9");
  EXPECT_EQ(h.Remove("A"), 1u);
  EXPECT_FALSE(h.Has("a"));
  h.Add("x-envoy-a", "1");
  h.Add("X-Envoy-B", "1");
  EXPECT_EQ(h.RemovePrefix("X-ENVOY-"), 2u);
  EXPECT_EQ(h.GetJoined("none"), std::nullopt);
}

TEST(Message, PathAndQuery) {
  RequestHead r;
  r.path = "/a?b=c?d";
  EXPECT_EQ(r.PathOnly(), "/a");
  EXPECT_EQ(r.Query(), "b=c?d");
  r.path = "/a";
  EXPECT_EQ(r.Query(), "");
  EXPECT_EQ(QueryParameter("a=1&b=%2f+x&b=2&c", "b"), "/ x");
  EXPECT_EQ(QueryParameter("a=1&c", "c"), "");
  EXPECT_EQ(QueryParameter("a=1", "d"), std::nullopt);
  EXPECT_EQ(PercentDecode("%4", false), "%4");
  EXPECT_EQ(PercentDecode("%zz%41", false), "%zzA");
  EXPECT_EQ(PercentDecode("100%", false), "100%");
}

TEST(Message, Authorities) {
  for (const char* good : {"a", "a.b-c_d", "a:80", "1.2.3.4:65535", "[::1]", "[fd00::1]:80"}) {
    EXPECT_TRUE(IsAuthority(good)) << good;
  }
  for (const char* bad : {"", ":80", "a:b", "a:123456", "a@b", "a/b", "a b", "[::1", "[]",
                          "a:80:80", "a\\b", "[::1]x", "a%2fb", "::1"}) {
    EXPECT_FALSE(IsAuthority(bad)) << bad;
  }
}

}  // namespace
}  // namespace qanat::http
