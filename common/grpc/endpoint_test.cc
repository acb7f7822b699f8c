// SPDX-License-Identifier: Apache-2.0
#include "common/grpc/endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "common/grpc/backoff.h"

namespace qanat::grpc {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

TEST(Endpoint, Forms) {
  auto e = ParseEndpoint("https://istiod.istio-system.svc:15012");
  ASSERT_TRUE(e);
  EXPECT_TRUE(e->tls);
  EXPECT_EQ(e->host, "istiod.istio-system.svc");
  EXPECT_EQ(e->port, 15012);
  EXPECT_EQ(e->authority, "istiod.istio-system.svc:15012");
  e = ParseEndpoint("istiod:15012");
  EXPECT_TRUE(e && e->tls);
  e = ParseEndpoint("http://[fd90::fe]:15010/");
  ASSERT_TRUE(e);
  EXPECT_FALSE(e->tls);
  EXPECT_EQ(e->host, "fd90::fe");
  EXPECT_EQ(e->authority, "[fd90::fe]:15010");
  EXPECT_EQ(ParseEndpoint("https://a")->port, 443);
  for (const char* bad : {"", "https://", "ftp://a:1", "a:0", "a:65536", "a:x", "[::1", "[x]:1",
                          "http://a/b", "user@a:1", "a:", "[::1]80"}) {
    EXPECT_FALSE(ParseEndpoint(bad)) << bad;
  }
}

TEST(Endpoint, Timeouts) {
  EXPECT_EQ(FormatTimeout(milliseconds(0)), "1m");
  EXPECT_EQ(FormatTimeout(milliseconds(1500)), "1500m");
  EXPECT_EQ(FormatTimeout(milliseconds(100'000'000)), "100000S");
}

TEST(Endpoint, Statuses) {
  EXPECT_EQ(ParseStatusCode("14"), StatusCode::kUnavailable);
  EXPECT_EQ(ParseStatusCode("17"), StatusCode::kUnknown);
  EXPECT_EQ(ParseStatusCode(""), StatusCode::kUnknown);
  EXPECT_EQ(ParseStatusCode("-1"), StatusCode::kUnknown);
  EXPECT_EQ(CodeOfHttpStatus(503), StatusCode::kUnavailable);
  EXPECT_EQ(DecodeStatusMessage("caf%C3%A9 100%"), "caf\xc3\xa9 100%");
  const CallStatus status{StatusCode::kUnauthenticated, "request authenticate failure", false};
  EXPECT_EQ(status.ToString(), "UNAUTHENTICATED: request authenticate failure");
  EXPECT_EQ(status.ToError().code, Code::kUnauthenticated);
}

TEST(Endpoint, TokenFileIsReadEachTimeAndTrimmed) {
  const std::string path =
      std::filesystem::temp_directory_path() / ("qanat-token-" + std::to_string(::getpid()));
  auto metadata = TokenMetadata(path, "Kubernetes", {{"x-extra", "1"}});
  auto missing = metadata();
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().message, HasSubstr(path));
  std::ofstream(path) << "first\n";
  auto first = metadata();
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_THAT(*first, ::testing::ElementsAre(std::pair("x-extra", "1"),
                                             std::pair("authorization", "Bearer first"),
                                             std::pair("clusterid", "Kubernetes")));
  std::ofstream(path) << "second";
  EXPECT_EQ((*metadata())[1].second, "Bearer second");
  std::ofstream(path) << " \n";
  EXPECT_FALSE(metadata());
  std::filesystem::remove(path);
  EXPECT_EQ((*TokenMetadata("a.b.c", "")())[0].second, "Bearer a.b.c");
}

TEST(Endpoint, Roots) {
  EXPECT_FALSE(LoadRoots(""));
  EXPECT_FALSE(LoadRoots("/nonexistent/root.pem"));
  EXPECT_EQ(*LoadRoots("-----BEGIN CERTIFICATE-----\nx"), "-----BEGIN CERTIFICATE-----\nx");
}

TEST(Backoff, DoublesToItsLimitAndStartsAgain) {
  Backoff b({milliseconds(10), milliseconds(15000), 2.0, 0});
  std::vector<int64_t> seen;
  for (int i = 0; i < 13; ++i) seen.push_back(b.Next().count());
  EXPECT_THAT(seen, ::testing::ElementsAre(10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10240,
                                           15000, 15000));
  b.Reset();
  EXPECT_EQ(b.Next().count(), 10);
}

TEST(Backoff, JitterStaysInItsBounds) {
  Backoff b({milliseconds(1000), milliseconds(1000), 2.0, 0.2}, 7);
  std::set<int64_t> seen;
  for (int i = 0; i < 200; ++i) {
    const int64_t ms = b.Next().count();
    EXPECT_GE(ms, 800);
    EXPECT_LE(ms, 1200);
    seen.insert(ms);
  }
  EXPECT_GT(seen.size(), 50u);
}

}  // namespace
}  // namespace qanat::grpc
