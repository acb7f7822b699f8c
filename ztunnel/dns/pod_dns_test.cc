// SPDX-License-Identifier: Apache-2.0
#include "ztunnel/dns/pod_dns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

namespace qanat::ztunnel::dns {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> Text(const std::vector<NameServer>& servers) {
  std::vector<std::string> out;
  for (const auto& s : servers) out.push_back(s.address.ToString() + (s.in_pod ? "" : " outside"));
  return out;
}

TEST(PodDns, ReadsResolvConf) {
  EXPECT_THAT(Text(ParseResolvConf("# nameserver 1.1.1.1\n"
                                   "search shop.svc.cluster.local\n"
                                   "nameserver 10.96.0.10\n"
                                   "nameserver\t fd00::10 # the other\n"
                                   "nameserver fe80::1%eth0\n"
                                   "nameserver127.0.0.1\nnameserver\nnameserver   \n"
                                   "options ndots:5\r\n"
                                   "nameserver 127.0.0.53")),
              ElementsAre("10.96.0.10:53", "[fd00::10]:53", "127.0.0.53:53 outside"));
  EXPECT_THAT(ParseResolvConf(""), IsEmpty());
}

TEST(PodDns, ReadsPodFiles) {
  const auto all = ParsePodFile(
      R"({"nameservers":["10.0.0.1","127.0.0.1","[fd00::1]:5353"],"search":["Shop.Example.","b"],"ndots":2})");
  ASSERT_TRUE(all);
  EXPECT_THAT(Text(*all->servers), ElementsAre("10.0.0.1:53", "127.0.0.1:53", "[fd00::1]:5353"));
  EXPECT_THAT(*all->search, ElementsAre("shop.example", "b"));
  const auto none = ParsePodFile("{}");
  ASSERT_TRUE(none);
  EXPECT_FALSE(none->servers);
  EXPECT_FALSE(none->search);
  EXPECT_THAT(*ParsePodFile(R"({"search":[]})")->search, IsEmpty());
  EXPECT_THAT(Text(ParsePodFile(R"({"more_nameservers":["10.0.0.7"]})")->more),
              ElementsAre("10.0.0.7:53"));
  for (const char* bad :
       {"", "[]", R"({"more_nameservers":[7]})", "{", R"({"nameservers":"10.0.0.1"})",
        R"({"search":[1]})", R"({"nameservers":["dns.example"]})",
        R"({"nameservers":["1.1.1.1:0"]})", "{\"search\":[\"\xff\",1]}"}) {
    EXPECT_FALSE(ParsePodFile(bad)) << bad;
  }
}

TEST(PodDns, AUidIsAFileNameOrNothing) {
  EXPECT_EQ(PodFilePath("/run/z/ztunnel.sock", "a1-b2.c_D"), "/run/z/dns/a1-b2.c_D");
  for (const char* uid : {"", ".", "..", "../x", "a/b", ".hidden", "a b", "a\n"}) {
    EXPECT_EQ(PodFilePath("/run/z/ztunnel.sock", uid), "") << uid;
  }
}

class SettingsTest : public ::testing::Test {
 protected:
  SettingsTest() { EXPECT_NE(mkdtemp(folder_.data()), nullptr); }
  ~SettingsTest() override {
    unlink(pod().c_str());
    unlink(own().c_str());
    rmdir(folder_.c_str());
  }
  std::string pod() const { return folder_ + "/pod"; }
  std::string own() const { return folder_ + "/resolv.conf"; }
  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  event::TimePoint After(int seconds) const { return start_ + std::chrono::seconds(seconds); }

