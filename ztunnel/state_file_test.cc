// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/state_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace qanat::ztunnel {
namespace {

using state::JournalRecord;

std::string Batch(const std::string& name, const std::string& bytes) {
  std::string out;
  state::AppendJournalRecord(
      {JournalRecord::Op::kPut, JournalRecord::Type::kAddress, name, "1", bytes}, out);
  state::AppendBatchEnd(out);
  return out;
}

class StateFileTest : public ::testing::Test {
 protected:
  StateFileTest() {
    char path[] = "/tmp/qanat-state-XXXXXX";
    directory_ = std::string(mkdtemp(path)) + "/state";
  }
  ~StateFileTest() override { std::filesystem::remove_all(directory_ + "/.."); }
  // "name=bytes " in order, or why not.
  std::string Saved() {
    const auto file = StateFile::Read(directory_);
    if (!file) return std::string(CodeName(file.error().code));
    std::string out;
    const auto header = state::ReadJournal(*file, [&](const JournalRecord& r) {
      out.append(r.name).append("=").append(r.bytes.substr(0, 8)).append(" ");
    });
    return header ? out : header.error().message;
  }
  size_t Files() {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory_)) {
      ++count;
    }
    return count;
  }

  std::string directory_;
};

TEST_F(StateFileTest, OnlyWhatIsCompleteTakesTheOldOnesPlace) {
  EXPECT_EQ(Saved(), "NOT_FOUND");
  {
    StateFile file(directory_);
    ASSERT_TRUE(file.Begin("", 0));
    ASSERT_TRUE(file.Append(Batch("a", "1"), true));
    EXPECT_EQ(Saved(), "NOT_FOUND");
    ASSERT_TRUE(file.Complete(100));
    EXPECT_EQ(Saved(), "a=1 ");
    ASSERT_TRUE(file.Append(Batch("b", "2"), true));
    EXPECT_EQ(Saved(), "a=1 b=2 ");
    struct stat about{};
    ASSERT_EQ(stat(StateFile::PathIn(directory_).c_str(), &about), 0);
    EXPECT_EQ(about.st_mode & 07777, 0600u);
  }
  const std::string before = StateFile::Read(directory_).value();
  {
    StateFile next(directory_);
    ASSERT_TRUE(next.Begin(std::string_view(before).substr(state::kJournalHeaderSize), 100));
    ASSERT_TRUE(next.Append(Batch("c", "3"), true));
    EXPECT_EQ(Saved(), "a=1 b=2 ");
  }  // ends before it was complete
  EXPECT_EQ(Saved(), "a=1 b=2 ");
  EXPECT_EQ(Files(), 1u);
}

TEST_F(StateFileTest, AHalfBatchIsNotUsed) {
  StateFile file(directory_);
  ASSERT_TRUE(file.Begin("", 0));
  ASSERT_TRUE(file.Complete(1));
  const std::string batch = Batch("a", "1");
  ASSERT_TRUE(file.Append(std::string_view(batch).substr(0, 20), false));
  EXPECT_NE(Saved().find("not all there"), std::string::npos) << Saved();
  ASSERT_TRUE(file.Append(std::string_view(batch).substr(20), true));
  EXPECT_EQ(Saved(), "a=1 ");
}

TEST_F(StateFileTest, IsCleanedUpWhileItGrows) {
  StateFile file(directory_);
  ASSERT_TRUE(file.Begin("", 0));
  ASSERT_TRUE(file.Complete(1));
  const std::string body(10000, 'x');
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(file.Append(Batch("n" + std::to_string(i % 3), body), true));
  }
  EXPECT_LT(file.size(), 2u << 20);  // of ten million bytes that were written
  const std::string saved = Saved();
  for (const char* name : {"n0", "n1", "n2"}) EXPECT_NE(saved.find(name), std::string::npos);
  EXPECT_EQ(Files(), 1u);
}

