// SPDX-License-Identifier: Apache-2.0
#include "common/kube/sidecar.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace qanat::kube {
namespace {

std::string Of(const char* pod) { return SidecarOf(nlohmann::json::parse(pod)); }

TEST(SidecarTest, AnnotationOrContainer) {
  EXPECT_EQ(Of(R"({"metadata":{"annotations":{"sidecar.istio.io/status":"{}"}}})"),
            "annotation sidecar.istio.io/status");
  EXPECT_EQ(Of(R"({"spec":{"containers":[{"name":"app"},{"name":"istio-proxy"}]}})"),
            "container istio-proxy");
  EXPECT_EQ(Of(R"({"spec":{"initContainers":[{"name":"istio-proxy","restartPolicy":"Always"}],
                           "containers":[{"name":"app"}]}})"),
            "container istio-proxy");
}

TEST(SidecarTest, NothingElseIsOne) {
  for (const char* pod :
       {"{}", "[]", "null", R"({"metadata":null,"spec":{"containers":null}})",
        R"({"metadata":{"annotations":{"sidecar.istio.io/status":""}}})",
        R"({"metadata":{"annotations":{"sidecar.istio.io/inject":"true"}}})",
        R"({"spec":{"containers":[{"name":"istio-proxy-2"},{"name":7},"istio-proxy",null]}})",
        R"({"spec":{"initContainers":[{"name":"istio-init"}]}})"})
    EXPECT_EQ(Of(pod), "") << pod;
}

}  // namespace
}  // namespace qanat::kube
