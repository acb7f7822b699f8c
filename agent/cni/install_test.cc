// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/install.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <utility>

#include "agent/files/files.h"

namespace qanat::agent::cni {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kList = "{\"name\":\"lab\",\n \"plugins\":[{\"type\":\"ptp\"}]}\n";

class InstallTest : public ::testing::Test {
 protected:
  InstallTest() {
    char name[] = "/tmp/qanat-cni-XXXXXX";
    dir_ = ::mkdtemp(name);
    options_.conf_dir = dir_ + "/net.d";
    options_.bin_dir = dir_ + "/bin";
    options_.plugin = dir_ + "/plugin";
    options_.own_list = false;  // else: own_list_test.cc
    fs::create_directories(options_.conf_dir);
    fs::create_directories(options_.bin_dir);
    std::ofstream(options_.plugin) << "the binary";
  }
  ~InstallTest() override { fs::remove_all(dir_); }

  void Conf(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(options_.conf_dir + "/" + name, text, {.mode = 0640}));
  }
  std::string Conf(const std::string& name) {
    auto text = ReadFile(options_.conf_dir + "/" + name);
    return text ? *text : "none";
  }
  void Start() {
    installer_ = std::make_unique<Installer>(loop_, options_,
                                             [this](const std::string& other) { other_ = other; });
    ASSERT_TRUE(installer_->Start());
  }
  bool Until(const std::function<bool()>& condition, int ms = 900) {
    // Without the time that this process stood still: the kernel is to tell, before the next look.
    event::Duration left = std::chrono::milliseconds(ms);
    for (auto last = event::Clock::now(); !condition() && left > event::Duration{};) {
      loop_.RunOnce(std::chrono::milliseconds(20));
      const auto now = event::Clock::now();
      left -=
          std::min<event::Duration>(now - std::exchange(last, now), std::chrono::milliseconds(25));
    }
    return condition();
  }
  std::vector<std::string> Files() {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(options_.conf_dir))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  std::string dir_, other_;
  InstallOptions options_;
  event::EventLoop loop_;
  std::unique_ptr<Installer> installer_;
};