// Two processes during an upgrade: each writes its own; the one that lives on has its way.
TEST_F(StateFileTest, TakesItsPlaceBack) {
  StateFile old(directory_);
  ASSERT_TRUE(old.Begin("", 0));
  ASSERT_TRUE(old.Append(Batch("old", "1"), true));
  ASSERT_TRUE(old.Complete(1));
  StateFile next(directory_);
  ASSERT_TRUE(next.Begin("", 0));
  ASSERT_TRUE(next.Append(Batch("next", "1"), true));
  ASSERT_TRUE(next.Complete(2));
  EXPECT_EQ(Saved(), "next=1 ");
  ASSERT_TRUE(old.Append(Batch("late", "1"), true));
  EXPECT_EQ(Saved(), "next=1 ");
  ASSERT_TRUE(old.Confirm(3));
  EXPECT_EQ(Saved(), "old=1 late=1 ");
  ASSERT_TRUE(next.Confirm(4));
  EXPECT_EQ(Saved(), "next=1 ");
  std::string file = StateFile::Read(directory_).value();
  EXPECT_EQ(state::ReadJournal(file, [](const auto&) {})->current_at, 4);
}

TEST_F(StateFileTest, LeftoversOfTheKilledGo) {
  std::filesystem::create_directories(directory_);
  std::ofstream(directory_ + "/mesh.state.new-00000000") << "half";
  StateFile living(directory_);
  ASSERT_TRUE(living.Begin("", 0));
  EXPECT_EQ(Files(), 1u);
  StateFile other(directory_);
  ASSERT_TRUE(other.Begin("", 0));
  EXPECT_EQ(Files(), 2u) << "what another process is at stays";
}

TEST_F(StateFileTest, WhatOthersCouldHaveWrittenIsNotBelieved) {
  {
    StateFile file(directory_);
    ASSERT_TRUE(file.Begin("", 0));
    ASSERT_TRUE(file.Complete(1));
  }
  const std::string path = StateFile::PathIn(directory_);
  ASSERT_EQ(chmod(path.c_str(), 0620), 0);
  EXPECT_EQ(Saved(), "PERMISSION_DENIED");
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  EXPECT_EQ(Saved(), "");
  ASSERT_EQ(rename(path.c_str(), (path + "x").c_str()), 0);
  ASSERT_EQ(symlink((path + "x").c_str(), path.c_str()), 0);
  EXPECT_EQ(StateFile::Read(directory_).has_value(), false);
}

// A full disk: what is not there must not be missed by anybody, and comes when there is room.
TEST_F(StateFileTest, AFullDisk) {
  std::signal(SIGXFSZ, SIG_IGN);
  StateFile file(directory_);
  ASSERT_TRUE(file.Begin("", 0));
  ASSERT_TRUE(file.Append(Batch("a", "1"), true));
  ASSERT_TRUE(file.Complete(1));
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit little = before;
  little.rlim_cur = 200;  // stands in for a disk without room
  setrlimit(RLIMIT_FSIZE, &little);
  const Status status = file.Append(Batch("b", std::string(5000, 'y')), true);
  const std::string found = Saved();
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_FALSE(status.has_value());
  EXPECT_NE(found.find("not all there"), std::string::npos) << found;
  ASSERT_TRUE(file.Confirm(5));
  EXPECT_EQ(Saved(), "a=1 b=yyyyyyyy ");
}

TEST_F(StateFileTest, GivenUpIsNotFound) {
  StateFile file(directory_);
  ASSERT_TRUE(file.Begin("", 0));
  ASSERT_TRUE(file.Complete(1));
  EXPECT_EQ(Saved(), "");
  file.GiveUp();
  EXPECT_EQ(Saved(), "NOT_FOUND");
  EXPECT_FALSE(file.usable());
  EXPECT_TRUE(file.Append(Batch("a", "1"), true));
  EXPECT_TRUE(file.Confirm(2));
  EXPECT_EQ(Saved(), "NOT_FOUND");
}

}  // namespace
}  // namespace qanat::ztunnel