  std::string folder_ = "/tmp/qanat-poddns-XXXXXX";
  event::TimePoint start_ = event::TimePoint() + std::chrono::hours(1);
};

TEST_F(SettingsTest, DefaultsThenThePodsOwnThenDefaults) {
  Write(own(), "nameserver 10.96.0.10\n");
  PodDnsSettings settings(pod(), own(), "shop", "cluster.local.");
  EXPECT_THAT(Text(settings.Get(After(0)).servers), ElementsAre("10.96.0.10:53"));
  EXPECT_THAT(settings.Get(After(0)).search,
              ElementsAre("shop.svc.cluster.local", "svc.cluster.local", "cluster.local"));

  Write(pod(), R"({"nameservers":["10.1.1.1"],"search":["corp.example"]})");
  EXPECT_THAT(Text(settings.Get(After(1)).servers), ElementsAre("10.96.0.10:53"));  // not looked at
  EXPECT_THAT(Text(settings.Get(After(4)).servers), ElementsAre("10.1.1.1:53"));
  EXPECT_THAT(settings.Get(After(4)).search, ElementsAre("corp.example"));

  Write(pod(), R"({"search":["one.example"]})");
  EXPECT_THAT(Text(settings.Get(After(8)).servers), ElementsAre("10.96.0.10:53"));
  EXPECT_THAT(settings.Get(After(8)).search, ElementsAre("one.example"));

  Write(pod(), "not JSON at all");  // the last good one holds
  EXPECT_THAT(Text(settings.Get(After(12)).servers), ElementsAre("10.96.0.10:53"));
  EXPECT_THAT(settings.Get(After(12)).search, ElementsAre("one.example"));

  unlink(pod().c_str());
  Write(own(), "nameserver 10.96.0.11\nnameserver 127.0.0.53\n");
  EXPECT_THAT(Text(settings.Get(After(16)).servers),
              ElementsAre("10.96.0.11:53", "127.0.0.53:53 outside"));
}

TEST_F(SettingsTest, MoreServersComeAfterOurOwn) {
  Write(own(), "nameserver 10.96.0.10\nnameserver 10.96.0.11\n");
  Write(pod(), R"({"more_nameservers":["10.96.0.11","10.1.1.1","10.1.1.2"]})");
  PodDnsSettings settings(pod(), own(), "shop", "cluster.local");
  EXPECT_THAT(Text(settings.Get(After(0)).servers),
              ElementsAre("10.96.0.10:53", "10.96.0.11:53", "10.1.1.1:53"));
}

// The node's name servers are not a broken file's: they may be the wrong ones for the pod.
TEST_F(SettingsTest, AFileThatWasNeverGoodGivesNoServers) {
  Write(own(), "nameserver 10.96.0.10\n");
  Write(pod(), R"({"nameservers":["10.1.1.1", 7]})");
  PodDnsSettings settings(pod(), own(), "shop", "cluster.local");
  EXPECT_THAT(settings.Get(After(0)).servers, IsEmpty());
  EXPECT_EQ(settings.Get(After(0)).search.size(), 3u);
  Write(pod(), R"({"nameservers":["10.1.1.1"]})");
  EXPECT_THAT(Text(settings.Get(After(4)).servers), ElementsAre("10.1.1.1:53"));
  Write(pod(), "");
  EXPECT_THAT(Text(settings.Get(After(8)).servers), ElementsAre("10.1.1.1:53"));
}

// Nor are they those of one that cannot be looked at: it may well say something.
TEST_F(SettingsTest, AFileThatCannotBeReachedIsNotAnAbsentOne) {
  Write(own(), "nameserver 10.96.0.10\n");
  ASSERT_EQ(symlink(pod().c_str(), pod().c_str()), 0);  // ELOOP, also for root
  PodDnsSettings settings(pod(), own(), "shop", "cluster.local");
  EXPECT_THAT(settings.Get(After(0)).servers, IsEmpty());
  unlink(pod().c_str());
  EXPECT_THAT(Text(settings.Get(After(4)).servers), ElementsAre("10.96.0.10:53"));
  Write(pod(), R"({"nameservers":["10.1.1.1"]})");
  EXPECT_THAT(Text(settings.Get(After(8)).servers), ElementsAre("10.1.1.1:53"));
  unlink(pod().c_str());
  ASSERT_EQ(symlink(pod().c_str(), pod().c_str()), 0);
  EXPECT_THAT(Text(settings.Get(After(12)).servers), ElementsAre("10.1.1.1:53"));
}

TEST_F(SettingsTest, WithoutAnyFileThereAreNoServers) {
  PodDnsSettings settings("", own(), "shop", "cluster.local");
  EXPECT_THAT(settings.Get(After(0)).servers, IsEmpty());
  EXPECT_EQ(settings.Get(After(0)).search.size(), 3u);
}

}  // namespace
}  // namespace qanat::ztunnel::dns
