// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/folder_source.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>

namespace qanat::agent {
namespace {

namespace fs = std::filesystem;

class FolderSourceTest : public ::testing::Test, public PodListener {
 protected:
  FolderSourceTest() {
    char name[] = "/tmp/qanat-pods-XXXXXX";
    dir_ = ::mkdtemp(name);
  }
  ~FolderSourceTest() override { fs::remove_all(dir_); }
  void OnPod(const Pod& pod) override { seen_.push_back(pod.uid + "@" + pod.service_account); }
  void OnPodGone(const std::string& uid) override { seen_.push_back(uid + " gone"); }
  void OnSynced() override { ++synced_; }
  void Write(const std::string& uid, const std::string& text) {
    std::ofstream(dir_ + "/new") << text;
    fs::rename(dir_ + "/new", dir_ + "/" + uid + ".json");
  }
  static std::string Text(const std::string& uid, const std::string& sa) {
    return R"({"uid":")" + uid + R"(","name":"p","namespace":"n","serviceAccount":")" + sa + "\"}";
  }
  std::vector<std::string> Take() {
    for (int i = 0; i < 20 && seen_.empty(); ++i) loop_.RunOnce(std::chrono::milliseconds(50));
    return std::exchange(seen_, {});
  }
  using Seen = std::vector<std::string>;

  std::string dir_;
  event::EventLoop loop_;
  Seen seen_;
  int synced_ = 0;
};

TEST_F(FolderSourceTest, DeliversWhatIsThereThenChangesThenDeletions) {
  Write("a", Text("a", "one"));
  FolderSource source(loop_, dir_);
  ASSERT_TRUE(source.Start(this));
  EXPECT_EQ(std::exchange(seen_, {}), Seen{"a@one"}) << "before Start() returns";
  EXPECT_EQ(synced_, 1);
  Write("a", Text("a", "two"));
  EXPECT_EQ(Take(), Seen{"a@two"});
  fs::remove(dir_ + "/a.json");
  EXPECT_EQ(Take(), Seen{"a gone"});
}

TEST_F(FolderSourceTest, PodsOfAnExcludedNamespaceAreMarkedAndNoOthers) {
  Write("a", Text("a", "one"));
  Write("b", R"({"uid":"b","name":"p","namespace":"spared","labels":)"
             R"({"istio.io/dataplane-mode":"ambient"}})");
  struct Listener final : PodListener {
    void OnPod(const Pod& pod) override { pods[pod.uid] = pod; }
    void OnPodGone(const std::string&) override {}
    void OnSynced() override {}
    std::map<std::string, Pod> pods;
  } listener;
  FolderSource source(loop_, dir_, {"spared"});
  ASSERT_TRUE(source.Start(&listener));
  EXPECT_FALSE(listener.pods["a"].excluded);
  EXPECT_TRUE(listener.pods["b"].excluded);
  EXPECT_FALSE(DecideMembership(listener.pods["b"]).in_mesh);
}

TEST_F(FolderSourceTest, BrokenFileKeepsTheLastGoodStateAndIsCounted) {
  Write("a", Text("a", "one"));
  FolderSource source(loop_, dir_);
  ASSERT_TRUE(source.Start(this));
  seen_.clear();
  Write("a", "{");
  Write("b", Text("other", "x"));  // the name must be the uid
  for (int i = 0; i < 20 && source.broken() < 2; ++i) loop_.RunOnce(std::chrono::milliseconds(50));
  EXPECT_EQ(source.broken(), 2u);
  EXPECT_TRUE(seen_.empty());
  Write("a", Text("a", "three"));
  EXPECT_EQ(Take(), Seen{"a@three"});
  EXPECT_EQ(source.broken(), 1u);
}

TEST_F(FolderSourceTest, MakesTheFolderItWatches) {
  fs::remove_all(dir_);
  FolderSource source(loop_, dir_);
  ASSERT_TRUE(source.Start(this));
  Write("a", Text("a", "one"));
  EXPECT_EQ(Take(), Seen{"a@one"});
}

// As when all inotify instances of the node's root are in use: EMFILE too.
TEST_F(FolderSourceTest, WithoutInotifyItLooksNowAndThen) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  FolderSource source(loop_, dir_);
  ::testing::internal::CaptureStderr();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const Status started = source.Start(this);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  const std::string said = ::testing::internal::GetCapturedStderr();
  ASSERT_TRUE(started) << started.error().message;
  EXPECT_NE(said.find("fs.inotify.max_user_instances"), std::string::npos) << said;
  EXPECT_NE(said.find(dir_), std::string::npos) << said;
  EXPECT_EQ(synced_, 1);
  Write("a", Text("a", "one"));
  EXPECT_EQ(Take(), Seen{"a@one"});
  fs::remove(dir_ + "/a.json");
  EXPECT_EQ(Take(), Seen{"a gone"});
}

TEST_F(FolderSourceTest, WhatIsNoFolderIsAnError) {
  std::ofstream(dir_ + "/file") << "x";
  FolderSource source(loop_, dir_ + "/file");
  const Status started = source.Start(this);
  ASSERT_FALSE(started);
  EXPECT_NE(started.error().message.find(dir_ + "/file"), std::string::npos);
}

}  // namespace
}  // namespace qanat::agent
