// SPDX-License-Identifier: Apache-2.0
// Against a fake API server, with a made-up /proc (see netns_finder_test.cc).
#include "agent/pods/kube_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "common/kube/test_util.h"
#include "tests/support/kube/fake_api_server.h"

namespace qanat::agent {
namespace {

namespace fs = std::filesystem;
using kube::testing::RunFor;
using kube::testing::RunUntil;
using std::chrono::milliseconds;

const std::string kUid = "aaaaaaaa-0000-4000-8000-000000000001";
const std::string kWeb = "/api/v1/namespaces/shop/pods/web";

class KubeSourceTest : public ::testing::Test, public PodListener {
 protected:
  KubeSourceTest() {
    char name[] = "/tmp/qanat-kube-XXXXXX";
    dir_ = ::mkdtemp(name);
    fs::create_directories(dir_ + "/netns");
    for (const char* ns : {"host", "a", "b"}) std::ofstream(dir_ + "/" + ns) << ns;
    AddProcess("self", "host", "/x");
    server_.Put("/api/v1/namespaces/shop",
                R"({"metadata":{"labels":{"istio.io/dataplane-mode":"ambient"}}})");
    server_.Put("/api/v1/namespaces/plain", "{}");
  }
  ~KubeSourceTest() override {
    source_.reset();
    fs::remove_all(dir_);
  }

  void AddProcess(const std::string& pid, const std::string& ns, const std::string& cgroup) {
    const std::string process = dir_ + "/proc/" + pid;
    fs::create_directories(process + "/ns");
    std::ofstream(process + "/cgroup") << "0::" << cgroup << "\n";
    std::ofstream(process + "/stat") << pid << " (x) S 1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7 8 9 50 1\n";
    fs::create_hard_link(dir_ + "/" + ns, process + "/ns/net");
  }
  static std::string PodJson(const std::string& uid, const std::string& ip,
                             const std::string& labels = "{}", const std::string& node = "n1") {
    return R"({"metadata":{"uid":")" + uid + R"(","labels":)" + labels +
           R"(},"spec":{"nodeName":")" + node + R"("},"status":{"phase":"Running",)" +
           (ip.empty() ? std::string(R"("podIPs":[])") : R"("podIPs":[{"ip":")" + ip + "\"}]") +
           "}}";
  }
  void Start() {
    client_ = std::make_unique<kube::Client>(loop_, server_.Config());
    KubeSourceOptions options;
    options.node_name = "n1";
    options.cache_path = dir_ + "/cache";
    options.excluded_namespaces = {"kube-system"};
    options.finder = {dir_ + "/proc", {dir_ + "/netns"}};
    options.verify_every = milliseconds(20);
    options.find_first = milliseconds(10);
    options.find_last = milliseconds(50);
    source_ = std::make_unique<KubeSource>(loop_, *client_, options);
    ASSERT_TRUE(source_->Start(this));
  }
  // As a node on which no plugin of ours is in the chain.
  void StartWithoutPlugin(milliseconds find_last) {
    client_ = std::make_unique<kube::Client>(loop_, server_.Config());
    KubeSourceOptions options;
    options.node_name = "n1";
    options.finder = {dir_ + "/proc", {dir_ + "/netns"}};
    options.verify_every = milliseconds(20);
    options.find_first = options.find_last = find_last;
    options.addresses_of = [this](const std::string& netns) {
      ++asked_;
      auto it = addresses_.find(netns);
      return it == addresses_.end() ? std::vector<net::IpAddress>() : it->second;
    };
    source_ = std::make_unique<KubeSource>(loop_, *client_, options);
    ASSERT_TRUE(source_->Start(this));
    ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  }
  bool Until(const std::function<bool()>& so) { return RunUntil(loop_, so); }

  void OnPod(const Pod& pod) override {
    pods_[pod.uid] = pod;
    ++told_;
  }
  void OnPodGone(const std::string& uid) override { pods_.erase(uid); }
  void OnSynced() override {
    ++synced_;
    at_sync_ = pods_;
  }

