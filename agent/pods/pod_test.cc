// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/pod.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qanat::agent {
namespace {

using ::testing::HasSubstr;

constexpr const char* kPod =
    R"({"uid":"u-1","name":"web-0","namespace":"shop","serviceAccount":"web",
  "labels":{"app":"web"},"annotations":{},"namespaceLabels":{"istio.io/dataplane-mode":"ambient"},
  "hostNetwork":false,"netns":"/run/netns/x","ips":["10.91.1.5","fd91:1::5"],"phase":"Running"})";

TEST(PodTest, ReadsEveryField) {
  auto pod = ParsePod(kPod);
  ASSERT_TRUE(pod) << pod.error().message;
  EXPECT_EQ(pod->FullName(), "shop/web-0");
  EXPECT_EQ(pod->service_account, "web");
  EXPECT_EQ(pod->Ip4().ToString(), "10.91.1.5");
  EXPECT_EQ(pod->Ip6().ToString(), "fd91:1::5");
  EXPECT_TRUE(DecideMembership(*pod).in_mesh);
}

TEST(PodTest, BadInputNamesTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not JSON"},
      {"{\"uid\":\"u\"", "not JSON"},
      {"[]", "not a JSON object"},
      {R"({"name":"a","namespace":"b"})", "\"uid\""},
      {R"({"uid":"../../etc","name":"a","namespace":"b"})", "\"uid\""},
      {R"({"uid":".u","name":"a","namespace":"b"})", "\"uid\""},
      {R"({"uid":7,"name":"a","namespace":"b"})", "\"uid\""},
      {R"({"uid":"u","name":"","namespace":"b"})", "\"name\""},
      {R"({"uid":"u","name":"a","namespace":"b","ips":["10.0.0.300"]})", "10.0.0.300"},
      {R"({"uid":"u","name":"a","namespace":"b","ips":["127.0.0.1"]})", "127.0.0.1"},
      {R"({"uid":"u","name":"a","namespace":"b","ips":["10.0.0.1","10.0.0.2"]})", "one family"},
      {R"({"uid":"u","name":"a","namespace":"b","ips":"10.0.0.1"})", "no array"},
      {R"({"uid":"u","name":"a","namespace":"b","labels":{"x":1}})", "labels"},
      {R"({"uid":"u","name":"a","namespace":"b","hostNetwork":"no"})", "hostNetwork"},
      {R"({"uid":"u","name":"a","namespace":"b","dnsPolicy":1})", "dnsPolicy"},
      {R"({"uid":"u","name":"a","namespace":"b","dnsConfig":[]})", "dnsConfig"},
  };
  for (const auto& [text, wanted] : cases) {
    auto pod = ParsePod(text);
    ASSERT_FALSE(pod) << text;
    EXPECT_THAT(pod.error().message, HasSubstr(wanted)) << text;
  }
}

TEST(PodTest, MembershipIsTheStockRule) {
  Pod pod = *ParsePod(kPod);
  pod.labels["istio.io/dataplane-mode"] = "none";
  EXPECT_FALSE(DecideMembership(pod).in_mesh);
  pod.labels["istio.io/dataplane-mode"] = "ambient";
  pod.namespace_labels.clear();
  EXPECT_TRUE(DecideMembership(pod).in_mesh);
  pod.host_network = true;
  EXPECT_FALSE(DecideMembership(pod).in_mesh);
  pod.host_network = false;
  pod.phase = "Succeeded";
  EXPECT_FALSE(DecideMembership(pod).in_mesh);
  pod.phase = "Pending";
  EXPECT_TRUE(DecideMembership(pod).in_mesh);
  pod.labels.clear();
  const Membership out = DecideMembership(pod);
  EXPECT_FALSE(out.in_mesh);
  EXPECT_THAT(out.reason, HasSubstr("label"));
  EXPECT_FALSE(out.refused) << "nobody asked";
}

TEST(PodTest, ASidecarIsARefusalOnlyOfWhatWasAskedFor) {
  std::string text = kPod;
  text.replace(text.find("\"annotations\":{}"), 16,
               R"("annotations":{"sidecar.istio.io/status":"{}"})");
  Pod pod = *ParsePod(text);
  const Membership refused = DecideMembership(pod);
  EXPECT_FALSE(refused.in_mesh);
  EXPECT_TRUE(refused.refused);
  EXPECT_THAT(refused.reason, HasSubstr("annotation sidecar.istio.io/status"));
  EXPECT_THAT(refused.reason, HasSubstr("sidecar.istio.io/inject")) << "a remedy";
  pod.labels["istio.io/dataplane-mode"] = "none";
  EXPECT_FALSE(DecideMembership(pod).refused);
  pod.labels.clear();
  pod.phase = "Failed";
  EXPECT_FALSE(DecideMembership(pod).refused);
  pod.phase = "Running";
  pod.namespace_labels.clear();
  EXPECT_FALSE(DecideMembership(pod).refused);
}

}  // namespace
}  // namespace qanat::agent