TEST_F(InstallTest, PutsEverythingInPlaceAndTakesExactlyThatAway) {
  Conf("10-lab.conflist", kList);
  Conf("99-other.conflist", kList);
  Start();
  EXPECT_EQ(installer_->problem(), "");
  EXPECT_TRUE(HasEntry(Conf("10-lab.conflist")));
  EXPECT_EQ(Conf("99-other.conflist"), kList) << "only the primary";
  struct stat s{};
  ASSERT_EQ(::stat((options_.bin_dir + "/qanat-cni").c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0755u);
  ASSERT_EQ(::stat((options_.conf_dir + "/10-lab.conflist").c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0640u) << "the mode stays";
  installer_.reset();
  ASSERT_TRUE(Installer::Remove(options_));
  EXPECT_EQ(Conf("10-lab.conflist"), kList);
  EXPECT_FALSE(fs::exists(options_.bin_dir + "/qanat-cni"));
  EXPECT_THAT(Files(), ::testing::ElementsAre("10-lab.conflist", "99-other.conflist"));
  ASSERT_TRUE(Installer::Remove(options_)) << "again";
}

// A runtime reads the folder whenever it likes, also in the middle of a change: what it finds is
// always the whole of a list with the primary plugin in it.
TEST_F(InstallTest, WhoReadsMeanwhileFindsAWholeConfiguration) {
  // Of many pages: a file that is written where it stands would be seen half written.
  const std::string list = "{\"name\":\"lab\",\"note\":\"" + std::string(12000, 'x') +
                           "\",\"plugins\":[{\"type\":\"ptp\"}]}\n";
  Conf("10-lab.conflist", list);
  const std::string path = options_.conf_dir + "/10-lab.conflist";
  std::atomic<bool> over{false};
  std::atomic<int> with{0}, without{0};
  std::string bad;
  std::thread runtime([&] {
    while (!over) {
      std::ifstream in(path);
      std::stringstream text;
      text << in.rdbuf();
      const auto json = nlohmann::json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
      const auto plugins = json.is_object() ? json.value("plugins", nlohmann::json()) : json;
      if (!plugins.is_array() || plugins.empty() || plugins[0] != nlohmann::json{{"type", "ptp"}}) {
        bad = in.is_open() ? std::to_string(text.str().size()) + " bytes" : "no file";
        over = true;
        return;
      }
      ++(plugins.size() == 2 ? with : without);
    }
  });
  for (int i = 0; !over && i < 20000 && (i < 200 || with < 20 || without < 20); ++i) {
    Start();
    installer_.reset();
    EXPECT_TRUE(Installer::Remove(options_));
  }
  over = true;
  runtime.join();
  EXPECT_EQ(bad, "");
  EXPECT_GE(with, 20) << "the reader hardly looked";
  EXPECT_GE(without, 20) << "the reader hardly looked";
  EXPECT_EQ(Conf("10-lab.conflist"), list);
}

// As when all inotify instances of the node's root are in use: EMFILE too.
TEST_F(InstallTest, WithoutInotifyItLooksEverySecond) {
  Conf("10-lab.conflist", kList);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ::testing::internal::CaptureStderr();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  Start();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("sysctl -w fs.inotify.max_user_instances"));
  const auto entry = [&] { return HasEntry(Conf("10-lab.conflist")); };
  EXPECT_TRUE(Until(entry, 2000));
  Conf("10-lab.conflist", kList);
  EXPECT_TRUE(Until(entry, 2000));
  EXPECT_EQ(installer_->problem(), "");
}

TEST_F(InstallTest, RepairsWithinASecond) {
  Conf("10-lab.conflist", kList);
  Start();
  Conf("10-lab.conflist", kList);  // its owner writes it again
  EXPECT_TRUE(Until([&] { return HasEntry(Conf("10-lab.conflist")); }));
  fs::remove(options_.bin_dir + "/qanat-cni");
  EXPECT_TRUE(Until([&] { return fs::exists(options_.bin_dir + "/qanat-cni"); }));
  Conf("05-new.conflist", kList);  // another network plugin takes over
  EXPECT_TRUE(Until([&] { return HasEntry(Conf("05-new.conflist")); }));
  EXPECT_TRUE(HasEntry(Conf("10-lab.conflist"))) << "the old one may come first again";
  std::ofstream(options_.plugin) << "another version";
  EXPECT_TRUE(Until([&] {
                auto text = ReadFile(options_.bin_dir + "/qanat-cni");
                return text && *text == "another version";
              }) ||
              Until([&] {
                auto text = ReadFile(options_.bin_dir + "/qanat-cni");
                return text && *text == "another version";
              }));
  ASSERT_TRUE(Installer::Remove(options_));
  EXPECT_EQ(Conf("05-new.conflist"), kList);
  EXPECT_EQ(Conf("10-lab.conflist"), kList);
}

TEST_F(InstallTest, WaitsForTheFirstConfiguration) {
  Start();
  EXPECT_THAT(installer_->problem(), HasSubstr("waiting"));
  Conf("10-lab.conflist", "{\"plugins\":");  // not whole, not usable
  Conf("20-lab.conflist", kList);
  EXPECT_TRUE(Until([&] { return installer_->problem().empty(); }));
  EXPECT_TRUE(HasEntry(Conf("20-lab.conflist")));
}

TEST_F(InstallTest, SingleConfigurationIsWrappedAndRestored) {
  const std::string conf = R"({ "cniVersion":"0.3.1","name":"n", "type":"flannel" })";
  Conf("10-flannel.conf", conf);
  Start();
  EXPECT_THAT(Files(),
              ::testing::ElementsAre("10-flannel-qanat.conflist", "10-flannel.conf.qanat-saved"));
  EXPECT_TRUE(HasEntry(Conf("10-flannel-qanat.conflist")));
  const std::string next = R"({ "cniVersion":"0.4.0","name":"n", "type":"flannel" })";
  Conf("10-flannel.conf", next);  // its owner writes it again, with other settings
  EXPECT_TRUE(Until([&] { return !fs::exists(options_.conf_dir + "/10-flannel.conf"); }));
  EXPECT_THAT(Conf("10-flannel-qanat.conflist"), HasSubstr("0.4.0"));
  installer_.reset();
  ASSERT_TRUE(Installer::Remove(options_));
  EXPECT_THAT(Files(), ::testing::ElementsAre("10-flannel.conf"));
  EXPECT_EQ(Conf("10-flannel.conf"), next);
}

TEST_F(InstallTest, AListOfTheSameNameIsItsOwners) {
  Conf("10-net.conf", R"({"type":"flannel"})");
  Conf("10-net.conflist", kList);
  Start();
  EXPECT_TRUE(HasEntry(Conf("10-net-qanat.conflist"))) << "the single one was the first by name";
  EXPECT_EQ(Conf("10-net.conflist"), kList);
  installer_.reset();
  ASSERT_TRUE(Installer::Remove(options_));
  EXPECT_THAT(Files(), ::testing::ElementsAre("10-net.conf", "10-net.conflist"));
  EXPECT_EQ(Conf("10-net.conflist"), kList);
}

TEST_F(InstallTest, AnotherVersionOfTheSameSizeAndTimeReplacesTheBinary) {
  Conf("10-lab.conflist", kList);
  Start();
  const auto time = fs::last_write_time(options_.plugin);
  installer_.reset();
  std::ofstream(options_.plugin) << "THE BINARY";
  fs::last_write_time(options_.plugin, time);
  Start();
  EXPECT_EQ(*ReadFile(options_.bin_dir + "/qanat-cni"), "THE BINARY");
}

TEST_F(InstallTest, AnotherMeshInTheChainIsToldAndLeftAlone) {
  const std::string chain = R"({"plugins":[{"type":"ptp"},{"type":"istio-cni"}]})";
  Conf("10-lab.conflist", chain);
  Start();
  EXPECT_THAT(other_, HasSubstr("istio-cni is in " + options_.conf_dir + "/10-lab.conflist"));
  EXPECT_EQ(Conf("10-lab.conflist"), chain);
  Conf("10-lab.conflist", kList);
  EXPECT_TRUE(Until([&] { return HasEntry(Conf("10-lab.conflist")); }));
  EXPECT_EQ(other_, "");
  // It comes after us: our entry stays, pods must not start open.
  auto both = InsertEntry(chain, FormatEntry(options_.settings));
  Conf("10-lab.conflist", *both);
  EXPECT_TRUE(Until([&] { return !other_.empty(); }));
  EXPECT_TRUE(HasEntry(Conf("10-lab.conflist")));
}

TEST_F(InstallTest, AMissingPluginInTheImageIsSaid) {
  Conf("10-lab.conflist", kList);
  fs::remove(options_.plugin);
  Start();
  EXPECT_THAT(installer_->problem(), HasSubstr(options_.plugin));
  EXPECT_EQ(Conf("10-lab.conflist"), kList) << "no entry without a binary: nothing could start";
}

}  // namespace
}  // namespace qanat::agent::cni