  std::string dir_;
  event::EventLoop loop_;
  kube::testing::FakeApiServer server_;
  std::unique_ptr<kube::Client> client_;
  std::unique_ptr<KubeSource> source_;
  std::map<std::string, Pod> pods_, at_sync_;
  int synced_ = 0, told_ = 0, asked_ = 0;
  std::map<std::string, std::vector<net::IpAddress>> addresses_;  // of namespaces, by path
};

TEST_F(KubeSourceTest, EverythingIsKnownWithItsNamespaceBeforeTheSync) {
  server_.Put(kWeb, PodJson(kUid, "10.0.0.5"));
  server_.Put("/api/v1/namespaces/plain/pods/p", PodJson("u2", "10.0.0.6"));
  server_.Put("/api/v1/namespaces/shop/pods/elsewhere", PodJson("u3", "10.0.0.7", "{}", "n2"));
  AddProcess("20", "a", "/kubepods/pod" + kUid + "/c");
  fs::create_hard_link(dir_ + "/a", dir_ + "/netns/cni-a");
  Start();
  EXPECT_EQ(told_, 0) << "nothing before everything is known";
  ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  ASSERT_EQ(at_sync_.size(), 2u) << "pods of this node only";
  EXPECT_EQ(at_sync_[kUid].netns, dir_ + "/netns/cni-a");
  EXPECT_TRUE(DecideMembership(at_sync_[kUid]).in_mesh);
  EXPECT_EQ(at_sync_["u2"].netns, "") << "not in the mesh: not looked for";
  auto cache = LoadMembershipCache(dir_ + "/cache");
  ASSERT_TRUE(cache) << cache.error().message;
  EXPECT_EQ(cache->InMesh("shop", "web", kUid), true);
  EXPECT_EQ(cache->InMesh("plain", "p", ""), false);
  EXPECT_EQ(cache->namespaces.at("shop"), "ambient");
}

TEST_F(KubeSourceTest, LabelsOfNamespaceAndPodMoveRunningPodsInAndOut) {
  server_.Put("/api/v1/namespaces/plain/pods/p", PodJson("u2", "10.0.0.6"));
  Start();
  ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  auto in_mesh = [&] { return DecideMembership(pods_["u2"]).in_mesh; };
  EXPECT_FALSE(in_mesh());
  server_.Put("/api/v1/namespaces/plain",
              R"({"metadata":{"labels":{"istio.io/dataplane-mode":"ambient"}}})");
  EXPECT_TRUE(Until(in_mesh));
  server_.Put("/api/v1/namespaces/plain/pods/p",
              PodJson("u2", "10.0.0.6", R"({"istio.io/dataplane-mode":"none"})"));
  EXPECT_TRUE(Until([&] { return !in_mesh(); }));
  EXPECT_TRUE(Until([&] {
    auto cache = LoadMembershipCache(dir_ + "/cache");
    return cache && cache->InMesh("plain", "p", "u2") == false &&
           cache->namespaces.at("plain") == "ambient";
  }));
  server_.Remove("/api/v1/namespaces/plain/pods/p");
  EXPECT_TRUE(Until([&] { return pods_.empty(); }));
}

TEST_F(KubeSourceTest, TheRuntimesWordCountsAsLongAsItsNamespaceLives) {
  Start();
  ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  // The runtime is faster than the API server, and the pod has no address there yet.
  source_->OnCniAdd({"shop", "web", kUid, dir_ + "/a", {*net::IpAddress::Parse("10.0.0.5")}});
  server_.Put(kWeb, PodJson(kUid, ""));
  ASSERT_TRUE(Until([&] { return pods_.count(kUid) > 0; }));
  EXPECT_EQ(pods_[kUid].netns, dir_ + "/a");
  EXPECT_EQ(pods_[kUid].Ip4().ToString(), "10.0.0.5");
  // A new sandbox: the API server still tells the old address.
  source_->OnCniAdd({"shop", "web", kUid, dir_ + "/b", {*net::IpAddress::Parse("10.0.0.9")}});
  EXPECT_EQ(pods_[kUid].netns, dir_ + "/b");
  const int before = told_;
  server_.Put(kWeb, PodJson(kUid, "10.0.0.5", R"({"x":"y"})"));
  ASSERT_TRUE(Until([&] { return told_ > before; }));
  EXPECT_EQ(pods_[kUid].Ip4().ToString(), "10.0.0.9");
  // Another pod's runtime call for the same name is not meant for this one.
  source_->OnCniAdd({"shop", "web", "another", dir_ + "/a", {*net::IpAddress::Parse("10.0.0.1")}});
  EXPECT_EQ(pods_[kUid].netns, dir_ + "/b");
}

TEST_F(KubeSourceTest, ExcludedNamespacesStayOutWhateverTheirLabels) {
  const std::string ambient = R"({"istio.io/dataplane-mode":"ambient"})";
  server_.Put("/api/v1/namespaces/kube-system", R"({"metadata":{"labels":)" + ambient + "}}");
  server_.Put("/api/v1/namespaces/kube-system/pods/dns", PodJson("u5", "10.0.0.8", ambient));
  Start();
  ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  const Membership membership = DecideMembership(pods_["u5"]);
  EXPECT_FALSE(membership.in_mesh) << "its pods start unasked: they would be open until enrolled";
  EXPECT_THAT(membership.reason, ::testing::HasSubstr("excluded"));
  EXPECT_EQ(LoadMembershipCache(dir_ + "/cache")->InMesh("kube-system", "dns", "u5"), false);
}

TEST_F(KubeSourceTest, AStaticPodIsWhatTheKubeletCallsIt) {
  const std::string static_uid(32, 'a');
  server_.Put(kWeb, R"({"metadata":{"uid":"u6","annotations":{"kubernetes.io/config.mirror":")" +
                        static_uid + R"("}},"spec":{"nodeName":"n1"},"status":{"phase":"Running",
                        "podIPs":[{"ip":"10.0.0.5"}]}})");
  AddProcess("20", "a", "/kubepods/pod" + static_uid + "/c");
  Start();
  ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  EXPECT_EQ(pods_["u6"].netns, dir_ + "/proc/20/ns/net");
  EXPECT_EQ(LoadMembershipCache(dir_ + "/cache")->InMesh("shop", "web", static_uid), true);
  source_->OnCniAdd({"shop", "web", static_uid, dir_ + "/b", {}});
  EXPECT_EQ(pods_["u6"].netns, dir_ + "/b");
}

