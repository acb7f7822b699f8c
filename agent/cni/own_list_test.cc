// SPDX-License-Identifier: Apache-2.0
#include "agent/cni/own_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "agent/cni/install.h"
#include "agent/files/files.h"

namespace qanat::agent::cni {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kFlannel = "{\"name\":\"lab\",\n \"plugins\":[{\"type\":\"flannel\"}]}\n";
constexpr const char* kCalico = "{\"name\":\"k8s\",\n \"plugins\":[{\"type\":\"calico\"}]}\n";
const std::string kOwn(kOwnList);

class OwnListTest : public ::testing::Test {
 protected:
  OwnListTest() {
    char name[] = "/tmp/qanat-own-XXXXXX";
    dir_ = ::mkdtemp(name);
    options_.conf_dir = dir_ + "/net.d";
    options_.bin_dir = dir_ + "/bin";
    options_.plugin = dir_ + "/plugin";
    options_.own_settles = std::chrono::milliseconds(0);
    options_.source_away = std::chrono::milliseconds(1500);
    fs::create_directories(options_.conf_dir);
    fs::create_directories(options_.bin_dir);
    EXPECT_TRUE(WriteFileAtomically(options_.plugin, "the binary"));
  }
  ~OwnListTest() override { fs::remove_all(dir_); }

