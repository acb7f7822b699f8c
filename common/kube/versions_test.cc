// SPDX-License-Identifier: Apache-2.0
// What a reflector does about a 404, huge pages, and servers that say nothing of what they lost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/kube/test_util.h"
#include "tests/support/kube/fake_api_server.h"

namespace qanat::kube::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kGroup[] = "/apis/gateway.networking.k8s.io";
constexpr char kRoute[] =
    R"({"kind":"HTTPRoute","apiVersion":"gateway.networking.k8s.io/v1beta1"})";

class KubeVersions : public ::testing::Test {
 protected:
  bool Until(const std::function<bool()>& so) { return RunUntil(loop_, so); }
  static std::string PathIn(const std::string& version) {
    return std::string(kGroup) + "/" + version + "/namespaces/shop/httproutes/r";
  }
  // What discovery says: which versions there are and which of them have HTTPRoutes.
  void Serve(const std::vector<std::string>& versions) {
    std::string list;
    for (const char* version : {"v1beta1", "v1"}) {
      list += std::string(list.empty() ? "" : ",") + R"({"version":")" + version + "\"}";
      const bool has = std::find(versions.begin(), versions.end(), version) != versions.end();
      server_.SetDocument(std::string(kGroup) + "/" + version,
                          std::string(R"({"kind":"APIResourceList","resources":[{"name":"x"})") +
                              (has ? R"(,{"name":"httproutes"})" : "") + "]}");
      server_.SetAbsent(std::string(kGroup) + "/" + version + "/httproutes", !has);
    }
    server_.SetDocument(kGroup, R"({"kind":"APIGroup","versions":[)" + list + "]}");
  }

  FakeApiServer server_;
  event::EventLoop loop_;
  Client client_{loop_, server_.Config(), {.backoff_first = 10ms, .backoff_max = 50ms}};
};

TEST_F(KubeVersions, AnotherVersionThatWillDoIsFollowed) {
  Serve({"v1beta1"});
  server_.Put(PathIn("v1beta1"), kRoute);
  Recorder r(client_, Routes(), {.other_versions = {"v1beta1"}});
  ASSERT_TRUE(Until([&] { return r.syncs == 1; }));
  EXPECT_THAT(r.log, ElementsAre("+shop/r", "sync"));
  EXPECT_EQ(r.reflector->resource().version, "v1beta1");
}

TEST_F(KubeVersions, WhatIsKeptInAnotherVersionIsNotGone) {
  server_.Put(PathIn("v1"), kRoute);
  Recorder r(client_, Routes());
  ASSERT_TRUE(Until([&] { return r.syncs == 1 && server_.watches() == 1; }));
  Serve({"v1beta1"});
  server_.EndWatches();
  ASSERT_TRUE(Until([&] { return !r.errors.empty() && r.errors.back().find("v1beta1") < 999; }));
  EXPECT_THAT(r.errors.back(), HasSubstr("install a CRD that serves v1"));
  EXPECT_EQ(r.objects.size(), 1U);
  EXPECT_EQ(r.Count("absent"), 0U);
  Serve({"v1", "v1beta1"});
  ASSERT_TRUE(Until([&] { return r.syncs == 2; }));
  EXPECT_EQ(r.objects.size(), 1U);
  // And with its CRD gone, so are they.
  Serve({});
  server_.EndWatches();
  ASSERT_TRUE(Until([&] { return r.Count("absent") == 1; }));
  EXPECT_TRUE(r.objects.empty());
}

TEST_F(KubeVersions, A404ThatDiscoveryDeniesIsAFailure) {
  Serve({"v1"});
  server_.Put(PathIn("v1"), kRoute);
  server_.Put("/api/v1/namespaces/shop/pods/a", R"({"kind":"Pod"})");
  Recorder r(client_, Routes());
  Recorder pods(client_, Pods());
  ASSERT_TRUE(Until([&] { return r.syncs == 1 && pods.syncs == 1 && server_.watches() == 2; }));
  server_.AddFault({.path_part = "httproutes", .count = 3, .status = 404, .body = "no page\n"});
  server_.AddFault({.path_part = "pods", .count = 3, .status = 404, .body = "no page\n"});
  server_.EndWatches();
  ASSERT_TRUE(Until([&] { return r.syncs == 2 && pods.syncs == 2; }));
  EXPECT_EQ(r.Count("-shop/r") + pods.Count("-shop/a"), 0U);
  EXPECT_EQ(r.Count("absent") + pods.Count("absent"), 0U);
}

TEST_F(KubeVersions, DiscoveryThatFailsChangesNothing) {
  server_.Put(PathIn("v1"), kRoute);
  Recorder r(client_, Routes());
  ASSERT_TRUE(Until([&] { return r.syncs == 1 && server_.watches() == 1; }));
  server_.AddFault({.path_part = "/v1/httproutes", .count = 4, .status = 404, .body = "no page\n"});
  server_.AddFault({.path_part = kGroup, .count = 3, .status = 503, .body = "later"});
  server_.EndWatches();
  ASSERT_TRUE(Until([&] { return r.syncs == 2; }));
  EXPECT_EQ(r.Count("absent"), 0U);
  EXPECT_EQ(r.objects.size(), 1U);
}

TEST_F(KubeVersions, ListsAgainNowAndThen) {
  Recorder r(client_, Pods(), {.relist = 50ms});
  Recorder rarely(client_, Pods());
  ASSERT_TRUE(Until([&] { return r.syncs == 1 && rarely.syncs == 1 && server_.watches() == 2; }));
  RunFor(loop_, 100ms);
  server_.EndWatches();
  ASSERT_TRUE(Until([&] { return r.syncs == 2 && server_.watches() == 2; }));
  EXPECT_EQ(rarely.reflector->status().lists, 1U);
}

TEST_F(KubeVersions, PagesBecomeSmallerWhereObjectsAreHuge) {
  const std::string big(1000, 'x');
  for (int i = 0; i < 30; ++i) {
    server_.Put("/api/v1/namespaces/shop/pods/p" + std::to_string(i),
                R"({"kind":"Pod","spec":{"x":")" + big + "\"}}");
  }
  Recorder r(client_, Pods(), {.page_bytes = 3000});
  ASSERT_TRUE(Until([&] { return r.syncs == 1; }));
  EXPECT_EQ(r.objects.size(), 30U);
}

TEST_F(KubeVersions, ADeepObjectDoesNotStopTheOthers) {
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  server_.AddFault({.path_part = "limit=",
                    .status = 200,
                    .body = R"({"metadata":{"resourceVersion":"1000"},"items":[)"
                            R"({"metadata":{"name":"a","resourceVersion":"1"},"x":)" +
                            deep + R"(},{"metadata":{"name":"b","resourceVersion":"1"}}]})"});
  Recorder r(client_, Pods());
  ASSERT_TRUE(Until([&] { return r.syncs == 1; }));
  EXPECT_THAT(r.log, ElementsAre("+a", "+b", "sync"));
}

}  // namespace
}  // namespace qanat::kube::testing