TEST_F(KubeSourceTest, ANewSandboxIsNoticedWithoutTheRuntime) {
  server_.Put(kWeb, PodJson(kUid, "10.0.0.5"));
  AddProcess("20", "a", "/kubepods/pod" + kUid + "/c");
  Start();
  ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  EXPECT_EQ(pods_[kUid].netns, dir_ + "/proc/20/ns/net");
  fs::remove_all(dir_ + "/proc/20");
  AddProcess("30", "b", "/kubepods/pod" + kUid + "/d");
  EXPECT_TRUE(Until([&] { return pods_[kUid].netns == dir_ + "/proc/30/ns/net"; }));
}

TEST_F(KubeSourceTest, WithTheApiServerAwayNothingIsForgotten) {
  server_.Put(kWeb, PodJson(kUid, "10.0.0.5"));
  Start();
  ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  server_.Listen(false);
  EXPECT_TRUE(Until([&] { return !source_->last_error().empty(); }));
  RunFor(loop_, milliseconds(300));
  EXPECT_EQ(pods_.count(kUid), 1u);
  server_.Listen(true);
  server_.Put(kWeb, PodJson(kUid, "10.0.0.5", R"({"x":"y"})"));
  EXPECT_TRUE(Until([&] { return pods_[kUid].labels.count("x") > 0; }));
  EXPECT_EQ(synced_, 1);
}

TEST_F(KubeSourceTest, WithTheApiServerAwayAtTheStartNothingIsSaid) {
  server_.Listen(false);
  std::ofstream(dir_ + "/cache") << "what the plugin knows stays";
  Start();
  RunFor(loop_, milliseconds(300));
  EXPECT_EQ(told_ + synced_, 0);
  EXPECT_TRUE(fs::exists(dir_ + "/cache"));
  EXPECT_FALSE(LoadMembershipCache(dir_ + "/cache")) << "and was not replaced by nothing";
}