  void Conf(const std::string& name, const std::string& text) {
    ASSERT_TRUE(WriteFileAtomically(options_.conf_dir + "/" + name, text, {.mode = 0640}));
  }
  std::string Conf(const std::string& name) {
    auto text = ReadFile(options_.conf_dir + "/" + name);
    return text ? *text : "none";
  }
  void Gone(const std::string& name) { fs::remove(options_.conf_dir + "/" + name); }
  void Start() {
    installer_.reset();
    installer_ = std::make_unique<Installer>(loop_, options_, nullptr);
    ASSERT_TRUE(installer_->Start());
  }
  bool Until(const std::function<bool()>& condition, int ms = 900) {
    // Without the time that this process stood still.
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
  // What a runtime takes calls our plugin last, and `type` first.
  ::testing::AssertionResult RuntimeCalls(const std::string& type) {
    const auto files = ReadConfs(options_.conf_dir);
    const std::string primary = PrimaryOf(files);
    const auto json = nlohmann::json::parse(Conf(primary), nullptr, false);
    const auto plugins = json.value("plugins", nlohmann::json::array());
    if (plugins.size() == 2 && plugins[0].value("type", "") == type &&
        plugins[1].value("type", "") == kPluginType)
      return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << primary << ": " << Conf(primary);
  }

  std::string dir_;
  InstallOptions options_;
  event::EventLoop loop_;
  std::unique_ptr<Installer> installer_;
};

TEST_F(OwnListTest, OthersFilesStayAsTheyAreAndOursGoesAtTheEnd) {
  Conf("10-flannel.conflist", kFlannel);
  Conf("99-other.conflist", kCalico);
  Start();
  EXPECT_EQ(installer_->problem(), "");
  EXPECT_TRUE(RuntimeCalls("flannel"));
  EXPECT_EQ(Conf("10-flannel.conflist"), kFlannel);
  EXPECT_THAT(Files(), ElementsAre(kOwn, "10-flannel.conflist", "99-other.conflist"));
  auto without = RemoveEntry(Conf(kOwn));
  ASSERT_TRUE(without);
  EXPECT_EQ(*without, kFlannel) << "to the byte: a pod's DEL may come by the other one";
  struct stat s{};
  ASSERT_EQ(::stat((options_.conf_dir + "/" + kOwn).c_str(), &s), 0);
  EXPECT_EQ(s.st_mode & 0777, 0640u) << "as its source's";
  installer_.reset();
  ASSERT_TRUE(Installer::Remove(options_));
  EXPECT_THAT(Files(), ElementsAre("10-flannel.conflist", "99-other.conflist"));
  EXPECT_EQ(Conf("10-flannel.conflist"), kFlannel);
}

// The network plugin's pods write their file anew when a node starts, and no agent is there yet.
TEST_F(OwnListTest, APluginThatWritesItsFileAnewTakesNothingOut) {
  Conf("10-flannel.conflist", kFlannel);
  Start();
  installer_.reset();  // a node without power
  Conf("10-flannel.conflist", kFlannel);
  EXPECT_TRUE(RuntimeCalls("flannel")) << "the next pod would start open";
}

TEST_F(OwnListTest, FollowsWithinASecond) {
  Conf("10-flannel.conflist", kFlannel);
  Start();
  const std::string next = "{\"name\":\"lab\",\"plugins\":[{\"type\":\"flannel\",\"mtu\":1400}]}";
  Conf("10-flannel.conflist", next);
  EXPECT_TRUE(Until([&] { return RemoveEntry(Conf(kOwn)).value_or("") == next; }));
  Conf("05-cilium.conf", R"({"cniVersion":"0.4.0","name":"c","type":"cilium"})");
  EXPECT_TRUE(Until([&] { return bool(RuntimeCalls("cilium")); })) << "another plugin takes over";
  Gone("05-cilium.conf");
  EXPECT_TRUE(Until([&] { return RemoveEntry(Conf(kOwn)).value_or("") == next; }));
  Gone(kOwn);
  EXPECT_TRUE(Until([&] { return bool(RuntimeCalls("flannel")); })) << "our list is put back";
  EXPECT_EQ(Conf("10-flannel.conflist"), next);
}

TEST_F(OwnListTest, WhatChangedWhileTheAgentWasAwayIsFollowedAtItsStart) {
  Conf("10-flannel.conflist", kFlannel);
  Start();
  installer_.reset();
  Gone("10-flannel.conflist");
  Conf("10-calico.conflist", kCalico);
  ::testing::internal::CaptureStderr();
  Start();
  EXPECT_TRUE(RuntimeCalls("calico"));
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("10-calico.conflist is not what"));
}

TEST_F(OwnListTest, StaysForAWhileWithoutItsSource) {
  Start();
  EXPECT_THAT(installer_->problem(), HasSubstr("waiting"));
  EXPECT_TRUE(Files().empty());
  Conf("10-aws.conflist", kFlannel);
  EXPECT_TRUE(Until([&] { return bool(RuntimeCalls("flannel")); }));
  Gone("10-aws.conflist");  // its plugin is not ready just now
  EXPECT_FALSE(Until([&] { return !fs::exists(options_.conf_dir + "/" + kOwn); }, 1000));
  EXPECT_TRUE(Until([&] { return Files().empty(); }, 2500)) << "it is gone for good";
  EXPECT_THAT(installer_->problem(), HasSubstr("waiting"));
  Conf("10-aws.conflist", kFlannel);
  EXPECT_TRUE(Until([&] { return bool(RuntimeCalls("flannel")); }));
}

TEST_F(OwnListTest, AFileBeforeOursHasTheEntryItself) {
  Conf("10-flannel.conflist", kFlannel);
  Start();
  Conf("00-first.conflist", kCalico);
  EXPECT_TRUE(Until([&] { return bool(RuntimeCalls("calico")); }));
  EXPECT_TRUE(HasEntry(Conf(kOwn)));
  Conf("00-first.conflist", kCalico);
  EXPECT_TRUE(Until([&] { return bool(RuntimeCalls("calico")); }));
  installer_.reset();
  ASSERT_TRUE(Installer::Remove(options_));
  EXPECT_THAT(Files(), ElementsAre("00-first.conflist", "10-flannel.conflist"));
  EXPECT_EQ(Conf("00-first.conflist"), kCalico);
}

TEST_F(OwnListTest, WhoComesFirstAndCallsUsIsLeftAlone) {
  Conf("10-flannel.conflist", kFlannel);
  Start();
  for (const std::string& multus :
       {R"({"name":"m","type":"multus-shim","clusterNetwork":"/etc/cni/net.d/)" + kOwn + "\"}",
        R"({"name":"m","type":"multus","delegates":[)" + Conf(kOwn) + "]}"}) {
    Conf("00-multus.conf", multus);
    EXPECT_FALSE(Until([&] { return Conf("00-multus.conf") != multus; }, 400));
    EXPECT_EQ(Files().size(), 3u);
    EXPECT_EQ(RemoveEntry(Conf(kOwn)).value_or(""), kFlannel);
    EXPECT_EQ(installer_->problem(), "");
  }
}

TEST_F(OwnListTest, WhatCallsOursIsNotWrapped) {
  Conf("20-flannel.conflist", kFlannel);
  Start();
  const std::string multus =
      R"({"name":"m","plugins":[{"type":"multus","clusterNetwork":"/x/)" + kOwn + "\"}]}";
  Conf("10-multus.conflist", multus);
  ::testing::internal::CaptureStderr();
  EXPECT_TRUE(Until([&] { return HasEntry(Conf("10-multus.conflist")); }));
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("calls our plugin itself"));
  EXPECT_FALSE(fs::exists(options_.conf_dir + "/" + kOwn)) << "it would go round in circles";
  EXPECT_TRUE(RuntimeCalls("multus"));
  EXPECT_EQ(installer_->problem(), "");
}

