// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/flow.h"

#include <gtest/gtest.h>

#include "ztunnel/mesh_for_test.h"

namespace qanat::ztunnel {
namespace {

Flow MakeFlow() {
  static TestMesh mesh;
  mesh.Put(TestMesh::MakePod("frontend", "10.91.1.5"))
      .Put(TestMesh::MakePod("backend", "10.91.2.7"));
  mesh.Put(TestMesh::MakeService("backend", "10.96.0.10"));
  const auto snapshot = mesh.Snapshot();
  Flow flow;
  flow.source = At("10.91.1.5:40000");
  flow.destination = At("10.91.2.7:15008");
  flow.target = At("10.91.2.7:8080");
  flow.tunnelled = flow.mutual_tls = true;
  flow.source_workload = snapshot->WorkloadByUid("Kubernetes//Pod/shop/frontend");
  flow.destination_workload = snapshot->WorkloadByUid("Kubernetes//Pod/shop/backend");
  flow.service = snapshot->ServiceByKey("shop/backend.shop.svc.cluster.local");
  flow.source_identity = flow.source_workload->identity();
  flow.destination_identity = flow.destination_workload->identity();
  return flow;
}

TEST(Flow, TextLine) {
  FlowEnd end;
  end.bytes_up = 10;
  end.bytes_down = 20;
  end.duration = std::chrono::milliseconds(7);
  EXPECT_EQ(
      AccessLine(MakeFlow(), end, log::Format::kText, "T"),
      "T\tinfo\taccess\tconnection complete\tsrc.addr=10.91.1.5:40000 src.workload=\"frontend\" "
      "src.namespace=\"shop\" src.identity=\"spiffe://cluster.local/ns/shop/sa/frontend\" "
      "src.cluster=\"Kubernetes\" dst.addr=10.91.2.7:15008 dst.hbone_addr=10.91.2.7:8080 "
      "dst.service=\"backend.shop.svc.cluster.local\" dst.workload=\"backend\" "
      "dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/backend\" "
      "dst.cluster=\"Kubernetes\" direction=\"outbound\" bytes_sent=10 bytes_recv=20 "
      "duration=\"7ms\"");
}

TEST(Flow, JsonLineOfARefusalFromInside) {
  Flow flow = MakeFlow();
  flow.reporter = Reporter::kDestination;
  flow.source_workload = nullptr;
  flow.source_identity.reset();
  flow.service = nullptr;
  FlowEnd end;
  end.opened = false;
  end.bytes_up = 1;
  end.bytes_down = 2;
  end.reason = model::Reason::kPolicyNoAllow;
  end.error = "said \"no\"";
  EXPECT_EQ(AccessLine(flow, end, log::Format::kJson, "T"),
            "{\"level\":\"error\",\"time\":\"T\",\"scope\":\"access\",\"message\":\"connection "
            "complete\",\"src.addr\":\"10.91.1.5:40000\",\"dst.addr\":\"10.91.2.7:15008\","
            "\"dst.hbone_addr\":\"10.91.2.7:8080\",\"dst.workload\":\"backend\","
            "\"dst.namespace\":\"shop\","
            "\"dst.identity\":\"spiffe://cluster.local/ns/shop/sa/backend\","
            "\"dst.cluster\":\"Kubernetes\",\"direction\":\"inbound\",\"bytes_sent\":2,"
            "\"bytes_recv\":1,\"duration\":\"0ms\",\"error\":\"said \\\"no\\\"\","
            "\"reason\":\"policy_no_allow\"}");
}

TEST(Flow, WhatHasQuotesAndControlCharactersIsEscaped) {
  Flow flow;
  flow.source_identity = model::Identity{"d", "n\"s", "a\\b\n"};
  FlowEnd end;
  end.reason = model::Reason::kReset;
  end.error = "line\r\x01";
  EXPECT_EQ(
      AccessLine(flow, end, log::Format::kText, "T"),
      "T\terror\taccess\tconnection complete\t"
      "src.identity=\"spiffe://d/ns/n\\\"s/sa/a\\\\b\\n\" direction=\"outbound\" bytes_sent=0 "
      "bytes_recv=0 duration=\"0ms\" error=\"line\\r\\u0001\" reason=\"reset\"");
}

TEST(Flow, AStreamThatNamesItsSourceSaysWhereItsTunnelComesFrom) {
  Flow flow = MakeFlow();
  flow.tunnel = At("10.91.1.250:35000");
  EXPECT_TRUE(AccessLine(flow, {}, log::Format::kText, "T")
                  .ends_with(" duration=\"0ms\" src.tunnel=10.91.1.250:35000"));
  EXPECT_TRUE(AccessLine(flow, {}, log::Format::kJson, "T")
                  .ends_with(",\"src.tunnel\":\"10.91.1.250:35000\"}"));
}

// It goes on over another tunnel, and is told of there.
TEST(Flow, ASourceThatIsNotBelievedIsAMatterForDebug) {
  FlowEnd end;
  end.opened = false;
  end.reason = model::Reason::kSourceUnproven;
  EXPECT_EQ(LevelOf(end), log::Level::kDebug);
  EXPECT_TRUE(AccessLine(MakeFlow(), end, log::Format::kText, "T").starts_with("T\tdebug\t"));
  end.reason = model::Reason::kPolicyDenied;
  EXPECT_EQ(LevelOf(end), log::Level::kError);
  end.opened = true;
  EXPECT_EQ(LevelOf(end), log::Level::kError);
  end.reason = model::Reason::kNone;
  EXPECT_EQ(LevelOf(end), log::Level::kInfo);
}

// Early denials are warnings of their own; what a policy or a connect refused is not one.
TEST(Flow, RefusalsThatAreEarly) {
  const auto head = [](const FlowEnd& end) {
    const std::string line = AccessLine(MakeFlow(), end, log::Format::kText, "T");
    return line.substr(0, line.find("\tsrc."));
  };
  FlowEnd end;
  end.opened = false;
  for (const auto reason : model::AllReasons()) {
    if (reason == model::Reason::kNone) continue;
    end.reason = reason;
    end.early = IsEarly(reason);
    if (reason == model::Reason::kSourceUnproven) continue;  // at debug, see above
    EXPECT_EQ(head(end), end.early ? "T\twarn\taccess\tconnection failed"
                                   : "T\terror\taccess\tconnection complete");
    if (model::IsPolicy(reason)) {
      EXPECT_FALSE(end.early) << ToString(reason);
    }
  }
  EXPECT_TRUE(IsEarly(model::Reason::kSourceUnknown));
  EXPECT_TRUE(IsEarly(model::Reason::kNoHealthyUpstream));
  EXPECT_TRUE(IsEarly(model::Reason::kSelfCall));
  EXPECT_FALSE(IsEarly(model::Reason::kConnectFailed));
  EXPECT_FALSE(IsEarly(model::Reason::kConnectTimeout));
}

TEST(Flow, LabelsHaveTheirPlaces) {
  // No two of one end are alike, and no two of both.
  TestMesh mesh;
  const auto end = [&](const std::string& name) {
    auto pod = TestMesh::MakePod(name, "", "n1", name + "-ns");
    pod.set_service_account(name + "-account");
    pod.set_workload_name(name + "-workload");
    pod.set_canonical_name(name + "-app");
    pod.set_canonical_revision(name + "-v1");
    pod.set_cluster_id(name + "-cluster");
    pod.mutable_locality()->set_region(name + "-region");
    pod.mutable_locality()->set_zone(name + "-zone");
    mesh.Put(pod);
    return mesh.Snapshot()->WorkloadByUid(pod.uid());
  };
  mesh.Put(TestMesh::MakeService("web", "10.96.0.10", "web-ns"));
  Flow flow;
  flow.mutual_tls = true;
  flow.source_workload = end("from");
  flow.destination_workload = end("to");
  flow.source_identity = flow.source_workload->identity();
  flow.destination_identity = flow.destination_workload->identity();
  flow.service = mesh.Snapshot()->ServiceByKey("web-ns/web.web-ns.svc.cluster.local");
  const auto labels = FlowLabels(flow, model::Reason::kPolicyDenied);
  const auto& names = FlowLabelNames();
  ASSERT_EQ(labels.size(), names.size());
  std::map<std::string, std::string> map;
  for (size_t i = 0; i < names.size(); ++i) map[names[i]] = labels[i];
  const std::map<std::string, std::string> expected = {
      {"reporter", "source"},
      {"source_workload", "from-workload"},
      {"source_canonical_service", "from-app"},
      {"source_canonical_revision", "from-v1"},
      {"source_workload_namespace", "from-ns"},
      {"source_principal", "spiffe://cluster.local/ns/from-ns/sa/from-account"},
      {"source_app", "from-app"},
      {"source_version", "from-v1"},
      {"source_cluster", "from-cluster"},
      {"destination_service", "web.web-ns.svc.cluster.local"},
      {"destination_service_namespace", "web-ns"},
      {"destination_service_name", "web"},
      {"destination_workload", "to-workload"},
      {"destination_canonical_service", "to-app"},
      {"destination_canonical_revision", "to-v1"},
      {"destination_workload_namespace", "to-ns"},
      {"destination_principal", "spiffe://cluster.local/ns/to-ns/sa/to-account"},
      {"destination_app", "to-app"},
      {"destination_version", "to-v1"},
      {"destination_cluster", "to-cluster"},
      {"request_protocol", "tcp"},
      {"response_flags", "DENY"},
      {"connection_security_policy", "mutual_tls"},
      {"source_region", "from-region"},
      {"source_zone", "from-zone"},
      {"destination_region", "to-region"},
      {"destination_zone", "to-zone"},
  };
  EXPECT_EQ(map, expected);
  Flow unknown;
  const auto empty = FlowLabels(unknown, model::Reason::kNone);
  EXPECT_EQ(empty[1], "unknown");
  EXPECT_EQ(empty[21], "-");
  for (size_t i = 23; i < empty.size(); ++i) EXPECT_EQ(empty[i], "") << "left out, not unknown";
}

TEST(AccessLog, OpenedSaysWhoAndWhereWithoutNumbers) {
  Flow flow;
  flow.source = *net::SocketAddress::Parse("10.91.1.5:4000");
  flow.destination = *net::SocketAddress::Parse("10.91.2.7:80");
  EXPECT_EQ(OpenedLine(flow, log::Format::kText, "T"),
            "T\tdebug\taccess\tconnection opened\tsrc.addr=10.91.1.5:4000 "
            "dst.addr=10.91.2.7:80 direction=\"outbound\"");
  EXPECT_EQ(OpenedLine(flow, log::Format::kJson, "T"),
            "{\"level\":\"debug\",\"time\":\"T\",\"scope\":\"access\",\"message\":"
            "\"connection opened\",\"src.addr\":\"10.91.1.5:4000\",\"dst.addr\":"
            "\"10.91.2.7:80\",\"direction\":\"outbound\"}");
}

}  // namespace
}  // namespace qanat::ztunnel
