// SPDX-License-Identifier: Apache-2.0
#include "controlplane/source/folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace qanat::controlplane {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

class FolderTest : public testing::Test {
 protected:
  FolderTest() { std::filesystem::create_directories(dir_ + "/yaml"); }
  ~FolderTest() override { std::filesystem::remove_all(dir_); }

  static std::string MakeDirectory() {
    char name[] = "/tmp/qanat-folder-XXXXXX";
    return ::mkdtemp(name);
  }
  // By rename, as qanatctl and editors do it.
  void Write(const std::string& file, const std::string& text) {
    std::ofstream(dir_ + "/tmp") << text;
    std::filesystem::rename(dir_ + "/tmp", dir_ + "/yaml/" + file);
  }
  static std::string ServiceYaml(const std::string& name) {
    return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name +
           "}\nspec: {ports: [{port: 80}]}\n";
  }
  std::unique_ptr<FolderSource> Open(const std::string& overlay = "") {
    auto source = std::make_unique<FolderSource>(loop_, dir_ + "/yaml", overlay, dir_ + "/keep");
    EXPECT_TRUE(source->Start([this] { ++changes_; }));
    return source;
  }
  bool Until(const std::function<bool()>& done) {
    const auto end = event::Clock::now() + std::chrono::seconds(10);
    while (!done() && event::Clock::now() < end) loop_.RunOnce(std::chrono::milliseconds(2));
    return done();
  }
  static std::vector<std::string> Names(const FolderSource& source) {
    std::vector<std::string> out;
    for (const controlplane::Service& s : source.Snapshot().objects.services)
      out.push_back(s.meta.name);
    return out;
  }

  event::EventLoop loop_;
  const std::string dir_ = MakeDirectory();
  int changes_ = 0;
};

TEST_F(FolderTest, FilesComeChangeAndGo) {
  Write("a.yaml", ServiceYaml("a"));
  std::filesystem::create_directory(dir_ + "/yaml/sub");
  std::ofstream(dir_ + "/yaml/sub/b.json") << R"({"apiVersion":"v1","kind":"Service","metadata":)"
                                              R"({"name":"b"},"spec":{"ports":[{"port":1}]}})";
  std::ofstream(dir_ + "/yaml/notes.txt") << "a: [";
  std::ofstream(dir_ + "/yaml/.hidden.yaml") << "a: [";
  const auto source = Open();
  EXPECT_THAT(Names(*source), testing::ElementsAre("a", "b"));
  EXPECT_THAT(source->Snapshot().issues, SizeIs(0));
  Write("c.yml", ServiceYaml("c"));
  EXPECT_TRUE(Until([&] { return Names(*source).size() == 3; }));
  Write("a.yaml", ServiceYaml("a2"));
  EXPECT_TRUE(Until([&] { return Names(*source).front() == "a2"; }));
  std::filesystem::remove_all(dir_ + "/yaml/sub");
  EXPECT_TRUE(Until([&] { return Names(*source).size() == 2; }));
  EXPECT_GE(changes_, 3);
  // A directory that appears later is watched, too.
  std::filesystem::create_directory(dir_ + "/yaml/later");
  std::ofstream(dir_ + "/yaml/later/d.yaml") << ServiceYaml("d");
  EXPECT_TRUE(Until([&] { return Names(*source).size() == 3; }));
}

TEST_F(FolderTest, NothingChangesNothingIsSaid) {
  Write("a.yaml", ServiceYaml("a"));
  const auto source = Open();
  for (int i = 0; i < 5; ++i) source->ScanNow();
  EXPECT_EQ(changes_, 0);
}

TEST_F(FolderTest, MissingFolderIsAnErrorAtStartAndKeepsObjectsLater) {
  FolderSource missing(loop_, dir_ + "/nowhere", "");
  const Status started = missing.Start([] {});
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().message, HasSubstr("no such directory"));
  Write("a.yaml", ServiceYaml("a"));
  const auto source = Open();
  std::filesystem::rename(dir_ + "/yaml", dir_ + "/away");
  source->ScanNow();
  EXPECT_THAT(Names(*source), SizeIs(1));
  ASSERT_THAT(source->Snapshot().issues, SizeIs(1));
  EXPECT_THAT(source->Snapshot().issues[0].message, HasSubstr("cannot be read"));
  std::filesystem::rename(dir_ + "/away", dir_ + "/yaml");
  source->ScanNow();
  EXPECT_THAT(source->Snapshot().issues, SizeIs(0));
}

TEST_F(FolderTest, BrokenAtTheStartTakesTheLastGoodCopy) {
  Write("a.yaml", ServiceYaml("a"));
  Open();
  Write("a.yaml", ServiceYaml("a") + "---\nx: [\n");
  {
    const auto source = Open();
    EXPECT_THAT(Names(*source), testing::ElementsAre("a"));
    EXPECT_THAT(source->Snapshot().issues, SizeIs(1));
  }
  // Gone and made anew broken: the old copy is not dug up.
  {
    const auto source = Open();
    std::filesystem::remove(dir_ + "/yaml/a.yaml");
    source->ScanNow();
  }
  Write("a.yaml", "x: [\n");
  EXPECT_THAT(Names(*Open()), SizeIs(0));
}

TEST_F(FolderTest, SpecialFilesAndCirclesDoNoHarm) {
  ASSERT_EQ(::mkfifo((dir_ + "/yaml/pipe.yaml").c_str(), 0600), 0);
  std::filesystem::create_directory_symlink(dir_ + "/yaml", dir_ + "/yaml/again");
  std::filesystem::create_symlink("/dev/zero", dir_ + "/yaml/zero.yaml");
  std::filesystem::create_directory(dir_ + "/yaml/dir.yaml");
  const auto source = Open();
  EXPECT_THAT(Names(*source), SizeIs(0));
}

TEST_F(FolderTest, CatchUpTakesInWhatWasWrittenBefore) {
  const auto source = Open();
  Until([&] { return loop_.now() > event::TimePoint(); });
  Write("a.yaml", ServiceYaml("a"));
  source->CatchUp();
  EXPECT_THAT(Names(*source), testing::ElementsAre("a"));
  EXPECT_EQ(changes_, 1);
}

TEST_F(FolderTest, OverlayThatComesLater) {
  Write("a.yaml", ServiceYaml("a"));
  const auto source = Open(dir_ + "/overlay");
  EXPECT_THAT(source->Snapshot().issues, SizeIs(0));
  std::filesystem::create_directory(dir_ + "/overlay");
  std::ofstream(dir_ + "/overlay/s.yaml")
      << "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.4}\n";
  EXPECT_TRUE(
      Until([&] { return source->Snapshot().objects.services[0].cluster_ips.size() == 1; }));
}

}  // namespace
}  // namespace qanat::controlplane