// As Cilium does with what is not its own (cni.exclusive, its default).
TEST_F(OwnListTest, WhoTakesItAwayAgainAndAgainWins) {
  Conf("05-cilium.conflist", kFlannel);
  Start();
  ::testing::internal::CaptureStderr();
  const auto exclusive = [&] {
    const std::string own = options_.conf_dir + "/" + kOwn;
    if (fs::exists(own)) fs::rename(own, own + ".cilium_bak");
    return HasEntry(Conf("05-cilium.conflist"));
  };
  EXPECT_TRUE(Until(exclusive, 5000));
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), HasSubstr("cni.exclusive=false"));
  EXPECT_FALSE(Until([&] { return Files().size() > 1; }, 1200)) << "no fight without an end";
  EXPECT_TRUE(RuntimeCalls("flannel"));
  EXPECT_EQ(installer_->problem(), "");
}

TEST_F(OwnListTest, AnEntryThatWasInTheirFileGoesWhenOursHasStood) {
  options_.own_list = false;
  Conf("10-flannel.conf", R"({"cniVersion":"0.3.1","name":"n","type":"flannel"})");
  Conf("20-calico.conflist", kCalico);
  Start();
  EXPECT_THAT(Files(), ElementsAre("10-flannel-qanat.conflist", "10-flannel.conf.qanat-saved",
                                   "20-calico.conflist"));
  options_.own_list = true;
  options_.own_settles = std::chrono::milliseconds(1500);
  Start();
  EXPECT_TRUE(RuntimeCalls("flannel"));
  EXPECT_EQ(Files().size(), 4u) << "not before it is known that ours stays";
  EXPECT_TRUE(Until(
      [&] {
        return Files() == std::vector<std::string>{kOwn, "10-flannel.conf", "20-calico.conflist"};
      },
      4000));
  EXPECT_TRUE(RuntimeCalls("flannel"));
  options_.own_list = false;  // and back
  Start();
  EXPECT_TRUE(RuntimeCalls("flannel"));
  EXPECT_FALSE(fs::exists(options_.conf_dir + "/" + kOwn));
}

TEST_F(OwnListTest, ThePluginFollowsWhileTheAgentIsAway) {
  const std::string own = options_.conf_dir + "/" + kOwn;
  Conf("10-flannel.conflist", kFlannel);
  Start();
  EXPECT_NE(EntryOf(Conf(kOwn)).find("\"ownList\":\"" + own + "\""), std::string::npos);
  installer_.reset();
  EXPECT_EQ(FollowOwnList(own).value_or("?"), "") << "nothing has changed";
  Conf("10-flannel.conflist", kCalico);
  const std::string entry = EntryOf(Conf(kOwn));
  EXPECT_EQ(FollowOwnList(own).value_or("?"), "10-flannel.conflist");
  EXPECT_TRUE(RuntimeCalls("calico"));
  EXPECT_EQ(EntryOf(Conf(kOwn)), entry);
  EXPECT_EQ(FollowOwnList(own).value_or("?"), "");
  Gone("10-flannel.conflist");
  EXPECT_EQ(FollowOwnList(own).value_or("?"), "") << "nothing to follow: the last word counts";
  EXPECT_TRUE(RuntimeCalls("calico"));
  Gone(kOwn);
  Conf("10-flannel.conflist", kFlannel);
  EXPECT_EQ(FollowOwnList(own).value_or("?"), "");
  EXPECT_FALSE(fs::exists(own)) << "an agent that has ended took it away";
}

TEST(LeadsToUsTest, OurOwnEntryDoesNotCount) {
  const std::string entry = FormatEntry({});
  EXPECT_FALSE(LeadsToUs(R"({"plugins":[{"type":"a"},)" + entry + "]}", kOwnList));
  EXPECT_TRUE(LeadsToUs(R"({"plugins":[{"type":"a","delegates":[)" + entry + "]}]}", kOwnList));
  EXPECT_TRUE(LeadsToUs(R"({"type":"a","delegate":)" + entry + "}", kOwnList));
  EXPECT_TRUE(LeadsToUs(R"({"type":"a","file":"/x/)" + kOwn + "\"}", kOwnList));
  EXPECT_FALSE(LeadsToUs(R"({"type":"a","note":"qanat-cni is fine"})", kOwnList));
  EXPECT_FALSE(LeadsToUs("[]", kOwnList));
  EXPECT_FALSE(LeadsToUs("", kOwnList));
  const std::string deep =
      "{\"type\":\"a\",\"x\":" + std::string(200000, '[') + std::string(200000, ']') + "}";
  EXPECT_FALSE(LeadsToUs(deep, kOwnList));
}

}  // namespace
}  // namespace qanat::agent::cni
