// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/telemetry/series_cache.h"

#include <gtest/gtest.h>

#include "ztunnel/mesh_for_test.h"
#include "ztunnel/telemetry/sweep.h"
#include "ztunnel/telemetry/worker_metrics.h"

namespace qanat::ztunnel {
namespace {

using model::Reason;

class SeriesTest : public ::testing::Test {
 protected:
  SeriesTest() {
    mesh_.Put(TestMesh::MakePod("frontend", "10.91.1.5"))
        .Put(TestMesh::MakePod("backend", "10.91.2.7"));
    mesh_.Put(TestMesh::MakeService("backend", "10.96.0.10"));
  }

  Flow MakeFlow(const std::string& source = "frontend") {
    const auto snapshot = mesh_.Snapshot();
    Flow flow;
    flow.mutual_tls = true;
    flow.source_workload = snapshot->WorkloadByUid("Kubernetes//Pod/shop/" + source);
    flow.destination_workload = snapshot->WorkloadByUid("Kubernetes//Pod/shop/backend");
    flow.service = snapshot->ServiceByKey("shop/backend.shop.svc.cluster.local");
    if (flow.source_workload) flow.source_identity = flow.source_workload->identity();
    flow.destination_identity = flow.destination_workload->identity();
    return flow;
  }

  TestMesh mesh_;
  metrics::Registry registry_;
  Metrics metrics_{registry_};
  SeriesCache cache_{metrics_};
};

TEST_F(SeriesTest, ALookupByPointersGivesTheSeriesOfTheLabels) {
  const Flow flow = MakeFlow();
  cache_.For(flow, Reason::kNone).opened->Add();
  cache_.For(flow, Reason::kNone).opened->Add();
  EXPECT_EQ(metrics_.opened.Value(FlowLabels(flow, Reason::kNone)), 2u);
  cache_.ForgetPointers();
  cache_.For(flow, Reason::kNone).opened->Add();
  EXPECT_EQ(metrics_.opened.Value(FlowLabels(flow, Reason::kNone)), 3u);
  EXPECT_EQ(metrics_.opened.size(), 1u);
}

// Whatever differs in the labels must differ in the lookup, with the same workloads.
TEST_F(SeriesTest, EveryDifferenceOfLabelsIsASeriesOfItsOwn) {
  const Flow base = MakeFlow();
  std::vector<Flow> flows(7, base);
  flows[1].reporter = Reporter::kDestination;
  flows[2].mutual_tls = false;
  flows[3].source_identity.reset();
  flows[4].destination_identity.reset();
  flows[5].service = nullptr;
  // A certificate that is not the address's owner's.
  model::Identity other = *base.source_identity;
  other.sa = "somebody-else";
  flows[6].source_identity = other;
  for (int round = 0; round < 2; ++round) {
    for (const Flow& flow : flows) cache_.For(flow, Reason::kNone).closed->Add();
    cache_.For(base, Reason::kPolicyDenied).closed->Add();
  }
  for (const Flow& flow : flows) {
    EXPECT_EQ(metrics_.closed.Value(FlowLabels(flow, Reason::kNone)), 2u);
  }
  EXPECT_EQ(metrics_.closed.Value(FlowLabels(base, Reason::kPolicyDenied)), 2u);
  EXPECT_EQ(metrics_.closed.size(), flows.size() + 1);
}

// One from another network is described anew for each connection: its labels make the series, no
// pointer to it is held, and as nobody announces it here it goes when it is idle.
TEST_F(SeriesTest, AForwardedSourceIsCountedByWhatItIsCalled) {
  Flow flow = MakeFlow();
  flow.reporter = Reporter::kDestination;
  flow.source_identity = model::Identity::Parse("spiffe://cluster.local/ns/gw/sa/eastwest").value();
  std::vector<model::WorkloadPtr> forwarded;
  const auto call = [&](const std::string& name) {
    model::Workload workload;
    workload.network = "far";
    workload.ns = "abroad";
    workload.workload_name = name;
    flow.source_workload = model::WorkloadPtr(std::move(workload));
    forwarded.push_back(flow.source_workload);
    cache_.For(flow, Reason::kNone).opened->Add();
    return FlowLabels(flow, Reason::kNone);
  };
  metrics::LabelValues caller;
  for (int i = 0; i < 3; ++i) caller = call("caller");
  const auto other = call("other");
  flow.source_workload = nullptr;
  EXPECT_EQ(metrics_.opened.size(), 2u);
  EXPECT_EQ(metrics_.opened.Value(caller), 3u);
  EXPECT_EQ(metrics_.opened.Value(other), 1u);
  for (const auto& one : forwarded) EXPECT_EQ(one.use_count(), 1u);
  SeriesSweeper sweeper;
  EXPECT_EQ(sweeper.Sweep(*mesh_.Snapshot(), {}, metrics_), 0u);
  call("caller");
  EXPECT_EQ(sweeper.Sweep(*mesh_.Snapshot(), {}, metrics_), 4u);  // the other one's
  EXPECT_FALSE(metrics_.opened.Contains(other));
  EXPECT_EQ(metrics_.opened.Value(caller), 4u);
}

TEST_F(SeriesTest, TooManySeriesShareOne) {
  for (size_t i = 0; i < 50'000; ++i) metrics_.closed.With({"source", std::to_string(i)});
  Flow flow = MakeFlow();
  cache_.For(flow, Reason::kNone).closed->Add();
  flow.mutual_tls = false;
  cache_.For(flow, Reason::kNone).closed->Add();
  flow.source_workload = nullptr;
  flow.source_identity.reset();
  cache_.For(flow, Reason::kNone).closed->Add();
  EXPECT_EQ(metrics_.closed.size(), 50'002u);  // with TLS and without
  EXPECT_EQ(metrics_.series_overflow.Value({}), 3u);
}

TEST_F(SeriesTest, SeriesOfWorkloadsThatAreGoneAreRemovedAtTheSecondSweep) {
  mesh_.Put(TestMesh::MakePod("old", "10.91.1.9"));
  const Flow stays = MakeFlow(), goes = MakeFlow("old");
  Flow nobody = MakeFlow();
  nobody.source_workload = nullptr;
  nobody.source_identity.reset();
  for (const Flow& flow : {stays, goes, nobody}) cache_.For(flow, Reason::kNone).opened->Add();
  SeriesSweeper sweeper;
  EXPECT_EQ(sweeper.Sweep(*mesh_.Snapshot(), {}, metrics_), 0u);
  mesh_.Remove("Kubernetes//Pod/shop/old");
  EXPECT_EQ(sweeper.Sweep(*mesh_.Snapshot(), {}, metrics_), 0u) << "it may only be restarting";
  // A connection that outlives its workload still counts.
  cache_.For(goes, Reason::kNone).sent->Add(1);
  EXPECT_EQ(sweeper.Sweep(*mesh_.Snapshot(), {}, metrics_), 0u);
  EXPECT_EQ(sweeper.Sweep(*mesh_.Snapshot(), {}, metrics_), 4u);  // opened, closed, sent, received
  EXPECT_EQ(metrics_.opened.size(), 2u);
  cache_.ForgetRemoved();
  cache_.For(goes, Reason::kNone).opened->Add();  // it comes back: shown again, from nothing
  EXPECT_EQ(metrics_.opened.Value(FlowLabels(goes, Reason::kNone)), 1u);
}

// What one worker removed from its view the others count anew, each for itself; the sum is right.
TEST_F(SeriesTest, WorkersCountForThemselvesAndTheSumIsShown) {
  SeriesCache other(metrics_);
  mesh_.Put(TestMesh::MakePod("old", "10.91.1.9"));
  const Flow stays = MakeFlow(), goes = MakeFlow("old");
  for (SeriesCache* cache : {&cache_, &other}) {
    for (const Flow& flow : {stays, goes}) cache->For(flow, Reason::kNone).opened->Add();
  }
  EXPECT_EQ(metrics_.opened.Value(FlowLabels(stays, Reason::kNone)), 2u);
  mesh_.Remove("Kubernetes//Pod/shop/old");
  SeriesSweeper sweeper;
  EXPECT_EQ(sweeper.Sweep(*mesh_.Snapshot(), {}, metrics_), 0u);
  EXPECT_EQ(sweeper.Sweep(*mesh_.Snapshot(), {}, metrics_), 4u);
  cache_.ForgetRemoved();  // the other worker has not heard yet
  cache_.For(goes, Reason::kNone).opened->Add();
  other.For(goes, Reason::kNone).opened->Add();
  EXPECT_EQ(metrics_.opened.Value(FlowLabels(goes, Reason::kNone)), 1u);
  other.ForgetRemoved();
  for (SeriesCache* cache : {&cache_, &other}) {
    for (const Flow& flow : {stays, goes}) cache->For(flow, Reason::kNone).opened->Add();
  }
  EXPECT_EQ(metrics_.opened.Value(FlowLabels(goes, Reason::kNone)), 3u);
  EXPECT_EQ(metrics_.opened.Value(FlowLabels(stays, Reason::kNone)), 4u);
}

TEST_F(SeriesTest, SetupTimesHaveAPhaseForTls) {
  WorkerMetrics worker(metrics_);
  SetupTimes times(worker, "source");
  times.Observe(SetupPhase::kTls, std::chrono::milliseconds(3));
  for (const char* phase : {"queue", "dns", "tls", "policy", "connect"}) {
    const auto sum = metrics_.setup.Value({"source", phase});
    EXPECT_EQ(sum.count, std::string(phase) == "tls" ? 1u : 0u) << phase;
    EXPECT_EQ(sum.buckets.size(), 16u) << phase;
  }
}

// Each pod of the node asks; another node's pod of the same service is no reason to keep a series.
TEST_F(SeriesTest, SeriesOfDnsGoWithThePodThatAsked) {
  const auto pod = [&](const std::string& name, const std::string& app) {
    auto w = TestMesh::MakePod(name, "10.91.1.9");
    w.set_canonical_name(app);
    w.set_canonical_revision("v1");
    mesh_.Put(w);
    return mesh_.Snapshot()->WorkloadByUid("Kubernetes//Pod/shop/" + name);
  };
  const auto stays = pod("asks", "asks"), goes = pod("asked", "asked");
  metrics::LabelValues ours{"A", "udp", "asks", "v1"}, theirs{"A", "udp", "asked", "v1"},
      nameless{"A", "tcp", "unknown", "unknown"};
  for (const auto& labels : {ours, theirs, nameless}) {
    metrics_.dns_requests.With(labels)->Add();
    metrics_.dns_upstream_requests.With(labels)->Add();
    metrics_.dns_upstream_failures.With(labels);
    metrics_.dns_upstream_duration.With(labels)->Observe(0.01);
  }
  model::Workload without_names;
  const model::WorkloadPtr unnamed(without_names);
  SeriesSweeper sweeper;
  const auto sweep = [&](const std::vector<model::WorkloadPtr>& here) {
    return sweeper.Sweep(*mesh_.Snapshot(), here, metrics_);
  };
  EXPECT_EQ(sweep({stays, goes, unnamed}), 0u);
  EXPECT_EQ(sweep({stays, unnamed}), 0u) << "it may only be restarting";
  metrics_.dns_requests.With(theirs)->Add();
  EXPECT_EQ(sweep({stays, unnamed}), 0u) << "it still counts";
  EXPECT_EQ(sweep({stays, goes, unnamed}), 0u) << "it is back";
  EXPECT_EQ(sweep({stays, unnamed}), 0u);
  EXPECT_EQ(sweep({stays, unnamed}), 4u);
  EXPECT_FALSE(metrics_.dns_requests.Contains(theirs));
  EXPECT_FALSE(metrics_.dns_upstream_duration.Contains(theirs));
  EXPECT_EQ(metrics_.dns_requests.Value(ours), 1u);
  EXPECT_TRUE(metrics_.dns_requests.Contains(nameless));
  EXPECT_EQ(sweep({}), 0u);
  EXPECT_EQ(sweep({}), 8u);
  EXPECT_EQ(metrics_.dns_upstream_failures.size(), 0u);
}

}  // namespace
}  // namespace qanat::ztunnel
