// SPDX-License-Identifier: Apache-2.0
// Credentials of the plugin and the question whether we are being uninstalled, against a fake API
// server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>

#include "agent/cluster/own_daemonset.h"
#include "agent/cni/credentials.h"
#include "agent/files/files.h"
#include "agent/plugin/kubeconfig.h"
#include "common/kube/test_util.h"
#include "tests/support/kube/fake_api_server.h"

namespace qanat::agent {
namespace {

using kube::testing::RunFor;
using kube::testing::RunUntil;
using std::chrono::milliseconds;

constexpr const char* kDaemonSet = "/apis/apps/v1/namespaces/qanat-system/daemonsets/qanat-agent";

class ClusterTest : public ::testing::Test {
 protected:
  ClusterTest() {
    char name[] = "/tmp/qanat-cluster-XXXXXX";
    dir_ = ::mkdtemp(name);
    client_ = std::make_unique<kube::Client>(loop_, server_.Config());
  }
  ~ClusterTest() override { std::filesystem::remove_all(dir_); }

  std::string TokenOnDisk() {
    auto text = agent::ReadFile(dir_ + "/kubeconfig");
    if (!text) return "";
    auto config = plugin::ParseKubeconfigJson(*text);
    return config ? config->token : "";
  }
  std::unique_ptr<cni::Credentials> StartCredentials() {
    cni::CredentialsOptions options;
    options.path = dir_ + "/kubeconfig";
    auto credentials = std::make_unique<cni::Credentials>(loop_, *client_, options);
    credentials->Start();
    return credentials;
  }
  bool Ends(OwnDaemonSet& daemonset) {
    std::optional<bool> answer;
    daemonset.AskWhetherItEnds([&](bool ends) { answer = ends; });
    EXPECT_TRUE(RunUntil(loop_, [&] { return answer.has_value(); }));
    return answer.value_or(false);
  }

  std::string dir_;
  event::EventLoop loop_;
  kube::testing::FakeApiServer server_;
  std::unique_ptr<kube::Client> client_;
};

TEST_F(ClusterTest, ThePluginGetsATokenOfItsOwn) {
  server_.AddFault(
      {.method = "POST",
       .path_part = "/serviceaccounts/qanat-cni/token",
       .count = -1,
       .status = 201,
       .body = R"({"status":{"token":"t1","expirationTimestamp":"2999-01-01T00:00:00Z"}})"});
  auto credentials = StartCredentials();
  ASSERT_TRUE(RunUntil(loop_, [&] { return TokenOnDisk() == "t1"; }));
  EXPECT_EQ(credentials->problem(), "");
  struct stat s{};
  ASSERT_EQ(::stat((dir_ + "/kubeconfig").c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0600u);
  auto config = plugin::ParseKubeconfigJson(*agent::ReadFile(dir_ + "/kubeconfig"));
  EXPECT_EQ(config->server, server_.Config().server);
  EXPECT_EQ(config->ca_pem, server_.Config().ca_pem);
}

TEST_F(ClusterTest, WithoutItsServiceAccountItGetsOurs) {
  server_.AddFault(
      {.method = "POST", .path_part = "/token", .count = -1, .status = 403, .reason = "Forbidden"});
  auto credentials = StartCredentials();
  EXPECT_TRUE(RunUntil(loop_, [&] { return TokenOnDisk() == "test-token"; }));
}

TEST_F(ClusterTest, AnApiServerThatIsAwayLeavesWhatIsThere) {
  ASSERT_TRUE(WriteFileAtomically(
      dir_ + "/kubeconfig", plugin::FormatKubeconfigJson({"https://x", "", "", "old", "", ""})));
  server_.Listen(false);
  auto credentials = StartCredentials();
  EXPECT_TRUE(
      RunUntil(loop_, [&] { return !credentials->problem().empty(); }, std::chrono::seconds(15)));
  EXPECT_EQ(TokenOnDisk(), "old");
}

TEST(TokenRequestTest, ReadsTheAnswer) {
  auto token = cni::ParseTokenRequest(
      R"({"status":{"token":"t","expirationTimestamp":"1970-01-02T00:00:00Z"}})");
  ASSERT_TRUE(token);
  EXPECT_EQ(token->token, "t");
  EXPECT_EQ(token->expires_unix, 86400);
  for (const char* bad : {"", "[]", "{}", R"({"status":{}})", R"({"status":{"token":""}})"})
    EXPECT_FALSE(cni::ParseTokenRequest(bad)) << bad;
}

TEST_F(ClusterTest, OnlyADaemonSetThatGoesEndsUs) {
  server_.Put(kDaemonSet, "{}");
  {
    OwnDaemonSet daemonset(*client_, "qanat-system", "qanat-agent");
    EXPECT_FALSE(Ends(daemonset)) << "an upgrade";
    server_.Put(kDaemonSet, R"({"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z"}})");
    EXPECT_TRUE(Ends(daemonset));
  }
  server_.Remove(kDaemonSet);
  OwnDaemonSet gone(*client_, "qanat-system", "qanat-agent");
  EXPECT_TRUE(Ends(gone));
}

TEST_F(ClusterTest, WhatWasSeenCountsWhenTheRightsAreGone) {
  server_.Put(kDaemonSet, "{}");
  OwnDaemonSet daemonset(*client_, "qanat-system", "qanat-agent");
  ASSERT_TRUE(RunUntil(loop_, [&] { return server_.watches() == 1; }));
  server_.Remove(kDaemonSet);
  RunFor(loop_, milliseconds(100));
  server_.RequireToken("another");
  EXPECT_TRUE(Ends(daemonset));
}

TEST_F(ClusterTest, WhatCannotBeKnownIsAnUpgrade) {
  server_.Put(kDaemonSet, "{}");
  server_.RequireToken("another");
  OwnDaemonSet daemonset(*client_, "qanat-system", "qanat-agent");
  EXPECT_FALSE(Ends(daemonset));
  server_.Listen(false);
  EXPECT_FALSE(Ends(daemonset));
}

}  // namespace
}  // namespace qanat::agent