TEST_F(KubeSourceTest, ARecreatedPodIsAnotherOneAndBrokenObjectsKeepTheOld) {
  server_.Put(kWeb, PodJson(kUid, "10.0.0.5"));
  Start();
  ASSERT_TRUE(Until([&] { return synced_ == 1; }));
  server_.Put(kWeb, PodJson("../bad", "10.0.0.5"));
  ASSERT_TRUE(Until([&] { return source_->broken() == 1; }));
  server_.Put(kWeb, PodJson("u-new", "10.0.0.6"));
  ASSERT_TRUE(Until([&] { return pods_.count("u-new") > 0; }));
  EXPECT_EQ(pods_.count(kUid), 0u);
  EXPECT_EQ(source_->broken(), 0u);
}

TEST_F(KubeSourceTest, WithoutAPluginTheRuntimesFolderTellsOfANewSandbox) {
  server_.Put(kWeb, PodJson(kUid, ""));  // its addresses come when its containers run already
  StartWithoutPlugin(std::chrono::hours(1));
  EXPECT_EQ(pods_[kUid].netns, "");
  RunFor(loop_, milliseconds(100));
  // In the runtime's order: the file, the network in it, the sandbox's process.
  const std::string path = dir_ + "/netns/cni-a";
  fs::create_hard_link(dir_ + "/a", path);
  RunFor(loop_, milliseconds(100));
  AddProcess("20", "a", "/kubepods/pod" + kUid + "/pause");
  RunFor(loop_, milliseconds(100));
  EXPECT_EQ(pods_[kUid].netns, "") << "without an address it is not set up yet";
  addresses_[path] = {*net::IpAddress::Parse("10.0.0.5"), *net::IpAddress::Parse("10.0.0.50"),
                      *net::IpAddress::Parse("fd00::5")};
  const auto began = event::Clock::now();
  ASSERT_TRUE(Until([&] { return pods_[kUid].netns == path; }));
  const auto took = std::chrono::duration_cast<milliseconds>(event::Clock::now() - began);
  RecordProperty("found_after_ms", static_cast<int>(took.count()));
  EXPECT_LT(took, milliseconds(500)) << "and not by the hour";
  ASSERT_EQ(pods_[kUid].ips.size(), 2u) << "the first of each family";
  EXPECT_EQ(pods_[kUid].ips[0].ToString(), "10.0.0.5");
  EXPECT_EQ(pods_[kUid].ips[1].ToString(), "fd00::5");
}

TEST_F(KubeSourceTest, TheApiServersWordOnAddressesCountsAndKeepsTheNamespace) {
  const std::string path = dir_ + "/netns/cni-a";
  fs::create_hard_link(dir_ + "/a", path);
  AddProcess("20", "a", "/kubepods/pod" + kUid + "/pause");
  addresses_[path] = {*net::IpAddress::Parse("10.0.0.5")};
  server_.Put(kWeb, PodJson(kUid, ""));
  StartWithoutPlugin(milliseconds(20));
  ASSERT_TRUE(Until([&] { return pods_[kUid].netns == path; }));
  const int asked = asked_;
  server_.Put(kWeb, PodJson(kUid, "10.0.0.77"));  // another interface's
  ASSERT_TRUE(Until([&] { return pods_[kUid].ips.front().ToString() == "10.0.0.77"; }));
  EXPECT_EQ(pods_[kUid].netns, path);
  RunFor(loop_, milliseconds(100));
  EXPECT_EQ(asked_, asked) << "it is not guessed again";
}

TEST_F(KubeSourceTest, AFolderThatTheRuntimeMakesLaterIsWatchedToo) {
  fs::remove_all(dir_ + "/netns");
  server_.Put(kWeb, PodJson(kUid, ""));
  StartWithoutPlugin(std::chrono::hours(1));
  RunFor(loop_, milliseconds(50));
  fs::create_directories(dir_ + "/netns");
  RunFor(loop_, milliseconds(100));
  const std::string path = dir_ + "/netns/cni-a";
  addresses_[path] = {*net::IpAddress::Parse("10.0.0.5")};
  AddProcess("20", "a", "/kubepods/pod" + kUid + "/pause");
  fs::create_hard_link(dir_ + "/a", path);
  EXPECT_TRUE(Until([&] { return pods_[kUid].netns == path; }));
}

}  // namespace
}  // namespace qanat::agent
