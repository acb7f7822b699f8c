// SPDX-License-Identifier: Apache-2.0
#include "agent/pods/dns_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "agent/pods/kube_pod.h"

namespace qanat::agent {
namespace {

using testing::IsEmpty;
using testing::UnorderedElementsAre;

Pod FromApi(const std::string& spec) {
  auto pod = ParseKubePod(R"({"metadata":{"uid":"u-1","name":"web","namespace":"shop"},"spec":)" +
                          spec + "}");
  EXPECT_TRUE(pod) << spec;
  return *pod;
}

kube::NodeDns Node(std::vector<std::string> cluster) {
  return {std::move(cluster), "cluster.local",
          kube::ParseResolvConf("nameserver 192.0.2.1\nnameserver fe80::1%eth0\nsearch lan\n")};
}

constexpr const char* kSearch =
    R"("search":["shop.svc.cluster.local","svc.cluster.local","cluster.local","lan"])";

TEST(DnsFile, SaysWhatTheKubeletGaveThePod) {
  const auto text = [](const char* spec) {
    return FormatDnsFile(FromApi(spec), Node({"10.96.0.10"}));
  };
  EXPECT_EQ(text("{}"),
            R"({"nameservers":["10.96.0.10"],"ndots":5,)" + std::string(kSearch) + "}\n");
  EXPECT_EQ(text(R"({"dnsPolicy":"Default"})"),
            R"({"nameservers":["192.0.2.1"],"ndots":1,"search":["lan"]})"
            "\n");
  EXPECT_EQ(text(R"({"dnsPolicy":"None","dnsConfig":{"nameservers":["2001:DB8::0:1"]}})"),
            R"({"nameservers":["2001:db8::1"],"ndots":1,"search":[]})"
            "\n");
}

// The proxy puts its own, which are the cluster's, before those.
TEST(DnsFile, ServersOfTheClusterThatNobodyToldAreLeftToTheProxy) {
  const auto text = [](const char* spec) { return FormatDnsFile(FromApi(spec), Node({})); };
  EXPECT_EQ(text("{}"), R"({"ndots":5,)" + std::string(kSearch) + "}\n");
  EXPECT_EQ(text(R"({"dnsConfig":{"nameservers":["203.0.113.5"],"searches":["a.example"]}})"),
            R"({"more_nameservers":["203.0.113.5"],"ndots":5,"search":["shop.svc.cluster.local",)"
            R"("svc.cluster.local","cluster.local","lan","a.example"]})"
            "\n");
  // Those of another policy are known all the same.
  EXPECT_EQ(text(R"({"dnsPolicy":"Default"})"),
            R"({"nameservers":["192.0.2.1"],"ndots":1,"search":["lan"]})"
            "\n");
}

TEST(DnsFile, TheFolderSourceSaysItInTheSameWords) {
  const auto pod = ParsePod(
      R"({"uid":"u","name":"web","namespace":"shop","dnsPolicy":"None",
          "dnsConfig":{"nameservers":["203.0.113.5"],"searches":["a.example"]}})");
  ASSERT_TRUE(pod) << pod.error().message;
  EXPECT_EQ(FormatDnsFile(*pod, Node({"10.96.0.10"})),
            R"({"nameservers":["203.0.113.5"],"ndots":1,"search":["a.example"]})"
            "\n");
}

class DnsFilesTest : public ::testing::Test {
 protected:
  DnsFilesTest() {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    Write(folder_ + "/resolv.conf", "nameserver 192.0.2.1\n");
  }
  ~DnsFilesTest() override { std::filesystem::remove_all(folder_); }
  DnsFilesOptions Options() const {
    return {folder_ + "/dns", {"10.96.0.10"}, "cluster.local", folder_ + "/resolv.conf"};
  }
  static void Write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  std::string Read(const std::string& uid) const {
    std::ifstream in(folder_ + "/dns/" + uid);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> out;
    std::error_code error;
    for (const auto& file : std::filesystem::directory_iterator(folder_ + "/dns", error))
      out.push_back(file.path().filename().string());
    return out;
  }

  std::string folder_ = "/tmp/qanat-dnsfiles-XXXXXX";
};

TEST_F(DnsFilesTest, FollowThePodsAndWhatIsLeftOfOthersGoes) {
  std::filesystem::create_directories(folder_ + "/dns");
  Write(folder_ + "/dns/u-gone", "{}");
  Write(folder_ + "/dns/.u-1.new", "{");
  DnsFiles files(Options());
  Pod pod = FromApi("{}");
  files.Put(pod);
  files.OnSynced();
  EXPECT_THAT(Names(), UnorderedElementsAre("u-1"));
  const std::string before = Read("u-1");
  EXPECT_EQ(before, FormatDnsFile(pod, {{"10.96.0.10"},
                                        "cluster.local",
                                        kube::ParseResolvConf("nameserver 192.0.2.1\n")}));
  struct stat first{}, second{};
  ASSERT_EQ(stat((folder_ + "/dns/u-1").c_str(), &first), 0);
  EXPECT_EQ(first.st_mode & 0777, 0644u);  // the proxy is another user
  files.Put(pod);                          // nothing new: the proxy need not read it again
  ASSERT_EQ(stat((folder_ + "/dns/u-1").c_str(), &second), 0);
  EXPECT_EQ(first.st_ino, second.st_ino);

  pod.dns.policy = "Default";
  files.Put(pod);
  EXPECT_NE(Read("u-1"), before);
  EXPECT_THAT(Read("u-1"), testing::HasSubstr("192.0.2.1"));
  Write(folder_ + "/resolv.conf", "nameserver 192.0.2.9\n");
  files.Put(pod);
  EXPECT_THAT(Read("u-1"), testing::HasSubstr("192.0.2.9"));

  files.Remove("u-1");
  files.Remove("u-1");
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(DnsFilesTest, AFailureIsMadeGoodWithTheNextChange) {
  Write(folder_ + "/dns", "a file where the folder should be");
  DnsFiles files(Options());
  files.Put(FromApi("{}"));
  files.OnSynced();
  std::filesystem::remove(folder_ + "/dns");
  files.Put(FromApi("{}"));
  EXPECT_THAT(Names(), UnorderedElementsAre("u-1"));
  // Without the node's file the pod's own settings still count.
  std::filesystem::remove(folder_ + "/resolv.conf");
  files.Put(FromApi(R"({"dnsPolicy":"None","dnsConfig":{"nameservers":["203.0.113.5"]}})"));
  EXPECT_THAT(Read("u-1"), testing::HasSubstr("203.0.113.5"));
}

}  // namespace
}  // namespace qanat::agent
