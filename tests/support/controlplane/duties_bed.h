// SPDX-License-Identifier: Apache-2.0
// For tests of what the leader writes: a namespace with a service and a waypoint label in a fake
// API server, the real source and the duties on top of it. Header only.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>

#include "controlplane/kube/duties.h"
#include "controlplane/kube/kube_source.h"
#include "tests/support/controlplane/kube_bed.h"

namespace qanat::controlplane {

inline constexpr const char* kRootOf = "/api/v1/namespaces/shop/configmaps/istio-ca-root-cert";
inline constexpr const char* kGateway =
    "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/wp";
inline constexpr const char* kDeployment = "/apis/apps/v1/namespaces/shop/deployments/wp";
inline constexpr const char* kService = "/api/v1/namespaces/shop/services/wp";
inline constexpr const char* kAccount = "/api/v1/namespaces/shop/serviceaccounts/wp";

class DutiesBed : public testing::Test, protected KubeBed {
 protected:
  DutiesBed() {
    PutYaml(R"(
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: gone, deletionTimestamp: "2026-11-22T05:00:00Z"}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}}
)");
  }
  void Lead(const std::string& image = "localhost/qanat/waypoint:1") {
    source_ = std::make_unique<KubeSource>(loop, client);
    ASSERT_TRUE(source_->Start([this] { Rebuild(); }));
    source_->set_on_status([this] {
      if (duties_ != nullptr) duties_->Changed();
    });
    ASSERT_TRUE(Until([&] { return source_->synced(); }));
    Rebuild();
    Duties::Needs needs;
    needs.state = [this] {
      return DutyState{world_, BuildStatus(*world_), source_->Snapshot().issues};
    };
    needs.observed = [this](std::string_view kind, const NamespacedName& key) {
      return source_->StatusOf(kind, key);
    };
    needs.kind_exists = [this](std::string_view kind) { return source_->KindExists(kind); };
    needs.may_write = [this] { return may_write_; };
    needs.root_pem = "ROOT\n";
    needs.waypoint = {image, "https://cp:15012", "https://cp:15012"};
    duties_ = std::make_unique<Duties>(loop, client, registry, std::move(needs));
  }
  void Rebuild() {
    world_ = World::Build(source_->Snapshot().objects, {});
    if (duties_ != nullptr) duties_->Changed();
  }
  void PutGateway(const std::string& class_name = "qanat-waypoint", int generation = 1) {
    Json gateway = {
        {"apiVersion", "gateway.networking.k8s.io/v1"},
        {"kind", "Gateway"},
        {"metadata",
         {{"name", "wp"}, {"namespace", "shop"}, {"uid", "gw1"}, {"generation", generation}}},
        {"spec",
         {{"gatewayClassName", class_name},
          {"infrastructure", {{"labels", {{"team", "a"}}}}},
          {"listeners",
           Json::array({{{"name", "mesh"}, {"port", 15008}, {"protocol", "HBONE"}}})}}}};
    const Json there = Get(kGateway);
    if (there.contains("status")) gateway["status"] = there["status"];
    Put(gateway);
  }
  // What the cluster does with the Service and the Deployment.
  void MakeReady() {
    Json service = Get(kService);
    service["spec"]["clusterIP"] = "10.96.0.21";
    Put(service);
    PutYaml(R"(
apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: shop, uid: p1, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {nodeName: n1, serviceAccountName: wp}
status: {phase: Running, podIPs: [{ip: 10.1.1.5}, {ip: "fd00::5"}], conditions: [{type: Ready, status: "True"}]}
)");
  }
  Json Condition(const std::string& path, const std::string& type) {
    const Json object = Get(path);
    if (!object.contains("status") || !object["status"].contains("conditions")) return {};
    for (const Json& c : object["status"]["conditions"]) {
      if (c["type"] == type) return c;
    }
    return {};
  }
  bool Is(const std::string& path, const std::string& type, const std::string& reason) {
    return Until([&] {
      const Json c = Condition(path, type);
      return !c.is_null() && c["reason"] == reason;
    });
  }
  size_t Writes() {
    size_t out = 0;
    for (const auto& r : server.requests()) out += r.method == "GET" ? 0 : 1;
    return out;
  }
  // Nothing is written while nothing changes.
  void ExpectQuiet() {
    For(std::chrono::milliseconds(1500));  // what came in between settles
    const size_t before = Writes();
    For(std::chrono::milliseconds(1500));
    EXPECT_EQ(Writes(), before) << server.requests().back().method << " "
                                << server.requests().back().path << " "
                                << server.requests().back().body;
  }

  bool may_write_ = true;
  std::shared_ptr<const World> world_;
  std::unique_ptr<KubeSource> source_;
  std::unique_ptr<Duties> duties_;
};

}  // namespace qanat::controlplane
