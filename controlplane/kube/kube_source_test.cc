// SPDX-License-Identifier: Apache-2.0
#include "controlplane/kube/kube_source.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "controlplane/ads/snapshot.h"
#include "controlplane/envoy/translate.h"
#include "controlplane/kube/kinds.h"
#include "controlplane/source/folder.h"
#include "controlplane/source/json.h"
#include "controlplane/translate/status.h"
#include "tests/support/controlplane/kube_bed.h"

namespace qanat::controlplane {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

class KubeSourceTest : public testing::Test, protected KubeBed {
 protected:
  std::unique_ptr<KubeSource> Open() {
    auto source = std::make_unique<KubeSource>(loop, client);
    EXPECT_TRUE(source->Start([this] { ++changes_; }));
    return source;
  }
  bool Synced(const KubeSource& source) {
    return Until([&] { return source.synced(); });
  }
  static std::vector<std::string> Services(const KubeSource& source) {
    std::vector<std::string> out;
    for (const Service& s : source.Snapshot().objects.services) out.push_back(s.meta.name);
    return out;
  }
  void PutService(const std::string& name) {
    PutYaml("{apiVersion: v1, kind: Service, metadata: {name: " + name +
            ", namespace: shop}, spec: {ports: [{port: 80}]}}");
  }
  std::vector<std::string> Issues(const KubeSource& source) {
    std::vector<std::string> out;
    for (const Issue& i : source.Snapshot().issues) {
      out.push_back(i.file + i.object + ": " + i.message + " - " + i.remedy);
    }
    return out;
  }
  int changes_ = 0;
};

TEST_F(KubeSourceTest, ObjectsComeChangeAndGo) {
  PutService("a");
  const auto source = Open();
  EXPECT_FALSE(source->synced());
  EXPECT_THAT(source->WaitingFor(), HasSubstr("Service"));
  ASSERT_TRUE(Synced(*source));
  EXPECT_THAT(Services(*source), ElementsAre("a"));
  ASSERT_TRUE(Until([&] { return changes_ > 0; }));
  PutService("b");
  ASSERT_TRUE(Until([&] { return Services(*source).size() == 2; }));
  EXPECT_THAT(Services(*source), ElementsAre("a", "b"));
  server.Remove("/api/v1/namespaces/shop/services/a");
  ASSERT_TRUE(Until([&] { return Services(*source) == std::vector<std::string>{"b"}; }));
}

TEST_F(KubeSourceTest, WhatTheServerFillsInIsNoComplaint) {
  PutYaml(R"(
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: p
  namespace: shop
  generation: 3
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
  managedFields: [{manager: kubectl, operation: Update, fieldsV1: {"f:spec": {"f:rules": {}}}}]
spec: {rules: [{from: [{source: {namespaces: [a]}}]}]}
status: {observedGeneration: 3, conditions: [{type: ZtunnelAccepted, status: "True"}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: shop, finalizers: [x], selfLink: /y}
spec: {gatewayClassName: qanat-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {conditions: [], listeners: [], addresses: [{type: Hostname, value: w}]}
)");
  const auto source = Open();
  ASSERT_TRUE(Synced(*source));
  EXPECT_THAT(Issues(*source), SizeIs(0));
  const SourceSnapshot now = source->Snapshot();
  ASSERT_THAT(now.objects.authorization_policies, SizeIs(1));
  EXPECT_EQ(now.objects.authorization_policies[0].meta.generation, 3);
  EXPECT_THAT(now.objects.gateways[0].status_addresses, ElementsAre("w"));
  ASSERT_NE(source->StatusOf("AuthorizationPolicy", {"shop", "p"}), nullptr);
  EXPECT_EQ(source->StatusOf("AuthorizationPolicy", {"shop", "q"}), nullptr);
}

TEST_F(KubeSourceTest, ABrokenObjectNamesItselfAndKeepsItsLastGoodVersion) {
  PutService("a");
  const auto source = Open();
  ASSERT_TRUE(Synced(*source));
  PutYaml(
      "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {ports: [{port: "
      "99999}]}}");
  ASSERT_TRUE(Until([&] { return !source->Snapshot().issues.empty(); }));
  EXPECT_THAT(Issues(*source), ElementsAre(HasSubstr("Service shop/a: spec.ports.port: 99999")));
  EXPECT_THAT(Issues(*source)[0], HasSubstr("last good version"));
  EXPECT_EQ(source->Snapshot().objects.services[0].ports[0].port, 80);
}

TEST_F(KubeSourceTest, ACrdWithoutOurVersionIsReadInItsOwn) {
  const std::string group = "/apis/security.istio.io";
  server.SetAbsent(group + "/v1/authorizationpolicies", true);
  server.SetDocument(group, R"({"versions":[{"version":"v1"},{"version":"v1beta1"}]})");
  server.SetDocument(group + "/v1", R"({"resources":[{"name":"peerauthentications"}]})");
  server.SetDocument(group + "/v1beta1", R"({"resources":[{"name":"authorizationpolicies"}]})");
  server.Put(group + "/v1beta1/namespaces/shop/authorizationpolicies/p",
             R"({"apiVersion":"security.istio.io/v1beta1","kind":"AuthorizationPolicy",)"
             R"("spec":{"action":"DENY","rules":[{}]}})");
  const auto source = Open();
  ASSERT_TRUE(Synced(*source));
  EXPECT_THAT(source->Snapshot().objects.authorization_policies, SizeIs(1));
  EXPECT_THAT(Issues(*source), ElementsAre(HasSubstr("serves v1beta1 but not v1")));
  EXPECT_FALSE(source->KindExists("AuthorizationPolicy")) << "its status cannot be written";
  EXPECT_TRUE(source->KindExists("PeerAuthentication"));
}

TEST_F(KubeSourceTest, AStatusThatNobodyReadsIsNoChange) {
  const std::string policy =
      "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
      "metadata: {name: p, namespace: shop, generation: 1}\nspec: {}\n";
  const std::string node =
      "---\napiVersion: v1\nkind: Node\nmetadata: {name: n}\nstatus: {addresses: [{type: "
      "InternalIP, address: 10.0.0.1}], conditions: [{type: Ready, lastHeartbeatTime: t";
  PutYaml(policy + node + "1}]}\n");
  const auto source = Open();
  int statuses = 0;
  source->set_on_status([&] { ++statuses; });
  ASSERT_TRUE(Synced(*source));
  ASSERT_TRUE(Until([&] { return changes_ > 0; }));
  For(std::chrono::milliseconds(1200));
  const int before = changes_;
  PutYaml(policy + "status: {observedGeneration: 1}\n" + node + "2}]}\n");
  ASSERT_TRUE(Until([&] { return statuses == 2; }));
  For(std::chrono::milliseconds(50));
  EXPECT_EQ(changes_, before);
  EXPECT_NE(source->StatusOf("AuthorizationPolicy", {"shop", "p"}), nullptr);
  PutYaml(policy.substr(0, policy.find("spec:")) + "spec: {action: DENY}\n");
  ASSERT_TRUE(Until([&] { return changes_ > before; }));
}

TEST_F(KubeSourceTest, AMissingCrdIsEmptyAndSaid) {
  server.SetAbsent("gatewayclasses", true);
  server.SetAbsent("virtualservices", true);
  const auto source = Open();
  ASSERT_TRUE(Synced(*source));
  ASSERT_TRUE(Until([&] { return changes_ > 0; }));
  // Those of the Gateway API are not ours to install.
  EXPECT_THAT(Issues(*source),
              ElementsAre(testing::AllOf(HasSubstr("gatewayclasses.gateway.networking.k8s.io"),
                                         HasSubstr("is missing"), HasSubstr("Gateway API's"),
                                         testing::Not(HasSubstr("qanatctl install"))),
                          testing::AllOf(HasSubstr("virtualservices.networking.istio.io"),
                                         HasSubstr("is missing"), HasSubstr("qanatctl install"))));
  EXPECT_FALSE(source->KindExists("VirtualService"));
  EXPECT_TRUE(source->KindExists("HTTPRoute"));
}

TEST_F(KubeSourceTest, WithoutPermissionNobodyIsServedAndTheRuleIsNamed) {
  server.AddFault({"GET", "/api/v1/pods", -1, 403, "", "Forbidden",
                   "pods is forbidden: User \"x\" cannot list resource \"pods\""});
  const auto source = Open();
  ASSERT_TRUE(Until([&] {
    for (const std::string& issue : Issues(*source)) {
      if (issue.find("pods") != std::string::npos && issue.find("list") != std::string::npos) {
        return true;
      }
    }
    return false;
  }));
  ASSERT_TRUE(Until([&] { return changes_ > 0; })) << "told before the source is synced";
  EXPECT_FALSE(source->synced());
  server.ClearFaults();
  ASSERT_TRUE(Synced(*source));
  EXPECT_THAT(Issues(*source), SizeIs(0));
}

TEST_F(KubeSourceTest, WhileTheServerIsAwayTheLastStateStays) {
  PutService("a");
  const auto source = Open();
  ASSERT_TRUE(Synced(*source));
  server.Listen(false);
  ASSERT_TRUE(Until([&] { return !source->Snapshot().issues.empty(); }));
  EXPECT_THAT(Issues(*source), ElementsAre(HasSubstr("the last known state stays")));
  EXPECT_THAT(Services(*source), ElementsAre("a"));
  EXPECT_TRUE(source->synced());
  server.Listen(true);
  PutService("b");
  ASSERT_TRUE(Until([&] { return Services(*source).size() == 2; }));
  ASSERT_TRUE(Until([&] { return Issues(*source).empty(); })) << Issues(*source)[0];
}

// --- The same objects by folder and by API server ----------------------------------------------

std::vector<json> SampleObjects() {
  std::vector<std::string> files;
  const std::string root = QANAT_SOURCE_DIR;
  for (const auto& entry : std::filesystem::directory_iterator(root + "/deploy/samples/shop")) {
    if (entry.path().extension() == ".yaml") files.push_back(entry.path().string());
  }
  for (const char* name :
       {"shop.overlay", "traffic", "policies", "http-route", "virtual-service"}) {
    files.push_back(root + "/controlplane/envoy/testdata/" + name + ".yaml");
  }
  files.push_back(root + "/controlplane/testdata/nodes_slices_entries.yaml");
  std::sort(files.begin(), files.end());
  std::map<std::string, json> objects;  // what several files say of one object is put together
  for (const std::string& file : files) {
    std::ifstream in(file);
    std::stringstream text;
    text << in.rdbuf();
    const YamlFile parsed = ParseYaml(text.str());
    EXPECT_TRUE(parsed.errors.empty()) << file;
    for (const YamlNode& document : parsed.documents) {
      json object = ToJson(document);
      if (FindKind(object["kind"].get<std::string>()) == nullptr) continue;
      json& there = objects[KubeBed::PathOf(object)];
      if (there.is_null()) {
        there = std::move(object);
      } else {
        there.merge_patch(object);
      }
    }
  }
  std::vector<json> out;
  for (auto& [path, object] : objects) {
    object["metadata"]["creationTimestamp"] =
        fmt::format("2026-11-22T{:02}:{:02}:00Z", out.size() / 60, out.size() % 60);
    if (!object["metadata"].contains("uid")) object["metadata"]["uid"] = "uid-of-" + path;
    out.push_back(std::move(object));
  }
  return out;
}

struct Translated {
  std::map<std::string, std::map<std::string, std::string>> resources;  // type, name -> bytes
  std::vector<std::string> conditions;
};

Translated Translate(Objects objects) {
  Translated out;
  const auto world = World::Build(std::move(objects), {});
  const auto snapshot = BuildSnapshot(world, 1);
  for (const auto& [type, set] : snapshot->resources) {
    for (const auto& [name, resource] : set) out.resources[type][name] = *resource.wire;
  }
  for (const Gateway& gateway : world->objects().gateways) {
    const WaypointConfig config = BuildWaypoint(*world, gateway.meta.key());
    for (const auto& [type, set] : config.resources) {
      for (const auto& [name, resource] : set) {
        out.resources[gateway.meta.name + " " + type][name] = *resource.wire;
      }
    }
  }
  for (const ObjectStatus& status : BuildStatus(*world)) {
    for (const StatusCondition& c : status.conditions) {
      out.conditions.push_back(status.kind + " " + status.name.ToString() + " " + c.type + " " +
                               c.reason + " " + (c.status ? "True" : "False"));
    }
  }
  std::sort(out.conditions.begin(), out.conditions.end());
  return out;
}

TEST_F(KubeSourceTest, TheSameObjectsByFolderAndByApiServerGiveTheSameXds) {
  char name[] = "/tmp/qanat-same-XXXXXX";
  const std::string dir = ::mkdtemp(name);
  const std::vector<json> objects = SampleObjects();
  ASSERT_GT(objects.size(), 40u);
  for (const kube::Resource& kind : WatchedKinds()) {
    EXPECT_TRUE(std::any_of(objects.begin(), objects.end(),
                            [&](const json& object) { return object["kind"] == kind.kind; }))
        << "no " << kind.kind << ": how it is read from one of the sources is not compared";
  }
  for (size_t i = 0; i < objects.size(); ++i) {
    std::ofstream(dir + "/" + std::to_string(1000 + i) + ".json") << objects[i].dump(2);
  }
  FolderSource folder(loop, dir, "");
  ASSERT_TRUE(folder.Start([] {}));
  // In another order, with what an API server adds.
  for (auto it = objects.rbegin(); it != objects.rend(); ++it) {
    json object = *it;
    object["metadata"]["managedFields"] = {
        {{"manager", "kubectl"}, {"fieldsV1", {{"f:spec", {}}}}}};
    object["metadata"]["resourceVersion"] = "1";
    Put(std::move(object));
  }
  const auto source = Open();
  ASSERT_TRUE(Synced(*source));
  const Translated by_folder = Translate(folder.Snapshot().objects);
  const Translated by_server = Translate(source->Snapshot().objects);
  size_t resources = 0;
  for (const auto& [type, set] : by_folder.resources) {
    ASSERT_TRUE(by_server.resources.contains(type)) << type;
    const auto& other = by_server.resources.at(type);
    EXPECT_EQ(set.size(), other.size()) << type;
    for (const auto& [resource, bytes] : set) {
      ASSERT_TRUE(other.contains(resource)) << type << " " << resource;
      EXPECT_TRUE(bytes == other.at(resource)) << type << " " << resource;
      ++resources;
    }
  }
  EXPECT_GT(resources, 50u);
  EXPECT_EQ(by_folder.resources.size(), by_server.resources.size()) << "types of one side only";
  EXPECT_EQ(by_folder.conditions, by_server.conditions);
  EXPECT_GT(by_folder.conditions.size(), 20u);
  // The comparison sees them: without them the configuration is another one.
  const auto changes = [&](const char* what, const auto& take_away) {
    Objects fewer = folder.Snapshot().objects;
    take_away(fewer);
    EXPECT_FALSE(Translate(std::move(fewer)).resources == by_folder.resources) << what;
  };
  changes("nodes", [](Objects& o) { o.nodes.clear(); });
  changes("endpoint slices", [](Objects& o) { o.endpoint_slices.clear(); });
  changes("service entries", [](Objects& o) { o.service_entries.clear(); });
  std::filesystem::remove_all(dir);
}

// A LIST of many pods must not keep the control plane busy for long. The bound is that of a
// sanitizer build on a busy machine (ten times slower and more); the time is printed.
TEST(Speed, AThousandPods) {
  constexpr size_t kPods = 1000;
  std::ifstream in(QANAT_SOURCE_DIR "/tests/fuzz/corpus/kube_object/pod.json");
  std::stringstream text;
  text << in.rdbuf();
  json pod = json::parse(text.str());
  std::vector<std::string> pods;
  for (size_t i = 0; i < kPods; ++i) {
    pod["metadata"]["name"] = "pod-" + std::to_string(i);
    pod["metadata"]["uid"] = "uid-" + std::to_string(i);
    const std::string ip = fmt::format("10.244.{}.{}", i / 250, i % 250);
    pod["status"]["podIP"] = ip;
    pod["status"]["podIPs"] = json::array({{{"ip", ip}}});
    pods.push_back(pod.dump());
  }
  const auto began = event::Clock::now();
  ObjectStore store;
  for (const std::string& one : pods) {
    const auto node = ParseJsonObject(one);
    ASSERT_TRUE(node);
    DecodedFile decoded = DecodeObject(*node);
    ASSERT_EQ(decoded.objects.size(), 1u);
    const std::string place = ObjectName(MetaOf(decoded.objects[0].object));
    store.Update(ObjectStore::Layer::kUser, place, std::move(decoded));
  }
  const auto read = event::Clock::now();
  const auto world = World::Build(store.Assemble().objects, {});
  const auto snapshot = BuildSnapshot(world, 1);
  const auto built = event::Clock::now();
  const auto ms = [](event::Duration d) {
    return static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(d).count());
  };
  std::printf("%zu pods of %zu bytes: read %d ms, state and translation %d ms\n", kPods,
              pods[0].size(), ms(read - began), ms(built - read));
  EXPECT_EQ(world->objects().pods.size(), kPods);
  EXPECT_LT(ms(built - began), 20000);
}

// --- JSON ---------------------------------------------------------------------------------------

TEST(Json, TheTreeOfTheYamlReader) {
  const auto node = ParseJsonObject(
      R"({"kind":"Pod","n":3,"b":true,"z":null,"f":1.50,"metadata":{"managedFields":[{"a":[1]}],)"
      R"("labels":{"env":"x","volumes":"y"}},"spec":{"volumes":[{"env":1}],"containers":)"
      R"([{"name":"c","env":[{"name":"A"}],"ports":[{"containerPort":80}]}]},"n":4})");
  ASSERT_TRUE(node) << node.error().message;
  EXPECT_EQ(node->Find("n")->text, "4") << "the last one counts";
  EXPECT_FALSE(node->Find("n")->quoted);
  EXPECT_TRUE(node->Find("kind")->quoted);
  EXPECT_TRUE(node->Find("z")->is_null());
  EXPECT_EQ(node->Find("f")->text, "1.50");
  EXPECT_EQ(node->Find("metadata")->Find("managedFields"), nullptr);
  EXPECT_NE(node->Find("metadata")->Find("labels")->Find("env"), nullptr);
  EXPECT_NE(node->Find("metadata")->Find("labels")->Find("volumes"), nullptr);
  EXPECT_EQ(node->Find("spec")->Find("volumes"), nullptr);
  const YamlNode& container = node->Find("spec")->Find("containers")->items.at(0);
  EXPECT_EQ(container.Find("env"), nullptr);
  EXPECT_NE(container.Find("ports"), nullptr);
}

TEST(Json, BadTextIsAnError) {
  EXPECT_FALSE(ParseJsonObject(""));
  EXPECT_FALSE(ParseJsonObject("[]"));
  EXPECT_FALSE(ParseJsonObject("{\"a\":}"));
  EXPECT_FALSE(ParseJsonObject("{} {}"));
  EXPECT_FALSE(ParseJsonObject(std::string(100, '[')));
  std::string large = "{";
  for (int i = 0; i < 5000; ++i) large += "\"k" + std::to_string(i % 4000) + "\":" + "1,";
  EXPECT_EQ(ParseJsonObject(large + "\"z\":2}")->entries.size(), 4001u);
}

}  // namespace
}  // namespace qanat::controlplane
