// SPDX-License-Identifier: Apache-2.0
#include "agent/files/kept_sockets.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace qanat::agent {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

class KeptSocketsTest : public ::testing::Test {
 protected:
  KeptSocketsTest() {
    char name[] = "/tmp/qanat-kept-XXXXXX";
    dir_ = ::mkdtemp(name);
    path_ = dir_ + "/run/a.sock";
  }
  ~KeptSocketsTest() override { fs::remove_all(dir_); }
  Status Make() {
    ++made_;
    if (fails_) return Fail(Code::kIo, "no");
    std::ofstream(path_) << "ours";
    return {};
  }
  bool Until(const std::function<bool()>& so) {
    for (int i = 0; i < 200 && !so(); ++i) loop_.RunOnce(milliseconds(10));
    return so();
  }

  std::string dir_, path_;
  event::EventLoop loop_;
  int made_ = 0;
  bool fails_ = false;
};

TEST_F(KeptSocketsTest, WhatIsLostIsMadeAgainWithItsFolder) {
  KeptSockets kept(loop_, milliseconds(10));
  ASSERT_TRUE(kept.Keep(path_, [this] { return Make(); }));
  EXPECT_EQ(made_, 1);
  fs::remove_all(dir_ + "/run");
  EXPECT_TRUE(Until([&] { return fs::exists(path_); }));
  EXPECT_EQ(made_, 2);
  EXPECT_EQ(kept.restored(), 1u);
}

TEST_F(KeptSocketsTest, WhatAnotherHasPutThereIsLeftAlone) {
  KeptSockets kept(loop_, milliseconds(10));
  ASSERT_TRUE(kept.Keep(path_, [this] { return Make(); }));
  std::ofstream(dir_ + "/new") << "theirs";
  fs::rename(dir_ + "/new", path_);
  int looks = 0;
  kept.SetOnLook([&] { ++looks; });
  EXPECT_TRUE(Until([&] { return looks >= 3; }));
  EXPECT_EQ(made_, 1);
}

TEST_F(KeptSocketsTest, AFailureIsTriedAgain) {
  KeptSockets kept(loop_, milliseconds(10));
  ASSERT_TRUE(kept.Keep(path_, [this] { return Make(); }));
  fails_ = true;
  fs::remove(path_);
  EXPECT_TRUE(Until([&] { return made_ >= 4; }));
  EXPECT_EQ(kept.restored(), 0u);
  fails_ = false;
  EXPECT_TRUE(Until([&] { return kept.restored() == 1; }));
  fails_ = true;
  EXPECT_FALSE(kept.Keep(dir_ + "/b", [this] { return Make(); })) << "at first it is told";
}

}  // namespace
}  // namespace qanat::agent
