// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/headers.h"

#include <gtest/gtest.h>

namespace qanat::ztunnel {
namespace {

model::Workload Frontend() {
  model::Workload w;
  w.cluster_id = "Kubernetes";
  w.ns = "shop";
  w.workload_name = "frontend";
  w.type = model::WorkloadType::kDeployment;
  w.canonical_name = "frontend";
  w.canonical_revision = "v1";
  return w;
}

// As recorded from stock ztunnel.
TEST(Headers, Baggage) {
  EXPECT_EQ(MakeBaggage(Frontend()),
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=frontend,"
            "service.name=frontend,service.version=v1");
  const Baggage parsed = ParseBaggage(MakeBaggage(Frontend()) + " , cloud.region = eu;p=1");
  EXPECT_EQ(parsed.workload, "frontend");
  EXPECT_EQ(parsed.workload_type, "deployment");
  EXPECT_EQ(parsed.region, "eu");
  EXPECT_EQ(ParseBaggage(",,=,a,=b,").ns, "");
  EXPECT_EQ(ParseBaggage(std::string(100000, ',')).ns, "");
}

TEST(Headers, Forwarded) {
  const auto at = *net::SocketAddress::Parse("[fd91::5]:40000");
  EXPECT_EQ(MakeForwarded(at, ""), "for=\"[fd91::5]:40000\"");
  EXPECT_EQ(MakeForwarded(at, "b.svc"), "for=\"[fd91::5]:40000\";host=b.svc");
  EXPECT_EQ(ForwardedHost(MakeForwarded(at, "b.svc")), "b.svc");
  EXPECT_EQ(ForwardedHost("for=x; host=\"b.svc\""), "b.svc");
  EXPECT_EQ(ForwardedHost("for=x"), "");
  EXPECT_EQ(ForwardedHost("host=" + std::string(5000, 'a')), "");
}

TEST(Headers, Traceparent) {
  const std::string trace = MakeTraceparent(1, 2, 3);
  EXPECT_EQ(trace, "00-00000000000000010000000000000002-0000000000000003-00");
  EXPECT_EQ(TraceId(trace), "00000000000000010000000000000002");
  EXPECT_EQ(MakeTraceparent(~uint64_t{0}, 0x0123456789abcdef, 0xf000000000000001),
            "00-ffffffffffffffff0123456789abcdef-f000000000000001-00");
  EXPECT_EQ(TraceId("00-xx"), "");
  EXPECT_EQ(TraceId(std::string(55, '-')), "");
}

}  // namespace
}  // namespace qanat::ztunnel
