// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/kube_pod.h"

#include <gtest/gtest.h>

namespace qanat::agent {
namespace {

constexpr const char* kPod = R"({
  "apiVersion":"v1","kind":"Pod",
  "metadata":{"name":"web-0","namespace":"shop","uid":"0a1b2c3d-0000-4000-8000-000000000001",
    "labels":{"app":"web","istio.io/dataplane-mode":"ambient"},
    "annotations":{"ambient.istio.io/redirection":"enabled"},"deletionTimestamp":"2026-01-01T00:00:00Z"},
  "spec":{"nodeName":"n1","serviceAccountName":"web","containers":[{"name":"web"}]},
  "status":{"phase":"Running","podIP":"10.244.1.5",
    "podIPs":[{"ip":"fd00::5"},{"ip":"10.244.1.5"},{"ip":"10.244.1.6"},{"ip":"not an address"}]}})";

TEST(KubePodTest, ReadsWhatTheAgentNeeds) {
  auto pod = ParseKubePod(kPod);
  ASSERT_TRUE(pod) << pod.error().message;
  EXPECT_EQ(pod->FullName(), "shop/web-0");
  EXPECT_EQ(pod->uid, "0a1b2c3d-0000-4000-8000-000000000001");
  EXPECT_EQ(pod->service_account, "web");
  EXPECT_FALSE(pod->host_network);
  EXPECT_EQ(pod->phase, "Running");
  ASSERT_EQ(pod->ips.size(), 2u) << "one a family";
  EXPECT_EQ(pod->ips[0].ToString(), "10.244.1.5") << "IPv4 first, whatever the cluster's order";
  EXPECT_EQ(pod->ips[1].ToString(), "fd00::5");
  EXPECT_EQ(PublishedOf(*pod), "enabled");
  EXPECT_TRUE(DecideMembership(*pod).in_mesh) << "terminating pods still are";
}

TEST(KubePodTest, AbsentAndNullReadTheSame) {
  auto pod = ParseKubePod(R"({"metadata":{"name":"a","namespace":"b","uid":"u","labels":null},
    "spec":{"hostNetwork":true},"status":{"podIPs":null,"podIP":"10.0.0.1"}})");
  ASSERT_TRUE(pod);
  EXPECT_TRUE(pod->host_network);
  EXPECT_EQ(pod->service_account, "default");
  EXPECT_EQ(pod->Ip4().ToString(), "10.0.0.1");
  EXPECT_FALSE(DecideMembership(*pod).in_mesh);
}

TEST(KubePodTest, ASidecarIsSeenByItsContainerToo) {
  std::string text = kPod;
  const std::string containers = R"("containers":[{"name":"web"}])";
  text.replace(text.find(containers), containers.size(),
               R"("containers":[{"name":"web"},{"name":"istio-proxy"}])");
  auto pod = ParseKubePod(text);
  ASSERT_TRUE(pod) << pod.error().message;
  const Membership membership = DecideMembership(*pod);
  EXPECT_FALSE(membership.in_mesh);
  EXPECT_TRUE(membership.refused) << membership.reason;
}

TEST(KubePodTest, ObjectsWithoutIdentityAreRefused) {
  for (const char* text : {"", "[]", "{", "{}", R"({"metadata":{"name":"a","namespace":"b"}})",
                           R"({"metadata":{"name":"a","namespace":"b","uid":"../x"}})",
                           R"({"metadata":{"namespace":"b","uid":"u"}})", R"({"metadata":[]})"})
    EXPECT_FALSE(ParseKubePod(text)) << text;
  EXPECT_FALSE(ParseKubeNamespace("{}"));
}

TEST(KubePodTest, ReadsNamespaces) {
  auto ns = ParseKubeNamespace(
      R"({"metadata":{"name":"shop","labels":{"istio.io/dataplane-mode":"ambient","x":1}}})");
  ASSERT_TRUE(ns);
  EXPECT_EQ(ns->name, "shop");
  EXPECT_EQ(ns->labels.at("istio.io/dataplane-mode"), "ambient");
  EXPECT_EQ(ns->labels.size(), 1u);
}

}  // namespace
}  // namespace qanat::agent
