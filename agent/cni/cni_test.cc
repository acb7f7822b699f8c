// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/cni.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::agent::cni {
namespace {

TEST(CniTest, ReadsTheRequest) {
  auto request = ParseAdd(R"({"Netns":"/run/netns/x","PodName":"p","PodNamespace":"n",
                              "IPs":[{"IP":"10.0.0.1"},{"IP":"fd00::1"}],"More":{"x":1}})");
  ASSERT_TRUE(request);
  EXPECT_EQ(request->netns, "/run/netns/x");
  EXPECT_EQ(request->pod_name, "p");
  EXPECT_EQ(request->pod_namespace, "n");
  EXPECT_THAT(request->ips, ::testing::ElementsAre("10.0.0.1", "fd00::1"));
  EXPECT_FALSE(request->in_mesh) << "a stock plugin says nothing of it";
  EXPECT_TRUE(ParseAdd(R"({"PodName":"p","PodNamespace":"n","InMesh":true})")->in_mesh);
}

TEST(CniTest, BadRequestsAreRefused) {
  for (const char* text :
       {"", "null", "[]", "{", R"({"PodName":"p"})", R"({"PodName":1,"PodNamespace":"n"})",
        R"({"PodName":"p","PodNamespace":"n","IPs":{}})",
        R"({"PodName":"p","PodNamespace":"n","IPs":["10.0.0.1"]})",
        R"({"PodName":"p","PodNamespace":"n","IPs":[{"IP":7}]})"})
    EXPECT_FALSE(ParseAdd(text)) << text;
}

}  // namespace
}  // namespace qanat::agent::cni
